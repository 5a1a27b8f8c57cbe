// Tests of connections that die without being closed. The tests set the timers of the client.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

const HEARTBEAT_MS = 15_000;
/** Time that is longer than any pause before a first retry. */
const RETRIED_MS = 300;

/** The connections that were opened, oldest first. */
let opened = [];
let page;
let crowd;
let connect;
/** Time by which the monotonic clock has stopped. */
let stoodStill_ms;

class Line {
  constructor(url) {
    this.url = new URL(url);
    opened.push(this);
  }

  close() { this.closed = true; }

  says(frame) { this.onmessage?.({ data: JSON.stringify(frame) }); }

  welcomes(more = {}) {
    this.says({ type: "hello", room: "default", heartbeat_ms: HEARTBEAT_MS, resumed: true, ...more });
  }
}

/** Lets time pass while the machine is awake. */
function passes(ms) {
  for (let step = 0; step < ms; step += 100) mock.timers.tick(100);
}

/** Lets an hour pass while the machine sleeps, so timers are late by an hour. */
function sleeps() {
  mock.timers.setTime(Date.now() + 3_600_000);
  passes(100);
}

beforeEach(async () => {
  opened = [];
  page = new EventTarget();
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_764_000_000_000 });
  stoodStill_ms = 0;
  mock.method(performance, "now", () => Date.now() - stoodStill_ms);
  globalThis.WebSocket = Line;
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.fetch = () => Promise.reject(new TypeError("fetch failed"));
  ({ connect } = await import("emostream"));
  crowd = connect({ url: "http://127.0.0.1:1", user: "u", transport: "websocket" });
});

afterEach(() => {
  crowd.close();
  mock.timers.reset();
  mock.restoreAll();
  delete globalThis.addEventListener;
});

/** Returns whether the first connection was replaced by one that continues after `0-7`. */
function isReplaced() {
  passes(RETRIED_MS);
  assert.equal(opened[0].closed ?? false, opened.length > 1);
  if (opened.length === 1) return false;
  assert.equal(opened[1].url.searchParams.get("since"), "0-7");
  return true;
}

function joins(hello) {
  opened[0].welcomes(hello);
  opened[0].says({ type: "final", id: "0-7", total: 0, counts: [], totals: [] });
  assert.equal(crowd.status, "open");
}

test("a connection that has missed two heartbeats is replaced, without a gap", () => {
  joins();
  passes(2 * HEARTBEAT_MS - 1000);
  assert.equal(isReplaced(), false);
  passes(3000);
  assert.equal(isReplaced(), true);
  assert.equal(crowd.status, "connecting");
  opened[1].welcomes();
  assert.equal(crowd.status, "open");
});

test("heartbeats keep a silent connection, and any other frame keeps a busy one", () => {
  joins();
  for (const frame of [{ type: "heartbeat", now: 1 }, { type: "live", counts: [] }, { type: "of a later server" }]) {
    for (let nth = 0; nth < 5; nth++) {
      passes(HEARTBEAT_MS + 1000);
      opened[0].says(frame);
    }
  }
  assert.equal(isReplaced(), false);
});

test("a server that sends no heartbeats is not expected to", () => {
  joins({ heartbeat_ms: undefined });
  passes(10 * HEARTBEAT_MS);
  assert.equal(isReplaced(), false);
});

const DOUBTS = {
  "the device is online again": () => page.dispatchEvent(new Event("online")),
  "the machine was asleep": () => sleeps(),
  "the machine and its monotonic clock were asleep": () => {
    stoodStill_ms = 3_600_000;
    sleeps();
  },
  "a request has failed": async () => {
    passes(HEARTBEAT_MS + 1000);
    opened[0].says({ type: "heartbeat", now: 1 });
    crowd.react("🔥");
    passes(100);
    // The failure is reported by a promise.
    await new Promise(setImmediate);
  },
};

for (const [doubt, comes] of Object.entries(DOUBTS)) {
  test(`a connection that is dead is replaced within seconds when ${doubt}`, async () => {
    joins();
    passes(4000);
    await comes();
    passes(2000);
    assert.equal(isReplaced(), true);
  });

  test(`a connection that lives is kept when ${doubt}`, async () => {
    joins();
    passes(4000);
    await comes();
    passes(1000);
    opened[0].says({ type: "live", counts: [] });
    passes(3000);
    assert.equal(isReplaced(), false);
  });
}

test("the server's time is the greatest that was seen, whatever this device's clock says", () => {
  assert.equal(crowd.now, Date.now(), "nothing else is known yet");
  const HOUR_MS = 3_600_000;
  joins({ now: Date.now() + HOUR_MS });
  passes(5000);
  assert.equal(crowd.now, Date.now() + HOUR_MS);
  opened[0].says({ type: "live", start: 0, end: 2000, emitted_at: 1, total: 0, counts: [] });
  opened[0].says({ type: "heartbeat", now: Date.now() });
  assert.equal(crowd.now, Date.now() + HOUR_MS);
  opened[0].says({ type: "heartbeat", now: Date.now() + HOUR_MS + 500 });
  assert.equal(crowd.now, Date.now() + HOUR_MS + 500);
  mock.timers.setTime(Date.now() - HOUR_MS);
  stoodStill_ms = -HOUR_MS;
  assert.equal(crowd.now, Date.now() + 2 * HOUR_MS + 500, "the device's clock was set back");
});

test("another connection brings the time of its server", () => {
  joins({ now: Date.now() + 60_000 });
  opened[0].onclose({ code: 1006 });
  passes(RETRIED_MS);
  opened[1].welcomes({ now: Date.now() - 60_000 });
  const late_ms = crowd.now - (Date.now() - 60_000);
  assert.ok(late_ms >= 0 && late_ms <= RETRIED_MS, "by no more than the time until its hello");
});

test("frames of a busy room correct the time of a hello that came late", () => {
  const LATE_MS = 8000;
  const sent_at = Date.now();
  passes(LATE_MS);
  opened[0].welcomes({ now: sent_at });
  assert.equal(crowd.now, Date.now() - LATE_MS);
  opened[0].says({ type: "live", emitted_at: Date.now() - 50, total: 0, counts: [] });
  assert.equal(crowd.now, Date.now() - 50);
  // The clock of the dataflow is wrong.
  opened[0].says({ type: "live", emitted_at: Date.now() + 3_600_000, total: 0, counts: [] });
  assert.equal(crowd.now, Date.now());
});

test("what was counted before the connection is past, on joining and after an outage", () => {
  const [past, now] = [[], 1_764_000_000_000];
  for (const type of ["live", "final"]) {
    crowd.addEventListener(type, ({ detail }) => past.push(crowd.isPast(detail)));
  }
  const says = (nth, id, emitted_at) => {
    opened[nth].says({ type: "final", id, emitted_at, total: 0, counts: [], totals: [] });
    opened[nth].says({ type: "live", emitted_at, total: 0, counts: [] });
    return past.splice(0);
  };
  opened[0].welcomes({ now, latest: "0-7", resumed: false });
  assert.deepEqual(says(0, "0-7", now - 60_000), [true, true]);
  assert.deepEqual(says(0, "0-8", now + 250), [false, false]);
  opened[0].onclose({ code: 1006 });
  passes(RETRIED_MS);
  opened[1].welcomes({ now: now + 60_000, latest: "0-20" });
  assert.deepEqual(says(1, "0-9", now + 2000), [true, true]);
  assert.deepEqual(says(1, "0-21", now + 62_000), [false, false]);
  // The room has moved to another partition, whose offsets cannot be compared.
  assert.deepEqual(says(1, "1-0", now + 64_000), [false, false]);
});

test("in a room without finals, only what was counted before the connection is past", () => {
  opened[0].welcomes({ now: 5000, latest: null, resumed: false });
  assert.equal(crowd.isPast({ type: "final", id: "0-0", emitted_at: 5000, end: 4000 }), false);
  assert.equal(crowd.isPast({ type: "live", emitted_at: 4999, end: 6000 }), true);
});

test("finals that a relay sends after it was disconnected for minutes are past", () => {
  const now = Date.now();
  // The relay's newest final is from before it was disconnected.
  opened[0].welcomes({ now, latest: "0-7", resumed: false });
  const isPast = (id, end) => crowd.isPast({ type: "final", id, end, emitted_at: end + 800 });
  assert.equal(isPast("0-8", now - 60_000), true, "counted before this connection");
  passes(60_000);
  assert.equal(isPast("0-9", now + 2000), true, "counted during this connection, a minute ago");
  assert.equal(isPast("0-40", now + 58_000), false);
});

test("an observer says so, on every connection", () => {
  const observer = connect({ url: "http://127.0.0.1:1", user: "u", transport: "websocket", observer: true });
  opened[1].welcomes();
  opened[1].onclose({ code: 1006 });
  passes(RETRIED_MS);
  const asked = opened.map(({ url }) => url.searchParams.get("observer"));
  observer.close();
  assert.deepEqual(asked, [null, "true", "true"]);
});

test("where ingest alone is away, its audience does not come back at each tap", async () => {
  joins();
  passes(4000);
  for (let nth = 0; nth < 5; nth++) {
    crowd.react("🔥");
    passes(1500);
    await new Promise(setImmediate);
  }
  assert.equal(isReplaced(), false);
});
