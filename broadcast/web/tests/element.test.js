// Tests of the pure functions of the element and of the viewer page. `node --test` runs them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { DEMO_MS, pace, reactions } from "../demo.js";
import { Pictures, codePoints, emotes } from "../emotes.js";

test("emojis are found with and without spaces, own emotes by a name before the emoji as which they count", () => {
  assert.deepEqual(emotes("🔥👏 ⚽️🇫🇷1️⃣").found.map(({ emoji }) => emoji), ["🔥", "👏", "⚽️", "🇫🇷", "1️⃣"]);
  assert.deepEqual(emotes(":goal:=⚽ 🔥 :Tor-1:=🥅👏"), {
    found: [{ emoji: "⚽", name: "goal" }, { emoji: "🔥", name: undefined }, { emoji: "🥅", name: "Tor-1" }, { emoji: "👏", name: undefined }],
    strange: [],
  });
  assert.deepEqual(emotes("❤️❤").found.length, 1, "the server counts both as one emoji");
});

test("words that are not emojis are named, and make no button", () => {
  assert.deepEqual(emotes("fire 👏 :goal: x🔥"), {
    found: [{ emoji: "👏", name: undefined }, { emoji: "🔥", name: undefined }],
    strange: ["fire", ":goal:", "x"],
  });
  assert.deepEqual(emotes(""), { found: [], strange: [] });
});

test("a picture has the name of its emote, or the code points of its emoji as Twemoji's files do", () => {
  for (const [emoji, name] of [["🔥", "1f525"], ["❤️", "2764"], ["❤", "2764"], ["🇫🇷", "1f1eb-1f1f7"], ["1️⃣", "31-20e3"], ["🏳️‍🌈", "1f3f3-fe0f-200d-1f308"]]) {
    assert.equal(codePoints(emoji), name);
  }
  const own = [{ emoji: "⚽", name: "goal" }, { emoji: "🔥" }];
  for (const [base, goal, fire] of [
    ["https://x.example/{name}.svg", "https://x.example/goal.svg", "https://x.example/1f525.svg"],
    ["/emotes", "/emotes/goal.png", "/emotes/1f525.png"],
    ["/emotes/", "/emotes/goal.png", "/emotes/1f525.png"],
    ["", undefined, undefined],
  ]) {
    const pictures = new Pictures(base, own);
    // The server writes ⚽ with a variation selector, or without.
    assert.deepEqual(["⚽", "⚽️", "🔥"].map((emoji) => pictures.url(emoji)), [goal, goal, fire]);
  }
});

test("a picture is drawn once it is loaded, and a bounded number of them is kept", (t) => {
  const images = [];
  globalThis.Image = class {
    complete = false;
    naturalWidth = 0;
    constructor() { images.push(this); }
  };
  t.after(() => delete globalThis.Image);
  const pictures = new Pictures("/emotes", []);
  assert.equal(pictures.loaded("🔥"), undefined);
  images[0].complete = true;
  assert.equal(pictures.loaded("🔥"), undefined, "it has failed");
  images[0].naturalWidth = 72;
  assert.equal(pictures.loaded("🔥"), images[0]);
  for (let code = 0x1f300; code < 0x1f500; code++) pictures.loaded(String.fromCodePoint(code));
  const { length } = images;
  pictures.loaded(String.fromCodePoint(0x1f4ff));
  assert.equal(images.length, length, "a new one is kept");
  pictures.loaded("🔥");
  assert.equal(images.length, length + 1, "an old one is loaded again");
});

test("every message can be replaced, and each is a sentence for spectators", async () => {
  const { MESSAGES } = await import("emostream/room");
  const values = { emoji: "🔥", count: "3", number: 1, sum: "1", top: "🔥 1" };
  for (const [key, message] of Object.entries(MESSAGES)) {
    const text = typeof message === "function" ? message(values) : message;
    assert.ok(text.length > 0 && !/token|server|--|http|undefined/i.test(text), `${key}: ${text}`);
  }
  assert.equal(MESSAGES.summary(values), "1 reaction. 🔥 1.");
  assert.equal(MESSAGES.summary({ ...values, number: 2, sum: "2" }), "2 reactions. 🔥 1.");
});

test("the demo crowd is small, and its users are recognizable", () => {
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  let sum = 0;
  for (let ms = 0; ms < DEMO_MS; ms += 250) {
    const batch = reactions("match-7", ms / 1000, random);
    assert.ok(batch.length <= 1000, "more than the server accepts in one request");
    for (const { user_id, room } of batch) assert.match(`${user_id} ${room}`, /^demo-\d{1,3} match-7$/);
    sum += batch.length;
  }
  assert.ok(sum > 4000 && sum < 12_000, `${sum}`);
  const moments = Array.from({ length: 60 }, (_, second) => pace(second)).filter(({ moment }) => moment > 0);
  // With the default settings, 1000 identical emojis in a window of 2 s are a swarm.
  assert.ok(moments.length > 3 && moments.every(({ moment, emoji }) => moment >= 500 && emoji));
});
