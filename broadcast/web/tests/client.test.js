// Tests of the client in Node, with the WebSocket of the package ws: tokens, reasons of status changes, refusals,
// resuming.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { connect } from "emostream";
import WebSocket, { WebSocketServer } from "ws";

const TIMEOUT = { timeout: 20_000 };
const HELLO = { type: "hello", room: "default", heartbeat_ms: 15_000, latest: null, resumed: false };

/** Returns a token for `user` that expires after `left_ms`. It is not signed. */
function tokenFor(user, left_ms = 3_600_000) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ sub: user, exp: (Date.now() + left_ms) / 1000 })}.x`;
}

/** Returns the token in a `Bearer` header or a subprotocol. */
const bearerOf = ({ authorization = "" }) => authorization.replace("Bearer ", "");
const protocolOf = (headers) => (headers["sec-websocket-protocol"] ?? "").split("emostream.token.")[1];

/** A server. `admit(token)` returns a status for requests and connections; `post(reactions)` a status and a body. */
async function serve(t, { admit = () => 200, post = () => [202, {}] } = {}) {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const admitted = admit(bearerOf(request.headers));
    const [status, json] = admitted !== 200 ? [admitted, { detail: `answered ${admitted}` }]
      : request.method === "POST" ? post(JSON.parse(body)) : [200, { totals: [] }];
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(json));
  });
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "emostream" });
  const joins = [];
  const waiting = [];
  server.on("upgrade", (request, socket, head) => {
    const token = protocolOf(request.headers);
    if (admit(token) !== 200) return socket.end("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (line) => {
      const says = (frame) => line.send(JSON.stringify(frame));
      const join = { line, says, token, since: new URL(request.url, "http://server").searchParams.get("since") };
      says({ ...HELLO, now: Date.now(), resumed: join.since !== null });
      joins.push(join);
      waiting.shift()?.(join);
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections();
    for (const line of sockets.clients) line.terminate();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, joins, nextJoin: () => new Promise((resolve) => waiting.push(resolve)) };
}

/** Connects until the end of the test, and collects the details of events. */
function join(t, options) {
  const crowd = connect({ user: "u", WebSocket, ...options });
  t.after(() => crowd.close());
  const [changes, refused] = [[], []];
  crowd.addEventListener("status", ({ detail }) => changes.push(`${detail.status} ${detail.reason}`));
  crowd.addEventListener("refused", ({ detail }) => refused.push(detail));
  return { crowd, changes, refused };
}

const final = (id) => ({ type: "final", id, room: "default", total: 0, counts: [], totals: [] });
const eventOf = async (crowd, type) => (await once(crowd, type))[0].detail;

/** Waits for a status. */
async function reaches(crowd, status) {
  while (crowd.status !== status) await once(crowd, "status");
}

test("without a WebSocket, the error names the option", (t) => {
  const { WebSocket: own } = globalThis;
  t.after(() => { globalThis.WebSocket = own; });
  delete globalThis.WebSocket;
  assert.throws(() => connect({ url: "http://127.0.0.1:1" }), /Node before 22 needs the option WebSocket/);
  assert.throws(() => connect({ url: "http://127.0.0.1:1", transport: "sse", WebSocket }), TypeError);
});

test("a Node program receives and sends with the WebSocket of the package ws", TIMEOUT, async (t) => {
  const posted = [];
  const { url, nextJoin } = await serve(t, { post: (reactions) => (posted.push(...reactions), [202, {}]) });
  const joined = nextJoin();
  const { crowd, changes } = join(t, { url });
  assert.equal((await eventOf(crowd, "hello")).room, "default");
  (await joined).says(final("0-7"));
  assert.equal((await eventOf(crowd, "final")).id, "0-7");
  assert.equal(crowd.lastId, "0-7");
  crowd.react("🔥");
  crowd.close();
  while (posted.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(posted, [{ user_id: "u", emoji_type: "🔥", room: "default" }]);
  assert.deepEqual(changes, ["open start", "closed closed"]);
});

test("a server that is not there is no unhandled error", TIMEOUT, async (t) => {
  const { crowd, changes } = join(t, { url: "http://127.0.0.1:1" });
  assert.deepEqual(await eventOf(crowd, "status"), {
    status: "connecting", reason: "unreachable", detail: "The connection could not be opened.",
  });
  crowd.close();
  assert.deepEqual(changes, ["connecting unreachable", "closed closed"]);
});

test("status says why", TIMEOUT, async (t) => {
  const { url, joins } = await serve(t);
  const { crowd, changes } = join(t, { url });
  await reaches(crowd, "open");
  joins[0].line.terminate();
  await reaches(crowd, "connecting");
  await reaches(crowd, "open");
  joins[1].says({ type: "bye", retry_ms: 1 });
  await reaches(crowd, "connecting");
  await reaches(crowd, "open");
  joins[2].line.close(3501);
  const { detail } = await eventOf(crowd, "status");
  assert.equal(detail, "The server closed the connection with code 3501.");
  assert.deepEqual(changes, ["open start", "connecting lost", "open lost", "connecting server", "open server", "closed ended"]);
  assert.equal(crowd.react("🔥"), false);
});

test("a later stream continues with `since`", TIMEOUT, async (t) => {
  const { url, nextJoin } = await serve(t);
  for (const since of ["7", "0-7-1", "", 7]) assert.throws(() => connect({ url, WebSocket, since }), /since is/);
  const joined = nextJoin();
  const { crowd } = join(t, { url, since: "0-7" });
  assert.equal(crowd.lastId, "0-7");
  const state = eventOf(crowd, "state");
  const { since, says } = await joined;
  assert.equal(since, "0-7");
  for (const id of ["0-7", "0-8"]) says(final(id));
  assert.equal((await eventOf(crowd, "final")).id, "0-8");
  assert.equal(crowd.lastId, "0-8");
  assert.deepEqual(await state, { totals: [] }, "this stream has not seen the counts before");
});

test("a token function is called at each connection, and again after 3500", TIMEOUT, async (t) => {
  const { url, joins } = await serve(t);
  let nth = 0;
  const { crowd, changes } = join(t, { url, token: async () => tokenFor(`user-${++nth}`) });
  await reaches(crowd, "open");
  joins[0].line.terminate();
  await reaches(crowd, "connecting");
  await reaches(crowd, "open");
  joins[1].line.close(3500);
  await reaches(crowd, "connecting");
  await reaches(crowd, "open");
  assert.deepEqual(changes, ["open start", "connecting lost", "open lost", "connecting token", "open token"]);
  const users = joins.map(({ token }) => JSON.parse(Buffer.from(token.split(".")[1], "base64url")).sub);
  assert.deepEqual(users, ["user-1", "user-2", "user-3"]);
});

test("a token that is a string ends with 3500, unless another was set", TIMEOUT, async (t) => {
  const { url, joins } = await serve(t);
  const { crowd, changes } = join(t, { url, token: "a.b.c" });
  await reaches(crowd, "open");
  crowd.token = "d.e.f";
  assert.equal(crowd.token, "d.e.f");
  assert.equal(crowd.status, "open", "the connection is not interrupted");
  joins[0].line.close(3500);
  await reaches(crowd, "connecting");
  await reaches(crowd, "open");
  joins[1].line.close(3500);
  await reaches(crowd, "closed");
  assert.deepEqual(joins.map(({ token }) => token), ["a.b.c", "d.e.f"]);
  assert.deepEqual(changes, ["open start", "connecting token", "open token", "closed unauthorized"]);
});

test("a token is renewed before it expires, and no final is missed", TIMEOUT, async (t) => {
  const { url, joins, nextJoin } = await serve(t);
  let nth = 0;
  const joined = nextJoin();
  const { crowd, changes } = join(t, { url, token: () => tokenFor("u", ++nth === 1 ? 2000 : 3_600_000) });
  const begun = Date.now();
  (await joined).says(final("0-7"));
  await eventOf(crowd, "final");
  const renewed = await nextJoin();
  assert.ok(Date.now() - begun < 2000);
  assert.equal(renewed.since, "0-7");
  await reaches(crowd, "open");
  assert.deepEqual(changes, ["open start", "connecting token", "open token"]);
  assert.equal(joins.length, 2);
});

test("reactions that got 401 are sent again with a new token", TIMEOUT, async (t) => {
  const posted = [];
  const { url } = await serve(t, {
    admit: (token) => (token === tokens[0] && posted.length === 0 && isExpired ? 401 : 200),
    post: (reactions) => (posted.push(...reactions.map(({ user_id }) => user_id)), [202, {}]),
  });
  const tokens = [tokenFor("ann"), tokenFor("bob")];
  let nth = 0;
  let isExpired = false;
  const { crowd, refused } = join(t, { url, user: undefined, token: () => tokens[nth++] });
  await reaches(crowd, "open");
  isExpired = true;
  crowd.react("🔥");
  while (posted.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(posted, ["bob"], "the user is the token's");
  assert.deepEqual(refused, []);
});

test("reactions wait for the first token", TIMEOUT, async (t) => {
  const posted = [];
  const { url } = await serve(t, { post: (reactions) => (posted.push(...reactions), [202, {}]) });
  let give;
  const { crowd } = join(t, { url, user: undefined, token: () => new Promise((resolve) => { give = resolve; }) });
  crowd.react("🔥");
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.deepEqual(posted, []);
  give(tokenFor("ann"));
  while (posted.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(posted, [{ user_id: "ann", emoji_type: "🔥", room: "default" }]);
});

test("a token function that fails is called again, and its error is the detail", TIMEOUT, async (t) => {
  const { url } = await serve(t);
  let nth = 0;
  const token = () => {
    if (++nth <= 3) throw new Error("no session");
    return "a.b.c";
  };
  const { crowd, changes, refused } = join(t, { url, token });
  const { detail } = await eventOf(crowd, "status");
  assert.equal(detail, "There is no valid token: no session");
  await reaches(crowd, "open");
  assert.deepEqual(changes, ["connecting token", "open token"]);
  assert.deepEqual(refused, []);
});

for (const [name, token, calls] of [["a string", "a.b.c", 0], ["a function", () => (asked += 1, `a.b.${asked}`), 2]]) {
  test(`a server that refuses a token closes the stream: ${name}`, TIMEOUT, async (t) => {
    const { url } = await serve(t, { admit: () => 401 });
    asked = 0;
    const { crowd, changes, refused } = join(t, { url, token });
    await reaches(crowd, "closed");
    assert.equal(changes.at(-1), "closed unauthorized");
    assert.deepEqual(refused, [{ detail: "answered 401", retry_ms: 0, emojis: [] }]);
    // One more call may be in progress while the state is requested.
    assert.ok(asked >= calls && asked <= calls + 1, `${asked} calls`);
  });
}
let asked = 0;

test("a token for other rooms closes the stream as forbidden", TIMEOUT, async (t) => {
  const { url } = await serve(t, { admit: () => 403 });
  const { crowd } = join(t, { url, token: () => "a.b.c" });
  let change;
  do change = await eventOf(crowd, "status"); while (change.status !== "closed");
  assert.deepEqual(change, { status: "closed", reason: "forbidden", detail: "answered 403" });
});

test("`refused` names the emojis, and nothing else of the request", TIMEOUT, async (t) => {
  const rejected = [{ index: 1, detail: "not an emoji" }];
  const answers = [[207, { accepted: 2, rejected }], [400, { detail: "malformed" }], [503, { detail: "full" }]];
  const { url } = await serve(t, { post: () => answers.shift() ?? [202, {}] });
  const { crowd, refused } = join(t, { url });
  for (const emojis of [["🔥", "fyre", "👏"], ["😂"], ["🎉", "🎉"]]) {
    const told = eventOf(crowd, "refused");
    for (const emoji of emojis) crowd.react(emoji);
    await told;
  }
  const details = refused.map(({ detail, emojis, retry_ms }) => [detail, emojis, retry_ms > 0]);
  assert.deepEqual(details, [["not an emoji", ["fyre"], false], ["malformed", ["😂"], false], ["full", ["🎉", "🎉"], true]]);
});
