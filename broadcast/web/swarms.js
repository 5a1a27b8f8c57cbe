/**
 * The emojis in the air, on a canvas. `motion.js` has the rules; this draws.
 *
 *     rises ──▶ one · ten · hundred: the size, number and speed of them follow the rate of the room
 *           └─▶ swarms: a flock around one big emoji, with a label
 *     taps  ──▶ a burst, the larger the more taps follow each other
 *     counts of a window ──▶ a still picture (`mosaic.js`): for reduced motion, and where drawing is too slow
 *
 * Flocks that find no place join a later label of their emoji; single emojis are a sample.
 *
 * A flock is one picture, drawn once a frame and then copied to every flock of its kind and emoji: without a GPU, a
 * hundred copies of one picture cost a quarter of five thousand small ones (`make bench FIGURE=swarms`).
 *
 * Invariants: at most `maxParticles` emojis are in the air, whatever the crowd does; no label touches another one; no
 * frame runs while nothing is in the air, while the canvas cannot be seen, or while nothing may move.
 *
 * @module emostream/swarms
 */

import {
  KINDS, RESTART, START,
  baseOf, between, gapOf, heightAt, laneFor, levelOf, paceAfter, placesFor, rateAfter, unitsOf,
} from "./motion.js";
import { plain } from "./scoreboard.js";

/** Maximum number of swarms of one emoji that start with one tally. */
const SWARMS_AT_ONCE = 6;
/** Maximum time for which a flock with a label waits for a free lane. */
const PATIENCE_MS = 700;
/** Time for which flights fade if they end early, because drawing is too slow. */
const FADE_MS = 250;
/** Maximum number of pictures that are kept: emojis in a size, and labels. The oldest is dropped first. */
const SPRITES = 256;
/** Flocks kept, 0.1 to 1.4 MB each: three kinds of more emojis than a frame lists (20). */
const FLOCKS = 64;
/** The golden ratio, as a share and as an angle. Its steps spread flights evenly, whatever their number. */
const GOLDEN = 0.618034;
const GOLDEN_ANGLE = 2.399963;
/** Time after which a tap that is not in the counts was lost. From then on, the crowd's emojis are shown again. */
const OWN_MS = 3_000;
/** Number of small emojis in a burst, if a user taps without a pause. */
const SPARKS = 72;
const SPARK_MS = 700;
/** Time for which the picture stands still before rising emojis are tried again. */
const STILL_MS = 60_000;
/** Emojis with which `emostream load` measures: they are counted as all others are, and do not rise. */
const MARKS = ["⏮️", "⏭️", "⏱️"].map(plain);
const FONT = '"Apple Color Emoji","Segoe UI Emoji","Noto Color Emoji",sans-serif';

const whole = new Intl.NumberFormat();
const compact = new Intl.NumberFormat(undefined, { notation: "compact" });
const times = (count) => `×${(count < 100_000 ? whole : compact).format(count)}`;

export class Swarms {
  /** Maximum number of emojis in the air. */
  maxParticles;
  /** Returns a picture of an emoji, or undefined for its glyph. */
  picture;
  #canvas;
  #context;
  #reduced = globalThis.matchMedia("(prefers-reduced-motion: reduce)");
  /** The flights, oldest first, which is the order in which they are drawn. */
  #aloft = { one: [], ten: [], hundred: [], swarm: [] };
  #sparks = [];
  /** The last flight of each lane. */ #lanes = [];
  #turn = Math.random();
  /** @type {Map<string, {count: number, at: number}>} */ #own = new Map();
  /** @type {Map<string, number>} swarms that found no place yet */ #waiting = new Map();
  /** @type {Map<string, number>} reactions of small flocks that found no place yet */ #left = new Map();
  /** @type {Map<string, HTMLCanvasElement>} */ #sprites = new Map();
  /** The flocks, the least recently drawn one first. */ #flocks = new Map();
  #screen = { width: 0, height: 0, base: 0, scale: 1 };
  #rate = 0;
  #ratedAt = 0;
  #swarmSize = 1000;
  #counts = [];
  #frame = 0;
  #pace = START;
  #drawnAt = NaN;
  #stillUntil = 0;
  #paused = false;
  #visible = true;
  #watches = [];
  #moved = () => this.#clear();

  constructor(canvas, { maxParticles = 5000, picture } = {}) {
    this.maxParticles = maxParticles;
    this.picture = picture;
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    const resized = new ResizeObserver(() => this.#resize());
    const seen = new IntersectionObserver((entries) => { this.#visible = entries.at(-1).isIntersecting; });
    resized.observe(canvas);
    seen.observe(canvas);
    this.#watches = [resized, seen];
    this.#reduced.addEventListener("change", this.#moved);
    this.#resize();
  }

  close() {
    for (const watch of this.#watches) watch.disconnect();
    this.#reduced.removeEventListener("change", this.#moved);
    this.#counts = [];
    this.#clear();
  }

  /**
   * Whether only {@link mosaic} is shown, because of reduced motion, or because frames were too slow for some seconds.
   */
  get calm() { return this.#reduced.matches || performance.now() < this.#stillUntil; }

  get paused() { return this.#paused; }

  /** Nothing rises or changes while it is paused. */
  set paused(paused) {
    if (paused && !this.calm) this.#clear();
    this.#paused = paused;
  }

  /** Returns the number of emojis in the air. */
  get particles() {
    const flying = Object.entries(this.#aloft).reduce((sum, [kind, { length }]) => sum + length * KINDS[kind].emojis, 0);
    return flying + this.#sparks.length;
  }

  /**
   * Shows the user's own tap, the `combo`th in a row, at `x` pixels of the canvas. When the counts contain this tap, no
   * emoji rises for it.
   */
  tap(emoji, x, combo = 1) {
    if (this.#rests()) return;
    const own = this.#own.get(plain(emoji)) ?? { count: 0, at: 0 };
    const now = performance.now();
    this.#own.set(plain(emoji), { count: own.count + 1, at: now });
    this.#fly("one", emoji, { x, own: true });
    const { base } = this.#screen;
    const most = Math.min(SPARKS - this.#sparks.length, this.maxParticles - this.particles);
    const bits = x === undefined ? 0 : Math.min(4 + combo, 12, most);
    for (let i = 0; i < bits; i++) {
      const angle = Math.PI * (0.12 + (0.76 * (i + Math.random())) / bits);
      const reach = base * (0.06 + 0.005 * Math.min(combo, 20)) * (1 + Math.random());
      const [across, up] = [reach * Math.cos(angle), reach * Math.sin(angle)];
      this.#sparks.push({ emoji, x, born: now, across, up, size: base * 0.022 });
    }
  }

  /** Shows the increase of each emoji in one window, spread over the time until the next tally. */
  rise(rises, swarmSize, spread_ms) {
    const crowd = rises.filter(({ emoji }) => !MARKS.includes(plain(emoji)));
    const now = performance.now();
    const count = crowd.reduce((sum, { before, after }) => sum + after - before, 0);
    this.#rate = rateAfter(this.#rate, count, now - this.#ratedAt);
    this.#ratedAt = now;
    this.#swarmSize = swarmSize;
    if (this.#rests()) return;
    const small = { ten: [], one: [] };
    for (const { emoji, before, after } of crowd) {
      const swarms = Math.floor(after / swarmSize) - Math.floor(before / swarmSize);
      if (swarms > 0) this.#swarm(emoji, swarms, spread_ms);
      // A swarm stands for those before it, too.
      const left = swarms > 0 ? 0 : this.#left.get(emoji) ?? 0;
      const others = this.#withoutOwn(emoji, after - before) - swarms * swarmSize + left;
      const units = unitsOf(Math.min(others, swarmSize - 1));
      const flock = { count: units.hundred, delay_ms: Math.random() * spread_ms };
      const flies = units.hundred > 0 && this.#fly("hundred", emoji, flock);
      this.#left.set(emoji, flies ? 0 : units.hundred);
      for (const kind in small) small[kind].push(...Array(units[kind]).fill(emoji));
    }
    // Each tally fills a quarter of the free places, so that emojis rise steadily and not in bursts.
    for (const kind in small) {
      shuffle(small[kind]);
      const free = Math.ceil(this.#places(kind) / 4);
      small[kind].forEach((emoji, index) => {
        const flies = index < free && this.#fly(kind, emoji, { delay_ms: Math.random() * spread_ms });
        if (!flies && kind === "ten") this.#left.set(emoji, this.#left.get(emoji) + 10);
      });
    }
  }

  /**
   * Draws the still picture of one window, while {@link calm}. Of a window that is not closed, only on a slow device, and
   * if there is no picture yet. Without counts, removes it, also after that time.
   */
  async mosaic(counts, isClosed = true) {
    const removes = counts.length === 0;
    const shows = this.#counts.length > 0;
    const waits = !isClosed && (shows || this.#reduced.matches);
    if (this.#paused || (removes ? !shows : !this.calm || waits)) return;
    this.#counts = counts;
    if (removes) return this.#clear();
    // The module is loaded when it is needed, since most pages never need it.
    const { mosaicOf } = await import("./mosaic.js");
    if (this.#counts !== counts || !this.calm || this.#paused) return;
    this.#clear();
    const { width, height } = this.#screen;
    const shown = counts.filter(({ emoji }) => !MARKS.includes(plain(emoji)));
    for (const tile of mosaicOf(shown, width, height)) this.#tile(tile);
  }

  #rests() { return this.#paused || this.calm || document.hidden || !this.#visible; }

  #places(kind) {
    const { width, height, base } = this.#screen;
    const { capacity } = this.#pace;
    const aloft = Object.fromEntries(Object.entries(this.#aloft).map(([name, { length }]) => [name, length]));
    const maxParticles = this.maxParticles - this.#sparks.length;
    return placesFor(kind, aloft, { area: width * height, base, level: levelOf(this.#rate), capacity, maxParticles });
  }

  #swarm(emoji, swarms, spread_ms) {
    let due = swarms + (this.#waiting.get(emoji) ?? 0);
    const shown = Math.min(due, SWARMS_AT_ONCE, this.#places("swarm"));
    for (let i = 0; i < shown; i++) {
      const carried = Math.ceil(due / (shown - i));
      if (!this.#fly("swarm", emoji, { count: carried * this.#swarmSize, delay_ms: (i / shown) * spread_ms })) break;
      due -= carried;
    }
    if (due > 0) this.#waiting.set(emoji, due);
    else this.#waiting.delete(emoji);
  }

  #withoutOwn(emoji, rise) {
    const own = this.#own.get(plain(emoji));
    if (!own) return rise;
    const echo = performance.now() - own.at > OWN_MS ? 0 : Math.min(own.count, rise);
    if (echo === own.count || echo === 0) this.#own.delete(plain(emoji));
    else own.count -= echo;
    return rise - echo;
  }

  /** Starts a flight. Returns whether there was a free place for it. */
  #fly(kind, emoji, { x, own = false, count = 0, delay_ms = 0 }) {
    if (this.#rests() || (own ? this.particles >= this.maxParticles : this.#places(kind) < 1)) return false;
    const { width, height, base } = this.#screen;
    const level = levelOf(this.#rate);
    const life_ms = between(KINDS[kind].life_ms, level);
    let born = performance.now() + delay_ms;
    this.#turn = (this.#turn + GOLDEN) % 1;
    const size = between(KINDS[kind].size, level) * (own ? 1.25 : 1) * (base / 1000);
    const flight = { kind, emoji, size, turn: Math.random() * 2 * Math.PI };
    if (count > 0) {
      const gap = gapOf(this.#label("swarm") * 1.6 + base * 0.045, height);
      const free = laneFor(this.#lanes, this.#turn, born, life_ms, gap, PATIENCE_MS);
      if (!free) return false;
      born = free.start;
      const margin = Math.min(base * 0.09, width / 8);
      const across = this.#lanes.length > 1 ? free.lane / (this.#lanes.length - 1) : 0.5;
      const at = margin + across * (width - 2 * margin);
      Object.assign(flight, { count, life_ms, born, x: at, sway: base * 0.006, top: 1.05 });
      this.#lanes[free.lane] = flight;
    } else {
      const margin = kind === "ten" ? Math.min(60, width / 8) : Math.min(28, width / 12);
      const at = x ?? margin + this.#turn * (width - 2 * margin);
      Object.assign(flight, {
        // A button may be outside of the canvas.
        x: Math.min(width - margin, Math.max(margin, at)),
        born,
        life_ms: life_ms * (0.85 + Math.random() * 0.3),
        sway: (Math.random() < 0.5 ? -1 : 1) * (8 + Math.random() * 22),
        top: 0.75 + Math.random() * 0.3,
      });
    }
    this.#aloft[kind].push(flight);
    this.#frame ||= requestAnimationFrame((now) => this.#draw(now));
    return true;
  }

  /** Ends all flights and empties the canvas. */
  #clear() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    for (const flights of Object.values(this.#aloft)) flights.length = 0;
    this.#sparks.length = 0;
    this.#lanes.fill(undefined);
    this.#waiting.clear();
    this.#left.clear();
    this.#flocks.clear();
    this.#drawnAt = NaN;
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const turned = width !== this.#screen.width;
    const scale = Math.min(2, devicePixelRatio || 1);
    this.#screen = { width, height, scale, base: baseOf(width, height) };
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    if (turned) {
      this.#clear();
      // Width of a lane: that of "×10,000", with room for swaying.
      const { base } = this.#screen;
      const lane = this.#label("swarm") * 5.6 + base * 0.012 + 4;
      this.#lanes = Array(Math.max(1, Math.floor((width - 2 * Math.min(base * 0.09, width / 8)) / lane) + 1)).fill(undefined);
    }
    if (this.calm) this.mosaic(this.#counts);
  }

  /** The font size of a label. */
  #label(kind) {
    return kind === "swarm" ? Math.max(13, this.#screen.base * 0.02) : Math.max(12, this.#screen.base * 0.016);
  }

  #draw(now) {
    this.#frame = 0;
    const begun = performance.now();
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (this.#rests()) return this.#clear();
    this.#counts = [];
    const labels = [];
    for (const flights of Object.values(this.#aloft)) this.#drawAll(flights, now, labels);
    this.#drawSparks(now);
    // Labels are drawn in front of all flocks, so that they can be read.
    for (const { count, kind, left, above, alpha } of labels) {
      this.#context.globalAlpha = alpha;
      this.#stamp(this.#badge(times(count), this.#label(kind)), left, above, 1);
    }
    if (this.particles === 0) return this.#clear();
    this.#keepPace(performance.now() - begun, now);
    if (this.#rests()) return this.#clear();
    this.#frame = requestAnimationFrame((then) => this.#draw(then));
  }

  /** Draws the flights that have not ended, and drops the others. */
  #drawAll(flights, now, labels) {
    let flying = 0;
    for (const flight of flights) {
      const share = (now - flight.born) / flight.life_ms;
      if (share >= 1 || now - flight.fades >= FADE_MS) continue;
      flights[flying++] = flight;
      if (share > 0) this.#place(flight, share, now, labels);
    }
    flights.length = flying;
  }

  /** Draws a flight: it grows as it leaves the buttons, sways, and fades before the edge. */
  #place(flight, share, now, labels) {
    const { kind, emoji, count, size, x, sway, turn, top, fades } = flight;
    const { height, base, scale } = this.#screen;
    const left = (x + sway * Math.sin(share * 7 + turn)) * scale;
    const path = height - heightAt(share) * top * height;
    // Labels of all kinds take the same way in a lane: emojis are placed above them.
    const above = (count ? path + base * 0.07 - size * 0.62 : path + size / 2) * scale;
    const grown = Math.min(1, 0.4 + share * 7);
    const alpha = Math.min(1, share * 12, (1 - share) * 4) * (fades ? 1 - (now - fades) / FADE_MS : 1);
    this.#context.globalAlpha = alpha;
    if (kind !== "one") this.#stamp(this.#flock(kind, emoji, size * scale, now), left, above, grown);
    if (kind === "one" || KINDS[kind].middle) {
      this.#stamp(flight.sprite ??= this.#sprite(emoji, size * scale), left, above, grown);
    }
    if (count) labels.push({ count, kind, left, above: (path + base * 0.07) * scale, alpha });
  }

  #drawSparks(now) {
    const { height, scale } = this.#screen;
    this.#sparks = this.#sparks.filter(({ born }) => now - born < SPARK_MS);
    for (const { emoji, x, born, across, up, size } of this.#sparks) {
      const share = Math.max(0, (now - born) / SPARK_MS);
      const gone = 1 - (1 - share) ** 2;
      this.#context.globalAlpha = Math.min(1, (1 - share) * 2);
      this.#stamp(this.#sprite(emoji, size * scale), (x + across * gone) * scale, (height - up * gone) * scale, 1);
    }
  }

  #keepPace(took_ms, now) {
    this.#pace = paceAfter(this.#pace, now - this.#drawnAt, took_ms);
    this.#drawnAt = now;
    if (this.#pace.still) {
      this.#stillUntil = performance.now() + STILL_MS;
      this.#pace = RESTART;
    } else if (this.#pace.slow) {
      for (const [kind, flights] of Object.entries(this.#aloft)) {
        for (const flight of flights.slice(0, Math.max(0, -this.#places(kind)))) flight.fades ??= now;
      }
    }
  }

  /** Copies a picture around a point, to whole pixels and mostly in its own size, which is by far the fastest way. */
  #stamp(picture, x, y, grown) {
    if (grown === 1) {
      this.#context.drawImage(picture, Math.round(x - picture.width / 2), Math.round(y - picture.height / 2));
    } else {
      const [width, height] = [picture.width * grown, picture.height * grown];
      this.#context.drawImage(picture, x - width / 2, y - height / 2, width, height);
    }
  }

  /** Returns the flock of an emoji `size` pixels large, as it is now. */
  #flock(kind, emoji, size, now) {
    const { middle, around, small, core, step, reach } = KINDS[kind];
    const key = `${kind} ${emoji} ${size}`;
    const [canvas, context, at] = this.#flocks.get(key) ?? blank(Math.ceil(size * reach[0]), Math.ceil(size * reach[1]));
    // On a slow device, a flock moves as a whole at each frame, and the emojis in it move less often.
    if (now - at <= (this.#pace.capacity < 0.5 ? 60 : 0)) return canvas;
    this.#flocks.delete(key);
    this.#flocks.set(key, [canvas, context, now]);
    if (this.#flocks.size > FLOCKS) this.#flocks.delete(this.#flocks.keys().next().value);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const sprite = this.#sprite(emoji, size * small);
    const [left, top] = [(canvas.width - sprite.width) / 2, (canvas.height - sprite.height) / 2];
    const time = now / 1000;
    for (let i = 1; i <= around; i++) {
      const radius = size * (core + step * Math.sqrt(i - 0.5) + 0.1 * Math.sin(time * 2.2 + i * 1.7));
      const angle = i * GOLDEN_ANGLE + time * (middle && i % 2 ? 0.55 : -0.4);
      context.drawImage(
        sprite,
        Math.round(left + radius * Math.cos(angle)),
        Math.round(top + radius * 0.8 * Math.sin(angle)),
      );
    }
    return canvas;
  }

  /** Draws a tile of the mosaic: its emoji in each cell, and the swarms of the window as one large emoji with a label. */
  #tile({ emoji, x, y, width, height, cells, columns, side, swarms }) {
    const { base, scale } = this.#screen;
    const context = this.#context;
    context.globalAlpha = 0.06;
    context.fillStyle = getComputedStyle(this.#canvas).color;
    context.beginPath();
    context.roundRect(x * scale, y * scale, width * scale, height * scale, 10 * scale);
    context.fill();
    context.globalAlpha = swarms > 0 ? 0.5 : 1;
    const rows = Math.ceil(cells / columns);
    const sprite = this.#sprite(emoji, side * 0.7 * scale);
    const middle = [(x + width / 2) * scale, (y + height / 2) * scale];
    for (let cell = 0; cell < cells; cell++) {
      const row = Math.floor(cell / columns);
      const filled = Math.min(columns, cells - row * columns);
      const across = (cell % columns) - (filled - 1) / 2;
      this.#stamp(sprite, middle[0] + across * side * scale, middle[1] + (row - (rows - 1) / 2) * side * scale, 1);
    }
    context.globalAlpha = 1;
    if (!(swarms > 0)) return;
    const size = Math.min(width * 0.5, height * 0.5, base * 0.16);
    this.#stamp(this.#sprite(emoji, size * scale), middle[0], middle[1] - size * 0.12 * scale, 1);
    const label = this.#badge(times(swarms * this.#swarmSize), Math.min(base * 0.024, width / 6));
    this.#stamp(label, middle[0], middle[1] + size * 0.55 * scale, 1);
  }

  /** Returns the picture of an emoji in a size, drawn once. */
  #sprite(emoji, pixels) {
    const size = Math.max(8, Math.round(pixels / 4) * 4);
    const picture = this.picture?.(emoji);
    // A picture may be loaded after the glyph of its emoji was drawn.
    return this.#cached(`${emoji} ${size} ${!picture}`, () => {
      const [sprite, context] = blank(Math.ceil(size * 1.3));
      if (picture) {
        const scale = size / Math.max(picture.width, picture.height);
        const [width, height] = [picture.width * scale, picture.height * scale];
        context.drawImage(picture, (sprite.width - width) / 2, (sprite.height - height) / 2, width, height);
      } else {
        context.font = `${size}px ${FONT}`;
        context.fillText(emoji, sprite.width / 2, sprite.height / 2 + size * 0.06);
      }
      return sprite;
    });
  }

  /** Returns a label in the page's accent colours. */
  #badge(text, size) {
    const pixels = Math.round(size * this.#screen.scale);
    return this.#cached(`${text} ${pixels}`, () => {
      const style = getComputedStyle(this.#canvas);
      return pill(text, pixels, style.getPropertyValue("accent-color"), style.getPropertyValue("outline-color"));
    });
  }

  #cached(key, make) {
    let sprite = this.#sprites.get(key);
    if (sprite) return sprite;
    if (this.#sprites.size >= SPRITES) this.#sprites.delete(this.#sprites.keys().next().value);
    this.#sprites.set(key, (sprite = make()));
    return sprite;
  }
}

function blank(width, height = width) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.textAlign = "center";
  context.textBaseline = "middle";
  return [canvas, context];
}

/** Draws a rounded label. */
function pill(text, pixels, ground, ink) {
  const font = `800 ${pixels}px system-ui,sans-serif`;
  const [, measuring] = blank(1);
  measuring.font = font;
  const [canvas, context] = blank(Math.ceil(measuring.measureText(text).width + pixels * 1.2), Math.ceil(pixels * 1.6));
  context.fillStyle = ground;
  context.beginPath();
  context.roundRect(0, 0, canvas.width, canvas.height, canvas.height / 2);
  context.fill();
  context.font = font;
  context.fillStyle = ink;
  context.fillText(text, canvas.width / 2, canvas.height / 2 + pixels * 0.05);
  return canvas;
}

function shuffle(items) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
}
