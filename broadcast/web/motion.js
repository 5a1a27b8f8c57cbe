/**
 * The rules of the animation: which emojis rise, how large and how fast they are, and where they rise. The functions
 * use neither a canvas nor a clock.
 *
 *     counts ──▶ rate ──▶ level (0 … 1) ──▶ size, life and density of each kind
 *     rise of an emoji ──▶ units ──▶ one · ten · hundred (×300) · swarm (×1,000)
 *     durations of frames ──▶ pace ──▶ the share of the places that is used, or a still picture
 *
 * Sizes are in CSS pixels, times in milliseconds.
 *
 * @module emostream/motion
 */

/**
 * The kinds of flights (pictures that rise). `emojis` is the number of emojis that one flight shows; `area` is the area
 * that one flight needs on a screen of base 1000, and `fill` the share of the screen up to which flocks of this kind
 * start: the rest is for larger flocks. `size` (of the emoji in the middle) and `life_ms` have two values each: for an
 * idle room, and for the busiest room. A flock has `around` emojis of `small` times the size, at `core + step × √i`
 * sizes from the middle, in a picture of `reach` sizes. The ten emojis of a `ten` can be counted, so it has no label.
 */
export const KINDS = {
  swarm: {
    emojis: 50, area: 22_000, fill: 1, size: [85, 85], life_ms: [5800, 4800],
    middle: true, around: 49, small: 0.3, core: 0.5, step: 0.15, reach: [3.7, 3.05],
  },
  hundred: {
    emojis: 21, area: 14_000, fill: 0.8, size: [62, 52], life_ms: [5000, 3800],
    middle: true, around: 20, small: 0.36, core: 0.5, step: 0.17, reach: [3.2, 2.7],
  },
  ten: {
    emojis: 10, area: 7_000, fill: 0.65, size: [30, 24], life_ms: [4200, 2800],
    middle: false, around: 10, small: 1, core: 0, step: 0.62, reach: [5.4, 4.6],
  },
  one: { emojis: 1, area: 0, fill: 1, size: [64, 34], life_ms: [3600, 2000] },
};

/** Area for each single emoji that rises, on a screen of base 1000: in an idle room, and in the busiest room. */
const ONE_AREA = [9_000, 4_000];
/** Time in which the measured rate adapts to the crowd. */
const RATE_MS = 2_000;
/**
 * The power of ten of the rate (reactions a second) above which the animation does not change any more, and the number
 * of steps of the level. With few steps, few pictures have to be kept.
 */
const BUSIEST = 4;
const STEPS = 8;

/** Returns the rate (reactions/s) after `count` reactions, `elapsed_ms` after `former` was measured. */
export function rateAfter(former, count, elapsed_ms) {
  return former * Math.exp(-elapsed_ms / RATE_MS) + (count * 1000) / RATE_MS;
}

/** Returns how busy a room is: 0 without reactions, 1 from 10,000 a second on, logarithmic between them. */
export function levelOf(rate) {
  return Math.round(Math.min(1, Math.log10(1 + rate) / BUSIEST) * STEPS) / STEPS;
}

/**
 * Returns the value at a level between the values at both ends, which must be positive. Equal steps of the level
 * multiply the value by equal factors.
 */
export const between = ([idle, busiest], level) => idle * (busiest / idle) ** level;

/**
 * Returns the size to which emojis are scaled: 1000 for a screen of 1280 × 800 or 1920 × 1080, more on a big screen
 * that people see from far away.
 */
export const baseOf = (width, height) => Math.max(420, Math.min(1000, (width + height) / 1.6), (width + height) / 3);

/**
 * Returns the units in which `count` reactions are shown, digit by digit. One `hundred` stands for all hundreds, with a
 * label.
 */
export function unitsOf(count) {
  const rest = Math.max(0, Math.floor(count));
  return { hundred: Math.floor(rest / 100) * 100, ten: Math.floor((rest % 100) / 10), one: rest % 10 };
}

/**
 * Returns how many more flights of a kind may start. A negative number is the number of flights that are too many.
 * `aloft` has the number of rising flights of each kind, and `area` is the area of the screen in square pixels. Of the
 * places for flocks the share `capacity` is used; single emojis are drawn faster, so there are more of them where
 * little can be drawn.
 */
export function placesFor(kind, aloft, { area, base, level, capacity, maxParticles }) {
  const screen = area / (base / 1000) ** 2;
  let [particles, taken] = [0, 0];
  for (const [name, { emojis, area: each }] of Object.entries(KINDS)) {
    particles += aloft[name] * emojis;
    taken += aloft[name] * each;
  }
  const { emojis, area: each, fill } = KINDS[kind];
  const places = kind === "one"
    ? Math.ceil((screen * Math.sqrt(capacity)) / between(ONE_AREA, level)) - aloft.one
    : Math.ceil((screen * capacity * fill - taken) / each);
  return Math.min(places, Math.floor((maxParticles - particles) / emojis));
}

/** Returns the height of a flight, 0 … 1, after a `share` of its life: it rises quickly at first. */
export const heightAt = (share) => share * (1.4 - 0.4 * share);
/** Minimum speed at which {@link heightAt} grows. */
const SLOWEST = 0.6;

/**
 * Returns the minimum time between the starts of two flights in a lane, as a share of the life of a flight. With it,
 * labels that are `label` pixels high do not touch on a path of `way` pixels.
 */
export const gapOf = (label, way) => Math.min(1, label / (SLOWEST * way));

/**
 * Returns the lane (column) and the start of a labelled flight, or undefined if every lane is taken for longer than
 * `patience_ms`. `lanes` has the last flight of each lane.
 *
 * Flights of one lane have the same path, so their labels can only touch if one flight catches up with another. The
 * distance of two flights (as a share of a life) changes evenly, so it is enough that it is `gap` when the second
 * flight starts and when the first one ends.
 */
export function laneFor(lanes, turn, wanted, life_ms, gap, patience_ms) {
  let best;
  for (let nth = 0; nth < lanes.length; nth++) {
    const lane = (Math.floor(turn * lanes.length) + nth) % lanes.length;
    const former = lanes[lane];
    const start = former
      ? Math.max(wanted, former.born + gap * former.life_ms, former.born + former.life_ms - (1 - gap) * life_ms)
      : wanted;
    if (!best || start < best.start) best = { lane, start };
  }
  return best && best.start <= wanted + patience_ms ? best : undefined;
}

/** Maximum time for drawing a frame, so that the browser has time to paint it. */
const FRAME_MS = 10;
/**
 * A frame counts as late after this time: a little more than at 60 frames a second or, if the display is slower, than
 * at the rate of the display, but at most that of 30 frames a second. If few emojis rise, more emojis are better than
 * more frames, so the mean may then be up to MEAN_MS.
 */
const LATE_MS = 22;
const MEAN_MS = 27;
const LATE_TIMES = 1.35;
const LATEST_MS = 36;
const FEW = 0.3;
/**
 * Minimum length of a pause between frames that does not count as a slow frame, since the page was in the background.
 */
const PAUSE_MS = 1_000;
/** Minimum share of the places that is used. */
const THIN = 0.04;
/** Time with the minimum of places and less than 30 frames a second after which the picture stands still. */
const SLOW_MS = 4_000;

/**
 * The state of {@link paceAfter} at the beginning. `capacity` is the share of the places that is used. If `slow` is set
 * (less than 30 frames a second), flights for which there are no places must end early. If `still` is set, all flights
 * must end.
 */
export const START = { capacity: 1, usual_ms: 16, mean_ms: 16, slow_ms: 0, slow: false, still: false };
/** The state after a still picture: the number of emojis grows slowly again. */
export const RESTART = { ...START, capacity: THIN };

/** Returns the state after a frame that came `interval_ms` after the former one and took `took_ms` to draw. The time the
 * browser itself takes to paint shows in the interval only. */
export function paceAfter(former, interval_ms, took_ms) {
  if (!(interval_ms < PAUSE_MS)) return former;
  const usual_ms = Math.min(interval_ms, former.usual_ms * 1.002);
  // One late frame may have any cause. The mean of ten frames decides whether emojis are dropped quickly.
  const mean_ms = former.mean_ms + (interval_ms - former.mean_ms) / 10;
  const slow = mean_ms > LATEST_MS;
  const within = (limit_ms) => Math.min(LATEST_MS, Math.max(limit_ms, usual_ms * LATE_TIMES));
  const fluent = interval_ms <= within(LATE_MS) && took_ms <= FRAME_MS;
  let { capacity } = former;
  if (capacity > FEW ? !fluent : mean_ms > within(MEAN_MS)) capacity = Math.max(THIN, capacity * (slow ? 0.8 : 0.93));
  else if (fluent && took_ms < FRAME_MS / 2) capacity = Math.min(1, capacity * 1.01);
  const slow_ms = Math.max(0, former.slow_ms + (slow && capacity === THIN ? interval_ms : -interval_ms));
  return { capacity, usual_ms, mean_ms, slow_ms, slow, still: slow_ms > SLOW_MS };
}
