// Tests of the rules of the dashboard: which room it follows, what rises, and what its address means.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

import { Activity, Busiest, SPANS_MS, queryOf, rises, viewOf } from "../mood.js";

const WINDOW_MS = 2000;
const MINUTE_MS = 60_000;
const EVERY_MS = 3000;

/**
 * Returns finals of two minutes. Each window of the first minute has the counts `before`, and each of the second has
 * `now`.
 */
function twoMinutes(before, now, others = 0) {
  return Array.from({ length: (2 * MINUTE_MS) / WINDOW_MS }, (_, window) => {
    const start = window * WINDOW_MS;
    const counts = Object.entries(start < MINUTE_MS ? before : now).map(([emoji, count]) => ({ emoji, count }));
    return { id: `0-${window}`, start, end: start + WINDOW_MS, counts, ...(others > 0 && { others }) };
  });
}

/** Follows rooms with rates that `ratesAt` returns, in lists that come every three seconds. */
function followed(shown, seconds, ratesAt) {
  const busiest = new Busiest();
  const history = [];
  for (let now = 0; now <= seconds * 1000; now += EVERY_MS) {
    const next = busiest.next(Object.entries(ratesAt(now / 1000)), shown, now);
    if (next !== shown) history.push([now / 1000, next]);
    shown = next;
  }
  return history;
}

test("what rises is not what is counted most", () => {
  const finals = twoMinutes({ "🔥": 100, "👏": 2, "😂": 5 }, { "🔥": 100, "👏": 6, "😂": 4 });
  assert.deepEqual(rises(finals, 2 * MINUTE_MS, MINUTE_MS, 8), [{ emoji: "👏", count: 180, before: 60, isNew: false }]);
});

test("a clear rise comes before a great ratio of a few reactions", () => {
  const finals = twoMinutes({ "🔥": 100 }, { "🔥": 150 });
  finals[59].counts.push({ emoji: "🎉", count: 8 }, { emoji: "😮", count: 3 });
  const found = rises(finals, 2 * MINUTE_MS, MINUTE_MS, 8);
  assert.deepEqual(found.map(({ emoji }) => emoji), ["🔥", "🎉"], "three reactions are chance");
  assert.deepEqual(rises(finals, 2 * MINUTE_MS, MINUTE_MS, 1), found.slice(0, 1));
});

test("nothing rises in a room that was quiet the minute before", () => {
  const finals = twoMinutes({}, { "🔥": 9 }).filter(({ start }) => start >= MINUTE_MS);
  assert.deepEqual(rises(finals, 2 * MINUTE_MS, MINUTE_MS, 8), []);
});

test("an emoji is new only if it cannot have been among the others", () => {
  const isNew = (others) => rises(twoMinutes({ "👏": 1 }, { "🔥": 9 }, others), 2 * MINUTE_MS, MINUTE_MS, 8)[0].isNew;
  assert.equal(isNew(0), true);
  assert.equal(isNew(1), false);
});

test("a room that is clearly busier for some time is followed, once", () => {
  const history = followed("a", 120, () => ({ a: 10, b: 20 }));
  assert.equal(history.length, 1);
  const [[at, room]] = history;
  assert.equal(room, "b");
  assert.ok(at >= 20 && at <= 24, `${at} s`);
});

test("rooms of similar rates do not replace each other", () => {
  assert.deepEqual(followed("a", 600, (at) => ({ a: 10 + 3 * Math.sin(at), b: 10 - 3 * Math.sin(at / 2) })), []);
});

test("a short peak and a few taps in another room change nothing", () => {
  assert.deepEqual(followed("a", 120, (at) => ({ a: 10, b: at > 60 && at < 67 ? 500 : 0 })), []);
  assert.deepEqual(followed("a", 120, () => ({ a: 0, b: 0.4 })), []);
});

test("rooms that take turns are each shown for a while", () => {
  const history = followed("a", 600, (at) => (Math.floor(at / 30) % 2 ? { a: 100, b: 1 } : { a: 1, b: 100 }));
  assert.ok(history.length > 10, `${history}`);
  const times = [0, ...history.map(([at]) => at)];
  times.slice(1).forEach((at, index) => assert.ok(at - times[index] >= 20, `${times}`));
});

test("without known rates the room stays", () => {
  const history = followed("a", 120, (at) => (at > 6 ? {} : { a: 1, b: 9 }));
  assert.deepEqual(history, []);
});

test("a rate is that of the last lists, and unknown after a list was missed", () => {
  const activity = new Activity();
  const list = (total) => [{ room: "a", total }];
  activity.add(list(100), 0, 10_000);
  assert.equal(activity.of("a"), undefined);
  activity.add(list(130), 3000, 10_000);
  assert.equal(activity.of("a"), 10);
  assert.equal(activity.of("b"), undefined);
  activity.add(list(130), 20_000, 10_000);
  assert.equal(activity.of("a"), undefined, "the older lists are too old");
  activity.add(list(130), 23_000, 10_000);
  assert.equal(activity.of("a"), 0);
  activity.clear();
  assert.equal(activity.of("a"), undefined);
});

test("an address shows the view that made it", () => {
  for (const span_ms of SPANS_MS) {
    for (const until of [undefined, 1_764_000_002_500]) {
      const view = { room: "match-7", span_ms, until, follow: false };
      const query = queryOf(view);
      assert.deepEqual(viewOf(query), { span_ms, until, follow: false, problem: "" });
      assert.equal(new URLSearchParams(query).get("room"), "match-7");
    }
  }
  assert.equal(queryOf({ room: "match-7", span_ms: 600_000, follow: true }), "?follow=busiest");
  assert.equal(viewOf("?follow=busiest").follow, true);
  assert.equal(viewOf("?follow=busiest&until=2026-01-31T20:15:00Z").follow, false, "what stands still follows nothing");
});

test("a parameter that is not valid is named", () => {
  assert.match(viewOf("?span=7m").problem, /^“7m” is not a span: a span is 1m, 2m, 5m, 10m\.$/);
  assert.match(viewOf("?until=yesterday").problem, /^“yesterday” is not a time/);
  assert.equal(viewOf("?span=&until=").problem, "");
});

test("numbers and times are in the reader's locale", () => {
  const show = "import('./dom.js').then((dom) => console.log(JSON.stringify(["
    + "dom.exact.format(12345), dom.percent.format(0.64), dom.rate(2.5), dom.clock(Date.UTC(2026, 0, 31, 20, 15, 7)), dom.passed(1200)])))";
  const shown = (locale) => {
    const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", show], {
      cwd: new URL("..", import.meta.url), env: { LC_ALL: locale, TZ: "UTC" }, encoding: "utf8",
    });
    return JSON.parse(stdout.replaceAll(/[\u00a0\u202f]/g, " "));
  };
  assert.deepEqual(shown("en_US.UTF-8"), ["12,345", "64%", "2.5", "8:15:07 PM", "1.2 s"]);
  assert.deepEqual(shown("de_DE.UTF-8"), ["12.345", "64 %", "2,5", "20:15:07", "1,2 s"]);
});
