/**
 * EmoStream in the browser: one room, received and sent to.
 *
 *     react(emoji) ──▶ pending ──at most every 250 ms──▶ POST /v1/reactions
 *     GET /v1/rooms/{room}/ws, or /events where that does not get through ──▶ frames ──▶ events
 *
 *     import { connect } from "/emostream.js";
 *     const crowd = connect({ room: "match-7" });
 *     crowd.addEventListener("live", ({ detail }) => console.log(detail.counts));
 *     crowd.react("🔥");
 *
 * Invariants: a final is delivered once and in order, across reconnects too, unless `gap` says
 * otherwise; what waits to be sent is bounded in number and in age. Importing it does nothing by itself,
 * but where the page has an `<emostream-room>`, that element's own module is loaded.
 *
 * @module emostream
 */

/** The least time between two requests: one tap goes out at once, a flurry travels together. */
const FLUSH_MS = 250;
/** What the server takes in one array. */
const BATCH_REACTIONS = 1000;
/** Nobody taps this much in the time a reaction stays fresh; more is a script, and is refused. */
const PENDING_REACTIONS = 2000;
/** A reaction belongs to its moment: what could not be sent for this long is let go. */
const FRESH_MS = 10_000;
/** The longest wait between attempts, for the connection and for sending. */
const BACKOFF_MAX_MS = 10_000;
const BACKOFF_BASE_MS = 250;
/** A connection that lived this long was a good one; the next attempts start from zero. */
const STEADY_MS = 5_000;
/** A connection that has not said hello by then is none: some proxies open what they never feed. */
const HELLO_MS = 10_000;
/** So many heartbeats that did not come mean that the connection is dead. */
const MISSED_HEARTBEATS = 2;
/** How often the connection is checked; a machine that was asleep is noticed within this time, too. */
const CHECK_MS = 2_000;
/** A check that comes later than this was held up: the machine was asleep, or the page frozen. */
const ASLEEP_MS = 3 * CHECK_MS;
/** A connection in doubt is replaced if nothing comes within this time. */
const DOUBT_MS = 2_000;
/** Longer `Retry-After` and `retry_ms` than this are taken as this. */
const RETRY_MAX_MS = 60_000;
/** A page that nobody has seen for this long lets its connection go; what it missed comes on return. */
const HIDDEN_MS = 60_000;
/** Browsers refuse beacons and keepalive requests over 64 KiB in flight. */
const KEEPALIVE_BYTES = 60_000;
/** So many reactions of the longest names still fit a beacon. */
const BEACON_REACTIONS = 200;

const ROOM = /^(?!\.\.?$)[A-Za-z0-9._~-]{1,64}$/;
const USER_KEY = "emostream.user";
const BAD_ROOM = "a room is 1 to 64 letters, digits and . _ ~ -, but not . or ..";

/** Events by the frame they carry; see the type declarations for each. */
export class EmoStream extends EventTarget {
  /** Without a slash at its end. */ #base;
  #ingest;
  #room;
  #user;
  #token;
  /** The header that names the token, if there is one. */ #bearer;
  #transport;
  #background;
  #observer;
  #status = "connecting";
  /** @type {WebSocket | EventSource | undefined} */ #channel;
  #lastId;
  #attempts = 0;
  #openedAt = Infinity;
  /** Whether a WebSocket has ever got through: then no fallback is needed. */ #socketsWork = false;
  #byeMs;
  #reconnectTimer = 0;
  #helloTimer = 0;
  #hiddenTimer = 0;
  /** Longest silence that the server announced; a former one announces none. */ #heartbeatMs = Infinity;
  #heardAt = 0;
  /** By how much the server's clock is ahead of this device's. */ #ahead_ms = 0;
  /** The server's time at the beginning of the connection, and the room's newest final then. */ #joined = { now: 0, latest: null };
  #checkTimer = 0;
  #checkedAt = Date.now();
  #doubtTimer = 0;
  #letGo = new AbortController();

  /** @type {{emoji: string, at: number}[]} */ #pending = [];
  #sending = false;
  /** The most of the next batch: a server that limits users takes no more than a second's worth at once. */
  #most = BATCH_REACTIONS;
  #sendAttempts = 0;
  #notBefore = 0;
  #held = false;
  #flushTimer = 0;

  /** Use {@link connect}. */
  constructor({
    url = home(),
    ingest = url,
    room = "default",
    token,
    user = token ? bearerOf(token) : browserUser(),
    transport = "auto",
    background = false,
    observer = false,
  } = {}) {
    super();
    if (!ROOM.test(room)) throw new TypeError(BAD_ROOM);
    if (!["auto", "websocket", "sse"].includes(transport)) {
      throw new TypeError("transport is auto, websocket or sse");
    }
    this.#base = addressOf(url);
    this.#ingest = addressOf(ingest);
    this.#room = room;
    this.#user = user;
    this.#token = token;
    this.#bearer = token ? { authorization: `Bearer ${token}` } : {};
    this.#transport = transport;
    this.#background = background;
    this.#observer = observer;
    const { signal } = this.#letGo;
    globalThis.addEventListener?.("pagehide", this.#leave, { signal });
    globalThis.addEventListener?.("online", this.#suspect, { signal });
    globalThis.document?.addEventListener("visibilitychange", this.#seen, { signal });
    this.#checkTimer = setInterval(this.#check, CHECK_MS);
    this.#open();
  }

  get room() { return this.#room; }

  get status() { return this.#status; }

  /** "websocket" or "sse": how frames come, or were tried last. */
  get transport() { return this.#channel instanceof Socket ? "websocket" : "sse"; }

  /** The server's time, which heartbeats correct; this device's before the first `hello`. */
  get now() { return Date.now() + this.#ahead_ms; }

  /** Whether a live or final frame tells what was counted before this connection began: no news, however late it comes. */
  isPast(frame) {
    const { now, latest } = this.#joined;
    return frame.type === "final" ? Boolean(latest) && !isAfter(frame.id, latest) : frame.emitted_at < now;
  }

  react(emoji) {
    if (this.#status === "closed" || this.#pending.length >= PENDING_REACTIONS) return false;
    this.#pending.push({ emoji, at: performance.now() });
    this.#scheduleFlush();
    return true;
  }

  close() {
    this.#leave();
    this.#end();
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
    this.#letGo.abort();
    this.#drop();
    clearTimeout(this.#hiddenTimer);
    clearTimeout(this.#flushTimer);
    clearInterval(this.#checkTimer);
    this.#pending.length = 0;
    this.#setStatus("closed");
  }

  // Receiving.

  #open() {
    const heard = (text) => this.#receive(text);
    const lost = (code) => this.#lost(code);
    const Channel = this.#next();
    const query = { since: this.#lastId, observer: this.#observer };
    this.#channel = new Channel(`${this.#base}/v1/rooms/${this.#room}`, query, this.#token, heard, lost);
    this.#helloTimer = setTimeout(lost, HELLO_MS);
  }

  /** A WebSocket; where none has got through yet, every second attempt is by Server-Sent Events. */
  #next() {
    if (this.#transport !== "auto") return this.#transport === "sse" ? Events : Socket;
    return this.#socketsWork || this.#attempts % 2 === 0 ? Socket : Events;
  }

  /** Ends the connection and whatever waits for the next one. */
  #drop() {
    clearTimeout(this.#reconnectTimer);
    clearTimeout(this.#helloTimer);
    clearTimeout(this.#doubtTimer);
    this.#reconnectTimer = this.#doubtTimer = 0;
    this.#channel?.close();
  }

  #receive(text) {
    this.#heardAt = performance.now();
    let frame;
    try { frame = JSON.parse(text); } catch { return; }
    if (frame.now > 0) this.#ahead_ms = frame.now - Date.now();
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
        return this.#lost();
      // A later server's new frames are not this client's business.
    }
  }

  #welcomed(hello) {
    clearTimeout(this.#helloTimer);
    this.#openedAt = performance.now();
    this.#heartbeatMs = hello.heartbeat_ms > 0 ? hello.heartbeat_ms : Infinity;
    this.#joined = hello;
    this.#socketsWork ||= this.transport === "websocket";
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
    const request = new Request(`${this.#base}/v1/rooms/${this.#room}`, { headers: this.#bearer });
    let answer, body;
    try {
      answer = await fetch(request);
      body = await answer.json();
    } catch {
      // The next final brings the totals.
      return;
    }
    if (this.#status === "closed") return;
    if (answer.ok) return this.#emit("state", body);
    if (answer.status !== 401 && answer.status !== 403) return;
    this.#emit("refused", { detail: body.detail, retry_ms: 0 });
    this.#end();
  }

  #lost(code) {
    this.#drop();
    if (code >= 3500 && code <= 3999) return this.#end();
    // A browser is not told why a connection was refused; the state's answer says it.
    if (this.#openedAt === Infinity) void this.#loadState();
    if (performance.now() - this.#openedAt >= STEADY_MS) this.#attempts = 0;
    this.#openedAt = Infinity;
    const delay_ms = this.#byeMs ?? fullJitter(this.#attempts);
    this.#attempts += 1;
    this.#byeMs = undefined;
    this.#setStatus("connecting");
    this.#reconnectTimer = setTimeout(this.#retryNow, delay_ms);
  }

  #retryNow = () => {
    if (!this.#reconnectTimer) return;
    this.#drop();
    this.#open();
  };

  // A network may stop forwarding without closing anything: then only silence says that a connection is dead.

  /** `performance.now()` may stand still while a machine sleeps, so the wall clock notices that. */
  #check = () => {
    const late_ms = Date.now() - this.#checkedAt;
    this.#checkedAt = Date.now();
    // What came before it slept is delivered after this timer.
    if (late_ms >= ASLEEP_MS) return this.#suspect();
    if (this.#doubtTimer) return;
    const silent_ms = performance.now() - this.#heardAt;
    if (this.#status === "open" && silent_ms >= MISSED_HEARTBEATS * this.#heartbeatMs) this.#lost();
  };

  /** The connection may be dead: it shows a sign of life soon, or is replaced. */
  #suspect = () => {
    if (this.#status !== "open") return this.#retryNow();
    if (this.#doubtTimer) return;
    const heardAt = this.#heardAt;
    this.#doubtTimer = setTimeout(() => {
      this.#doubtTimer = 0;
      if (this.#heardAt === heardAt) this.#lost();
    }, DOUBT_MS);
  };

  /** Out of sight for long, out of connection; back in sight, connected at once. */
  #seen = () => {
    clearTimeout(this.#hiddenTimer);
    // Of a phone's page this may be the last that is heard.
    if (document.hidden) this.#leave();
    if (document.hidden && !this.#background) {
      this.#hiddenTimer = setTimeout(() => {
        this.#drop();
        this.#openedAt = Infinity;
        this.#setStatus("paused");
      }, HIDDEN_MS);
    } else if (this.#status === "paused") {
      this.#setStatus("connecting");
      this.#open();
    } else if (!document.hidden) {
      this.#retryNow();
      this.#check();
    }
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
    const fresh = this.#pending.filter(({ at }) => at >= oldest);
    const stale = this.#pending.length - fresh.length;
    if (stale > 0) this.#emit("refused", { detail: `Let go, after waiting too long: ${stale} of your reactions.`, retry_ms: 0 });
    this.#pending = fresh;
    const batch = this.#pending.splice(0, this.#most);
    if (batch.length === 0) return;
    this.#sending = true;
    this.#held = false;
    this.#notBefore = performance.now() + FLUSH_MS;
    const verdict = await this.#post(batch).catch(failed);
    this.#sending = false;
    this.#most = verdict.tooMany ? Math.ceil(batch.length / 2) : Math.min(this.#most * 2, BATCH_REACTIONS);
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

  /** `again`: nothing of it was kept. Fails where this module does, which is no fault of the network. */
  async #post(batch) {
    const body = this.#body(batch);
    const late = new AbortController();
    const request = new Request(`${this.#ingest}/v1/reactions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...this.#bearer },
      body,
      keepalive: body.size < KEEPALIVE_BYTES, // what is under way survives leaving the page
      signal: late.signal,
    });
    const timer = setTimeout(() => late.abort(), FRESH_MS);
    try {
      return await this.#ask(request);
    } finally {
      clearTimeout(timer);
    }
  }

  async #ask(request) {
    let answer;
    try {
      answer = await fetch(request);
    } catch {
      // A new connection is proof enough; and where ingest alone is away, its audience does not come back at each tap.
      if (performance.now() - this.#openedAt > this.#heartbeatMs) this.#suspect();
      return { again: true, detail: "The server cannot be reached." };
    }
    if (answer.status === 404) {
      return { detail: `Nothing takes reactions at ${this.#ingest}. Its publisher's --ingest-url, or \`ingest\` here, says where to send them.` };
    }
    const report = await answer.json().catch(() => ({}));
    if (answer.ok) return { detail: report.rejected?.[0]?.detail };
    const detail = report.detail ?? report.title ?? `The server answered ${answer.status}.`;
    // Of a request answered so, the server has kept nothing: sending it again doubles nothing.
    const tooMany = answer.status === 429;
    const again = tooMany || answer.status >= 500;
    return again ? { again, tooMany, retry_ms: retryAfter(answer), detail } : { detail };
  }

  #leave = () => {
    // A server that asked for quiet gets it, also from those who leave.
    if (this.#held && performance.now() < this.#notBefore) return;
    const url = `${this.#ingest}/v1/reactions`;
    while (this.#pending.length > 0) {
      const batch = this.#pending.slice(0, BEACON_REACTIONS);
      if (!this.#sendLast(url, this.#body(batch))) return;
      this.#pending.splice(0, batch.length);
    }
  };

  /** Sends without waiting for an answer; a beacon could not carry a token. */
  #sendLast(url, body) {
    if (!this.#token && navigator.sendBeacon) return navigator.sendBeacon(url, body);
    fetch(url, { method: "POST", headers: this.#bearer, body, keepalive: true }).catch(() => {});
    return true;
  }
}

/** Frames by WebSocket. */
class Socket {
  #socket;

  constructor(room, query, token, heard, lost) {
    const url = asking(`${room}/ws`, query);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    // The one way to send a token from here that no log of addresses keeps.
    this.#socket = new WebSocket(url, token ? ["emostream", `emostream.token.${token}`] : []);
    this.#socket.onmessage = ({ data }) => heard(data);
    this.#socket.onclose = ({ code }) => lost(code);
  }

  close() {
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
  }
}

/** Frames by Server-Sent Events. Reconnecting is ours, not the browser's: it has no jitter. */
class Events {
  #source;

  constructor(room, query, token, heard, lost) {
    const url = asking(`${room}/events`, { ...query, token });
    this.#source = new EventSource(url);
    for (const type of ["hello", "heartbeat", "live", "final", "trending", "gap", "bye"]) {
      this.#source.addEventListener(type, ({ data }) => heard(data));
    }
    this.#source.onerror = () => lost();
  }

  close() {
    this.#source.onerror = null;
    this.#source.close();
  }
}

/** An address with those parameters that have a value. */
function asking(address, query) {
  const url = new URL(address);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

/** Joins a room: receives at once, and reconnects until `close()`. */
export function connect(options) {
  return new EmoStream(options);
}

/** A server's address, perhaps with a path that a proxy has put before all of its own. */
function addressOf(url) {
  let address;
  try {
    address = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError(`"${url}" is no url; name the server's`);
  }
  const { protocol, origin, pathname, search, hash, username, password } = address;
  if (!["http:", "https:"].includes(protocol) || search || hash || username || password) {
    throw new TypeError(`"${url}" is not a server's url: it has http: or https:, a host, and perhaps a path`);
  }
  return origin + pathname.replace(/\/+$/, "");
}

/** A defect of this module or of its page: it is told as one, and its reactions are not sent again. */
function failed(error) {
  console.error(error);
  return { detail: `Your reactions were not sent: ${error.message}` };
}

/** Where this module came from; a bundled one takes the page's origin. */
function home() {
  const { origin } = new URL(import.meta.url);
  return origin === "null" ? globalThis.location?.origin : origin;
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

if (globalThis.document?.querySelector("emostream-room")) void import("./emostream-room.js");
