/**
 * The crowd's mood over time, from finals. Pure: no page, no clock.
 *
 *     finals ──▶ layers: which emojis get a colour ──▶ bins: per second, by emoji
 *            ├─▶ pace: the rate at the end of the chart
 *            └─▶ peaks: the moments that stand out
 *
 * Invariant: the sum over all bins is the sum over all finals, whatever the width.
 *
 * @module emostream/mood
 */

/** Behind the emojis that have a layer: all others together. */
export const OTHERS = "others";

/** A peak is so many times the usual moment, at least. */
const PEAK_TIMES = 1.6;
/** With fewer moments than this nothing is usual yet. */
const PEAK_MOMENTS = 5;

/** What is counted of each emoji of a final; what the frame does not list is {@link OTHERS}. */
export function countsOf({ counts, others = 0 }) {
  const listed = counts.map(({ emoji, count }) => [emoji, count]);
  return others > 0 ? [...listed, [OTHERS, others]] : listed;
}

/** The `most` emojis that were counted most, best first, and {@link OTHERS} if there are more. */
export function layers(finals, most) {
  const sums = new Map();
  for (const final of finals) {
    for (const [emoji, count] of countsOf(final)) sums.set(emoji, (sums.get(emoji) ?? 0) + count);
  }
  const ranked = [...sums].filter(([emoji]) => emoji !== OTHERS).sort((a, b) => b[1] - a[1]);
  const shown = ranked.slice(0, most).map(([emoji, count]) => ({ emoji, count }));
  const rest = ranked.slice(most).reduce((sum, [, count]) => sum + count, sums.get(OTHERS) ?? 0);
  return rest > 0 ? [...shown, { emoji: OTHERS, count: rest }] : shown;
}

/**
 * `[from, to)` in bins of `bin_ms`, in each the counts of `emojis`, in their order. A final is in the bin in
 * which it begins, and `from` is the beginning of one.
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

/** Reactions a second in `[to - span_ms, to)`: the mean of what {@link bins} has there. */
export function pace(finals, to, span_ms) {
  const within = finals.filter(({ start }) => start >= to - span_ms && start < to);
  return within.reduce((sum, { total }) => sum + total, 0) / (span_ms / 1000);
}

/** The moments that stand out, at least `apart_ms` from each other, the oldest first; `most` of them. */
export function peaks(finals, most, apart_ms) {
  if (finals.length < PEAK_MOMENTS) return [];
  const totals = finals.map(({ total }) => total).sort((a, b) => a - b);
  const usual = totals[totals.length >> 1];
  const found = [];
  for (const final of [...finals].sort((a, b) => b.total - a.total)) {
    if (found.length >= most || final.total < usual * PEAK_TIMES) break;
    if (found.every(({ start }) => Math.abs(start - final.start) >= apart_ms)) found.push(final);
  }
  return found.sort((a, b) => a.start - b.start);
}

/** Finals as a table that spreadsheets read: one row an emoji of a window (RFC 4180). */
export function csv(room, finals) {
  const rows = finals.flatMap((final) => countsOf(final).map(([emoji, count]) => [
    room, final.id, new Date(final.start).toISOString(), new Date(final.end).toISOString(), emoji, count,
  ]));
  return [["room", "id", "start", "end", "emoji", "count"], ...rows].map((row) => `${row.join(",")}\r\n`).join("");
}
