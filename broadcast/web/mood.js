/**
 * The rules of the dashboard: which counts, which room and which span it shows. All functions are pure, so they use
 * neither the page nor a clock.
 *
 *     finals ──▶ layers: which emojis get a colour ──▶ bins: counts by time and emoji
 *            ├─▶ pace: the rate at the end of the chart
 *            ├─▶ rises: emojis that are counted more often than in the minute before
 *            └─▶ peaks: windows that stand out
 *     totals of all rooms ──▶ Activity: the rate of each ──▶ Busiest: the room to show
 *     address ◀──▶ view: the room, the span, and its end if it stands still
 *
 * Invariant: the sum over all bins is the sum over all finals, whatever the width of a bin.
 *
 * @module emostream/mood
 */

/** The name of the group of all emojis that have no layer of their own. */
export const OTHERS = "others";

/** Minimum ratio of a peak to the median window. */
const PEAK_TIMES = 1.6;
/** Minimum number of windows. With fewer windows, a median has no meaning. */
const PEAK_MOMENTS = 5;
/**
 * The number of standard deviations by which a count must exceed the count before it. With a steady crowd, one of 160
 * emojis exceeds it by chance; with two deviations it would be one of 44, and a frame lists 20.
 */
const RISE_DEVIATIONS = 2.5;
/** A room is clearly busier if its rate is this many times that of the room shown. */
const BUSIER_TIMES = 1.5;
/** Minimum reactions per second of a busy room, so that a few taps do not change the page. */
const BUSY_RATE = 0.5;
/**
 * Time for which another room must stay clearly busier. A rate is a mean over 10 s, so one peak passes within this
 * time.
 */
const BUSIER_MS = 9_000;
/** Minimum time for which a room stays on the page, so that people can read it. */
const SHOWN_MS = 20_000;

/** Returns pairs of emoji and count of a final. The counts that the frame does not list are those of {@link OTHERS}. */
export function countsOf({ counts, others = 0 }) {
  const listed = counts.map(({ emoji, count }) => [emoji, count]);
  return others > 0 ? [...listed, [OTHERS, others]] : listed;
}

function sums(finals) {
  const sums = new Map();
  for (const final of finals) {
    for (const [emoji, count] of countsOf(final)) sums.set(emoji, (sums.get(emoji) ?? 0) + count);
  }
  return sums;
}

/** Returns the `most` emojis with the greatest counts, greatest first, and {@link OTHERS} if there are more. */
export function layers(finals, most) {
  const all = sums(finals);
  const ranked = [...all].filter(([emoji]) => emoji !== OTHERS).sort((a, b) => b[1] - a[1]);
  const shown = ranked.slice(0, most).map(([emoji, count]) => ({ emoji, count }));
  const rest = ranked.slice(most).reduce((sum, [, count]) => sum + count, all.get(OTHERS) ?? 0);
  return rest > 0 ? [...shown, { emoji: OTHERS, count: rest }] : shown;
}

/**
 * Divides `[from, to)` into bins of `bin_ms`, each with the counts of `emojis`, in their order. A final belongs to the
 * bin in which it starts; `from` is the start of the first bin.
 */
export function bins(finals, emojis, from, to, bin_ms) {
  const made = Array.from({ length: Math.max(0, Math.ceil((to - from) / bin_ms)) }, (_, index) => ({
    start: from + index * bin_ms,
    end: from + (index + 1) * bin_ms,
    total: 0,
    counts: emojis.map(() => 0),
  }));
  const rest = emojis.indexOf(OTHERS);
  for (const final of finals) {
    const bin = made[Math.floor((final.start - from) / bin_ms)];
    if (!bin) continue;
    for (const [emoji, count] of countsOf(final)) {
      const layer = emojis.indexOf(emoji);
      const at = layer < 0 ? rest : layer;
      if (at < 0) continue;
      bin.counts[at] += count;
      bin.total += count;
    }
  }
  return made;
}

function within(finals, from, to) {
  return finals.filter(({ start }) => start >= from && start < to);
}

/** Returns the reactions per second in `[to - span_ms, to)`. */
export function pace(finals, to, span_ms) {
  return within(finals, to - span_ms, to).reduce((sum, { total }) => sum + total, 0) / (span_ms / 1000);
}

/**
 * Returns the emojis that are counted more often in `[to - span_ms, to)` than in the span before it, the clearest rise
 * first, `most` of them: `count` and `before` are the two counts.
 *
 * The order is by standard deviations (of a difference of two Poisson counts, the root of their sum) and not by the
 * ratio, which would put every rare emoji first. `isNew` is false if the emoji may have been among `others` before.
 * After a span without reactions the list is empty, since it would only repeat the counts.
 */
export function rises(finals, to, span_ms, most) {
  const now = sums(within(finals, to - span_ms, to));
  const former = sums(within(finals, to - 2 * span_ms, to - span_ms));
  const found = [];
  if (former.size === 0) return found;
  for (const [emoji, count] of now) {
    const before = former.get(emoji) ?? 0;
    const clear = (count - before) / Math.sqrt(count + before);
    if (emoji !== OTHERS && clear >= RISE_DEVIATIONS) {
      found.push({ emoji, count, before, clear, isNew: before === 0 && !former.has(OTHERS) });
    }
  }
  return found.sort((a, b) => b.clear - a.clear).slice(0, most).map(({ clear, ...rise }) => rise);
}

/** Returns the `most` greatest windows that stand out, at least `apart_ms` from each other, oldest first. */
export function peaks(finals, most, apart_ms) {
  if (finals.length < PEAK_MOMENTS) return [];
  const totals = finals.map(({ total }) => total).sort((a, b) => a - b);
  const median = totals[totals.length >> 1];
  const found = [];
  for (const final of [...finals].sort((a, b) => b.total - a.total)) {
    if (found.length >= most || final.total < median * PEAK_TIMES) break;
    if (found.every(({ start }) => Math.abs(start - final.start) >= apart_ms)) found.push(final);
  }
  return found.sort((a, b) => a.start - b.start);
}

/** Returns finals as a table for spreadsheets (RFC 4180): one row for each emoji of a window. */
export function csv(room, finals) {
  const rows = finals.flatMap((final) => countsOf(final).map(([emoji, count]) => [
    room, final.id, new Date(final.start).toISOString(), new Date(final.end).toISOString(), emoji, count,
  ]));
  return [["room", "id", "start", "end", "emoji", "count"], ...rows].map((row) => `${row.join(",")}\r\n`).join("");
}

/** Computes the rate of each room from its totals in the lists of the last `span_ms`. */
export class Activity {
  /** @type {{at: number, totals: Map<string, number>}[]} */ #lists = [];

  add(rooms, at, span_ms) {
    this.#lists = this.#lists.filter((list) => list.at >= at - span_ms);
    this.#lists.push({ at, totals: new Map(rooms.map(({ room, total }) => [room, total])) });
  }

  clear() { this.#lists = []; }

  /** Returns reactions per second, or undefined before the second list with this room. */
  of(room) {
    const having = this.#lists.filter(({ totals }) => totals.has(room));
    const [first, last] = [having[0], having.at(-1)];
    if (!first || first === last) return undefined;
    const rose = last.totals.get(room) - first.totals.get(room);
    return Math.max(0, rose) / ((last.at - first.at) / 1000);
  }
}

/**
 * Chooses the busiest room, with hysteresis: without it, two rooms of similar rates would replace each other every few
 * seconds. The page changes only when another room has been clearly busier for some time.
 */
export class Busiest {
  #shown;
  #shownAt = -Infinity;
  /** The time since which other rooms have been clearly busier. */ #since;

  /**
   * Returns the room to show at the time `now`. `rates` has pairs of room and reactions per second, only known ones;
   * `shown` is the room that the page shows.
   */
  next(rates, shown, now) {
    if (shown !== this.#shown) [this.#shown, this.#shownAt, this.#since] = [shown, now, undefined];
    const here = rates.find(([room]) => room === shown)?.[1] ?? 0;
    const [best, most] = rates.reduce((best, rate) => (rate[1] > best[1] ? rate : best), [shown, here]);
    if (most < Math.max(BUSY_RATE, here * BUSIER_TIMES)) {
      this.#since = undefined;
      return shown;
    }
    this.#since ??= now;
    return now - this.#since >= BUSIER_MS && now - this.#shownAt >= SHOWN_MS ? best : shown;
  }
}

/** The spans that the chart can show. The server keeps finals for ten minutes by default. */
export const SPANS_MS = [60_000, 120_000, 300_000, 600_000];

/**
 * Reads the view of the query of an address. `until` is the end of a chart that stands still, in Unix milliseconds;
 * without it the chart moves with time. `problem` is a sentence if a parameter is not valid.
 */
export function viewOf(query) {
  const { follow, span, until } = Object.fromEntries(new URLSearchParams(query));
  const view = { span_ms: SPANS_MS.at(-1), until: undefined, follow: follow === "busiest" && !until, problem: "" };
  const minutes = /^([1-9]\d?)m$/.exec(span)?.[1];
  if (SPANS_MS.includes(minutes * 60_000)) view.span_ms = minutes * 60_000;
  else if (span) view.problem = `“${span}” is not a span: a span is ${SPANS_MS.map((ms) => `${ms / 60_000}m`).join(", ")}.`;
  const time = Date.parse(until);
  if (!Number.isNaN(time)) view.until = time;
  else if (until) view.problem = `“${until}” is not a time: write one as 2026-01-31T20:15:00Z.`;
  return view;
}

/** Returns the query of an address with this view: the opposite of {@link viewOf}. */
export function queryOf({ room, span_ms, until, follow }) {
  const parameters = [];
  if (follow) parameters.push("follow=busiest");
  else parameters.push(`room=${room}`);
  if (span_ms !== SPANS_MS.at(-1)) parameters.push(`span=${span_ms / 60_000}m`);
  if (until !== undefined) parameters.push(`until=${new Date(until).toISOString()}`);
  return `?${parameters.join("&")}`;
}
