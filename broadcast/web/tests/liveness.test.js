// A connection may die without being closed: what the client does about it, on timers of this test's own.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

const HEARTBEAT_MS = 15_000;
/** Longer than any pause before a first retry. */
const RETRIED_MS = 300;

/** The connections that were opened, oldest first. */
let opened = [];
let page;
let crowd;
let connect;
/** How long the monotonic clock stood still. */
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

/** Time passes while the machine is awake. */
function passes(ms) {
  for (let step = 0; step < ms; step += 100) mock.timers.tick(100);
}

/** An hour passes while it sleeps: timers are late by that. */
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

/** Whether the first connection was replaced by one that goes on behind `0-7`. */
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
    // The failure comes by promises.
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
