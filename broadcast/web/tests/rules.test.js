// Tests of the pure functions of the pages, and of importing the package where there is no page. `node --test` runs
// them.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { Delay } from "../delay.js";
import { OTHERS, bins, countsOf, csv, layers, pace, peaks } from "../mood.js";
import { Scoreboard, plain } from "../scoreboard.js";

const WINDOW_MS = 2000;
const EMOJIS = ["🔥", "👏", "😂", "❤️", "😮", "😢", "🎉"];

/** Returns numbers that look random and are the same in each run (mulberry32). */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function someFinals(next, most = 60) {
  const finals = [];
  const totals = new Map();
  for (let window = 0; window < most; window++) {
    if (next() < 0.3) continue; // A window without reactions has no final.
    const counts = EMOJIS.filter(() => next() < 0.6).map((emoji) => ({ emoji, count: 1 + Math.floor(next() * 50) }));
    if (counts.length === 0) continue;
    const others = next() < 0.2 ? Math.floor(next() * 9) : 0;
    for (const { emoji, count } of counts) totals.set(emoji, (totals.get(emoji) ?? 0) + count);
    const total = counts.reduce((sum, { count }) => sum + count, others);
    finals.push({
      type: "final",
      id: `0-${window}`,
      start: window * WINDOW_MS,
      end: (window + 1) * WINDOW_MS,
      total,
      counts,
      ...(others > 0 && { others }),
      totals: Array.from(totals, ([emoji, count]) => ({ emoji, count })),
    });
  }
  return finals;
}

test("every reaction is in one bin and one layer, whatever their width and number", () => {
  for (let seed = 0; seed < 200; seed++) {
    const next = random(seed);
    const finals = someFinals(next);
    const shown = layers(finals, 1 + Math.floor(next() * 9));
    const total = finals.reduce((sum, final) => sum + final.total, 0);
    assert.equal(shown.reduce((sum, { count }) => sum + count, 0), total);
    const width = WINDOW_MS * (1 + Math.floor(next() * 7));
    const binned = bins(finals, shown.map(({ emoji }) => emoji), 0, 60 * WINDOW_MS, width);
    assert.equal(binned.reduce((sum, bin) => sum + bin.total, 0), total);
    shown.forEach(({ count }, layer) => {
      assert.equal(binned.reduce((sum, bin) => sum + bin.counts[layer], 0), count);
    });
  }
});

test("what has no layer of its own is among the others", () => {
  const finals = [{ start: 0, end: 2000, total: 6, counts: [{ emoji: "🔥", count: 3 }, { emoji: "👏", count: 2 }], others: 1 }];
  assert.deepEqual(layers(finals, 1), [{ emoji: "🔥", count: 3 }, { emoji: OTHERS, count: 3 }]);
  assert.deepEqual(bins(finals, ["🔥", OTHERS], 0, 2000, 2000)[0].counts, [3, 3]);
});

test("peaks stand out, and apart from each other", () => {
  const totals = [10, 11, 9, 90, 80, 10, 10, 10, 10, 10, 10, 10, 10, 10, 50, 10];
  const finals = totals.map((total, index) => ({ id: `0-${index}`, start: index * 2000, end: index * 2000 + 2000, total, counts: [] }));
  assert.deepEqual(peaks(finals, 5, 20_000).map(({ total }) => total), [90, 50]);
  assert.deepEqual(peaks(finals, 1, 20_000).map(({ total }) => total), [90]);
  assert.deepEqual(peaks(finals.slice(5, 14), 5, 20_000), [], "an even crowd has none");
  assert.deepEqual(peaks(finals.slice(2, 5), 5, 20_000), [], "too few to know what is usual");
});

test("the table has a row for each emoji of each window, and one for those a frame does not list", () => {
  const finals = [{ id: "0-7", start: 0, end: 2000, total: 4, counts: [{ emoji: "🔥", count: 3 }], others: 1 }];
  assert.equal(csv("a", finals), "room,id,start,end,emoji,count\r\n"
    + "a,0-7,1970-01-01T00:00:00.000Z,1970-01-01T00:00:02.000Z,🔥,3\r\n"
    + "a,0-7,1970-01-01T00:00:00.000Z,1970-01-01T00:00:02.000Z,others,1\r\n");
});

test("the sum shown is that of all tallies, at every frame", () => {
  for (let seed = 0; seed < 200; seed++) {
    const next = random(seed);
    const board = new Scoreboard();
    let closed = 0;
    for (const final of someFinals(next).filter(({ others }) => !others)) {
      let share = 0;
      while (next() < 0.6) {
        share += (1 - share) * next();
        const counts = final.counts.map(({ emoji, count }) => ({ emoji, count: Math.floor(count * share) }));
        const total = counts.reduce((sum, { count }) => sum + count, 0);
        board.live({ start: final.start, end: final.end, total, counts });
        assert.equal(board.sum, closed + total);
      }
      // Totals list what was counted before, too; those of the others are left out of these finals.
      closed = final.totals.reduce((sum, { count }) => sum + count, 0);
      board.final(final);
      assert.equal(board.sum, closed);
      for (const { emoji, count } of final.totals) assert.equal(board.total(emoji), count);
      const late = { start: final.start, end: final.end, total: 1, counts: [{ emoji: "🔥", count: 1 }] };
      assert.deepEqual(board.live(late), [], "a tally of a closed window is old");
    }
  }
});

test("a tap is measured when its count rises by it, and not when the crowd's hides it", () => {
  const delay = new Delay();
  delay.tap("❤️", 5, 1000);
  delay.tap("❤️", 5, 1100);
  assert.equal(delay.rose(() => 5, 1200), false);
  assert.equal(delay.rose(() => 6, 1400), true);
  assert.equal(delay.ms, 400);
  assert.equal(delay.rose(() => 7, 1700), true);
  assert.equal(delay.ms, 600, "the median of 400 and 600, the upper one");
  const hidden = new Delay();
  hidden.tap("🔥", 5, 1000);
  assert.equal(hidden.rose(() => 9, 1300), false);
  assert.equal(hidden.ms, undefined);
});

test("in a busy room the mean delay of its reactions is found, though the clocks differ", () => {
  const [lag, skew] = [400, -123_000];
  const delay = new Delay();
  for (let window = 0; window < 5; window++) {
    const start = window * WINDOW_MS;
    // Shows one reaction per millisecond, each `lag` later with the next tally. There is a tally every 10 ms.
    for (let at = 10; at <= WINDOW_MS; at += 10) {
      const emitted_at = start + at + lag;
      delay.live({ start, end: start + WINDOW_MS, total: at, emitted_at }, emitted_at + skew);
    }
    const measured = delay.final({ start, end: start + WINDOW_MS, total: WINDOW_MS }, start + WINDOW_MS + lag + skew);
    // The page has seen only a part of the window that was open on joining. One or two further windows are not enough
    // to show a median.
    assert.equal(measured, window > 2);
    assert.equal(delay.ms === undefined, window <= 2);
  }
  assert.ok(Math.abs(delay.ms - lag) <= 10, `${delay.ms}`);
  // A crowd that stops in the middle of a window cannot be measured.
  delay.live({ start: 10_000, end: 12_000, total: 300, emitted_at: 10_500 }, 10_500 + skew);
  assert.equal(delay.final({ start: 10_000, end: 12_000, total: 300 }, 12_400 + skew), false);
});

test("what an outage has delayed is no delay", () => {
  const delay = new Delay();
  const counted = (window) => ({ start: window * WINDOW_MS, end: (window + 1) * WINDOW_MS, total: 300 });
  const live = (window, now) => delay.live({ ...counted(window), emitted_at: now }, now);
  for (let window = 0; window < 6; window++) {
    live(window, window * WINDOW_MS + 1400);
    if (window < 5) delay.final(counted(window), (window + 1) * WINDOW_MS + 100);
  }
  const before = delay.ms;
  assert.ok(before <= 1000, `${before}`);
  // A minute later the connection is open again, and sends the finals of that minute.
  const back = 6 * WINDOW_MS + 60_000;
  delay.joined();
  for (let window = 5; window < 36; window++) assert.equal(delay.final(counted(window), back), false);
  // The page has seen only a part of the open window.
  live(36, back + 1000);
  assert.equal(delay.final(counted(36), back + 2100), false);
  assert.equal(delay.ms, before);
});

test("the rate is what the chart shows at its end", () => {
  for (let seed = 0; seed < 200; seed++) {
    const finals = someFinals(random(seed));
    const [to, span] = [60 * WINDOW_MS, 5 * WINDOW_MS];
    const shown = bins(finals, layers(finals, 20).map(({ emoji }) => emoji), to - span, to, WINDOW_MS);
    const sum = shown.reduce((all, { total }) => all + total, 0);
    assert.equal(pace(finals, to, span), sum / 10);
    assert.equal(pace(finals, to + 60_000, span), 0, "a minute later it is quiet");
  }
});

test("a final's counts are all that was counted", () => {
  for (const final of someFinals(random(7))) {
    assert.equal(countsOf(final).reduce((sum, [, count]) => sum + count, 0), final.total);
  }
});

test("the package gives the client and the element by name, also where there is no page", async () => {
  const { EmoStream, connect } = await import("emostream");
  assert.equal(typeof connect, "function");
  assert.ok(EmoStream.prototype instanceof EventTarget);
  for (const room of ["no room", ".", "..", ""]) assert.throws(() => connect({ url: "http://127.0.0.1:1", room }), /a room is/);
  assert.throws(() => connect({ url: "http://127.0.0.1:1", transport: "pigeon" }), /transport/);
  const { EmoStreamRoom } = await import("emostream/room");
  assert.equal(typeof EmoStreamRoom, "function");
});

test("a server that takes little at once gets all there is, in smaller pieces", { timeout: 20_000 }, async () => {
  const MOST = 3;
  const sent = Array.from({ length: 20 }, (_, nth) => EMOJIS[nth % EMOJIS.length]);
  const taken = [];
  let tell;
  const all = new Promise((resolve) => (tell = resolve));
  const server = createServer(async (request, answer) => {
    let body = "";
    for await (const piece of request) body += piece;
    const batch = body ? JSON.parse(body) : [];
    const status = batch.length > MOST ? 429 : 202;
    if (status === 202) taken.push(...batch.map(({ emoji_type }) => emoji_type));
    answer.writeHead(status, { "content-type": "application/json", "retry-after": "0" }).end("{}");
    if (taken.length >= sent.length) tell();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  // No server listens on this port.
  globalThis.EventSource = class extends EventTarget { close() {} };
  const { connect } = await import("emostream");
  const crowd = connect({ url: `http://127.0.0.1:${server.address().port}`, user: "u", transport: "sse" });
  for (const emoji of sent) crowd.react(emoji);
  await all;
  crowd.close();
  server.close();
  server.closeAllConnections();
  delete globalThis.EventSource;
  assert.deepEqual(taken, sent);
});

test("an emoji is the same with and without selectors and skin tones", () => {
  for (const text of ["👍", "👍🏽", "👍\uFE0F", "👍\uFE0E", "👍\uFE0F🏿"]) assert.equal(plain(text), "👍");
  assert.equal(plain("❤️"), plain("❤"));
  assert.equal(plain("🏽"), "🏽", "a tone by itself");
});

/** A server of this test; `answer` gets the method, the path and the parsed body of each request. */
async function serving(answer) {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    answer(request.method, request.url, body ? JSON.parse(body) : undefined);
    response.writeHead(202, { "content-type": "application/json" }).end("{}");
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

class Silent extends EventTarget {
  static opened = [];
  constructor(url) {
    super();
    Silent.opened.push(String(url));
  }
  close() {}
}

test("a path of the url comes before the server's own, and what no server has is refused", { timeout: 20_000 }, async () => {
  const { connect } = await import("emostream");
  for (const url of ["https://a.example/?x", "https://a.example/#x", "https://u:p@a.example", "wss://a.example", "ftp://a.example", "no url"]) {
    assert.throws(() => connect({ url }), TypeError, url);
    assert.throws(() => connect({ url: "https://a.example", ingest: url }), TypeError, url);
  }
  globalThis.EventSource = globalThis.WebSocket = Silent;
  Silent.opened = [];
  const asked = [];
  let tell;
  const all = new Promise((resolve) => (tell = resolve));
  const { server, origin } = await serving((method, path) => {
    asked.push(`${method} ${path}`);
    tell();
  });
  const crowds = ["/emo", "/emo/", "", "/"].map((path) => ["sse", "websocket"].map((transport) => {
    return connect({ url: origin + path, user: "u", transport });
  })).flat();
  const host = origin.slice("http:".length);
  assert.deepEqual(Silent.opened, ["/emo", "/emo", "", ""].flatMap((path) => {
    return [`http:${host}${path}/v1/rooms/default/events`, `ws:${host}${path}/v1/rooms/default/ws`];
  }));
  crowds[0].react("🔥");
  await all;
  for (const crowd of crowds) crowd.close();
  server.close();
  server.closeAllConnections();
  delete globalThis.EventSource;
  delete globalThis.WebSocket;
  assert.deepEqual(asked, ["POST /emo/v1/reactions"]);
});

test("a tap is sent by a browser that has no AbortSignal.timeout", { timeout: 20_000 }, async (t) => {
  const { connect } = await import("emostream");
  globalThis.EventSource = Silent;
  const { timeout } = AbortSignal;
  delete AbortSignal.timeout;
  t.after(() => { AbortSignal.timeout = timeout; });
  let tell;
  const sent = new Promise((resolve) => (tell = resolve));
  const { server, origin } = await serving((method, path, body) => tell(body));
  const crowd = connect({ url: origin, user: "u", transport: "sse" });
  crowd.addEventListener("refused", ({ detail }) => tell(detail));
  crowd.react("🔥");
  assert.deepEqual(await sent, [{ user_id: "u", emoji_type: "🔥", room: "default" }]);
  crowd.close();
  server.close();
  server.closeAllConnections();
  delete globalThis.EventSource;
});

test("a defect of the module is not told as a server that cannot be reached", { timeout: 20_000 }, async (t) => {
  const { connect } = await import("emostream");
  globalThis.EventSource = Silent;
  const reported = t.mock.method(console, "error", () => {});
  t.mock.method(globalThis, "Request", function () { throw new TypeError("signal is not a function"); });
  const crowd = connect({ url: "http://127.0.0.1:1", user: "u", transport: "sse" });
  crowd.react("🔥");
  const [{ detail }] = await once(crowd, "refused");
  assert.deepEqual(detail, { detail: "Your reactions were not sent: signal is not a function", retry_ms: 0, emojis: ["🔥"] });
  assert.equal(reported.mock.callCount(), 1);
  crowd.react("🔥");
  await once(crowd, "refused");
  crowd.close();
  delete globalThis.EventSource;
});
