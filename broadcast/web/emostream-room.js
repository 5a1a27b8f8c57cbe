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
 * Everything is in a shadow tree, so the styles of the page and of the element do not mix. Colours are derived from
 * those of the page.
 *
 * Invariants: a screen reader gets a sentence at most every SUMMARY_MS, and only after a change. Sentences for
 * spectators come from `messages`; details for developers go to the console and into events.
 *
 * @module emostream/room
 */

import { Delay } from "./delay.js";
import { Pictures, emotes } from "./emotes.js";
import { connect } from "./emostream.js";
import { Scoreboard, plain } from "./scoreboard.js";
import { Swarms } from "./swarms.js";

const EMOJIS = "🔥👏😂❤️😮😢🎉👍";
const PARTICLES = 5_000;
/** Minimum time between two summaries for screen readers. */
const SUMMARY_MS = 6_000;
/**
 * Time for which frames are collected before they are drawn. Frames that arrive together, as after a reconnect, are
 * drawn once.
 */
const DRAW_MS = 40;
const NOTICE_MS = 5_000;
/** Minimum duration of a break of the connection that is shown. */
const BREAK_MS = 2_000;
/** Time after the end of the newest window from which on a room is idle. A final follows its window within seconds. */
const IDLE_MS = 10_000;
/**
 * Times after which a button that is held sends the first repetition, and each further one. They are longer than the
 * pauses between fast taps.
 */
const HOLD_MS = 400;
const REPEAT_MS = 150;
/** Maximum pause between two taps of a combo, which are taps on one emoji. A combo is shown from COMBO taps on. */
const COMBO_MS = 1_200;
const COMBO = 3;
const TICK_MS = 10;
/** Text that is shown instead of a count until the room is joined. */
const UNKNOWN = "–";
const RELAYED = ["hello", "live", "final", "trending", "gap", "state", "status", "refused"];
/** Attributes with a property of the same name, and the value of the property without the attribute. */
const TEXTS = { room: "default", emojis: EMOJIS, url: "", ingest: "", user: "", buttons: "", emojiBase: "" };
const FLAGS = ["overlay", "paused"];

const exact = new Intl.NumberFormat();
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const short = (count) => (count < 10_000 ? exact : compact).format(count);

/** Every sentence of the element, in English. */
export const MESSAGES = Object.freeze({
  buttons: "Send a reaction",
  react: "React with {emoji}",
  counted: "React with {emoji}, {count} so far",
  summary: ({ number, sum, top }) => `${sum} ${number === 1 ? "reaction" : "reactions"}. ${top}.`,
  idle: "Tap an emoji. Everyone in this room sees it within a second.",
  connecting: "Connecting …",
  closed: "The connection has ended. Reload the page to reconnect.",
  noAccess: "You have no access to this room. Ask for a new link.",
  waiting: "Your last reactions are still waiting to be sent.",
  delayed: "Your reactions will be sent in a moment.",
  unavailable: "Reactions are not available.",
});

const STYLE = `
:host {
  display: flex;
  flex-direction: column;
  gap: var(--emostream-gap, .75rem);
  min-height: 18rem;
  color: var(--emostream-ink, inherit);
  --line: var(--emostream-edge, color-mix(in srgb, currentColor 16%, transparent));
  --strong: var(--emostream-accent, #6a5cf0);
  --round: var(--emostream-radius, 1.25rem);
}
:host([hidden]), [hidden], :host([buttons="none"]) :is(.buttons, .hint), :host([overlay]) .hint { display: none !important; }
.stage {
  flex: 1;
  position: relative;
  display: grid;
  grid-template-rows: minmax(0, 1fr) auto;
  place-items: center;
  min-height: 10rem;
  overflow: hidden;
  isolation: isolate;
  border: 1px solid var(--line);
  border-radius: var(--round);
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
/* The notice is in front of the emojis, so that its text stays readable. */
::slotted(*) { z-index: 1; pointer-events: none; }
.hint, .notice { margin: 0; pointer-events: none; text-align: center; }
.hint { grid-row: 2; z-index: 1; padding: .5rem 1rem 1rem; font-size: var(--emostream-hint, 1rem); font-weight: 600; text-wrap: balance; }
.notice {
  position: absolute;
  z-index: 2;
  bottom: 1rem;
  box-sizing: border-box;
  max-width: calc(100% - 2rem);
  padding: .6rem 1rem;
  border: 1px solid transparent;
  border-radius: .9rem;
  background: var(--emostream-notice, var(--emostream-ink, CanvasText));
  color: var(--emostream-on-notice, var(--emostream-surface, Canvas));
  font-size: .95rem;
}
.buttons { display: grid; grid-template-columns: repeat(var(--columns, 4), minmax(0, 1fr)); gap: clamp(.4rem, .8vw, 1rem); }
button {
  position: relative;
  min-width: var(--emostream-button-width, 4.25rem);
  display: grid;
  place-content: center;
  justify-items: center;
  gap: .3rem;
  min-height: var(--emostream-button-height, 4.75rem);
  padding: .4rem 0;
  border: 1px solid var(--line);
  border-radius: var(--round);
  background: var(--emostream-surface, color-mix(in srgb, currentColor 4%, transparent));
  color: inherit;
  font: inherit;
  cursor: pointer;
  touch-action: manipulation;
  user-select: none;
  -webkit-user-select: none;
  -webkit-touch-callout: none;
  -webkit-tap-highlight-color: transparent;
  transition: transform .12s ease-out, border-color .12s;
}
/* A pointer that moves inside a button does not leave the button. */
button * { pointer-events: none; }
button:focus-visible { outline: 3px solid var(--strong); outline-offset: 2px; }
button:active { transform: scale(.93); border-color: var(--strong); }
@media (hover: hover) { button:hover { border-color: var(--strong); } }
.face { font: 1.9rem/1 "Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji", sans-serif; font-size: var(--emostream-face, 1.9rem); }
.face img { display: block; width: 1em; height: 1em; object-fit: contain; }
.count { font-size: .85rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1; }
.combo {
  position: absolute;
  inset-block-start: -.5rem;
  inset-inline-end: -.25rem;
  padding: .15rem .5rem;
  border: 1px solid transparent;
  border-radius: 99px;
  background: var(--strong);
  color: var(--emostream-on-accent, #fff);
  font-size: .85rem;
  font-weight: 800;
  font-variant-numeric: tabular-nums;
}
.unseen { position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
:host([overlay]) { position: absolute; inset: 0; min-height: 0; gap: 0; color: var(--emostream-ink, #fff); pointer-events: none; --line: var(--emostream-edge, #fff5); }
:host([overlay]) .stage { min-height: 0; border: 0; border-radius: 0; background: var(--emostream-stage, none); }
:host([overlay]) .buttons { grid-template-columns: repeat(var(--columns, 4), minmax(0, 6rem)); justify-content: center; padding: .5rem; }
:host([overlay]) button { pointer-events: auto; background: var(--emostream-surface, #000a); }
:host([overlay]) .notice { background: var(--emostream-notice, #000c); color: var(--emostream-on-notice, #fff); }
@media (prefers-reduced-motion: reduce) { button { transition: none; } button:active { transform: none; } }
@media (forced-colors: active) { .stage { border-color: CanvasText; } button { border-color: ButtonText; } .notice, .combo { border-color: CanvasText; } }
`;

// A server that renders pages can import this module, too.
const Base = globalThis.HTMLElement ?? class {};

export class EmoStreamRoom extends Base {
  static observedAttributes = ["room", "emojis", "url", "ingest", "token", "user", "paused", "max-particles", "emoji-base"];

  #board = new Scoreboard();
  #delay = new Delay();
  #stream;
  #swarms;
  #pictures = new Pictures();
  /** @type {{emoji: string, name?: string}[]} */ #emotes = [];
  #messages = MESSAGES;
  #token;
  #liveMs = 250;
  #swarmSize = 1000;
  #started = false;
  /** Whether the room has been joined. Before that its counts are unknown, not 0. */ #known = false;
  /** Server time at which the newest window ends. */ #newest = -Infinity;
  /** The work that the next microtask does again: "join" or "dress". */ #stale = new Set();
  #timers = { draw: 0, notice: 0, summary: 0, broken: 0, hold: 0, combo: 0 };
  #combo = { emoji: "", count: 0, at: 0 };
  #held = false;
  #resized = new ResizeObserver(() => this.#arrange());
  #spoken = "";
  #logged = "";
  /** The message that is shown, if it is one of `messages`. */ #noticed = "";
  #stage;
  #canvas;
  #hint;
  #notice;
  #buttons;
  #summary;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    root.adoptedStyleSheets = [style];
    this.#canvas = element("canvas", "canvas", { ariaHidden: "true" });
    this.#hint = element("p", "hint", { hidden: true });
    this.#notice = element("p", "notice", { role: "status", hidden: true });
    this.#stage = element("div", "stage", {}, this.#canvas, element("slot"), this.#hint, this.#notice);
    this.#buttons = element("div", "buttons", { role: "group" });
    this.#summary = element("p", "unseen");
    this.#summary.setAttribute("aria-live", "polite");
    root.append(this.#stage, this.#buttons, this.#summary);
    this.#resized.observe(this.#buttons);
    this.#hear();
    this.#label();
  }

  /** The stream of the room; undefined while the element is in no page. @returns {import("./emostream.js").EmoStream | undefined} */
  get stream() { return this.#stream; }

  /** The counts as shown. */
  get board() { return this.#board; }

  /** Time from a reaction to this screen in milliseconds; undefined until measured. */
  get delay_ms() { return this.#delay.ms; }

  /** Number of emojis on the canvas. */
  get particles() { return this.#swarms?.particles ?? 0; }

  /** Whether the room is joined, and nothing has been counted in it for some seconds. */
  get idle() { return this.#known && this.dataset.status === "open" && this.#stream.now - this.#newest > IDLE_MS; }

  /** The token is not reflected, so that the page's markup does not show it. */
  get token() { return this.#token; }

  set token(token) {
    if ((token ?? undefined) === this.#token) return;
    this.#token = token ?? undefined;
    // A stream that is closed stays closed.
    if (!this.#token || !this.#stream || this.#stream.status === "closed") this.#renew("join");
    else this.#stream.token = this.#token;
  }

  get maxParticles() {
    const most = parseInt(this.getAttribute("max-particles"), 10);
    return most >= 0 ? most : PARTICLES;
  }

  set maxParticles(most) { reflect(this, "max-particles", most); }

  get messages() { return this.#messages; }

  /** Replaces some or all of the English sentences. */
  set messages(messages) {
    this.#messages = { ...MESSAGES, ...messages };
    this.#label();
    this.#drawSoon();
  }

  connectedCallback() {
    // A framework may have set properties before the element was defined. Such properties hide the accessors.
    for (const name of [...Object.keys(TEXTS), ...FLAGS, "token", "maxParticles", "messages"]) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    this.#start();
  }

  disconnectedCallback() { this.#stop(); }

  attributeChangedCallback(name, before, value) {
    if (name === "token") this.token = value;
    else if (name === "paused" || name === "max-particles") this.#limit();
    else this.#renew(name.startsWith("emoji") ? "dress" : "join");
  }

  /**
   * Reacts as the emoji's button does. `emoji` may be the name of an own emote. Returns whether the reaction was
   * accepted.
   */
  react(emoji) {
    const named = this.#emotes.find(({ name }) => name && name === emoji.replace(/^:(.*):$/, "$1"));
    const wanted = named?.emoji ?? emoji;
    return this.#react(wanted, [...this.#buttons.children].find(({ dataset }) => plain(dataset.emoji) === plain(wanted)));
  }

  /** Shows a sentence over the canvas for some seconds. */
  notify(text) {
    this.#show("", text);
    this.#timers.notice = setTimeout(() => { this.#notice.hidden = true; }, NOTICE_MS);
  }

  #say(key, values = {}) {
    const message = this.#messages[key] ?? MESSAGES[key];
    return typeof message === "function" ? message(values) : message.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  }

  /** Shows a sentence of `messages` for some seconds. */
  #tell(key) {
    this.notify(this.#say(key));
    this.#noticed = key;
  }

  /** Shows a sentence until it is hidden or replaced. */
  #show(key, text = this.#say(key)) {
    clearTimeout(this.#timers.notice);
    this.#noticed = key;
    this.#notice.textContent = text;
    this.#notice.hidden = false;
  }

  #hide(...keys) {
    if (keys.includes(this.#noticed)) this.#notice.hidden = true;
  }

  /** Writes every sentence that is on the page again. */
  #label() {
    this.#buttons.ariaLabel = this.#say("buttons");
    this.#hint.textContent = this.#say("idle");
    if (this.#noticed) this.#notice.textContent = this.#say(this.#noticed);
  }

  /** Writes a message for developers to the console, but not the same message twice in succession. */
  #log(detail) {
    if (detail !== this.#logged) console.warn(`<emostream-room>: ${detail}`);
    this.#logged = detail;
  }

  #problem(detail) {
    this.#log(detail);
    this.#emit("problem", { detail });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  /** Rebuilds the element once after several attributes were set together. */
  #renew(what) {
    if (!this.#started) return;
    if (this.#stale.size === 0) queueMicrotask(() => {
      const join = this.#stale.has("join");
      this.#stale.clear();
      if (!this.isConnected) return;
      if (!join) return this.#dress();
      this.#stop();
      this.#start();
    });
    this.#stale.add(what);
  }

  #start() {
    this.#started = true;
    this.#known = false;
    this.#newest = -Infinity;
    this.#hide("unavailable", "closed", "noAccess");
    this.#board = new Scoreboard();
    this.#dress();
    const option = (name) => this[name] || undefined;
    try {
      this.#stream = connect({
        room: option("room"), url: option("url"), ingest: option("ingest"), user: option("user"), token: this.#token,
      });
    } catch (error) {
      this.dataset.status = "closed";
      this.#show("unavailable");
      return this.#problem(error.message);
    }
    this.#listen(this.#stream);
    this.#standing(this.#stream);
    this.#timers.summary = setInterval(() => {
      this.#idle();
      this.#speak();
    }, SUMMARY_MS);
  }

  #stop() {
    this.#started = false;
    clearInterval(this.#timers.summary);
    clearTimeout(this.#timers.broken);
    this.#release();
    this.#swarms?.close();
    this.#stream?.close();
    this.#stream = undefined;
  }

  /** Creates the buttons and the picture that the attributes describe. */
  #dress() {
    // A button that is replaced while it is held gets no event for the end of the press.
    this.#release();
    const { found, strange } = emotes(this.emojis);
    if (strange.length > 0) {
      this.#problem(`emojis takes emojis, as in "🔥👏", and own emotes with the emoji as which they count, as in ":goal:=⚽", not "${strange.join(" ")}"`);
    }
    this.#emotes = found;
    const pictures = this.#pictures = new Pictures(this.emojiBase, found);
    this.#buttons.replaceChildren(...found.map(({ emoji }) => this.#button(emoji)));
    this.#arrange();
    this.#swarms?.close();
    this.#swarms = new Swarms(this.#canvas, { picture: (emoji) => pictures.loaded(emoji) });
    this.#limit();
    this.#drawSoon();
  }

  #limit() {
    if (this.#swarms) Object.assign(this.#swarms, { paused: this.paused, maxParticles: this.maxParticles });
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
    on("status", (status) => this.#standing(status));
    on("refused", ({ detail, retry_ms }) => {
      this.#log(detail);
      this.#tell(retry_ms > 0 ? "delayed" : "unavailable");
    });
    // These listeners are registered last, so that the element is up to date when it emits the events.
    for (const type of RELAYED) on(type, (detail) => this.#emit(type, detail));
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

  /** Shows the room's state on joining. No emoji of it rises, since it was counted before. */
  #seed({ final, live, totals, totals_others }) {
    if (final) this.#board.final(final);
    else if (totals) this.#board.seed(totals, totals_others);
    if (live) this.#board.live(live);
    this.#newest = Math.max(this.#newest, final?.end ?? 0, live?.end ?? 0);
    this.#idle();
    this.#drawSoon();
  }

  #rise(frame, rises) {
    this.#newest = Math.max(this.#newest, frame.end);
    if (!this.#stream.isPast(frame)) {
      this.#swarms.rise(rises, this.#swarmSize, this.#liveMs);
      // Over a video, the still picture would hide the video.
      if (frame.type === "final" && this.#swarms.calm && !this.overlay) this.#swarms.mosaic(frame.counts);
    }
    if (this.#delay.rose((emoji) => this.#board.total(emoji))) this.#measured();
    this.#drawSoon();
  }

  #measured() {
    this.#emit("delay", { ms: this.#delay.ms });
  }

  /** Shows the hint in an idle room, and removes the still picture of a window that ended long ago. */
  #idle() {
    const { idle } = this;
    this.#hint.hidden = !idle;
    if (idle && this.#swarms.calm) this.#swarms.mosaic([]);
  }

  #standing({ status, reason }) {
    this.dataset.status = status;
    clearTimeout(this.#timers.broken);
    if (status === "connecting") this.#timers.broken = setTimeout(() => this.#show("connecting"), BREAK_MS);
    else this.#hide("connecting");
    if (status !== "open") this.#hint.hidden = true;
    if (status === "closed" && reason !== "closed") {
      this.#show(reason === "unauthorized" || reason === "forbidden" ? "noAccess" : "closed");
    }
  }

  #button(emoji) {
    const face = element("span", "face", { ariaHidden: "true", textContent: emoji });
    const src = this.#pictures.url(emoji);
    if (src) {
      const picture = element("img", "", { alt: "", draggable: false, src });
      picture.addEventListener("error", () => picture.replaceWith(emoji));
      face.replaceChildren(picture);
    }
    const count = element("span", "count", { textContent: UNKNOWN });
    count.dataset.total = emoji;
    const combo = element("span", "combo", { ariaHidden: "true", dir: "ltr", hidden: true });
    const button = element("button", "button", { type: "button" }, face, count, combo);
    button.dataset.emoji = emoji;
    return button;
  }

  /** Taps, and holding to repeat. */
  #hear() {
    const on = (types, act) => types.split(" ").forEach((type) => this.#buttons.addEventListener(type, (event) => {
      const button = event.target.closest("button");
      if (button) act(event, button);
    }));
    on("click", ({ detail }, button) => {
      // The click that ends a hold is not another tap. A click by the keyboard has the detail 0.
      if (!this.#held || detail === 0) this.#press(button);
    });
    on("pointerdown", (event, button) => {
      if (event.button === 0) this.#hold(button, HOLD_MS);
    });
    for (const type of ["pointerup", "pointercancel", "pointerout"]) {
      this.#buttons.addEventListener(type, () => this.#release());
    }
    on("contextmenu", (event) => { if (this.#timers.hold) event.preventDefault(); });
    // If Enter is held down, the keyboard repeats clicks, so clicks that are too fast are ignored.
    on("keydown", (event) => {
      if (event.repeat && event.key === "Enter" && performance.now() - this.#combo.at < REPEAT_MS) event.preventDefault();
    });
  }

  #hold(button, wait_ms) {
    this.#release();
    this.#held = wait_ms === REPEAT_MS;
    this.#timers.hold = setTimeout(() => {
      if (this.#press(button)) this.#hold(button, REPEAT_MS);
    }, wait_ms);
  }

  /** Handles a tap by a person, after which the device also vibrates. */
  #press(button) {
    if (!this.#react(button.dataset.emoji, button)) return false;
    if (!this.#swarms.calm) navigator.vibrate?.(TICK_MS);
    return true;
  }

  #release() {
    clearTimeout(this.#timers.hold);
    this.#timers.hold = 0;
  }

  /** Arranges the buttons in as few rows as possible, with the same number of buttons in each: 4 and 4, not 7 and 1. */
  #arrange() {
    const [first] = this.#buttons.children;
    if (!first) return;
    const { paddingLeft, columnGap } = getComputedStyle(this.#buttons);
    const gap = parseFloat(columnGap) || 0;
    const width = this.#buttons.clientWidth - 2 * parseFloat(paddingLeft) + gap;
    const fit = Math.floor(width / (parseFloat(getComputedStyle(first).minWidth) + gap));
    const rows = Math.ceil(this.#buttons.children.length / Math.max(1, fit));
    this.#buttons.style.setProperty("--columns", Math.ceil(this.#buttons.children.length / rows));
  }

  #react(emoji, button) {
    if (!this.#stream?.react(emoji)) {
      if (!this.#stream || this.#stream.status === "closed") {
        if (this.#notice.hidden) this.#show("unavailable");
      } else this.#tell("waiting");
      return false;
    }
    this.#hint.hidden = true;
    this.#delay.tap(emoji, this.#board.total(emoji));
    const combo = this.#combine(emoji, button);
    const { left, width } = button?.getBoundingClientRect() ?? {};
    this.#swarms.tap(emoji, width ? left + width / 2 - this.#stage.getBoundingClientRect().left : undefined, combo);
    if (!this.#swarms.calm) button?.firstElementChild.animate(PRESS, PRESS_TIME);
    return true;
  }

  /** Counts the taps of a combo, and shows their number at the button. */
  #combine(emoji, button) {
    const { combo } = this.#timers;
    clearTimeout(combo);
    const now = performance.now();
    const continues = this.#combo.emoji === emoji && now - this.#combo.at < COMBO_MS;
    const count = continues ? this.#combo.count + 1 : 1;
    this.#combo = { emoji, count, at: now };
    for (const other of this.#buttons.children) other.lastElementChild.hidden = other !== button || count < COMBO;
    if (button) button.lastElementChild.textContent = `×${exact.format(count)}`;
    this.#timers.combo = setTimeout(() => { if (button) button.lastElementChild.hidden = true; }, COMBO_MS);
    return count;
  }

  // Drawing: text is written only where it changed.

  #drawSoon() {
    this.#timers.draw ||= setTimeout(() => {
      this.#timers.draw = 0;
      this.#draw();
    }, DRAW_MS);
  }

  #draw() {
    this.#emotes.forEach(({ emoji, name = emoji }, nth) => {
      const button = this.#buttons.children[nth];
      const count = this.#known ? short(this.#board.total(emoji)) : UNKNOWN;
      const label = this.#say(this.#known ? "counted" : "react", { emoji: name, count });
      if (button.children[1].textContent !== count) button.children[1].textContent = count;
      if (button.ariaLabel !== label) button.ariaLabel = label;
    });
    if (!this.idle) this.#hint.hidden = true;
    this.#emit("counts", { sum: this.#board.sum });
  }

  /** Describes the room in a sentence for screen readers. */
  #speak() {
    const { sum } = this.#board;
    if (sum === 0) return;
    const counted = this.#board.emojis().map((emoji) => ({ emoji, total: this.#board.total(emoji) }));
    const top = counted.sort((a, b) => b.total - a.total).slice(0, 3).map(({ emoji, total }) => `${emoji} ${exact.format(total)}`);
    const text = this.#say("summary", { number: sum, sum: exact.format(sum), top: top.join(", ") });
    if (text === this.#spoken) return;
    this.#spoken = text;
    this.#summary.textContent = text;
  }
}

for (const [name, otherwise] of Object.entries(TEXTS)) {
  const attribute = name.replace(/[A-Z]/, (letter) => `-${letter.toLowerCase()}`);
  access(name, {
    get() { return this.getAttribute(attribute) ?? otherwise; },
    set(value) { reflect(this, attribute, value); },
  });
}
for (const name of FLAGS) {
  access(name, {
    get() { return this.hasAttribute(name); },
    set(value) { this.toggleAttribute(name, Boolean(value)); },
  });
}

function access(name, accessors) {
  Object.defineProperty(EmoStreamRoom.prototype, name, { ...accessors, enumerable: true, configurable: true });
}

function reflect(room, attribute, value) {
  if (value === undefined || value === null) room.removeAttribute(attribute);
  else room.setAttribute(attribute, value);
}

const PRESS = [{ transform: "scale(.8)" }, { transform: "scale(1.28) rotate(-6deg)" }, { transform: "none" }];
const PRESS_TIME = { duration: 320, easing: "cubic-bezier(.2,.9,.3,1.2)" };

/** Creates an element that style sheets of the page can address as a part. */
function element(tag, part, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (part) {
    made.className = part;
    made.setAttribute("part", part);
  }
  made.append(...children);
  return made;
}

// A page may load the module twice, from a package and from a server. Only the first one is used.
if (!globalThis.customElements?.get("emostream-room")) globalThis.customElements?.define("emostream-room", EmoStreamRoom);
