/**
 * How long a reaction takes to reach this screen, measured from what passes anyway.
 *
 *     quiet rooms:  tap ──▶ its count rises by just what was tapped here
 *     busy rooms:   when a window's reactions were shown, on average ── minus ── the middle of the window
 *
 * In a busy room nobody can tell one's own tap from the others'. But there, reactions come evenly enough that
 * on average they were made in the middle of their window; some windows' median evens out the rest. The clocks
 * of server and screen differ: what the fastest tally seen took is taken for that difference, so the time on
 * the network counts only as far as it varies.
 *
 * @module emostream/delay
 */

import { plain } from "./scoreboard.js";

/** The newest so many measurements count; their median is what is shown. */
const SAMPLES = 15;
/** Of fewer windows the median may be that of one that was uneven within. A tap tells at once. */
const SURE = 3;
/** A tap that has not come back by then was lost in the crowd's, or not taken. */
const TAP_MS = 10_000;
/** With fewer reactions than this in a window, their middle is not the window's. */
const BUSY = 30;
/** A crowd that grows or falls by more from window to window is not even within one. */
const EVEN = 1.25;
/** Windows that are open at once. */
const OPEN = 8;

export class Delay {
  /** @type {{emoji: string, at: number, need: number}[]} */ #taps = [];
  /** @type {Map<number, {shown: number, moments: number}>} by start: how many, and the sum of when */ #windows = new Map();
  #samples = [];
  #tapped = false;
  /** The last final's total. */ #former = 0;
  #newest = Infinity;
  #skew_ms = Infinity;

  /** The median of the last measurements; undefined before there are enough. */
  get ms() {
    if (!this.#tapped && this.#samples.length < SURE) return undefined;
    const sorted = [...this.#samples].sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  }

  /** A tap here, while the emoji's count stood at `total`. */
  tap(emoji, total, now = performance.now()) {
    const before = this.#taps.findLast((tap) => tap.emoji === plain(emoji))?.need ?? total;
    this.#taps.push({ emoji: plain(emoji), at: now, need: before + 1 });
  }

  /** The counts have changed; answers whether a tap was measured. */
  rose(total, now = performance.now()) {
    const waiting = [];
    let measured = false;
    for (const tap of this.#taps) {
      const stands = total(tap.emoji);
      if (stands < tap.need) {
        if (now - tap.at < TAP_MS) waiting.push(tap);
        continue;
      }
      // Beyond what was tapped here, others have tapped too: it is not known who came first.
      const last = this.#taps.findLast((other) => other.emoji === tap.emoji);
      if (stands > last.need) continue;
      this.#tapped = true;
      measured = this.#add(now - tap.at);
    }
    this.#taps = waiting;
    return measured;
  }

  /** A new connection: what it replays was delayed by the break, and the open windows are seen in part. */
  joined() {
    this.#windows.clear();
    this.#newest = Infinity;
  }

  /** A live tally is on the screen. */
  live({ start, total, emitted_at }, now = Date.now()) {
    this.#skew_ms = Math.min(this.#skew_ms, now - emitted_at);
    // The window that was open on joining has been shown in part.
    if (start > this.#newest) this.#windows.set(start, { shown: 0, moments: 0 });
    this.#newest = Math.max(start, this.#newest === Infinity ? 0 : this.#newest);
    this.#show(start, total, now);
    if (this.#windows.size > OPEN) this.#windows.delete(Math.min(...this.#windows.keys()));
  }

  /** A final is on the screen; answers whether its window was measured, and is told of. */
  final({ start, end, total }, now = Date.now()) {
    const window = this.#show(start, total, now);
    this.#windows.delete(start);
    const even = total < this.#former * EVEN && this.#former < total * EVEN;
    this.#former = total;
    if (!window || !even || total < BUSY) return false;
    return this.#add(window.moments / total - (end - start) / 2 - this.#skew_ms);
  }

  /** What has been added to a window since it was shown last, is shown `now`. */
  #show(start, total, now) {
    const window = this.#windows.get(start);
    if (!window || total <= window.shown) return window;
    window.moments += (total - window.shown) * (now - start);
    window.shown = total;
    return window;
  }

  #add(ms) {
    if (ms <= 0) return false;
    this.#samples.push(ms);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    return this.ms !== undefined;
  }
}
