/**
 * `<emostream-room>`: a room to watch and to tap, in any page.
 *
 *     <script type="module" src="https://emo.example/emostream-room.js"></script>
 *     <emostream-room room="match-7" emojis="🔥👏😂"></emostream-room>
 *
 *     attributes ──▶ connect() ──frames──▶ Scoreboard ──▶ counts on the buttons, a sentence for screen readers
 *                        ▲                     └─rises─▶ Swarms on the canvas
 *     buttons ────react──┘
 *
 * Everything is in a shadow tree: the page's styles do not reach in, and its own do not leak out. It takes
 * colours from where it stands, so it is dark where the page is. What stands between its tags lies over the
 * canvas.
 *
 * Invariant: a screen reader hears a sentence at most every SUMMARY_MS, and only when something changed.
 *
 * @module emostream/room
 */

import { EmoStream, connect } from "./emostream.js";
import { Delay } from "./delay.js";
import { Scoreboard } from "./scoreboard.js";
import { Swarms } from "./swarms.js";

const EMOJIS = "🔥👏😂❤️😮😢🎉👍";
/** Pictures, flags and keycaps; letters are none. */
const EMOJI = /[\p{Extended_Pictographic}\p{Regional_Indicator}\u20E3]/u;
/** How often a screen reader hears a summary, at most. */
const SUMMARY_MS = 6_000;
/** A burst of frames (after a reconnect) is drawn once. */
const DRAW_MS = 40;
const NOTICE_MS = 5_000;
/** A short break is nobody's business. */
const BREAK_MS = 2_000;
const CLOSED = "The server ended this visit. Reload the page to come back.";
const WAITING = "Your last reactions are still waiting to be sent.";
/** A count before the room is joined. */
const UNKNOWN = "–";
const BROKEN = "Connecting …";
const RELAYED = ["hello", "live", "final", "trending", "gap", "state", "status", "refused"];

const exact = new Intl.NumberFormat();
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const short = (count) => (count < 10_000 ? exact : compact).format(count);

const STYLE = `
:host {
  display: flex;
  flex-direction: column;
  gap: var(--emostream-gap, .75rem);
  min-height: 18rem;
  color: var(--emostream-ink, inherit);
  --line: var(--emostream-edge, color-mix(in srgb, currentColor 16%, transparent));
  --strong: var(--emostream-accent, #6a5cf0);
}
:host([hidden]), [hidden] { display: none !important; }
.stage {
  flex: 1;
  position: relative;
  display: grid;
  place-items: center;
  min-height: 10rem;
  overflow: hidden;
  isolation: isolate;
  border: 1px solid var(--line);
  border-radius: var(--emostream-radius, 1.25rem);
  background: var(--emostream-stage, color-mix(in srgb, currentColor 3%, transparent));
}
canvas {
  position: absolute;
  inset: 0;
  width: 100%;
  height: 100%;
  pointer-events: none;
  accent-color: var(--strong);
  outline-color: var(--emostream-on-accent, #fff);
}
/* Before the emojis: words stay readable in any crowd. */
::slotted(*) { z-index: 1; pointer-events: none; }
.notice {
  position: absolute;
  z-index: 2;
  bottom: 1rem;
  box-sizing: border-box;
  max-width: calc(100% - 2rem);
  margin: 0;
  padding: .6rem 1rem;
  border-radius: .9rem;
  background: var(--emostream-ink, CanvasText);
  color: var(--emostream-surface, Canvas);
  font-size: .95rem;
  text-align: center;
}
.buttons { display: grid; grid-template-columns: repeat(var(--columns, 4), minmax(0, 1fr)); gap: clamp(.4rem, .8vw, 1rem); }
button {
  min-width: var(--emostream-button-width, 4.25rem);
  display: grid;
  place-content: center;
  justify-items: center;
  gap: .3rem;
  min-height: var(--emostream-button-height, 4.75rem);
  padding: .4rem 0;
  border: 1px solid var(--line);
  border-radius: var(--emostream-radius, 1.25rem);
  background: var(--emostream-surface, color-mix(in srgb, currentColor 4%, transparent));
  color: inherit;
  font: inherit;
  cursor: pointer;
  touch-action: manipulation;
  user-select: none;
  -webkit-user-select: none;
  -webkit-tap-highlight-color: transparent;
  transition: transform .12s ease-out, border-color .12s;
}
button:focus-visible { outline: 3px solid var(--strong); outline-offset: 2px; }
button:active { transform: scale(.93); border-color: var(--strong); }
@media (hover: hover) { button:hover { border-color: var(--strong); } }
.face { font: 1.9rem/1 "Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji", sans-serif; font-size: var(--emostream-face, 1.9rem); }
.count { font-size: .85rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1; }
.unseen { position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (prefers-reduced-motion: reduce) { button { transition: none; } button:active { transform: none; } canvas { display: none; } }
`;

// Outside a browser (a server that renders pages) this can be imported, and does nothing.
const Base = globalThis.HTMLElement ?? class {};

export class EmoStreamRoom extends Base {
  static observedAttributes = ["room", "emojis", "url", "ingest", "token", "user"];

  #board = new Scoreboard();
  #delay = new Delay();
  #stream;
  #swarms;
  #liveMs = 250;
  #swarmSize = 1000;
  #started = false;
  /** Whether the room has been joined: before that its counts are not 0 but unknown. */ #known = false;
  #rebuild = false;
  #timers = { draw: 0, notice: 0, summary: 0, broken: 0 };
  #resized = new ResizeObserver(() => this.#arrange());
  #spoken = "";
  /** Why its attributes name no room, if they do not. */
  #wrong = "";
  #stage;
  #canvas;
  #notice;
  #buttons;
  #summary;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    root.adoptedStyleSheets = [style];
    this.#canvas = element("canvas", { ariaHidden: "true" });
    this.#notice = element("p", { className: "notice", role: "status", hidden: true });
    this.#stage = element("div", { className: "stage" }, this.#canvas, element("slot"), this.#notice);
    this.#stage.setAttribute("part", "stage");
    this.#buttons = element("div", { className: "buttons", role: "group", ariaLabel: "Send a reaction" });
    this.#buttons.setAttribute("part", "buttons");
    this.#resized.observe(this.#buttons);
    this.#summary = element("p", { className: "unseen" });
    this.#summary.setAttribute("aria-live", "polite");
    root.append(this.#stage, this.#buttons, this.#summary);
  }

  /** The stream it shows; undefined while it stands in no page. @returns {EmoStream | undefined} */
  get stream() { return this.#stream; }

  /** What the room has counted, as shown. */
  get board() { return this.#board; }

  /** From a reaction to this screen, milliseconds; undefined until measured. */
  get delay_ms() { return this.#delay.ms; }

  /** How many emojis are drawn at the moment. */
  get particles() { return this.#swarms?.particles ?? 0; }

  connectedCallback() { this.#start(); }

  disconnectedCallback() { this.#stop(); }

  attributeChangedCallback() {
    if (!this.#started || this.#rebuild) return;
    this.#rebuild = true;
    // Several attributes that are set together join one room.
    queueMicrotask(() => {
      this.#rebuild = false;
      if (!this.isConnected) return;
      this.#stop();
      this.#start();
    });
  }

  /** Reacts as by its button. Answers whether it was taken. */
  react(emoji) {
    const button = [...this.#buttons.children].find(({ dataset }) => dataset.emoji === emoji);
    return this.#react(emoji, button ?? this.#buttons);
  }

  /** Shows a sentence over the canvas for some seconds. */
  notify(text) {
    this.#show(text);
    this.#timers.notice = setTimeout(() => this.#hide(text), NOTICE_MS);
  }

  /** Shows a sentence that stays until another comes. */
  #show(text) {
    clearTimeout(this.#timers.notice);
    this.#notice.textContent = text;
    this.#notice.hidden = false;
  }

  #hide(text) {
    if (this.#notice.textContent === text) this.#notice.hidden = true;
  }

  #start() {
    this.#started = true;
    this.#known = false;
    const given = EmoStreamRoom.observedAttributes.map((name) => [name, this.getAttribute(name) || undefined]);
    const { emojis = EMOJIS, ...options } = Object.fromEntries(given);
    this.#hide(this.#wrong);
    this.#wrong = "";
    this.#board = new Scoreboard();
    this.#swarms = new Swarms(this.#canvas);
    const { found, strange } = faces(emojis);
    if (strange.length > 0) console.error(`<emostream-room>: emojis takes emojis themselves, as in "🔥👏": "${strange.join("")}" is none`);
    this.#buttons.replaceChildren(...found.map((emoji) => this.#button(emoji)));
    this.#arrange();
    try {
      this.#stream = connect(options);
    } catch (error) {
      this.#wrong = error.message;
      console.error(`<emostream-room>: ${error.message}`);
      return this.#show(this.#wrong);
    }
    this.#listen(this.#stream);
    this.#standing(this.#stream.status);
    this.#timers.summary = setInterval(() => this.#speak(), SUMMARY_MS);
    this.#drawSoon();
  }

  #stop() {
    this.#started = false;
    clearInterval(this.#timers.summary);
    clearTimeout(this.#timers.broken);
    this.#swarms?.close();
    this.#stream?.close();
    this.#stream = undefined;
  }

  #listen(stream) {
    const on = (type, act) => stream.addEventListener(type, ({ detail }) => act(detail));
    on("hello", (hello) => this.#hello(hello));
    on("live", (live) => {
      this.#delay.live(live);
      this.#rise(live, this.#board.live(live));
    });
    on("final", (final) => {
      if (this.#delay.final(final)) this.#measured();
      this.#rise(final, this.#board.final(final));
    });
    on("state", (state) => this.#seed(state));
    on("status", ({ status }) => this.#standing(status));
    on("refused", ({ detail, retry_ms }) => {
      this.notify(retry_ms > 0 ? `${detail} Your reactions wait a moment.` : detail);
    });
    // Behind its own: who listens to the element sees it up to date.
    for (const type of RELAYED) {
      on(type, (detail) => this.dispatchEvent(new CustomEvent(type, { detail })));
    }
  }

  #hello({ window_ms, live_ms, swarm_size, resumed }) {
    this.#liveMs = live_ms;
    this.#swarmSize = swarm_size;
    this.#known = true;
    this.#delay.joined();
    if (resumed) this.#board.keepOpen(window_ms);
    else this.#board.forget();
    this.#drawSoon();
  }

  /** The present without its swarms: they belong to those who were here. */
  #seed(state) {
    if (state.final) this.#board.final(state.final);
    else if (state.totals) this.#board.seed(state.totals, state.totals_others);
    if (state.live) this.#board.live(state.live);
    this.#drawSoon();
  }

  #rise(frame, rises) {
    if (!this.#stream.isPast(frame)) this.#swarms.rise(rises, this.#swarmSize, this.#liveMs);
    if (this.#delay.rose((emoji) => this.#board.total(emoji))) this.#measured();
    this.#drawSoon();
  }

  #measured() {
    this.dispatchEvent(new CustomEvent("delay", { detail: { ms: this.#delay.ms } }));
  }

  #standing(status) {
    this.dataset.status = status;
    clearTimeout(this.#timers.broken);
    if (status === "connecting") this.#timers.broken = setTimeout(() => this.#show(BROKEN), BREAK_MS);
    else this.#hide(BROKEN);
  }

  #button(emoji) {
    const face = element("span", { className: "face", ariaHidden: "true", textContent: emoji });
    const count = element("span", { className: "count", textContent: UNKNOWN });
    count.dataset.total = emoji;
    const button = element("button", { type: "button" }, face, count);
    button.dataset.emoji = emoji;
    button.setAttribute("part", "button");
    button.addEventListener("click", () => this.#react(emoji, button));
    return button;
  }

  /** As few rows as there is room for, each as full as the others: 4 and 4, not 7 and 1. */
  #arrange() {
    const [first] = this.#buttons.children;
    if (!first) return;
    const gap = parseFloat(getComputedStyle(this.#buttons).columnGap) || 0;
    const fit = Math.floor((this.#buttons.clientWidth + gap) / (parseFloat(getComputedStyle(first).minWidth) + gap));
    const rows = Math.ceil(this.#buttons.children.length / Math.max(1, fit));
    this.#buttons.style.setProperty("--columns", Math.ceil(this.#buttons.children.length / rows));
  }

  #react(emoji, from) {
    if (!this.#stream) {
      this.#show(this.#wrong);
      return false;
    }
    if (!this.#stream.react(emoji)) {
      this.notify(this.#stream.status === "closed" ? CLOSED : WAITING);
      return false;
    }
    this.#delay.tap(emoji, this.#board.total(emoji));
    const { left, width } = from.getBoundingClientRect();
    this.#swarms.tap(emoji, left + width / 2 - this.#stage.getBoundingClientRect().left);
    if (!this.#swarms.calm && from !== this.#buttons) from.firstElementChild.animate(PRESS, PRESS_TIME);
    return true;
  }

  // Drawing: text only where it changed.

  #drawSoon() {
    this.#timers.draw ||= setTimeout(() => {
      this.#timers.draw = 0;
      this.#draw();
    }, DRAW_MS);
  }

  #draw() {
    for (const button of this.#buttons.children) {
      const { emoji } = button.dataset;
      const total = this.#board.total(emoji);
      const text = this.#known ? short(total) : UNKNOWN;
      if (button.lastElementChild.textContent === text && button.ariaLabel) continue;
      button.lastElementChild.textContent = text;
      button.ariaLabel = this.#known ? `React with ${emoji}, ${text} so far` : `React with ${emoji}`;
    }
    this.dispatchEvent(new CustomEvent("counts", { detail: { sum: this.#board.sum } }));
  }

  /** For those who listen: the room in a sentence. */
  #speak() {
    const { sum } = this.#board;
    if (sum === 0) return;
    const counted = this.#board.emojis().map((emoji) => ({ emoji, total: this.#board.total(emoji) }));
    const top = counted.sort((a, b) => b.total - a.total).slice(0, 3);
    const text = `${exact.format(sum)} reactions. ${top.map(({ emoji, total }) => `${emoji} ${exact.format(total)}`).join(", ")}.`;
    if (text === this.#spoken) return;
    this.#spoken = text;
    this.#summary.textContent = text;
  }
}

const PRESS = [{ transform: "scale(.8)" }, { transform: "scale(1.28) rotate(-6deg)" }, { transform: "none" }];
const PRESS_TIME = { duration: 320, easing: "cubic-bezier(.2,.9,.3,1.2)" };

/** The emojis of an attribute, with or without spaces between them; and what there is none. */
function faces(text) {
  const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(text);
  const given = Array.from(graphemes, ({ segment }) => segment).filter((face) => face.trim());
  return { found: [...new Set(given.filter((face) => EMOJI.test(face)))], strange: given.filter((face) => !EMOJI.test(face)) };
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

globalThis.customElements?.define("emostream-room", EmoStreamRoom);
