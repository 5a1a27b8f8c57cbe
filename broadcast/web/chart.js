/**
 * Shows the counts of each emoji over time (the mood) as a stacked area chart (SVG), and as a table.
 *
 *     finals ──mood.js──▶ bins ──▶ an area for each emoji, axes, peaks ──▶ a cursor, by pointer or by keys
 *                     └──▶ wider bins ──▶ a table
 *
 * Invariants: an emoji keeps its colour while the page is open, whatever its rank. The cursor stays at its moment while
 * the chart moves.
 *
 * @module emostream/chart
 */

import { clock, exact, leaf, minute, rate, setText } from "./dom.js";
import { OTHERS, bins, layers } from "./mood.js";

/** Maximum number of layers: as many as there are colours that readers can distinguish. */
const LAYERS = 7;
/** Lengths are in CSS pixels at a font size of 16 pixels, and grow with the reader's font size. */
const BIN_WIDTH = 5;
const MARGIN = { top: 32, right: 12, bottom: 26, left: 46 };
const CHARACTER_WIDTH = 7;
const TIP_GAP = 14;
/**
 * Minimum distance between two peaks that both show an emoji. A peak that is closer to a greater one has only a dot.
 */
const PEAK_WIDTH = 22;
/** Distance from a peak within which the pointer selects this peak. */
const SNAP = 9;
const MINUTE_MS = 60_000;
/** Possible steps of the time axis. The chart uses the first step with which the labels do not touch. */
const TICKS_MS = [15_000, 30_000, MINUTE_MS, 2 * MINUTE_MS, 5 * MINUTE_MS];
/** Maximum rows of the table. A longer table is tedious to hear in a screen reader. */
const TABLE_ROWS = 20;

const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  #place;
  #reading;
  #svg = svg("svg", { "aria-hidden": "true" });
  #cursor = svg("line", { class: "cursor" });
  #tip = leaf("div", "tip", "");
  #colours = new Map();
  #bins = [];
  #shown = [];
  /** Indices of the bins that contain peaks, in order of time. */ #peaks = [];
  #x = (time_ms) => time_ms;
  #y = (count) => count;
  #scale = 1;
  /** The time of the cursor, if it is shown. */ #time;
  #last = [[], [], 0, 0, 1];

  /**
   * Draws into `place`, an element that can have the focus. `reading` is a live region, to which the cursor's time and
   * counts are written.
   */
  constructor(place, reading) {
    this.#place = place;
    this.#reading = reading;
    this.#tip.hidden = true;
    // The live region has the same text, but only when a key moves the cursor.
    this.#tip.setAttribute("aria-hidden", "true");
    place.append(this.#svg, this.#tip);
    place.addEventListener("pointerdown", (event) => this.#point(event));
    place.addEventListener("pointermove", (event) => this.#point(event));
    // On a touch screen the tip stays visible when the finger leaves, so that it can be read.
    place.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && this.#show(-1));
    place.addEventListener("blur", () => this.#show(-1));
    place.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw(...this.#last)).observe(place);
  }

  /** The layers, greatest first: `{emoji, count, colour}`. */
  get legend() {
    return this.#shown.map((layer) => ({ ...layer, colour: `var(--layer-${this.#colour(layer.emoji)})` }));
  }

  /** Draws the finals of `[from, to)`, whose windows have `window_ms`, and marks `peaks`. */
  draw(finals, peaks, from, to, window_ms) {
    this.#last = [finals, peaks, from, to, window_ms];
    this.#scale = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    const { clientWidth: width, clientHeight: height } = this.#place;
    const { top, left, right, bottom } = this.#margin();
    if (width - right <= left || to <= from) return;
    const windows = Math.ceil((BIN_WIDTH * this.#scale * (to - from)) / window_ms / (width - right - left));
    const bin_ms = window_ms * Math.max(1, windows);
    const first = Math.floor(from / bin_ms) * bin_ms;
    this.#shown = layers(finals, LAYERS);
    this.#bins = bins(finals, this.#shown.map(({ emoji }) => emoji), first, to, bin_ms);
    const most = ceiling(Math.max(...this.#bins.map(({ total }) => total)) / (bin_ms / 1000));
    this.#x = (time_ms) => left + ((time_ms - from) / (to - from)) * (width - right - left);
    this.#y = (count) => height - bottom - (count / (bin_ms / 1000) / most) * (height - bottom - top);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#svg.replaceChildren(
      ...this.#lines(most, width - right, bin_ms),
      ...this.#areas(),
      ...this.#times(from, to, height - bottom),
      ...this.#marks(peaks, bin_ms),
      this.#cursor,
    );
    this.#show(this.#time === undefined ? -1 : this.#binAt(this.#time));
  }

  /** Moves the cursor to the window of a final, and reads it to the screen reader. */
  read({ start }) {
    this.#show(this.#binAt(start));
    this.#say();
  }

  /**
   * Fills a table with the counts of the chart, oldest first. Rows that are still needed are kept, so a reader keeps
   * their place.
   */
  tabulate(table) {
    const [finals, , from, to, window_ms] = this.#last;
    const windows = Math.ceil((to - from) / window_ms / TABLE_ROWS);
    const bin_ms = window_ms * Math.max(1, windows);
    const emojis = this.#shown.map(({ emoji }) => emoji);
    const rows = bins(finals, emojis, Math.floor(from / bin_ms) * bin_ms, to, bin_ms);
    setText(table.caption, `Reactions in steps of ${exact.format(bin_ms / 1000)} s`);
    const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
    fill(head, ["From", "All", ...emojis], () => Object.assign(document.createElement("th"), { scope: "col" }));
    const starts = new Set(rows.map(({ start }) => String(start)));
    for (const row of [...body.rows]) if (!starts.has(row.dataset.start)) row.remove();
    rows.forEach(({ start, total, counts }, index) => {
      let row = body.rows[index];
      if (row?.dataset.start !== String(start)) {
        row = body.insertRow(index);
        row.dataset.start = start;
        row.append(Object.assign(document.createElement("th"), { scope: "row" }));
      }
      fill(row, [clock(start), ...[total, ...counts].map((count) => exact.format(count))], () => document.createElement("td"));
    });
  }

  #margin() {
    return Object.fromEntries(Object.entries(MARGIN).map(([side, length]) => [side, length * this.#scale]));
  }

  /** The areas. The emoji with the greatest count is at the bottom. */
  #areas() {
    const below = this.#bins.map(() => 0);
    return this.#shown.map(({ emoji, count }, layer) => {
      const floor = [...below];
      this.#bins.forEach(({ counts }, bin) => { below[bin] += counts[layer]; });
      const along = (counts) => this.#bins.map((bin, at) => `${this.#middle(bin).toFixed(1)},${this.#y(counts[at]).toFixed(1)}`);
      const d = `M${along(below).join("L")}L${along(floor).reverse().join("L")}Z`;
      const area = svg("path", { d, class: "area", fill: `var(--layer-${this.#colour(emoji)})` });
      area.dataset.emoji = emoji;
      area.dataset.count = count;
      return area;
    });
  }

  #lines(most, right, bin_ms) {
    const { left } = this.#margin();
    return [0, 0.5, 1].flatMap((share) => {
      const at = this.#y((most * share * bin_ms) / 1000);
      const label = svg("text", { x: left - 8 * this.#scale, y: at + 4 * this.#scale, class: "axis", "text-anchor": "end" });
      label.textContent = rate(most * share);
      return [svg("line", { x1: left, x2: right, y1: at, y2: at, class: "grid" }), label];
    });
  }

  #times(from, to, bottom) {
    const text = (every) => (every < MINUTE_MS ? clock : minute);
    const fits = (every) => {
      const needed = (text(every)(from).length + 2) * CHARACTER_WIDTH * this.#scale;
      return this.#x(from + every) - this.#x(from) >= needed;
    };
    const every = TICKS_MS.find(fits) ?? TICKS_MS.at(-1);
    const times = [];
    for (let time = Math.ceil(from / every) * every; time < to; time += every) {
      const label = svg("text", { x: this.#x(time), y: bottom + 18 * this.#scale, class: "axis", "text-anchor": "middle" });
      label.textContent = text(every)(time);
      const width = label.textContent.length * CHARACTER_WIDTH * this.#scale;
      // A label that the edge would cut off is left out.
      if (this.#x(time) >= width / 2 && this.#x(time) + width / 2 <= this.#place.clientWidth) times.push(label);
    }
    return times;
  }

  /** A dot on each peak, and the most frequent emoji of the peak above it. */
  #marks(peaks, bin_ms) {
    const first = this.#bins[0].start;
    const found = peaks.map(({ start, counts, total }) => ({ bin: Math.floor((start - first) / bin_ms), counts, total }));
    const inside = found.filter(({ bin }) => this.#bins[bin]);
    this.#peaks = [...new Set(inside.map(({ bin }) => bin))].sort((a, b) => a - b);
    const labelled = [];
    return inside.sort((a, b) => b.total - a.total).flatMap(({ bin, counts }) => {
      const [x, y] = [this.#middle(this.#bins[bin]), this.#y(this.#bins[bin].total)];
      const dot = svg("circle", { cx: x, cy: y, r: 3 * this.#scale, class: "dot" });
      if (labelled.some((other) => Math.abs(other - x) < PEAK_WIDTH * this.#scale)) return [dot];
      labelled.push(x);
      const label = svg("text", { x, y: y - 9 * this.#scale, class: "peak", "text-anchor": "middle" });
      label.textContent = counts[0]?.emoji ?? "";
      return [label, dot];
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

  #middle({ start, end }) {
    return this.#x((start + end) / 2);
  }

  /** Returns the bin of a time; for a time before or after the chart, the first or the last bin. */
  #binAt(time_ms) {
    const last = this.#bins.length - 1;
    const bin = this.#bins.findIndex(({ end }) => end > time_ms);
    return bin < 0 ? last : bin;
  }

  #point({ clientX }) {
    const x = clientX - this.#place.getBoundingClientRect().left;
    const near = this.#peaks.find((bin) => Math.abs(this.#middle(this.#bins[bin]) - x) < SNAP * this.#scale);
    this.#show(near ?? this.#bins.findIndex(({ end }) => this.#x(end) > x));
  }

  #key(event) {
    // With these modifier keys the browser goes back, or scrolls.
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.#bins.length - 1;
    const from = this.#time === undefined ? last : this.#binAt(this.#time);
    const to = {
      ArrowLeft: () => from - 1,
      ArrowRight: () => from + 1,
      PageUp: () => this.#peaks.findLast((bin) => bin < from) ?? from,
      PageDown: () => this.#peaks.find((bin) => bin > from) ?? from,
      Home: () => 0,
      End: () => last,
      Escape: () => -1,
    }[event.key];
    if (!to) return;
    event.preventDefault();
    this.#show(event.key === "Escape" ? -1 : Math.max(0, Math.min(last, to())));
    this.#say();
  }

  /** Shows the cursor and the tip at the bin with this index; hides them if the index is -1. */
  #show(at) {
    const bin = this.#bins[at];
    this.#time = bin?.start;
    this.#tip.hidden = !bin;
    this.#cursor.toggleAttribute("hidden", !bin);
    if (!bin) return;
    const x = this.#middle(bin);
    const { clientHeight: height, clientWidth: width } = this.#place;
    const { top, bottom } = this.#margin();
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", top], ["y2", height - bottom]]) {
      this.#cursor.setAttribute(name, value);
    }
    const time = leaf("time", "", clock(bin.start));
    time.dateTime = new Date(bin.start).toISOString();
    this.#tip.replaceChildren(time, ["", ...this.#counts(bin)].join("\n"));
    const far = x > width / 2;
    this.#tip.style.left = far ? "auto" : `${x + TIP_GAP * this.#scale}px`;
    this.#tip.style.right = far ? `${width - x + TIP_GAP * this.#scale}px` : "auto";
    // The tip is beside the highest point at this time, and inside the chart.
    const beside = this.#y(bin.total) - this.#tip.offsetHeight / 2;
    this.#tip.style.top = `${Math.max(0, Math.min(height - this.#tip.offsetHeight, beside))}px`;
  }

  /** The sum of a bin, and the count of each emoji in it. */
  #counts({ total, counts }) {
    const layers = this.#shown.map(({ emoji }, layer) => [emoji, counts[layer]]).filter(([, count]) => count > 0);
    const sum = `${exact.format(total)} ${total === 1 ? "reaction" : "reactions"}`;
    return [sum, ...layers.map(([emoji, count]) => `${emoji} ${exact.format(count)}`)];
  }

  #say() {
    const bin = this.#time === undefined ? undefined : this.#bins[this.#binAt(this.#time)];
    setText(this.#reading, bin ? `${clock(bin.start)}: ${this.#counts(bin).join(", ")}` : "");
  }
}

/**
 * Returns the next greater number that is easy to read, and whose half is easy to read. At least 1, so that a single
 * tap stays small.
 */
function ceiling(most) {
  if (!(most > 1)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= most) * power;
}

/** Sets the texts of a row's cells; `cell` creates the cells that are missing. */
function fill(row, texts, cell) {
  while (row.cells.length > texts.length) row.lastElementChild.remove();
  texts.forEach((text, index) => setText(row.cells[index] ?? row.appendChild(cell()), text));
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
