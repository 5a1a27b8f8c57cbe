/**
 * The emojis in the air, on a canvas.
 *
 *     rises ──▶ loose: one emoji each, at most a few dozen in the air
 *           └─▶ swarms: a flock around one big emoji, with a badge; what finds no place joins a later badge
 *
 * A swarm counts as the emojis that are seen of it. Its flock is one picture, moved anew each frame and then
 * copied to every swarm of that emoji: where no GPU draws, a hundred copies of one picture cost a quarter of five
 * thousand small ones (`make bench FIGURE=swarms`).
 *
 * Invariants: at most PARTICLES emojis are seen, whatever the crowd does; nothing runs while nothing is in
 * the air, while nobody can see it, or where reduced motion is asked for.
 *
 * @module emostream/swarms
 */

import { plain } from "./scoreboard.js";

/** The most emojis seen at once: on a large screen, in a hundred swarms. */
const PARTICLES = 5000;
/** The emojis of one swarm's flock: enough to look like many, and a hundred swarms fit in the air. */
const FLOCK = 49;
/** So many square pixels of the canvas for each emoji in the air, and for each swarm: more is noise. */
const LOOSE_AREA = 9_000;
const SWARM_AREA = 22_000;
const LOOSE_MOST = 80;
const SWARM_MOST = Math.floor(PARTICLES / (FLOCK + 1)) - 2;
/** How far a flock reaches, in sizes of the emoji in its middle: across, and up and down. */
const FLOCK_WIDTH = 3.7;
const FLOCK_HEIGHT = 3.05;
/** A frame may take this long to draw, and the next be so late: 60 a second, with some play. Where it takes
 * longer, there are places for fewer until it fits. */
const FRAME_MS = 6;
const LATE_MS = 22;
/** The fewest places, as a share of all. */
const THIN = 0.15;
/** The pictures kept: an emoji in a size, or a badge. The oldest goes first. */
const SPRITES = 128;
/** The flocks kept, one an emoji, 0.3 to 1.4 MB each: more than a frame lists emojis (20). */
const FLOCKS = 32;
/** Steps of the golden ratio spread what rises over the width, whatever its number. */
const GOLDEN = 0.618034;
const GOLDEN_ANGLE = 2.399963;
/** After this time a tap that is not in the counts yet will not be: let the crowd's emojis through. */
const OWN_MS = 3_000;
/** What `emostream load` measures with: it is counted as everything is, and does not rise among the crowd's. */
const MARKS = ["⏮️", "⏭️", "⏱️"].map(plain);
const FONT = '"Apple Color Emoji","Segoe UI Emoji","Noto Color Emoji",sans-serif';

const badge = new Intl.NumberFormat();

export class Swarms {
  #canvas;
  #context;
  #calm = globalThis.matchMedia("(prefers-reduced-motion: reduce)");
  /** Oldest first. */ #aloft = { loose: [], swarm: [] };
  #turn = { loose: Math.random(), swarm: Math.random() };
  /** @type {Map<string, {count: number, at: number}>} */ #own = new Map();
  /** @type {Map<string, number>} swarms that found no place yet */ #waiting = new Map();
  /** @type {Map<string, HTMLCanvasElement>} */ #sprites = new Map();
  /** by emoji and size, the one not seen for longest first */ #flocks = new Map();
  #size = { width: 0, height: 0, scale: 1 };
  #frame = 0;
  /** The share of the places that can be drawn in time. */ #capacity = 1;
  #drawnAt = Infinity;
  #visible = true;
  #watches = [];

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    const resized = new ResizeObserver(() => this.#resize());
    const seen = new IntersectionObserver(([entry]) => { this.#visible = entry.isIntersecting; });
    resized.observe(canvas);
    seen.observe(canvas);
    this.#watches = [resized, seen];
    this.#resize();
  }

  /** Ends what runs. */
  close() {
    for (const watch of this.#watches) watch.disconnect();
    cancelAnimationFrame(this.#frame);
    this.#land();
  }

  /** Whether nothing is to move. */
  get calm() { return this.#calm.matches; }

  /** How many emojis are in the air. */
  get particles() { return this.#aloft.loose.length + this.#aloft.swarm.length * (FLOCK + 1); }

  /** One's own tap, from `x` pixels of the canvas. It rises at once; its echo in the counts does not. */
  tap(emoji, x) {
    const own = this.#own.get(plain(emoji)) ?? { count: 0, at: 0 };
    this.#own.set(plain(emoji), { count: own.count + 1, at: performance.now() });
    this.#fly(emoji, { x, own: true });
  }

  /** The crowd: what each emoji rose by in one window, spread over the time to the next tally. */
  rise(rises, swarmSize, spread_ms) {
    if (this.#rests()) return;
    const loose = [];
    for (const { emoji, before, after } of rises) {
      if (MARKS.includes(plain(emoji))) continue;
      const swarms = Math.floor(after / swarmSize) - Math.floor(before / swarmSize);
      if (swarms > 0) this.#swarm(emoji, swarms, swarmSize, spread_ms);
      const others = this.#withoutOwn(emoji, after - before) - swarms * swarmSize;
      const shown = others <= 3 ? others : Math.min(10, Math.round(2 + Math.log2(others)));
      for (let i = 0; i < shown; i++) loose.push(emoji);
    }
    // A quarter of the free places each time: a steady stream instead of bursts.
    const free = this.#places("loose") - this.#aloft.loose.length;
    for (const emoji of pick(loose, Math.ceil(free / 4))) {
      this.#fly(emoji, { delay_ms: Math.random() * spread_ms });
    }
  }

  #rests() { return this.calm || document.hidden || !this.#visible; }

  #places(kind) {
    const area = this.#size.width * this.#size.height * this.#capacity;
    return kind === "swarm"
      ? Math.min(SWARM_MOST, Math.ceil(area / SWARM_AREA))
      : Math.min(LOOSE_MOST, Math.ceil(area / LOOSE_AREA));
  }

  #swarm(emoji, swarms, swarmSize, spread_ms) {
    const due = swarms + (this.#waiting.get(emoji) ?? 0);
    const shown = Math.max(0, Math.min(due, 6, this.#places("swarm") - this.#aloft.swarm.length));
    if (shown === 0) return void this.#waiting.set(emoji, due);
    this.#waiting.delete(emoji);
    const each = Math.floor(due / shown);
    for (let i = 0; i < shown; i++) {
      const carried = i === 0 ? due - each * (shown - 1) : each;
      this.#fly(emoji, { swarm: carried * swarmSize, delay_ms: (i / shown) * spread_ms });
    }
  }

  #withoutOwn(emoji, rise) {
    const own = this.#own.get(plain(emoji));
    if (!own) return rise;
    const echo = performance.now() - own.at > OWN_MS ? 0 : Math.min(own.count, rise);
    if (echo === own.count || echo === 0) this.#own.delete(plain(emoji));
    else own.count -= echo;
    return rise - echo;
  }

  #fly(emoji, { x, own = false, swarm = 0, delay_ms = 0 }) {
    const kind = swarm ? "swarm" : "loose";
    if (this.#rests() || this.#aloft[kind].length >= this.#places(kind)) return;
    const { width, height } = this.#size;
    const margin = swarm ? Math.min(90, width / 5) : 24;
    this.#turn[kind] = (this.#turn[kind] + GOLDEN) % 1;
    this.#aloft[kind].push({
      emoji,
      swarm,
      size: (swarm ? 0.085 : own ? 0.05 : 0.04) * Math.min(1000, Math.max(420, (width + height) / 1.6)),
      // A button may be beside the picture.
      x: Math.min(width - margin, Math.max(margin, x ?? margin + this.#turn[kind] * (width - 2 * margin))),
      sway: (Math.random() < 0.5 ? -1 : 1) * (8 + Math.random() * 22),
      top: swarm ? 1.05 : 0.75 + Math.random() * 0.25,
      turn: Math.random() * 2 * Math.PI,
      born: performance.now() + delay_ms,
      life_ms: (swarm ? 5200 : 2600) + Math.random() * 1000,
    });
    this.#frame ||= requestAnimationFrame((now) => this.#draw(now));
  }

  /** Nothing is in the air any more. */
  #land() {
    this.#aloft.loose.length = this.#aloft.swarm.length = 0;
    this.#flocks.clear();
    this.#drawnAt = Infinity;
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = Math.min(2, devicePixelRatio || 1);
    this.#size = { width, height, scale };
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
  }

  #draw(now) {
    this.#frame = 0;
    const begun = performance.now();
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (this.#rests()) return this.#land();
    // Swarms in front, so that their badges can be read.
    this.#drawAll(this.#aloft.loose, now);
    this.#drawAll(this.#aloft.swarm, now);
    if (this.particles === 0) return this.#land();
    this.#pace(performance.now() - begun, now);
    this.#frame = requestAnimationFrame((then) => this.#draw(then));
  }

  /** Draws those that still fly, and forgets the others. */
  #drawAll(flights, now) {
    let flying = 0;
    for (const flight of flights) {
      const share = (now - flight.born) / flight.life_ms;
      if (share >= 1) continue;
      flights[flying++] = flight;
      if (share > 0) this.#place(flight, share, now);
    }
    flights.length = flying;
  }

  /** Fits the places to what can be drawn in time; what the browser itself takes to paint shows in the interval. */
  #pace(took_ms, now) {
    const late = now - this.#drawnAt > LATE_MS;
    this.#drawnAt = now;
    if (late || took_ms > FRAME_MS) this.#capacity = Math.max(THIN, this.#capacity * 0.93);
    else if (took_ms < FRAME_MS / 2) this.#capacity = Math.min(1, this.#capacity * 1.01);
  }

  /** The way up: quick out of the buttons, a gentle sway, gone before the edge. */
  #place({ emoji, swarm, size, x, sway, turn, top }, share, now) {
    const { height, scale } = this.#size;
    const rise = 1 - (1 - share) ** 1.6;
    const left = (x + sway * Math.sin(share * 7 + turn)) * scale;
    const above = (height + size / 2 - rise * top * height) * scale;
    const grown = Math.min(1, 0.4 + share * 7);
    this.#context.globalAlpha = Math.min(1, share * 12, (1 - share) * 4);
    if (swarm) this.#stamp(this.#flock(emoji, size * scale, now), left, above, grown);
    this.#stamp(this.#sprite(emoji, size * scale), left, above, grown);
    if (swarm) this.#badge(swarm, size, left, above);
  }

  /** Copies a picture around a point: to whole pixels, in its own size mostly, which is much the fastest way. */
  #stamp(picture, x, y, grown) {
    if (grown === 1) {
      this.#context.drawImage(picture, Math.round(x - picture.width / 2), Math.round(y - picture.height / 2));
    } else {
      const [width, height] = [picture.width * grown, picture.height * grown];
      this.#context.drawImage(picture, x - width / 2, y - height / 2, width, height);
    }
  }

  /** The flock of an emoji `size` pixels large, as it is now. */
  #flock(emoji, size, now) {
    const key = `${emoji} ${size}`;
    const [canvas, context, at] = this.#flocks.get(key) ?? blank(Math.ceil(size * FLOCK_WIDTH), Math.ceil(size * FLOCK_HEIGHT));
    if (at === now) return canvas;
    this.#flocks.delete(key);
    this.#flocks.set(key, [canvas, context, now]);
    if (this.#flocks.size > FLOCKS) this.#flocks.delete(this.#flocks.keys().next().value);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const sprite = this.#sprite(emoji, size * 0.3);
    const [left, top] = [(canvas.width - sprite.width) / 2, (canvas.height - sprite.height) / 2];
    const time = now / 1000;
    for (let i = 1; i <= FLOCK; i++) {
      const radius = size * (0.5 + 0.15 * Math.sqrt(i) + 0.1 * Math.sin(time * 2.2 + i * 1.7));
      const angle = i * GOLDEN_ANGLE + time * (i % 2 ? 0.55 : -0.4);
      context.drawImage(
        sprite,
        Math.round(left + radius * Math.cos(angle)),
        Math.round(top + radius * 0.8 * Math.sin(angle)),
      );
    }
    return canvas;
  }

  /** An emoji's picture in a size, drawn once. */
  #sprite(emoji, pixels) {
    const size = Math.max(8, Math.round(pixels / 4) * 4);
    return this.#cached(`${emoji} ${size}`, () => {
      const [sprite, context] = blank(Math.ceil(size * 1.3));
      context.font = `${size}px ${FONT}`;
      context.fillText(emoji, sprite.width / 2, sprite.height / 2 + size * 0.06);
      return sprite;
    });
  }

  #badge(swarm, size, x, y) {
    const { scale } = this.#size;
    const text = `×${badge.format(swarm)}`;
    const pixels = Math.round(Math.max(13, size * 0.24) * scale);
    const sprite = this.#cached(`${text} ${pixels}`, () => pill(text, pixels, this.#colors()));
    const left = x + size * 0.5 * scale - sprite.width / 2;
    this.#context.drawImage(sprite, Math.round(left), Math.round(y + size * 0.4 * scale));
  }

  /** What the page's author has chosen for accents. */
  #colors() {
    const style = getComputedStyle(this.#canvas);
    return [style.getPropertyValue("accent-color"), style.getPropertyValue("outline-color")];
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

/** A rounded label. */
function pill(text, pixels, [ground, ink]) {
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

/** Some of the items, evenly drawn. */
function pick(items, count) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items.slice(0, Math.max(0, count));
}
