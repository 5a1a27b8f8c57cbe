/**
 * Client of one room: receives its frames and sends reactions.
 *
 *     react(emoji) ──▶ pending ──at most every 250 ms──▶ POST /v1/reactions
 *     GET /v1/rooms/{room}/ws, or /events where no WebSocket gets through ──▶ frames ──▶ events
 *
 *     import { connect } from "/emostream.js";
 *     const crowd = connect({ room: "match-7" });
 *     crowd.addEventListener("live", ({ detail }) => console.log(detail.counts));
 *     crowd.react("🔥");
 *
 * Invariants: each final is delivered once and in order, also across reconnects, unless a `gap` event says otherwise.
 * The queue of reactions is bounded in number and in age. Importing this module has no side effect.
 *
 * @module emostream
 */

/** Minimum time between two requests: a single tap is sent at once, many taps share a request. */
const FLUSH_MS = 250;
/** Maximum reactions that the server accepts in one array. */
const BATCH_REACTIONS = 1000;
/** Maximum queued reactions. A person cannot tap this often in FRESH_MS, but a script can. */
const PENDING_REACTIONS = 2000;
/** Maximum age of a queued reaction. An older one is dropped, since a reaction is about its moment. */
const FRESH_MS = 10_000;
/** Maximum backoff between attempts to connect or to send. */
const BACKOFF_MAX_MS = 10_000;
const BACKOFF_BASE_MS = 250;
/** Minimum duration of a connection after which the backoff starts from its base again. */
const STEADY_MS = 5_000;
/** Maximum time until `hello`. Some proxies accept a connection and never forward any bytes. */
const HELLO_MS = 10_000;
/** Number of missing heartbeats in a row after which a connection is dead. */
const MISSED_HEARTBEATS = 2;
/** Interval of the checks for missed heartbeats, and for a machine that has slept. */
const CHECK_MS = 2_000;
/** Delay of a check from which on the machine must have slept, or the page must have been frozen. */
const ASLEEP_MS = 3 * CHECK_MS;
/** Time after which a connection that may be dead is replaced if no frame has arrived. */
const DOUBT_MS = 2_000;
/** Maximum wait that a `Retry-After` or a `retry_ms` can request. */
const RETRY_MAX_MS = 60_000;
/**
 * Time after which a hidden page closes its connection. When the page is visible again, it receives the frames that it
 * missed.
 */
const HIDDEN_MS = 60_000;
/** A window that ended longer ago is not the present. Its final normally follows within seconds, but a relay that was
 * disconnected from its upstream sends all that it missed. */
const PRESENT_MS = 10_000;
/** Maximum time before the expiry of a token at which it is renewed. */
const RENEW_MS = 60_000;
/** Maximum time of `setTimeout`, which fires at once if the time is longer. */
const TIMER_MAX_MS = 2 ** 31 - 1;
/** Maximum bytes in flight of beacons and keepalive requests. Browsers refuse more than 64 KiB. */
const KEEPALIVE_BYTES = 60_000;
/** Maximum reactions of a beacon, if all of them have the longest names. */
const BEACON_REACTIONS = 200;
/** Close codes from FINAL_CODE to 3999 request the client not to reconnect; TOKEN_CODE, not with this token. */
const FINAL_CODE = 3500;
const TOKEN_CODE = 3500;

const ROOM = /^(?!\.\.?$)[A-Za-z0-9._~-]{1,64}$/;
const ID = /^\d+-\d+$/;
const USER_KEY = "emostream.user";

/** Details of `status` events by reason. */
const REASONS = {
  start: "The first connection is being opened.",
  lost: "The connection was lost.",
  unreachable: "The connection could not be opened.",
  server: "The server asked to reconnect.",
  token: "The token expires or has expired, and a new one is used.",
  hidden: "The page was not visible for a minute.",
  closed: "close() was called.",
  unauthorized: "The token has expired.",
};

/** One room; the type declarations describe its events. */
export class EmoStream extends EventTarget {
  /** The server's address, without a slash at its end. */ #base;
  #ingest;
  #room;
  #user;
  #anonymous;
  /** The option `token`: a string, a function that returns a token, or undefined. */ #tokenSource;
  /** The token for requests; "" without a token, and undefined until the function has returned. */ #token;
  /** The token of the newest connection. */ #dialedToken;
  #tokenTimer = 0;
  /** Number of tokens in a row that the server refused. */ #refusals = 0;
  #transport;
  #background;
  #observer;
  #WebSocket;
  #status = "connecting";
  #reason = "start";
  /** @type {Socket | Events | undefined} */ #channel;
  /**
   * Identifies the current attempt to connect. If its token arrives after the attempt has ended, no connection is
   * opened.
   */
  #attempt;
  #lastId;
  #attempts = 0;
  #unreached = 0;
  #dialedAt = 0;
  #openedAt = Infinity;
  /** Whether the room was joined before. */ #hasJoined = false;
  /** Whether a WebSocket was ever opened. If so, no fallback is needed. */ #socketsWork = false;
  #byeMs;
  #reconnectTimer = 0;
  #helloTimer = 0;
  #hiddenTimer = 0;
  /** The server's interval of heartbeats. Older servers do not send any. */ #heartbeatMs = Infinity;
  #receivedAt = 0;
  /** Difference between the server's time and `performance.now()`. */ #ahead_ms;
  /** Maximum possible value of `#ahead_ms`. */ #mostAhead_ms;
  /** The server's time when the connection began, and the newest final that the room had then. */
  #joined = { now: 0, latest: null };
  #checkTimer = 0;
  #checkedAt = Date.now();
  #doubtTimer = 0;
  /** Removes the listeners of the page. */ #listening = new AbortController();

  /** @type {{emoji: string, at: number}[]} */ #pending = [];
  #sending = false;
  /**
   * Maximum size of the next batch. A server with a limit per user accepts only the reactions of one second at once.
   */
  #batchMost = BATCH_REACTIONS;
  #sendAttempts = 0;
  #notBefore = 0;
  /** Whether the server has requested `#notBefore`. */ #held = false;
  #flushTimer = 0;

  /** Use {@link connect}. */
  constructor({
    url = home(),
    ingest = url,
    room = "default",
    token,
    user,
    transport = "auto",
    background = false,
    observer = false,
    since,
    WebSocket = globalThis.WebSocket,
  } = {}) {
    super();
    if (!ROOM.test(room)) throw new TypeError("a room is 1 to 64 letters, digits and . _ ~ -, but not . or ..");
    if (!["auto", "websocket", "sse"].includes(transport)) throw new TypeError("transport is auto, websocket or sse");
    if (since !== undefined && !ID.test(since)) throw new TypeError("since is the id of a final, as in lastId");
    this.#base = addressOf(url);
    this.#ingest = addressOf(ingest);
    const { EventSource } = globalThis;
    if (!(transport === "sse" ? EventSource : WebSocket || (transport === "auto" && EventSource))) {
      throw new TypeError("there is no global WebSocket or EventSource: Node before 22 needs the option WebSocket, as from the package ws");
    }
    this.#room = room;
    this.#user = user;
    this.#transport = transport;
    this.#background = background;
    this.#observer = observer;
    this.#lastId = since;
    this.#WebSocket = WebSocket;
    this.token = token;
    const { signal } = this.#listening;
    globalThis.addEventListener?.("pagehide", this.#sendRest, { signal });
    globalThis.addEventListener?.("online", this.#suspect, { signal });
    globalThis.document?.addEventListener("visibilitychange", this.#visibilityChanged, { signal });
    this.#checkTimer = setInterval(this.#check, CHECK_MS);
    void this.#open();
  }

  get room() { return this.#room; }

  get status() { return this.#status; }

  /** "websocket" or "sse": of the connection, or of the last attempt. */
  get transport() { return this.#channel instanceof Socket ? "websocket" : "sse"; }

  /** The id of the newest final that was received, for the option `since` of a later stream. */
  get lastId() { return this.#lastId; }

  get token() { return this.#tokenSource; }

  /**
   * A token that is set is used by requests and by the next connection. The server closes the current connection when
   * the token of this connection expires.
   */
  set token(token) {
    this.#tokenSource = token;
    if (typeof token !== "function") this.#token = token || "";
    this.#retryNow();
  }

  /**
   * The greatest server time that was received, plus the time since then. Before the first `hello`, this device's time.
   */
  get now() { return this.#ahead_ms === undefined ? Date.now() : Math.round(performance.now() + this.#ahead_ms); }

  /** Whether a live or final frame contains counts from before this connection, or from long ago. */
  isPast({ type, id, emitted_at, end }) {
    const { now, latest } = this.#joined;
    if (emitted_at < now || end + PRESENT_MS < this.now) return true;
    return type === "final" && Boolean(latest) && !isAfter(id, latest);
  }

  react(emoji) {
    if (this.#status === "closed" || this.#pending.length >= PENDING_REACTIONS) return false;
    this.#pending.push({ emoji, at: performance.now() });
    this.#scheduleFlush();
    return true;
  }

  close() {
    this.#sendRest();
    this.#end("closed");
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #refuse(detail, batch, retry_ms = 0) {
    this.#emit("refused", { detail, retry_ms, emojis: batch.map(({ emoji }) => emoji) });
  }

  #setStatus(status, reason = this.#reason, detail = REASONS[reason]) {
    if (status === this.#status && reason === this.#reason) return;
    this.#status = status;
    this.#reason = reason;
    this.#emit("status", { status, reason, detail });
  }

  #end(reason, detail) {
    this.#listening.abort();
    this.#drop();
    clearTimeout(this.#hiddenTimer);
    clearTimeout(this.#flushTimer);
    clearInterval(this.#checkTimer);
    this.#pending.length = 0;
    if (this.#status !== "closed") this.#setStatus("closed", reason, detail);
  }

  // Tokens.

  /** Whether there may be another token than the one of the last connection. */
  get #hasNewToken() { return typeof this.#tokenSource === "function" || this.#token !== this.#dialedToken; }

  async #requestToken() {
    const source = this.#tokenSource;
    const token = await source();
    // The property may have been set in the meantime.
    if (source === this.#tokenSource) this.#token = token || "";
  }

  /** The token of a connection cannot be changed, so the connection is replaced before the server closes it. */
  #scheduleRenewal() {
    const left_ms = claimsOf(this.#dialedToken).exp * 1000 - this.now;
    if (typeof this.#tokenSource !== "function" || !(left_ms > 0)) return;
    // All tokens of an audience may expire at the same time, so the times are randomized.
    const wait_ms = Math.max(left_ms / 2, left_ms - RENEW_MS * (0.5 + Math.random() / 2));
    this.#tokenTimer = setTimeout(this.#renew, Math.min(wait_ms, TIMER_MAX_MS));
  }

  #renew = async () => {
    const attempt = this.#attempt;
    try {
      await this.#requestToken();
    } catch {
      // The function is called again when the server closes the connection.
      return;
    }
    if (attempt !== this.#attempt || this.#token === this.#dialedToken) return;
    this.#drop();
    this.#openedAt = Infinity;
    this.#setStatus("connecting", "token");
    void this.#open(false);
  };

  // Receiving.

  async #open(needsToken = typeof this.#tokenSource === "function") {
    const attempt = (this.#attempt = { isDialed: false });
    this.#helloTimer = setTimeout(() => {
      if (attempt.isDialed) this.#lost();
      else this.#lost("token", `The function for the token has not returned for ${HELLO_MS / 1000} s.`);
    }, HELLO_MS);
    try {
      if (needsToken) await this.#requestToken();
      if (attempt !== this.#attempt) return;
      attempt.isDialed = true;
      this.#dial();
    } catch (error) {
      // The function failed, or the token cannot be sent: a WebSocket does not accept all characters.
      if (attempt === this.#attempt) this.#lost("token", `There is no valid token: ${error?.message}`);
    }
  }

  #dial() {
    const receive = (text) => this.#receive(text);
    const closed = (code) => this.#closed(code);
    const Channel = this.#next();
    const query = { since: this.#lastId, observer: this.#observer };
    this.#dialedAt = performance.now();
    this.#dialedToken = this.#token;
    this.#channel = new Channel(`${this.#base}/v1/rooms/${this.#room}`, query, this.#token, receive, closed, this.#WebSocket);
  }

  /** Opens a WebSocket. Until one was opened successfully, every second attempt uses Server-Sent Events. */
  #next() {
    if (this.#transport !== "auto") return this.#transport === "sse" ? Events : Socket;
    if (!this.#WebSocket) return Events;
    return this.#socketsWork || this.#unreached % 2 === 0 || !globalThis.EventSource ? Socket : Events;
  }

  /** Ends the connection, the attempt to connect and the timers of both. */
  #drop() {
    clearTimeout(this.#reconnectTimer);
    clearTimeout(this.#helloTimer);
    clearTimeout(this.#doubtTimer);
    clearTimeout(this.#tokenTimer);
    this.#reconnectTimer = this.#doubtTimer = 0;
    this.#attempt = undefined;
    this.#channel?.close();
  }

  #receive(text) {
    this.#receivedAt = performance.now();
    let frame;
    try { frame = JSON.parse(text); } catch { return; }
    this.#setClock(frame);
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
        return this.#lost("server");
      // Frames of newer servers are ignored.
    }
  }

  /**
   * A `hello` may arrive late, and a busy room has no heartbeats. So `emitted_at` raises the estimate too, but not to
   * more than if `hello` had been sent when the connection was requested: the dataflow's clock may be wrong.
   */
  #setClock({ type, now, emitted_at }) {
    if (type === "hello" && now > 0) {
      const least_ms = now - this.#receivedAt;
      this.#mostAhead_ms = now - this.#dialedAt;
      this.#ahead_ms = clamp(this.#ahead_ms ?? least_ms, least_ms, this.#mostAhead_ms);
    } else {
      const ahead_ms = now > 0 ? now - this.#receivedAt : Math.min(emitted_at - this.#receivedAt, this.#mostAhead_ms);
      if (ahead_ms > this.#ahead_ms) this.#ahead_ms = ahead_ms;
    }
  }

  #welcomed(hello) {
    clearTimeout(this.#helloTimer);
    this.#openedAt = performance.now();
    this.#refusals = 0;
    this.#heartbeatMs = hello.heartbeat_ms > 0 ? hello.heartbeat_ms : Infinity;
    this.#joined = hello;
    this.#socketsWork ||= this.transport === "websocket";
    this.#scheduleRenewal();
    this.#setStatus("open", this.#reason, "Connected.");
    const continues = hello.resumed && this.#lastId !== undefined;
    // A server that cannot resume after this id may have started with new ids. If the old id was still compared, finals
    // would be hidden.
    if (!continues) this.#lastId = undefined;
    this.#emit("hello", hello);
    if (!continues || !this.#hasJoined) void this.#loadState();
    this.#hasJoined = true;
  }

  #final(frame) {
    if (this.#lastId && !isAfter(frame.id, this.#lastId)) return;
    this.#lastId = frame.id;
    this.#emit("final", frame);
  }

  async #loadState() {
    const token = this.#token;
    let answer, body;
    try {
      answer = await fetch(`${this.#base}/v1/rooms/${this.#room}`, { headers: bearer(token) });
      body = await answer.json();
    } catch {
      // A request that fails is ignored, since the next final contains the totals, too.
      return;
    }
    if (this.#status === "closed") return;
    if (answer.ok) return this.#emit("state", body);
    const { status } = answer;
    if (token !== this.#token || (status !== 401 && status !== 403)) return;
    // The next connection uses another token.
    if (status === 401 && this.#hasNewToken && ++this.#refusals < 2) return;
    this.#refuse(body.detail, []);
    this.#end(status === 401 ? "unauthorized" : "forbidden", body.detail);
  }

  #closed(code) {
    if (code === TOKEN_CODE && this.#hasNewToken) return this.#lost("token");
    if (code === TOKEN_CODE) return this.#end("unauthorized");
    if (code >= FINAL_CODE && code <= 3999) return this.#end("ended", `The server closed the connection with code ${code}.`);
    this.#lost();
  }

  #lost(reason = this.#openedAt === Infinity ? "unreachable" : "lost", detail) {
    this.#drop();
    // Browsers do not report why a connection was refused. The response to a request of the state contains the reason.
    if (this.#openedAt === Infinity && reason !== "token") {
      this.#unreached += 1;
      void this.#loadState();
    }
    if (performance.now() - this.#openedAt >= STEADY_MS) this.#attempts = 0;
    this.#openedAt = Infinity;
    const delay_ms = this.#byeMs ?? fullJitter(this.#attempts);
    this.#attempts += 1;
    this.#byeMs = undefined;
    this.#reconnectTimer = setTimeout(this.#retryNow, delay_ms);
    this.#setStatus("connecting", reason, detail);
  }

  #retryNow = () => {
    if (!this.#reconnectTimer) return;
    this.#drop();
    void this.#open();
  };

  // A network may stop forwarding without closing connections. Then only missing frames show that a connection is dead.

  /** `performance.now()` may not advance while a machine sleeps, so the wall clock is compared, too. */
  #check = () => {
    const late_ms = Date.now() - this.#checkedAt;
    this.#checkedAt = Date.now();
    if (late_ms >= ASLEEP_MS) {
      this.#mostAhead_ms = Infinity;
      // Frames that arrived before the sleep are delivered after this timer.
      return this.#suspect();
    }
    if (this.#doubtTimer) return;
    const silent_ms = performance.now() - this.#receivedAt;
    if (this.#status === "open" && silent_ms >= MISSED_HEARTBEATS * this.#heartbeatMs) this.#lost();
  };

  /** Replaces the connection unless a frame arrives soon. */
  #suspect = () => {
    if (this.#status !== "open") return this.#retryNow();
    if (this.#doubtTimer) return;
    const receivedAt = this.#receivedAt;
    this.#doubtTimer = setTimeout(() => {
      this.#doubtTimer = 0;
      if (this.#receivedAt === receivedAt) this.#lost();
    }, DOUBT_MS);
  };

  #visibilityChanged = () => {
    clearTimeout(this.#hiddenTimer);
    // A phone may end a hidden page without another event.
    if (document.hidden) this.#sendRest();
    if (document.hidden && !this.#background) {
      this.#hiddenTimer = setTimeout(() => {
        this.#drop();
        this.#openedAt = Infinity;
        this.#setStatus("paused", "hidden");
      }, HIDDEN_MS);
    } else if (this.#status === "paused") {
      this.#setStatus("connecting", "hidden", "The page is visible again.");
      void this.#open();
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
    const stale = this.#pending.filter(({ at }) => at < oldest);
    this.#pending = this.#pending.filter(({ at }) => at >= oldest);
    if (stale.length > 0) this.#refuse(`Reactions were dropped, since they could not be sent for ${FRESH_MS / 1000} s: ${stale.length}.`, stale);
    this.#notBefore = performance.now() + FLUSH_MS;
    if (this.#lacksToken) return this.#scheduleFlush();
    const batch = this.#pending.splice(0, this.#batchMost);
    if (batch.length === 0) return;
    this.#sending = true;
    this.#held = false;
    const outcome = await this.#post(batch).catch(failed);
    this.#sending = false;
    this.#batchMost = outcome.tooMany ? Math.ceil(batch.length / 2) : Math.min(this.#batchMost * 2, BATCH_REACTIONS);
    if (outcome.again) this.#hold(batch, outcome);
    else this.#sendAttempts = 0;
    if (outcome.detail) this.#refuse(outcome.detail, outcome.refused ?? batch, outcome.retry_ms);
    if (this.#status !== "closed") this.#scheduleFlush();
  }

  /** Whether the first token has not arrived yet. */
  get #lacksToken() { return this.#token === undefined; }

  /** Puts a batch back to the front of the queue, to be sent when the server allows it. */
  #hold(batch, outcome) {
    outcome.retry_ms ??= fullJitter(++this.#sendAttempts);
    this.#held = true;
    this.#notBefore = performance.now() + Math.max(FLUSH_MS, outcome.retry_ms);
    this.#pending = batch.concat(this.#pending).slice(0, PENDING_REACTIONS);
  }

  #body(batch) {
    const user_id = this.#user ?? claimsOf(this.#token).sub ?? (this.#anonymous ??= browserUser());
    const reactions = batch.map(({ emoji }) => ({ user_id, emoji_type: emoji, room: this.#room }));
    return new Blob([JSON.stringify(reactions)], { type: "text/plain" });
  }

  /** Rejects only for a defect of this module or its page, not if the network fails. */
  async #post(batch) {
    const body = this.#body(batch);
    const late = new AbortController();
    const request = new Request(`${this.#ingest}/v1/reactions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...bearer(this.#token) },
      body,
      keepalive: body.size < KEEPALIVE_BYTES, // A request in flight continues after the user has left the page.
      signal: late.signal,
    });
    const timer = setTimeout(() => late.abort(), FRESH_MS);
    try {
      return await this.#send(request, batch);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Returns the outcome; `again` means that the server has accepted no reaction of the batch. */
  async #send(request, batch) {
    const token = this.#token;
    let answer;
    try {
      answer = await fetch(request);
    } catch {
      // If only the ingest is down, a failed request does not mean that the connection for frames is dead.
      if (performance.now() - this.#openedAt > this.#heartbeatMs) this.#suspect();
      return { again: true, detail: "The server cannot be reached." };
    }
    const { status } = answer;
    if (status === 404) {
      return { detail: `Nothing takes reactions at ${this.#ingest}. The publisher's --ingest-url, or the option ingest, says where to send them.` };
    }
    if (status === 401) {
      if (typeof this.#tokenSource === "function") await this.#requestToken().catch(() => {});
      if (this.#token !== token) return { again: true };
    }
    const report = await answer.json().catch(() => ({}));
    if (answer.ok) {
      const { rejected = [] } = report;
      return { detail: rejected[0]?.detail, refused: rejected.map(({ index }) => batch[index]) };
    }
    const detail = report.detail ?? report.title ?? `The server answered ${status}.`;
    // With these statuses the server has accepted no reaction of the batch, so sending the batch again counts no
    // reaction twice.
    const tooMany = status === 429;
    return tooMany || status >= 500 ? { again: true, tooMany, retry_ms: retryAfter(answer), detail } : { detail };
  }

  #sendRest = () => {
    // The wait that a server has requested also applies when the user leaves the page.
    if (this.#lacksToken || (this.#held && performance.now() < this.#notBefore)) return;
    const url = `${this.#ingest}/v1/reactions`;
    while (this.#pending.length > 0) {
      const batch = this.#pending.slice(0, BEACON_REACTIONS);
      if (!this.#sendLast(url, this.#body(batch))) return;
      this.#pending.splice(0, batch.length);
    }
  };

  /** Sends without waiting for a response. A beacon cannot carry a token. */
  #sendLast(url, body) {
    if (!this.#token && globalThis.navigator?.sendBeacon) return navigator.sendBeacon(url, body);
    fetch(url, { method: "POST", headers: bearer(this.#token), body, keepalive: true }).catch(() => {});
    return true;
  }
}

/** Frames by WebSocket. */
class Socket {
  #socket;

  constructor(room, query, token, receive, closed, WebSocket) {
    const url = withQuery(`${room}/ws`, query);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    // A page cannot set headers of a WebSocket, and URLs are logged, so the token is in a subprotocol.
    this.#socket = new WebSocket(url, token ? ["emostream", `emostream.token.${token}`] : []);
    this.#socket.onmessage = ({ data }) => receive(data);
    this.#socket.onclose = ({ code }) => closed(code);
    // The package ws throws an error if it has no listener.
    this.#socket.onerror = () => {};
  }

  close() {
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
  }
}

/** Frames by Server-Sent Events. The browser's own reconnecting has no jitter, so it is not used. */
class Events {
  #source;

  constructor(room, query, token, receive, closed) {
    this.#source = new EventSource(withQuery(`${room}/events`, { ...query, token }));
    for (const type of ["hello", "heartbeat", "live", "final", "trending", "gap", "bye"]) {
      this.#source.addEventListener(type, ({ data }) => receive(data));
    }
    this.#source.onerror = () => closed();
  }

  close() {
    this.#source.onerror = null;
    this.#source.close();
  }
}

/** Returns the address with the parameters that have a value. */
function withQuery(address, query) {
  const url = new URL(address);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

function bearer(token) {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/** Joins a room: receives at once, and reconnects until `close()`. */
export function connect(options) {
  return new EmoStream(options);
}

/**
 * Returns a server's address without a slash at its end. It may have a path that a proxy puts before the server's own
 * paths.
 */
function addressOf(url) {
  let address;
  try {
    address = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError(`"${url}" is not a url; name that of the server`);
  }
  const { protocol, origin, pathname, search, hash, username, password } = address;
  if (!["http:", "https:"].includes(protocol) || search || hash || username || password) {
    throw new TypeError(`"${url}" is not a server's url: it has http: or https:, a host, and perhaps a path`);
  }
  return origin + pathname.replace(/\/+$/, "");
}

/** Reports a defect of this module or of its page. The reactions are not sent again. */
function failed(error) {
  console.error(error);
  return { detail: `Your reactions were not sent: ${error.message}` };
}

/** Returns the origin of this module. In a bundle, this is the origin of the page. */
function home() {
  const { origin } = new URL(import.meta.url);
  return origin === "null" ? globalThis.location?.origin : origin;
}

/** Returns a random name of this browser, which is stored if the browser allows it. */
function browserUser() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  const fresh = "web-" + Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const known = localStorage.getItem(USER_KEY);
    if (known) return known;
    localStorage.setItem(USER_KEY, fresh);
  } catch {
    // Without storage, the name is valid for this visit only.
  }
  return fresh;
}

/** Returns the claims of a token without verifying it, since only the server can verify it. */
function claimsOf(token) {
  try {
    const claims = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(claims, (c) => c.charCodeAt(0)))) ?? {};
  } catch {
    return {};
  }
}

/** Ids are `partition-offset`. A room stays in its partition unless the topic is created again. */
function isAfter(id, last) {
  const [partition, offset] = id.split("-").map(Number);
  const [lastPartition, lastOffset] = last.split("-").map(Number);
  return partition !== lastPartition || offset > lastOffset;
}

function fullJitter(attempts) {
  return Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempts, 16));
}

/** Returns the milliseconds of `Retry-After`, which is seconds or a date; undefined if it is absent or CORS hides it. */
function retryAfter(answer) {
  const value = answer.headers.get("retry-after");
  if (value === null) return undefined;
  const wait_ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(wait_ms) ? undefined : clamp(wait_ms, 0, RETRY_MAX_MS);
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, Number(value) || 0));
}
