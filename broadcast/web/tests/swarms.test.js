// What is in the air, whatever the crowd does: with a canvas that draws nothing, and time as the test wants it.
// `node --test` runs it.

import assert from "node:assert/strict";
import { test } from "node:test";

const FACES = ["🔥", "👏", "😂", "❤️", "😮", "😢", "🎉", "👍"];
const SWARM_SIZE = 1000;
const LIVE_MS = 250;

/** A browser as far as it is needed: frames come when `frame()` is called. */
function stage(width, height) {
  let [now, next] = [1000, undefined];
  const drawing = {
    clearRect() {}, drawImage() {}, fillText() {}, beginPath() {}, roundRect() {}, fill() {},
    measureText: () => ({ width: 10 }),
  };
  const canvas = () => ({ clientWidth: width, clientHeight: height, width: 0, height: 0, getContext: () => drawing });
  const observer = class { observe() {} disconnect() {} };
  Object.assign(globalThis, {
    matchMedia: () => ({ matches: false }),
    document: { hidden: false, createElement: canvas },
    devicePixelRatio: 1,
    ResizeObserver: observer,
    IntersectionObserver: observer,
    getComputedStyle: () => ({ getPropertyValue: () => "" }),
    requestAnimationFrame: (draw) => ((next = draw), 1),
    cancelAnimationFrame: () => { next = undefined; },
  });
  return {
    canvas: canvas(),
    get runs() { return next !== undefined; },
    frame(after_ms) {
      now += after_ms;
      const draw = next;
      next = undefined;
      draw?.(now);
    },
    clock: () => now,
  };
}

test("the air holds five thousand at most, on any screen, and is empty when all have landed", async (t) => {
  const { Swarms } = await import("../swarms.js");
  for (const [width, height] of [[320, 400], [900, 600], [1920, 1080], [7680, 4320]]) {
    const screen = stage(width, height);
    t.mock.method(performance, "now", screen.clock);
    const swarms = new Swarms(screen.canvas);
    let most = 0;
    for (let tally = 0; tally < 60; tally++) {
      const after = (tally * 7919) % 50_000;
      swarms.rise(FACES.map((emoji) => ({ emoji, before: 0, after })), SWARM_SIZE, LIVE_MS);
      swarms.tap(FACES[tally % FACES.length], 10);
      for (let nth = 0; nth < 15; nth++) screen.frame(1000 / 60);
      most = Math.max(most, swarms.particles);
    }
    assert.ok(most > 100 && most <= 5000, `${most} at ${width} × ${height}`);
    if (width >= 1920) assert.ok(most > 4500, `${most}: a large screen is to be filled`);
    for (let nth = 0; nth < 600 && screen.runs; nth++) screen.frame(1000 / 60);
    assert.equal(swarms.particles, 0);
    assert.equal(screen.runs, false, "nothing runs while nothing is in the air");
    t.mock.reset();
  }
});

test("where frames come late there are places for fewer, and where they do not, for all again", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(1920, 1080);
  t.mock.method(performance, "now", screen.clock);
  const swarms = new Swarms(screen.canvas);
  const run = (seconds, frame_ms) => {
    for (let passed = 0; passed < seconds * 1000; passed += frame_ms) {
      swarms.rise(FACES.map((emoji) => ({ emoji, before: 0, after: 6 * SWARM_SIZE })), SWARM_SIZE, LIVE_MS);
      screen.frame(frame_ms);
    }
    return swarms.particles;
  };
  const fluent = run(10, 16);
  const late = run(10, 40);
  assert.ok(late < fluent / 4, `${late} of ${fluent}`);
  assert.ok(run(20, 16) > fluent * 0.9);
});

test("what a load measures with does not rise, and one's own tap of it does", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(1920, 1080);
  t.mock.method(performance, "now", screen.clock);
  const swarms = new Swarms(screen.canvas);
  swarms.rise(["⏮️", "⏭", "⏱️"].map((emoji) => ({ emoji, before: 0, after: 2500 })), SWARM_SIZE, LIVE_MS);
  assert.equal(swarms.particles, 0);
  // A fan's emojis that look like marks are none.
  swarms.rise(["🎬", "🏁"].map((emoji) => ({ emoji, before: 0, after: 1 })), SWARM_SIZE, LIVE_MS);
  assert.equal(swarms.particles, 2);
  swarms.tap("⏱️", 10);
  assert.equal(swarms.particles, 3);
});
