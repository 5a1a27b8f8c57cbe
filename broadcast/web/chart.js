/**
 * The mood as a stacked chart, in SVG.
 *
 *     finals ──mood.js──▶ bins ──▶ one area an emoji, axes, peaks; a cursor by pointer or arrow keys
 *
 * Invariant: an emoji keeps its colour as long as the page is open, whatever its rank.
 *
 * @module emostream/chart
 */

import { clock, exact, leaf, rate, setText } from "./dom.js";
import { OTHERS, bins, layers } from "./mood.js";

/** More layers than colours that can be told apart would be noise. */
const LAYERS = 7;
/** The least width of a bin: less is a comb. */
const BIN_PIXELS = 5;
const MARGIN = { top: 30, right: 12, bottom: 26, left: 46 };
const MINUTE_MS = 60_000;
/** From label to label of the time axis, the first that leaves them their room. */
const TICKS_MS = [15_000, 30_000, MINUTE_MS, 2 * MINUTE_MS, 5 * MINUTE_MS];
const LABEL_PIXELS = 72;

const SVG = "http://www.w3.org/2000/svg";
const to_the_minute = { hourCycle: "h23", hour: "2-digit", minute: "2-digit" };

export class Chart {
  #place;
  #svg = svg("svg", { "aria-hidden": "true" });
  #cursor = svg("line", { class: "cursor" });
  #tip = leaf("div", "tip", "");
  #colours = new Map();
  #bins = [];
  #shown = [];
  #x = (time_ms) => time_ms;
  #at = -1;
  #last = [[], [], 0, 0, 1];

  /** Draws into `place`, an element that can be focused; `aria-live` text goes into its tip. */
  constructor(place) {
    this.#place = place;
    this.#tip.hidden = true;
    this.#tip.setAttribute("aria-live", "polite");
    place.append(this.#svg, this.#tip);
    place.addEventListener("pointermove", (event) => this.#point(event));
    place.addEventListener("pointerleave", () => this.#read(-1));
    place.addEventListener("blur", () => this.#read(-1));
    place.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw(...this.#last)).observe(place);
  }

  /** What is shown, best first: `{emoji, count, colour}`. */
  get legend() {
    return this.#shown.map((layer) => ({ ...layer, colour: `var(--layer-${this.#colour(layer.emoji)})` }));
  }

  /** Draws the finals of `[from, to)`, windows of `window_ms`, with `peaks` marked. */
  draw(finals, peaks, from, to, window_ms) {
    this.#last = [finals, peaks, from, to, window_ms];
    const { clientWidth: width, clientHeight: height } = this.#place;
    const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
    if (right <= MARGIN.left || to <= from) return;
    const windows = Math.ceil((BIN_PIXELS * (to - from)) / window_ms / (right - MARGIN.left));
    const bin_ms = window_ms * Math.max(1, windows);
    const first = Math.floor(from / bin_ms) * bin_ms;
    this.#shown = layers(finals, LAYERS);
    this.#bins = bins(finals, this.#shown.map(({ emoji }) => emoji), first, to, bin_ms);
    const top = ceiling(Math.max(...this.#bins.map(({ total }) => total)) / (bin_ms / 1000));
    this.#x = (time_ms) => MARGIN.left + ((time_ms - from) / (to - from)) * (right - MARGIN.left);
    const y = (count) => bottom - (count / (bin_ms / 1000) / top) * (bottom - MARGIN.top);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#svg.replaceChildren(
      ...this.#lines(top, right, bottom),
      ...this.#areas(y),
      ...this.#times(from, to, bottom),
      ...this.#marks(peaks, bin_ms, y),
      this.#cursor,
    );
    this.#read(this.#at);
  }

  /** The areas, the best emoji lowest. */
  #areas(y) {
    const below = this.#bins.map(() => 0);
    return this.#shown.map(({ emoji, count }, layer) => {
      const floor = [...below];
      this.#bins.forEach(({ counts }, bin) => { below[bin] += counts[layer]; });
      const middle = ({ start, end }) => this.#x((start + end) / 2).toFixed(1);
      const along = (counts) => this.#bins.map((bin, at) => `${middle(bin)},${y(counts[at]).toFixed(1)}`);
      const d = `M${along(below).join("L")}L${along(floor).reverse().join("L")}Z`;
      const area = svg("path", { d, class: "area", fill: `var(--layer-${this.#colour(emoji)})` });
      area.dataset.emoji = emoji;
      area.dataset.count = count;
      return area;
    });
  }

  #lines(top, right, bottom) {
    return [0, 0.5, 1].flatMap((share) => {
      const at = bottom - share * (bottom - MARGIN.top);
      const label = svg("text", { x: MARGIN.left - 8, y: at + 4, class: "axis", "text-anchor": "end" });
      label.textContent = rate(top * share);
      return [svg("line", { x1: MARGIN.left, x2: right, y1: at, y2: at, class: "grid" }), label];
    });
  }

  #times(from, to, bottom) {
    const fits = (every) => this.#x(from + every) - this.#x(from) >= LABEL_PIXELS;
    const every = TICKS_MS.find(fits) ?? TICKS_MS.at(-1);
    const style = every < MINUTE_MS ? undefined : to_the_minute;
    const times = [];
    for (let time = Math.ceil(from / every) * every; time < to; time += every) {
      const label = svg("text", { x: this.#x(time), y: bottom + 18, class: "axis", "text-anchor": "middle" });
      label.textContent = clock(time, style);
      times.push(label);
    }
    return times;
  }

  /** A peak: its emoji above the highest point, and how many there were. */
  #marks(peaks, bin_ms, y) {
    return peaks.flatMap(({ start, end, counts }) => {
      const bin = this.#bins[Math.floor((start - this.#bins[0].start) / bin_ms)];
      if (!bin) return [];
      const [x, top] = [this.#x((start + end) / 2), y(bin.total)];
      const label = svg("text", { x, y: top - 9, class: "peak", "text-anchor": "middle" });
      label.textContent = counts[0]?.emoji ?? "";
      return [label, svg("circle", { cx: x, cy: top, r: 3, class: "dot" })];
    });
  }

  #colour(emoji) {
    if (emoji === OTHERS) return OTHERS;
    if (!this.#colours.has(emoji)) {
      const taken = new Set(this.#shown.map((layer) => this.#colours.get(layer.emoji)));
      const free = Array.from({ length: LAYERS }, (_, colour) => colour).filter((colour) => !taken.has(colour));
      this.#colours.set(emoji, free[0] ?? this.#colours.size % LAYERS);
    }
    return this.#colours.get(emoji);
  }

  // The cursor.

  #point({ clientX }) {
    const x = clientX - this.#place.getBoundingClientRect().left;
    this.#read(this.#bins.findIndex(({ end }) => this.#x(end) > x));
  }

  #key(event) {
    const last = this.#bins.length - 1;
    const from = this.#at < 0 ? last : this.#at;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last, Escape: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#read(event.key === "Escape" ? -1 : Math.max(0, Math.min(last, to)));
  }

  /** Shows what lies at a bin; -1 shows nothing. */
  #read(at) {
    const bin = this.#bins[at];
    this.#at = bin ? at : -1;
    this.#tip.hidden = !bin;
    this.#cursor.toggleAttribute("hidden", !bin);
    if (!bin) return;
    const x = this.#x((bin.start + bin.end) / 2);
    const { clientHeight: height, clientWidth: width } = this.#place;
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", MARGIN.top], ["y2", height - MARGIN.bottom]]) {
      this.#cursor.setAttribute(name, value);
    }
    const seen = this.#shown.map(({ emoji }, layer) => [emoji, bin.counts[layer]]).filter(([, count]) => count > 0);
    const counts = seen.map(([emoji, count]) => `${emoji} ${exact.format(count)}`);
    setText(this.#tip, [clock(bin.start), `${exact.format(bin.total)} reactions`, ...counts].join("\n"));
    const far = x > width / 2;
    this.#tip.style.left = far ? "auto" : `${x + 12}px`;
    this.#tip.style.right = far ? `${width - x + 12}px` : "auto";
  }
}

/** The next number up that reads well, and half of it does, too; 1 at least, so that a single tap stays small. */
function ceiling(most) {
  if (!(most > 1)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= most) * power;
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
