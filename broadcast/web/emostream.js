/**
 * EmoStream in the browser: the client, and the viewer page that uses it.
 *
 *     react(emoji) ──▶ pending ──at most every 250 ms──▶ POST /v1/reactions
 *     GET /v1/rooms/{room}/ws ──▶ frames ──▶ events: hello, live, final, trending, gap
 *
 *     import { connect } from "/emostream.js";
 *     const stream = connect({ room: "match-7" });
 *     stream.addEventListener("final", ({ detail }) => console.log(detail.counts));
 *     stream.react("🔥");
 *
 * Invariants: a final is delivered once and in order, across reconnects too, unless `gap` says
 * otherwise; what waits to be sent is bounded in number and in age. The page below the client runs
 * only where `<body data-emostream-page>` asks for it, so importing this module elsewhere is safe.
 *
 * @module emostream
 */

// ---------------------------------------------------------------------------- the client

/** The least time between two requests: one tap goes out at once, a flurry travels together. */
const FLUSH_MS = 250;
/** What the server takes in one array. */
const BATCH_REACTIONS = 1000;
/** Nobody taps this much in the time a reaction stays fresh; more is a script, and is refused. */
const PENDING_REACTIONS = 2000;
/** A reaction belongs to its moment: what could not be sent for this long is let go. */
const FRESH_MS = 10_000;
/** The longest wait between attempts, for the socket and for sending. */
const BACKOFF_MAX_MS = 10_000;
const BACKOFF_BASE_MS = 250;
/** A connection that lived this long was a good one; the next attempts start from zero. */
const STEADY_MS = 5_000;
/** Longer `Retry-After` and `retry_ms` than this are taken as this. */
const RETRY_MAX_MS = 60_000;
/** Browsers refuse beacons and keepalive requests over 64 KiB in flight. */
const KEEPALIVE_BYTES = 60_000;
/** So many reactions of the longest names still fit a beacon. */
const BEACON_REACTIONS = 200;

const ROOM = /^[A-Za-z0-9._~-]{1,64}$/;
const USER_KEY = "emostream.user";

/**
 * @typedef {{emoji: string, count: number, swarms?: number, loose?: number}} Count
 * @typedef {{room: string, start: number, end: number, emitted_at: number, total: number,
 *   counts: Count[], others?: number}} Live the running tally of an open window
 * @typedef {Live & {id: string, totals: Count[], totals_others?: number}} Final
 *   the exact tally of a closed window
 * @typedef {{room: string, span_ms: number, top: Count[]}} Trending the room's top emojis in the last
 *   `span_ms`; nothing is trending where `top` is empty
 * @typedef {"connecting" | "open" | "closed"} Status
 */

/**
 * One room, received and sent to. Every event is a `CustomEvent`; `detail` is the frame.
 *
 * - `hello`: a connection stands; `swarm_size`, `window_ms`, `resumed`
 * - `live` ({@link Live}), `final` ({@link Final}), `trending` ({@link Trending}), `gap`: the frames
 *   of these names
 * - `state`: the room as of now (`GET /v1/rooms/{room}`), on joining and after finals were missed
 * - `status`: `{status: Status}` changed; `closed` stays closed
 * - `refused`: reactions were not taken: `{detail, retry_ms}`, `retry_ms` 0 when they are dropped; or the
 *   room is not open to this token, and the stream closes
 */
export class EmoStream extends EventTarget {
  #base;
  #ingest;
  #room;
  #user;
  #token;
  /** @type {Record<string, string>} the header that names the token, if there is one */ #bearer;
  /** @type {Status} */ #status = "connecting";
  /** @type {WebSocket | undefined} */ #socket;
  /** @type {string | undefined} */ #lastId;
  #attempts = 0;
  #openedAt = Infinity;
  /** @type {number | undefined} what `bye` asked for */ #byeMs;
  #reconnectTimer = 0;

  /** @type {{emoji: string, at: number}[]} */ #pending = [];
  #sending = false;
  #sendAttempts = 0;
  #notBefore = 0;
  #held = false;
  #flushTimer = 0;

  /** Use {@link connect}. */
  constructor({
    url = location.origin,
    ingest = url,
    room = "default",
    token,
    user = token ? bearerOf(token) : browserUser(),
  } = {}) {
    super();
    if (!ROOM.test(room)) throw new TypeError("a room is 1 to 64 letters, digits and . _ ~ -");
    this.#base = new URL(url, location.href);
    this.#ingest = new URL(ingest, location.href);
    this.#room = room;
    this.#user = user;
    this.#token = token;
    this.#bearer = token ? { authorization: `Bearer ${token}` } : {};
    addEventListener("pagehide", this.#leave);
    addEventListener("online", this.#retryNow);
    this.#open();
  }

  /** The room received and sent to. */
  get room() { return this.#room; }

  /** @returns {Status} */
  get status() { return this.#status; }

  /**
   * Sends one reaction soon.
   * @param {string} emoji one emoji, its shortcode or an alias
   * @returns {boolean} false when too many are waiting, or the stream is closed
   */
  react(emoji) {
    if (this.#status === "closed" || this.#pending.length >= PENDING_REACTIONS) return false;
    this.#pending.push({ emoji, at: performance.now() });
    this.#scheduleFlush();
    return true;
  }

  /** Leaves the room for good; what was tapped before still goes out. */
  close() {
    this.#leave();
    this.#end();
    this.#socket?.close(1000);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #setStatus(status) {
    if (status === this.#status) return;
    this.#status = status;
    this.#emit("status", { status });
  }

  #end() {
    clearTimeout(this.#reconnectTimer);
    clearTimeout(this.#flushTimer);
    this.#pending.length = 0;
    removeEventListener("pagehide", this.#leave);
    removeEventListener("online", this.#retryNow);
    this.#setStatus("closed");
  }

  // Receiving.

  #open() {
    const url = new URL(`/v1/rooms/${this.#room}/ws`, this.#base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.#lastId) url.searchParams.set("since", this.#lastId);
    // The one way to send a token from here that no log of addresses keeps.
    const socket = new WebSocket(url, this.#token ? ["emostream", `emostream.token.${this.#token}`] : []);
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code }) => this.#closed(code);
  }

  #receive(text) {
    if (this.#status === "closed") return;
    let frame;
    try { frame = JSON.parse(text); } catch { return; }
    switch (frame.type) {
      case "hello": return this.#welcomed(frame);
      case "final": return this.#final(frame);
      case "live":
      case "trending": return this.#emit(frame.type, frame);
      case "gap":
        this.#emit("gap", frame);
        return void this.#loadState();
      case "bye":
        this.#byeMs = clamp(frame.retry_ms, 0, RETRY_MAX_MS);
        return this.#socket.close(1000);
      // A later server's new frames are not this client's business.
    }
  }

  #welcomed(hello) {
    this.#openedAt = performance.now();
    this.#setStatus("open");
    const continues = hello.resumed && this.#lastId !== undefined;
    // Ids of a server that cannot resume ours may start anew; ours would hide its finals.
    if (!continues) this.#lastId = undefined;
    this.#emit("hello", hello);
    if (!continues) void this.#loadState();
  }

  #final(frame) {
    if (this.#lastId && !isAfter(frame.id, this.#lastId)) return;
    this.#lastId = frame.id;
    this.#emit("final", frame);
  }

  async #loadState() {
    try {
      const url = new URL(`/v1/rooms/${this.#room}`, this.#base);
      const answer = await fetch(url, { headers: this.#bearer });
      const body = await answer.json();
      if (this.#status === "closed") return;
      if (answer.ok) return this.#emit("state", body);
      if (answer.status !== 401 && answer.status !== 403) return;
      this.#emit("refused", { detail: body.detail, retry_ms: 0 });
      this.#end();
    } catch {
      // The next final brings the totals.
    }
  }

  #closed(code) {
    if (this.#status === "closed") return;
    if (code >= 3500 && code <= 3999) return this.#end();
    // A browser is not told why a WebSocket was refused; the state's answer says it.
    if (this.#openedAt === Infinity) void this.#loadState();
    if (performance.now() - this.#openedAt >= STEADY_MS) this.#attempts = 0;
    this.#openedAt = Infinity;
    const delay_ms = this.#byeMs ?? fullJitter(this.#attempts++);
    this.#byeMs = undefined;
    this.#setStatus("connecting");
    this.#reconnectTimer = setTimeout(() => this.#open(), delay_ms);
  }

  #retryNow = () => {
    if (this.#socket?.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.#reconnectTimer);
    this.#open();
  };

  // Sending.

  #scheduleFlush() {
    if (this.#flushTimer || this.#sending || this.#pending.length === 0) return;
    const delay_ms = Math.max(0, this.#notBefore - performance.now());
    this.#flushTimer = setTimeout(() => {
      this.#flushTimer = 0;
      void this.#flush();
    }, delay_ms);
  }

  async #flush() {
    const oldest = performance.now() - FRESH_MS;
    this.#pending = this.#pending.filter(({ at }) => at >= oldest);
    const batch = this.#pending.splice(0, BATCH_REACTIONS);
    if (batch.length === 0) return;
    this.#sending = true;
    this.#held = false;
    this.#notBefore = performance.now() + FLUSH_MS;
    const verdict = await this.#post(batch);
    this.#sending = false;
    if (verdict.again) this.#hold(batch, verdict);
    else this.#sendAttempts = 0;
    if (verdict.detail) this.#emit("refused", { detail: verdict.detail, retry_ms: verdict.retry_ms ?? 0 });
    if (this.#status !== "closed") this.#scheduleFlush();
  }

  /** Puts a batch back in front, to be sent when the server wants it. */
  #hold(batch, verdict) {
    verdict.retry_ms ??= fullJitter(++this.#sendAttempts);
    this.#held = true;
    this.#notBefore = performance.now() + Math.max(FLUSH_MS, verdict.retry_ms);
    this.#pending = batch.concat(this.#pending).slice(0, PENDING_REACTIONS);
  }

  #body(batch) {
    const one = ({ emoji }) => ({ user_id: this.#user, emoji_type: emoji, room: this.#room });
    return new Blob([JSON.stringify(batch.map(one))], { type: "text/plain" });
  }

  /** @returns {Promise<{again?: boolean, retry_ms?: number, detail?: string}>} */
  async #post(batch) {
    const body = this.#body(batch);
    let answer;
    try {
      answer = await fetch(new URL("/v1/reactions", this.#ingest), {
        method: "POST",
        headers: { "content-type": "application/json", ...this.#bearer },
        body,
        keepalive: body.size < KEEPALIVE_BYTES, // what is under way survives leaving the page
        signal: AbortSignal.timeout(FRESH_MS),
      });
    } catch {
      return { again: true, detail: "The server cannot be reached." };
    }
    if (answer.status === 404) {
      const at = this.#ingest.origin;
      return { detail: `Nothing takes reactions at ${at}. Its publisher's --ingest-url, or \`ingest\` here, says where to send them.` };
    }
    const report = await answer.json().catch(() => ({}));
    if (answer.ok) return { detail: report.rejected?.[0]?.detail };
    const detail = report.detail ?? report.title ?? `The server answered ${answer.status}.`;
    // Of a request answered so, the server has kept nothing: sending it again doubles nothing.
    const again = answer.status === 429 || answer.status >= 500;
    return again ? { again, retry_ms: retryAfter(answer), detail } : { detail };
  }

  #leave = () => {
    // A server that asked for quiet gets it, also from those who leave.
    if (this.#held && performance.now() < this.#notBefore) return;
    const url = new URL("/v1/reactions", this.#ingest);
    while (this.#pending.length > 0) {
      const batch = this.#pending.slice(0, BEACON_REACTIONS);
      if (!this.#sendLast(url, this.#body(batch))) return;
      this.#pending.splice(0, batch.length);
    }
  };

  /** Sends without waiting for an answer; a beacon could not carry a token. */
  #sendLast(url, body) {
    if (!this.#token) return navigator.sendBeacon(url, body);
    fetch(url, { method: "POST", headers: this.#bearer, body, keepalive: true }).catch(() => {});
    return true;
  }
}

/**
 * Joins a room: receives at once, and reconnects until `close()`.
 * @param {{url?: string, ingest?: string, room?: string, user?: string, token?: string}} [options] `url` is the server's
 *   origin, by default the page's; `ingest` is where reactions are sent, by default `url`; `token` is for a server that asks for one (a JWT); `user` is by default
 *   the token's `sub`, without a token a random name that this browser keeps
 * @returns {EmoStream}
 * @throws {TypeError} when the room's name or the url is not valid
 */
export function connect(options) {
  return new EmoStream(options);
}

/** A random name for this browser, kept where the browser allows it. */
function browserUser() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  const fresh = "web-" + Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const known = localStorage.getItem(USER_KEY);
    if (known) return known;
    localStorage.setItem(USER_KEY, fresh);
  } catch {
    // Storage is forbidden: a name for this visit.
  }
  return fresh;
}

/** Whom a token is for, so that reactions are sent as its user; whether it is good is the server's to say. */
function bearerOf(token) {
  try {
    const claims = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(claims, (c) => c.charCodeAt(0)))).sub;
  } catch {
    return browserUser();
  }
}

/** Ids are `partition-offset`; a room stays in its partition unless the topic was made anew. */
function isAfter(id, last) {
  const [partition, offset] = id.split("-").map(Number);
  const [lastPartition, lastOffset] = last.split("-").map(Number);
  return partition !== lastPartition || offset > lastOffset;
}

function fullJitter(attempts) {
  return Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempts, 16));
}

/** `Retry-After` as seconds or as a date; undefined when absent or hidden by CORS. */
function retryAfter(answer) {
  const value = answer.headers.get("retry-after");
  if (value === null) return undefined;
  const wait_ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(wait_ms) ? undefined : clamp(wait_ms, 0, RETRY_MAX_MS);
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, Number(value) || 0));
}

// ---------------------------------------------------------------------------- the counts

/** Windows open at once: lateness is far below a window, so a few; more would be a broken clock. */
const OPEN_WINDOWS = 8;

/** ❤ and ❤️ are one emoji, however its sender or a font's author qualified it. */
const plain = (emoji) => emoji.replaceAll("\uFE0F", "");

/**
 * What a room has counted: the last final's totals, and on top the windows not yet final.
 *
 * Invariant: a reaction is in exactly one of the two, so the sum neither dips nor doubles when a
 * window closes.
 */
class Scoreboard {
  /** @type {Map<string, number>} */ #closed = new Map();
  #closedSum = 0;
  #lastEnd = -Infinity;
  /** @type {Map<number, {frame: Live, counts: Map<string, number>}>} */ #open = new Map();
  /** @type {Map<string, string>} each emoji as the server writes it */ #faces = new Map();

  /** The newest open window's frame, if one is open. */
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

  /** Every emoji counted so far. */
  emojis() {
    return [...this.#faces.values()];
  }

  /** Takes a live frame; answers what each emoji rose by. */
  live(frame) {
    if (frame.start < this.#lastEnd) return [];
    // Of other windows, a former dataflow's: they stay open for ever.
    this.keepOpen(frame.end - frame.start);
    const counts = this.#open.get(frame.start)?.counts ?? new Map();
    const rises = this.#raise(counts, frame.counts);
    this.#open.set(frame.start, { frame, counts });
    if (this.#open.size > OPEN_WINDOWS) this.#open.delete(Math.min(...this.#open.keys()));
    return rises;
  }

  /** Takes a final; answers what each emoji rose by since the window's last live frame. */
  final(frame) {
    if (frame.start < this.#lastEnd) return [];
    const rises = this.#raise(this.#open.get(frame.start)?.counts ?? new Map(), frame.counts);
    // Emojis below the listed top keep what is known of them, plus this window's.
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

  /** Forgets open windows of other sizes. */
  keepOpen(window_ms) {
    for (const [start, { frame }] of this.#open) {
      if (frame.end - frame.start !== window_ms) this.#open.delete(start);
    }
  }

  /** Takes totals that come without a window, when no final is known. */
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

// ---------------------------------------------------------------------------- the floats

/** The most emojis in the air, 40 in all: more is noise, and a phone's battery. */
const LOOSE_FLOATS = 28;
/** Swarms have their own places, so that neither kind crowds the other out. */
const SWARM_FLOATS = 12;
/** Steps of the golden ratio spread the floats over the width, whatever their number. */
const GOLDEN = 0.618034;
/** After this time a tap that is not in the counts yet will not be: let the crowd's floats through. */
const OWN_MS = 3_000;

/** The emojis in the air. What a viewer taps rises at once; its echo in the counts does not. */
class Sky {
  #element;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");
  #flying = { loose: 0, swarm: 0 };
  #turn = { loose: Math.random(), swarm: Math.random() };
  /** @type {Map<string, {count: number, at: number}>} */ #own = new Map();
  /** @type {Map<string, number>} swarms that found no place yet */ #waiting = new Map();

  constructor(element) {
    this.#element = element;
  }

  get calm() { return this.#calm.matches; }

  /** A viewer's own tap, from the button at `x` pixels of the page. */
  tap(emoji, x) {
    const own = this.#own.get(plain(emoji)) ?? { count: 0, at: 0 };
    this.#own.set(plain(emoji), { count: own.count + 1, at: performance.now() });
    const left = x - this.#element.getBoundingClientRect().left;
    this.#fly(emoji, { left, own: true });
  }

  /** The crowd: what each emoji rose by in one window. */
  rise(rises, swarmSize, spread_ms) {
    if (document.hidden || this.calm) return;
    const loose = [];
    for (const { emoji, before, after } of rises) {
      const swarms = Math.floor(after / swarmSize) - Math.floor(before / swarmSize);
      if (swarms > 0) this.#swarms(emoji, swarms, swarmSize, spread_ms);
      const others = this.#withoutOwn(emoji, after - before) - swarms * swarmSize;
      const shown = others <= 3 ? others : Math.min(10, Math.round(2 + Math.log2(others)));
      for (let i = 0; i < shown; i++) loose.push(emoji);
    }
    // A quarter of the free places each time: a steady stream instead of bursts.
    const free = LOOSE_FLOATS - this.#flying.loose;
    for (const emoji of pick(loose, Math.ceil(free / 4))) {
      this.#fly(emoji, { delay_ms: Math.random() * spread_ms });
    }
  }

  /** One big emoji a swarm; what finds no place is added to the badge of a later one. */
  #swarms(emoji, swarms, swarmSize, spread_ms) {
    const due = swarms + (this.#waiting.get(emoji) ?? 0);
    const shown = Math.min(due, 4, SWARM_FLOATS - this.#flying.swarm);
    this.#waiting.set(emoji, shown > 0 ? 0 : due);
    for (let i = 0; i < shown; i++) {
      const carried = i === shown - 1 ? due - i : 1;
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

  #fly(emoji, { left, own = false, swarm = 0, delay_ms = 0 }) {
    const kind = swarm ? "swarm" : "loose";
    if (this.calm || this.#flying[kind] >= (swarm ? SWARM_FLOATS : LOOSE_FLOATS)) return;
    const { clientWidth: width, clientHeight: height } = this.#element;
    const float = document.createElement("span");
    float.className = swarm ? "float swarm" : own ? "float own" : "float";
    float.textContent = emoji;
    if (swarm) float.append(leaf("b", "badge", `×${exact.format(swarm)}`));
    const margin = swarm ? 90 : 28;
    this.#turn[kind] = (this.#turn[kind] + GOLDEN) % 1;
    const x = left ?? margin + this.#turn[kind] * Math.max(0, width - 2 * margin);
    float.style.left = `${Math.round(x)}px`;
    this.#element.append(float);
    this.#flying[kind] += 1;
    const flight = float.animate(path(height, swarm), {
      duration: (swarm ? 4200 : 2600) + Math.random() * 1000,
      delay: delay_ms,
      easing: "linear",
      fill: "backwards",
    });
    flight.onfinish = flight.oncancel = () => {
      float.remove();
      this.#flying[kind] -= 1;
    };
  }
}

/** The way up: quick out of the dock, a gentle sway, gone before the edge. */
function path(height, swarm) {
  const sway = (Math.random() < 0.5 ? -1 : 1) * (8 + Math.random() * 22);
  const top = height * (swarm ? 0.95 : 0.75 + Math.random() * 0.25);
  const at = (share, turn, scale, opacity, offset) => ({
    transform: `translate(calc(-50% + ${sway * turn}px), ${-top * share}px) scale(${scale})`,
    opacity,
    offset,
  });
  return [
    at(0, 0, 0.3, 0, 0),
    at(0.12, 0.6, 1.12, 1, 0.08),
    at(0.4, -1, 1, 1, 0.38),
    at(0.75, 1, 1, 0.95, 0.72),
    at(1, -0.4, 0.85, 0, 1),
  ];
}

/** Some of the items, evenly drawn. */
function pick(items, count) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items.slice(0, Math.max(0, count));
}

function leaf(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// ---------------------------------------------------------------------------- the page

/** A burst of frames (after a reconnect) is drawn once. */
const DRAW_MS = 40;
/** How often a screen reader hears a summary, at most. */
const SUMMARY_MS = 6_000;
/** The span the rate is measured over: two windows. */
const RATE_MS = 4_000;
/** The page's own eight, and the room for others that the crowd sends. */
const ROWS = 10;
const CHIPS = 6;
const TRENDING = 3;
const MOMENTS = 8;
const NOTICE_MS = 5_000;
const STATUS_TEXT = { connecting: "Connecting", open: "Live", closed: "Closed" };

class Page {
  #board = new Scoreboard();
  #sky = new Sky(byId("sky"));
  #stream;
  #liveMs = 250;
  #swarmSize = 1000;
  #drawTimer = 0;
  #noticeTimer = 0;
  /** @type {Final[]} newest first */ #finals = [];
  /** @type {{at: number, sum: number}[]} */ #samples = [];
  /** @type {Map<string, HTMLElement>} */ #rows = new Map();
  #spoken = "";

  constructor(room) {
    byId("room").value = room;
    byId("room-name").textContent = room;
    document.title = `${room} · EmoStream`;
    this.#stream = connect({ room, token: tokenOfAddress(), ingest: document.body.dataset.ingestUrl });
    this.#listen();
    for (const button of document.querySelectorAll("[data-emoji]")) this.#arm(button);
    setInterval(() => this.#drawRate(), 1000);
    setInterval(() => this.#speak(), SUMMARY_MS);
  }

  #listen() {
    const on = (type, react) => this.#stream.addEventListener(type, ({ detail }) => react(detail));
    on("status", ({ status }) => this.#drawStatus(status));
    on("hello", (hello) => this.#hello(hello));
    on("live", (live) => this.#rise(this.#board.live(live)));
    on("final", (final) => {
      this.#remember(final);
      this.#rise(this.#board.final(final));
    });
    on("state", (state) => this.#seed(state));
    on("trending", (trending) => this.#drawTrending(trending));
    on("refused", ({ detail, retry_ms }) => {
      this.#notice(retry_ms > 0 ? `${detail} Your reactions wait a moment.` : detail);
    });
  }

  #hello({ window_ms, live_ms, swarm_size, resumed }) {
    this.#liveMs = live_ms;
    this.#swarmSize = swarm_size;
    if (resumed) {
      this.#board.keepOpen(window_ms);
      return this.#drawSoon();
    }
    this.#board.forget();
    this.#finals.length = 0;
    this.#samples.length = 0;
    // Its frame follows where something is trending.
    this.#drawTrending({ span_ms: 0, top: [] });
  }

  /** The present without its floats: they belong to those who were here. */
  #seed(state) {
    if (state.final) {
      this.#remember(state.final);
      this.#board.final(state.final);
    } else if (state.totals) {
      this.#board.seed(state.totals, state.totals_others);
    }
    if (state.live) this.#board.live(state.live);
    this.#samples.length = 0;
    this.#drawSoon();
  }

  #rise(rises) {
    this.#sky.rise(rises, this.#swarmSize, this.#liveMs);
    this.#drawSoon();
  }

  #remember(final) {
    if (this.#finals.some(({ id }) => id === final.id)) return;
    this.#finals.push(final);
    this.#finals.sort((a, b) => b.start - a.start);
    this.#finals.length = Math.min(this.#finals.length, MOMENTS);
  }

  #arm(button) {
    const { emoji } = button.dataset;
    this.#row(emoji);
    button.addEventListener("click", () => {
      if (!this.#stream.react(emoji)) {
        const closed = this.#stream.status === "closed";
        return this.#notice(closed ? "The server ended this visit. Reload the page to come back."
          : "Your last reactions are still waiting to be sent.");
      }
      const { left, width } = button.getBoundingClientRect();
      this.#sky.tap(emoji, left + width / 2);
      this.#press(button);
    });
  }

  #press(button) {
    if (this.#sky.calm) return;
    button.firstElementChild.animate(
      [{ transform: "scale(.8)" }, { transform: "scale(1.28) rotate(-6deg)" }, { transform: "none" }],
      { duration: 320, easing: "cubic-bezier(.2,.9,.3,1.2)" },
    );
  }

  // Drawing: text only where it changed, so that a big screen stays calm.

  #drawSoon() {
    this.#drawTimer ||= setTimeout(() => {
      this.#drawTimer = 0;
      this.#draw();
    }, DRAW_MS);
  }

  #draw() {
    setText(byId("sum"), exact.format(this.#board.sum));
    this.#drawTotals();
    this.#drawNow();
    this.#drawFinals();
    this.#samples.push({ at: performance.now(), sum: this.#board.sum });
  }

  #drawStatus(status) {
    document.querySelector("[data-status]").dataset.status = status;
    setText(byId("status-text"), STATUS_TEXT[status]);
  }

  #drawTotals() {
    const emojis = this.#board.emojis().sort((a, b) => this.#board.total(b) - this.#board.total(a));
    for (const emoji of emojis) {
      if (this.#rows.size >= ROWS) break;
      this.#row(emoji);
    }
    let most = 1;
    for (const row of this.#rows.values()) {
      const total = this.#board.total(row.dataset.row);
      setText(row.querySelector("[data-total]"), exact.format(total));
      row.dataset.count = total;
      most = Math.max(most, total);
    }
    for (const row of this.#rows.values()) {
      row.style.setProperty("--share", (row.dataset.count / most).toFixed(4));
    }
    this.#sortRows();
  }

  /** The row of an emoji, made when it is first seen. */
  #row(emoji) {
    const known = this.#rows.get(plain(emoji));
    if (known) return known;
    const row = document.createElement("li");
    row.dataset.row = emoji;
    row.dataset.count = 0;
    const count = leaf("span", "count", "0");
    count.dataset.total = emoji;
    const track = leaf("span", "track", "");
    track.append(leaf("span", "bar", ""));
    row.append(leaf("span", "glyph", emoji), track, count);
    this.#rows.set(plain(emoji), row);
    byId("totals").append(row);
    return row;
  }

  /** Moves rows to their rank, gliding from where they were. */
  #sortRows() {
    const rows = [...this.#rows.values()];
    const ranked = [...rows].sort((a, b) => b.dataset.count - a.dataset.count);
    const list = byId("totals");
    if (ranked.every((row, rank) => list.children[rank] === row)) return;
    const tops = new Map(rows.map((row) => [row, row.offsetTop]));
    list.append(...ranked);
    if (this.#sky.calm) return;
    for (const row of ranked) {
      const by = tops.get(row) - row.offsetTop;
      if (by) row.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 300, easing: "ease-out" });
    }
  }

  #drawNow() {
    const live = this.#board.newest;
    byId("now-empty").hidden = Boolean(live);
    setText(byId("now-span"), live ? span(live) : "");
    drawChips(byId("now"), live?.counts ?? []);
  }

  #drawTrending({ span_ms, top }) {
    byId("trending-panel").hidden = top.length === 0;
    setText(byId("trending-span"), `last ${exact.format(Math.round(span_ms / 1000))} s`);
    drawChips(byId("trending"), top.slice(0, TRENDING));
  }

  #drawFinals() {
    byId("finals-empty").hidden = this.#finals.length > 0;
    const list = byId("finals");
    const key = this.#finals.map(({ id }) => id).join();
    if (list.dataset.shown === key) return;
    list.dataset.shown = key;
    list.replaceChildren(...this.#finals.map(moment));
  }

  #drawRate() {
    const now = performance.now();
    while (this.#samples.length > 1 && now - this.#samples[1].at > RATE_MS) this.#samples.shift();
    const first = this.#samples[0];
    const rose = first ? Math.max(0, this.#board.sum - first.sum) : 0;
    const rate = first ? rose / (Math.max(1000, now - first.at) / 1000) : 0;
    const text = rate >= 10 ? exact.format(Math.round(rate)) : oneDigit.format(rate);
    setText(byId("rate"), rate > 0.05 ? `${text} per second` : "quiet right now");
  }

  #notice(text) {
    const notice = byId("notice");
    setText(notice, text);
    notice.hidden = false;
    clearTimeout(this.#noticeTimer);
    this.#noticeTimer = setTimeout(() => { notice.hidden = true; }, NOTICE_MS);
  }

  /** For those who listen: the room in a sentence, when it changed. */
  #speak() {
    const { sum } = this.#board;
    if (sum === 0) return;
    const top = [...byId("totals").children].slice(0, 3).filter((row) => row.dataset.count > 0);
    const text = `${sum} reactions. ${top.map((row) => `${row.dataset.row} ${row.dataset.count}`).join(", ")}.`;
    if (text === this.#spoken) return;
    this.#spoken = text;
    byId("summary").textContent = text;
  }
}

/** Redraws a list of counts, keeping the elements that stay. */
function drawChips(list, counts) {
  const shown = counts.slice(0, CHIPS);
  while (list.children.length > shown.length) list.lastElementChild.remove();
  shown.forEach(({ emoji, count, swarms }, index) => {
    const chip = list.children[index] ?? list.appendChild(emptyChip());
    setText(chip.children[0], emoji);
    setText(chip.children[1], short(count));
    setText(chip.children[2], swarms > 0 ? `${swarms} ${swarms === 1 ? "swarm" : "swarms"}` : "");
  });
}

function emptyChip() {
  const chip = document.createElement("li");
  chip.append(leaf("span", "glyph", ""), leaf("span", "count", ""), leaf("span", "tag", ""));
  return chip;
}

/** A closed window as a list item. */
function moment({ start, total, counts }) {
  const item = document.createElement("li");
  const top = document.createElement("span");
  top.className = "top3";
  for (const { emoji, count } of counts.slice(0, 3)) {
    const one = leaf("span", "one", "");
    one.append(leaf("span", "glyph", emoji), ` ${short(count)}`);
    top.append(one);
  }
  const time = leaf("time", "", clock(start));
  time.dateTime = new Date(start).toISOString();
  item.append(time, top, leaf("span", "count", exact.format(total)));
  return item;
}

// One style everywhere: whole numbers in groups; where room is short, from ten thousand on, 12.3K.
const exact = new Intl.NumberFormat();
const oneDigit = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const short = (count) => (count < 10_000 ? exact : compact).format(count);

const TO_THE_SECOND = { hourCycle: "h23", hour: "2-digit", minute: "2-digit", second: "2-digit" };
const TO_A_TENTH = { ...TO_THE_SECOND, fractionalSecondDigits: 1 };
const clock = (time_ms, style = TO_THE_SECOND) => new Date(time_ms).toLocaleTimeString([], style);

/** From when to when a window is. */
function span({ start, end }) {
  const style = start % 1000 === 0 && end % 1000 === 0 ? TO_THE_SECOND : TO_A_TENTH;
  return `${clock(start, style)} – ${clock(end, style)}`;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function byId(id) {
  return document.getElementById(id);
}

/** The room that the address names; a name that cannot be one is the default room. */
function roomOfAddress() {
  const room = new URLSearchParams(location.search).get("room") ?? "";
  return ROOM.test(room) ? room : "default";
}

/** `#token=…`: what stands behind the # is sent to no server. */
function tokenOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
}

if (globalThis.document?.body?.hasAttribute("data-emostream-page")) new Page(roomOfAddress());
