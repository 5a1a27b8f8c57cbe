/**
 * The counts of a room, from its frames.
 *
 *     state, live, final ──▶ Scoreboard ──▶ totals, and the rise of each emoji
 *
 * Invariant: a reaction is either in the last final's totals or in an open window, so the sum does not change when a
 * window closes.
 *
 * @module emostream/scoreboard
 */

/**
 * Maximum number of open windows. The lateness is shorter than a window, so more of them mean that a clock is wrong.
 */
const OPEN_WINDOWS = 8;

/** Removes variation selectors and skin tones, as the server does: ❤ and ❤️ are one emoji, and so are 👍 and 👍🏽. */
export const plain = (emoji) => emoji.replace(/[\uFE0E\uFE0F]|\p{Emoji_Modifier}/gu, "") || emoji;

export class Scoreboard {
  /** @type {Map<string, number>} */ #closed = new Map();
  #closedSum = 0;
  #lastEnd = -Infinity;
  /** @type {Map<number, {frame: Live, counts: Map<string, number>}>} */ #open = new Map();
  /** @type {Map<string, string>} by plain emoji: as the server writes it */ #faces = new Map();

  /** The frame of the newest open window, if a window is open. */
  get newest() {
    const start = Math.max(...this.#open.keys());
    return this.#open.get(start)?.frame;
  }

  get sum() {
    let sum = this.#closedSum;
    for (const { frame } of this.#open.values()) sum += frame.total;
    return sum;
  }

  total(emoji) {
    const key = plain(emoji);
    let total = this.#closed.get(key) ?? 0;
    for (const { counts } of this.#open.values()) total += counts.get(key) ?? 0;
    return total;
  }

  /** All emojis that were counted. */
  emojis() {
    return [...this.#faces.values()];
  }

  /** Applies a live frame. Returns the rise of each emoji. */
  live(frame) {
    if (frame.start < this.#lastEnd) return [];
    // Windows of another size are from an earlier dataflow, and no final closes them.
    this.keepOpen(frame.end - frame.start);
    const counts = this.#open.get(frame.start)?.counts ?? new Map();
    const rises = this.#raise(counts, frame.counts);
    this.#open.set(frame.start, { frame, counts });
    if (this.#open.size > OPEN_WINDOWS) this.#open.delete(Math.min(...this.#open.keys()));
    return rises;
  }

  /** Applies a final. Returns the rise of each emoji since the last live frame of the window. */
  final(frame) {
    if (frame.start < this.#lastEnd) return [];
    const rises = this.#raise(this.#open.get(frame.start)?.counts ?? new Map(), frame.counts);
    // Emojis that are not in the listed top keep their known count, plus their count in this window.
    if (frame.totals_others) {
      for (const { emoji, count } of frame.counts) {
        this.#closed.set(plain(emoji), (this.#closed.get(plain(emoji)) ?? 0) + count);
      }
    } else {
      this.#closed.clear();
    }
    this.#settle(frame.totals, frame.totals_others);
    this.#lastEnd = frame.end;
    for (const start of this.#open.keys()) if (start < frame.end) this.#open.delete(start);
    return rises;
  }

  /** Drops open windows of other sizes. */
  keepOpen(window_ms) {
    for (const [start, { frame }] of this.#open) {
      if (frame.end - frame.start !== window_ms) this.#open.delete(start);
    }
  }

  /** Applies totals without a window, unless a final is known. */
  seed(totals, others) {
    if (this.#lastEnd === -Infinity) this.#settle(totals, others);
  }

  forget() {
    this.#closed.clear();
    this.#closedSum = 0;
    this.#lastEnd = -Infinity;
    this.#open.clear();
  }

  #settle(totals, others = 0) {
    this.#closedSum = others;
    for (const { emoji, count } of totals) {
      this.#faces.set(plain(emoji), emoji);
      this.#closed.set(plain(emoji), count);
      this.#closedSum += count;
    }
  }

  #raise(counts, listed) {
    const rises = [];
    for (const { emoji, count } of listed) {
      const before = counts.get(plain(emoji)) ?? 0;
      if (count <= before) continue;
      this.#faces.set(plain(emoji), emoji);
      counts.set(plain(emoji), count);
      rises.push({ emoji, before, after: count });
    }
    return rises;
  }
}
