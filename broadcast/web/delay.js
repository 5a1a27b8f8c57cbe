/**
 * Measures how long a reaction takes until it is on this screen, from frames and taps alone.
 *
 *     idle rooms:  tap ──▶ its count rises by exactly the taps of this page
 *     busy rooms:  mean time at which a window's reactions were shown ── minus ── the middle of the window
 *
 * In a busy room a tap of this page cannot be distinguished from taps of others. But reactions arrive evenly there, so
 * on average they were sent in the middle of their window. The median of several windows reduces the error. The clocks
 * of server and screen differ by an unknown time: the tally that arrived fastest is assumed to have taken no time, so
 * only the differences between tallies are measured.
 *
 * @module emostream/delay
 */

import { plain } from "./scoreboard.js";

/** Number of measurements that are kept. Their median is shown. */
const SAMPLES = 15;
/**
 * Number of windows that must be measured before the median is shown, since the reactions of one window may be uneven.
 * One measured tap is enough.
 */
const SURE = 3;
/** Time after which a tap that is not counted was rejected, or cannot be distinguished from taps of others. */
const TAP_MS = 10_000;
/**
 * Minimum reactions of a measured window. With fewer reactions, their mean time may be far from the middle of the
 * window.
 */
const BUSY = 30;
/**
 * Maximum factor by which the count may change from one window to the next. With a greater factor, the reactions are
 * not even within a window.
 */
const EVEN = 1.25;
/** Maximum number of open windows. The lateness is much shorter than a window, so there are few. */
const OPEN = 8;

export class Delay {
  /** @type {{emoji: string, at: number, need: number}[]} */ #taps = [];
  /**
   * Open windows by their start: the reactions that were shown, and the sum of the times at which they were.
   * @type {Map<number, {shown: number, moments: number}>}
   */
  #windows = new Map();
  #samples = [];
  #tapped = false;
  /** Total of the previous final. */ #former = 0;
  #newest = Infinity;
  #skew_ms = Infinity;

  /** The median of the newest measurements in milliseconds; undefined until there are enough. */
  get ms() {
    if (!this.#tapped && this.#samples.length < SURE) return undefined;
    const sorted = [...this.#samples].sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  }

  /** Stores a tap of this page, made when the emoji's count was `total`. */
  tap(emoji, total, now = performance.now()) {
    const before = this.#taps.findLast((tap) => tap.emoji === plain(emoji))?.need ?? total;
    this.#taps.push({ emoji: plain(emoji), at: now, need: before + 1 });
  }

  /** Compares the changed counts with the taps. Returns whether a tap was measured. */
  rose(total, now = performance.now()) {
    const waiting = [];
    let measured = false;
    for (const tap of this.#taps) {
      const stands = total(tap.emoji);
      if (stands < tap.need) {
        if (now - tap.at < TAP_MS) waiting.push(tap);
        continue;
      }
      // A higher count includes taps of others, and it is not known which of the taps was counted first.
      const last = this.#taps.findLast((other) => other.emoji === tap.emoji);
      if (stands > last.need) continue;
      this.#tapped = true;
      measured = this.#add(now - tap.at);
    }
    this.#taps = waiting;
    return measured;
  }

  /**
   * Discards the open windows when a connection begins: replayed frames are late by the duration of the break, and this
   * page has seen only a part of the open windows.
   */
  joined() {
    this.#windows.clear();
    this.#newest = Infinity;
  }

  /** Stores that a live tally was shown. */
  live({ start, total, emitted_at }, now = Date.now()) {
    this.#skew_ms = Math.min(this.#skew_ms, now - emitted_at);
    // This page has seen only a part of the window that was open when it joined.
    if (start > this.#newest) this.#windows.set(start, { shown: 0, moments: 0 });
    this.#newest = Math.max(start, this.#newest === Infinity ? 0 : this.#newest);
    this.#show(start, total, now);
    if (this.#windows.size > OPEN) this.#windows.delete(Math.min(...this.#windows.keys()));
  }

  /** Stores that a final was shown. Returns whether {@link ms} changed by its window. */
  final({ start, end, total }, now = Date.now()) {
    const window = this.#show(start, total, now);
    this.#windows.delete(start);
    const even = total < this.#former * EVEN && this.#former < total * EVEN;
    this.#former = total;
    if (!window || !even || total < BUSY) return false;
    return this.#add(window.moments / total - (end - start) / 2 - this.#skew_ms);
  }

  /** Stores that the reactions that were added to a window since its last frame are shown `now`. */
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
