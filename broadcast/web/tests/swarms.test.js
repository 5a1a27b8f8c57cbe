// The rules of the picture, and what is in the air, whatever the crowd does: with a canvas that draws nothing, and a
// clock that the test moves. `node --test` runs it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { mosaicOf } from "../mosaic.js";
import {
  KINDS, RESTART, START, baseOf, between, gapOf, heightAt, laneFor, levelOf, paceAfter, placesFor, rateAfter, unitsOf,
} from "../motion.js";

const FACES = ["🔥", "👏", "😂", "❤️", "😮", "😢", "🎉", "👍"];
const SWARM_SIZE = 1000;
const LIVE_MS = 250;
const NONE = { one: 0, ten: 0, hundred: 0, swarm: 0 };

test("the rate follows the crowd within seconds, and the level is its logarithm", () => {
  let rate = 0;
  for (let tally = 0; tally < 40; tally++) rate = rateAfter(rate, 250, 250);
  assert.ok(Math.abs(rate - 1000) < 100, `${rate}`);
  assert.ok(rateAfter(rate, 0, 20_000) < 1);
  const levels = [0, 1, 20, 100, 500, 1000, 5000, 10_000, 1e6].map(levelOf);
  assert.deepEqual(levels, [...levels].sort((a, b) => a - b));
  assert.deepEqual([levels[0], levels.at(-2), levels.at(-1)], [0, 1, 1]);
  assert.ok(new Set(levels).size >= 6, `${levels}`);
});

test("in a busy room emojis are smaller, faster and closer to each other", () => {
  for (const { size, life_ms } of Object.values(KINDS)) {
    assert.ok(between(size, 1) <= between(size, 0.5) && between(size, 0.5) <= between(size, 0));
    assert.ok(between(life_ms, 1) < between(life_ms, 0.5) && between(life_ms, 0.5) < between(life_ms, 0));
  }
  const places = (level) => placesFor("one", NONE, { area: 800_000, base: 1000, level, capacity: 1, maxParticles: 5000 });
  assert.ok(places(0) < places(0.5) && places(0.5) < places(1));
});

test("a rise is shown digit by digit", () => {
  assert.deepEqual(unitsOf(0), { hundred: 0, ten: 0, one: 0 });
  assert.deepEqual(unitsOf(-850), { hundred: 0, ten: 0, one: 0 });
  assert.deepEqual(unitsOf(7), { hundred: 0, ten: 0, one: 7 });
  assert.deepEqual(unitsOf(15), { hundred: 0, ten: 1, one: 5 });
  assert.deepEqual(unitsOf(342), { hundred: 300, ten: 4, one: 2 });
});

test("the picture of a flock holds all of its emojis", () => {
  for (const [kind, { emojis, around, middle, small, core, step, reach }] of Object.entries(KINDS)) {
    if (kind === "one") continue;
    assert.equal(emojis, around + (middle ? 1 : 0));
    const radius = core + step * Math.sqrt(around - 0.5) + 0.1;
    assert.ok(2 * radius + small <= reach[0] + 0.01, `${kind}: ${2 * radius + small} wide`);
    assert.ok(1.6 * radius + small <= reach[1] + 0.01, `${kind}: ${1.6 * radius + small} high`);
  }
});

test("large flocks find places that smaller ones leave, and all of them no more than the maximum", () => {
  const screen = { area: 1280 * 700, base: 1000, level: 1, capacity: 1, maxParticles: 5000 };
  const aloft = { ...NONE };
  for (const kind of ["ten", "hundred", "swarm"]) {
    const places = placesFor(kind, aloft, screen);
    assert.ok(places > 0, kind);
    aloft[kind] += places;
    assert.ok(placesFor(kind, aloft, screen) <= 0, kind);
  }
  assert.ok(placesFor("ten", aloft, screen) < 0, "there are too many now");
  assert.equal(placesFor("swarm", NONE, { ...screen, maxParticles: 120 }), 2);
  assert.equal(placesFor("one", { ...NONE, swarm: 2 }, { ...screen, maxParticles: 120 }), 20);
});

test("a phone has places for a crowd: as many as a desktop, in its own size", () => {
  const places = (width, height) => placesFor("one", NONE, {
    area: width * height, base: baseOf(width, height), level: levelOf(500), capacity: 1, maxParticles: 5000,
  });
  assert.ok(places(390, 500) > 80, `${places(390, 500)}`);
  assert.ok(places(390, 500) > places(1280, 700) / 2);
});

test("labels of a lane never touch, whatever the order, the delays and the speeds of flights", () => {
  const next = random(7);
  for (const height of [200, 480, 700, 1080]) {
    const label = 40;
    const way = 1.05 * height;
    const gap = gapOf(label, way);
    const lanes = Array(4).fill(undefined);
    const flights = [];
    for (let now = 0; now < 60_000; now += 50) {
      const life_ms = 3800 + next() * 2000;
      const free = laneFor(lanes, next(), now + next() * 250, life_ms, gap, 700);
      if (!free) continue;
      assert.ok(free.start >= now);
      lanes[free.lane] = { born: free.start, life_ms, lane: free.lane };
      flights.push(lanes[free.lane]);
    }
    assert.ok(flights.length > 50, `${flights.length} at ${height}`);
    for (let now = 0; now < 66_000; now += 97) {
      for (let lane = 0; lane < lanes.length; lane++) {
        const aloft = ({ born, life_ms }) => now >= born && now < born + life_ms;
        const flying = flights.filter((flight) => flight.lane === lane && aloft(flight));
        const heights = flying.map(({ born, life_ms }) => way * heightAt((now - born) / life_ms)).sort((a, b) => a - b);
        for (let nth = 1; nth < heights.length; nth++) {
          assert.ok(heights[nth] - heights[nth - 1] > label - 0.01, `${heights[nth] - heights[nth - 1]} at ${height}`);
        }
      }
    }
  }
});

test("the number of emojis follows the frames: on a slow device few, and a still picture where few are too many", () => {
  const run = (state, interval_ms, seconds, took_ms = 1) => {
    let pace = state;
    for (let at = 0; at < seconds * 1000 && !pace.still; at += interval_ms) pace = paceAfter(pace, interval_ms, took_ms);
    return pace;
  };
  assert.equal(run(START, 16.7, 5).capacity, 1);
  assert.ok(run(START, 16.7, 5, 12).capacity < 0.4, "a frame that takes long to draw");
  const late = run(START, 28, 2);
  assert.ok(late.capacity < 0.2 && !late.still);
  assert.ok(run(late, 16.7, 10).capacity > 0.9);
  const slow = run(START, 50, 20);
  assert.ok(slow.still && slow.capacity < 0.1);
  assert.equal(run(RESTART, 50, 2).still, false, "some seconds, not one slow frame");
  assert.equal(paceAfter(START, 20_000, 1).capacity, 1, "a page that was in the background is not slow");
  assert.equal(paceAfter(START, NaN, 1).capacity, 1, "the first frame");
  const display = run(START, 33.4, 60);
  assert.equal(display.still, false);
  assert.ok(run(display, 33.4, 10).capacity > 0.9, "a display of 30 Hz is not a slow device");
});

test("the mosaic fills the picture in proportion, and shows each reaction of a small window", () => {
  const counts = Object.entries({ "😂": 300, "🔥": 3785, "👏": 0, "🎉": 1200 })
    .map(([emoji, count]) => ({ emoji, count, swarms: Math.floor(count / SWARM_SIZE) }));
  for (const [width, height] of [[390, 480], [1280, 700], [700, 90]]) {
    const tiles = mosaicOf(counts, width, height);
    assert.deepEqual(tiles.map(({ emoji }) => emoji), ["🔥", "🎉", "😂"]);
    const cells = tiles.reduce((sum, tile) => sum + tile.cells, 0);
    for (const { emoji, x, y, width: wide, height: high, cells: own, columns, side, count } of tiles) {
      assert.ok(x >= 0 && y >= 0 && x + wide <= width && y + high <= height, emoji);
      assert.ok(Math.abs(own / cells - count / 5285) < 0.02, emoji);
      assert.ok(columns * side <= wide + 0.01 && Math.ceil(own / columns) * side <= high + 0.01, emoji);
    }
    const area = tiles.reduce((sum, tile) => sum + tile.width * tile.height, 0);
    assert.ok(area > width * height * 0.8 && area <= width * height, `${area}`);
    for (const [nth, one] of tiles.entries()) {
      for (const two of tiles.slice(nth + 1)) {
        const across = one.x + one.width <= two.x || two.x + two.width <= one.x;
        assert.ok(across || one.y + one.height <= two.y || two.y + two.height <= one.y, `${one.emoji} ${two.emoji}`);
      }
    }
  }
  const few = mosaicOf([{ emoji: "🔥", count: 3, swarms: 0 }, { emoji: "👏", count: 1, swarms: 0 }], 1280, 700);
  assert.deepEqual(few.map(({ cells }) => cells), [3, 1]);
  assert.deepEqual(mosaicOf([], 1280, 700), []);
});

/** Returns numbers that look random and are the same in each run (a linear congruential generator). */
function random(seed) {
  return () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}

/**
 * The parts of a browser that are needed: a frame is drawn when `frame()` is called. `drawn` has the copied pictures.
 */
function stage(t, width, height) {
  let [now, next] = [1000, undefined];
  const drawn = [];
  const drawing = {
    clearRect() { drawn.length = 0; },
    drawImage() { drawn.push("picture"); },
    fillText() {}, beginPath() {}, roundRect() {}, fill() {},
    measureText: () => ({ width: 10 }),
  };
  const canvas = () => ({ clientWidth: width, clientHeight: height, width: 0, height: 0, getContext: () => drawing });
  const observer = class { observe() {} disconnect() {} };
  const reduced = { matches: false, addEventListener() {}, removeEventListener() {} };
  Object.assign(globalThis, {
    matchMedia: () => reduced,
    document: { hidden: false, createElement: canvas },
    devicePixelRatio: 1,
    ResizeObserver: observer,
    IntersectionObserver: observer,
    getComputedStyle: () => ({ getPropertyValue: () => "" }),
    requestAnimationFrame: (draw) => ((next = draw), 1),
    cancelAnimationFrame: () => { next = undefined; },
  });
  t.mock.method(performance, "now", () => now);
  return {
    canvas: canvas(),
    reduced,
    drawn,
    get runs() { return next !== undefined; },
    wait(ms) { now += ms; },
    frame(after_ms) {
      now += after_ms;
      const draw = next;
      next = undefined;
      draw?.(now);
    },
  };
}

const crowd = (after) => FACES.map((emoji) => ({ emoji, before: 0, after }));

test("the air holds five thousand at most, on any screen, and is empty when all have landed", async (t) => {
  const { Swarms } = await import("../swarms.js");
  for (const [width, height] of [[320, 400], [900, 600], [1920, 1080], [7680, 4320]]) {
    const screen = stage(t, width, height);
    const swarms = new Swarms(screen.canvas);
    let most = 0;
    for (let tally = 0; tally < 60; tally++) {
      swarms.rise(crowd((tally * 7919) % 50_000), SWARM_SIZE, LIVE_MS);
      swarms.tap(FACES[tally % FACES.length], 10, tally);
      for (let nth = 0; nth < 15; nth++) screen.frame(1000 / 60);
      most = Math.max(most, swarms.particles);
    }
    assert.ok(most > 100 && most <= 5000, `${most} at ${width} × ${height}`);
    if (width >= 1920) assert.ok(most > 4500, `${most}: a large screen is filled`);
    for (let nth = 0; nth < 600 && screen.runs; nth++) screen.frame(1000 / 60);
    assert.equal(swarms.particles, 0);
    assert.equal(screen.runs, false, "nothing runs while nothing is in the air");
    t.mock.reset();
  }
});

test("a page may allow fewer emojis, or none", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1920, 1080);
  for (const maxParticles of [0, 1, 60, 700]) {
    const swarms = new Swarms(screen.canvas, { maxParticles });
    for (let tally = 0; tally < 40; tally++) {
      swarms.rise(crowd(2345), SWARM_SIZE, LIVE_MS);
      swarms.tap("🔥", 10, 9);
      for (let nth = 0; nth < 15; nth++) screen.frame(1000 / 60);
      assert.ok(swarms.particles <= maxParticles, `${swarms.particles} of ${maxParticles}`);
    }
    swarms.close();
  }
});

test("nothing moves while it is paused, and nothing that was in the air is left", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1920, 1080);
  const swarms = new Swarms(screen.canvas);
  swarms.rise(crowd(2345), SWARM_SIZE, LIVE_MS);
  assert.ok(swarms.particles > 0);
  swarms.paused = true;
  assert.equal(swarms.particles, 0);
  swarms.rise(crowd(2345), SWARM_SIZE, LIVE_MS);
  swarms.tap("🔥", 10, 1);
  assert.equal(swarms.particles, 0);
  assert.equal(screen.runs, false);
  swarms.paused = false;
  swarms.rise(crowd(2345), SWARM_SIZE, LIVE_MS);
  assert.ok(swarms.particles > 0);
});

test("where frames come late there are fewer emojis at once, and as many again where they do not", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1920, 1080);
  const swarms = new Swarms(screen.canvas);
  const run = (seconds, frame_ms) => {
    for (let passed = 0; passed < seconds * 1000; passed += frame_ms) {
      swarms.rise(crowd(6 * SWARM_SIZE), SWARM_SIZE, LIVE_MS);
      screen.frame(frame_ms);
    }
    return swarms.particles;
  };
  const fluent = run(10, 16);
  const late = run(3, 40);
  assert.ok(late < fluent / 4, `${late} of ${fluent}`);
  assert.equal(swarms.calm, false);
  assert.ok(run(20, 16) > fluent * 0.9);
});

test("where the fewest emojis are too slow for seconds, a still picture replaces them for a minute", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1920, 1080);
  const swarms = new Swarms(screen.canvas);
  for (let passed = 0; passed < 12_000 && !swarms.calm; passed += 100) {
    swarms.rise(crowd(6 * SWARM_SIZE), SWARM_SIZE, LIVE_MS);
    screen.frame(100);
  }
  assert.equal(swarms.calm, true);
  assert.deepEqual([swarms.particles, screen.runs], [0, false]);
  const counts = [{ emoji: "🔥", count: 5, swarms: 0 }, { emoji: "⏱️", count: 9, swarms: 0 }];
  await swarms.mosaic(counts, false);
  assert.equal(screen.drawn.length, 5, "at once, without marks of a load");
  await swarms.mosaic([{ emoji: "👏", count: 1, swarms: 0 }], false);
  assert.equal(screen.drawn.length, 5, "an open window does not replace a picture");
  screen.wait(61_000);
  assert.equal(swarms.calm, false);
  swarms.rise(crowd(10), SWARM_SIZE, LIVE_MS);
  assert.ok(swarms.particles > 0);
});

test("with reduced motion the picture of a window stands still until the next one", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1280, 700);
  const swarms = new Swarms(screen.canvas);
  const counts = [{ emoji: "🔥", count: 2003, swarms: 2 }];
  await swarms.mosaic(counts);
  assert.equal(screen.drawn.length, 0, "only where nothing may move");
  screen.reduced.matches = true;
  swarms.rise(crowd(10), SWARM_SIZE, LIVE_MS);
  swarms.tap("🔥", 10, 1);
  assert.deepEqual([swarms.calm, swarms.particles, screen.runs], [true, 0, false]);
  await Promise.all([swarms.mosaic([{ emoji: "👏", count: 1, swarms: 0 }]), swarms.mosaic(counts)]);
  assert.equal(screen.drawn.length, 240 + 2, "cells, a large emoji and its label, of the newest window only");
  await swarms.mosaic([{ emoji: "👏", count: 1, swarms: 0 }], false);
  assert.equal(screen.drawn.length, 240 + 2, "an open window does not replace a closed one");
  await swarms.mosaic([]);
  assert.equal(screen.drawn.length, 0);
  await swarms.mosaic([{ emoji: "👏", count: 3, swarms: 0 }], false);
  assert.equal(screen.drawn.length, 0, "the picture changes when a window closes");
});

test("a room that is idle after a slow minute removes the still picture, and not what is in the air", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1280, 700);
  const swarms = new Swarms(screen.canvas);
  screen.reduced.matches = true;
  await swarms.mosaic([{ emoji: "🔥", count: 5, swarms: 0 }]);
  screen.reduced.matches = false;
  assert.deepEqual([swarms.calm, screen.drawn.length], [false, 5]);
  await swarms.mosaic([]);
  assert.equal(screen.drawn.length, 0);
  swarms.tap("🔥", 10, 1);
  await swarms.mosaic([]);
  assert.ok(swarms.particles > 0);
});

test("a picture that is loaded later replaces the glyph", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1280, 700);
  const asked = [];
  let loaded;
  const swarms = new Swarms(screen.canvas, { picture: (emoji) => (asked.push(emoji), loaded) });
  screen.reduced.matches = true;
  await swarms.mosaic([{ emoji: "🔥", count: 1, swarms: 0 }]);
  assert.equal(screen.drawn.length, 1);
  loaded = { width: 72, height: 72 };
  await swarms.mosaic([{ emoji: "🔥", count: 1, swarms: 0 }]);
  assert.equal(screen.drawn.length, 2, "the picture, copied into the sprite, and the sprite");
  assert.deepEqual(new Set(asked), new Set(["🔥"]));
});

test("the marks of a load do not rise, and a user's own tap of one does", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1920, 1080);
  const swarms = new Swarms(screen.canvas);
  swarms.rise(["⏮️", "⏭", "⏱️"].map((emoji) => ({ emoji, before: 0, after: 2500 })), SWARM_SIZE, LIVE_MS);
  assert.equal(swarms.particles, 0);
  // These emojis look like the marks of `load`, but are not.
  swarms.rise(["🎬", "🏁"].map((emoji) => ({ emoji, before: 0, after: 1 })), SWARM_SIZE, LIVE_MS);
  assert.equal(swarms.particles, 2);
  swarms.tap("⏱️", undefined, 1);
  assert.equal(swarms.particles, 3);
});

test("the echo of a tap does not rise, and a longer combo makes a larger burst", async (t) => {
  const { Swarms } = await import("../swarms.js");
  const screen = stage(t, 1920, 1080);
  const swarms = new Swarms(screen.canvas);
  swarms.tap("🔥", 10, 1);
  const first = swarms.particles;
  swarms.rise([{ emoji: "🔥", before: 0, after: 1 }], SWARM_SIZE, LIVE_MS);
  assert.equal(swarms.particles, first);
  swarms.rise([{ emoji: "🔥", before: 1, after: 2 }], SWARM_SIZE, LIVE_MS);
  assert.equal(swarms.particles, first + 1);
  swarms.tap("🔥", 10, 6);
  assert.ok(swarms.particles - first - 1 > first);
});
