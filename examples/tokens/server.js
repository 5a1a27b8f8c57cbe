// Serves the page, and tokens for it. The secret is the file that `emostream up --jwt-key` reads.
//
//     openssl rand -base64 32 > key
//     emostream up --jwt-key key &
//     node server.js
import { createHmac, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const { PORT = "8090", KEY = "key", TOKEN_SECONDS = "60", EMOSTREAM_URL = "http://127.0.0.1:8080" } = process.env;
const secret = readFileSync(KEY, "utf8").trim();
const html = readFileSync(new URL("index.html", import.meta.url), "utf8");
const page = html.replaceAll("http://127.0.0.1:8080", EMOSTREAM_URL);

/** Returns a JWT that lets this user react in one room, for a short time. */
function token(user) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, rooms: ["match-7"], exp: Math.floor(Date.now() / 1000) + Number(TOKEN_SECONDS) };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

const server = createServer((request, response) => {
  // Your service has a session, which names the user. Here the browser keeps a random name.
  const user = /user=(guest-[\w-]+)/.exec(request.headers.cookie ?? "")?.[1];
  if (request.url === "/token" && user) return response.end(token(user));
  if (request.url !== "/") return response.writeHead(404).end();
  const cookie = `user=${user ?? `guest-${randomUUID()}`}; HttpOnly; SameSite=Strict`;
  response.writeHead(200, { "content-type": "text/html; charset=utf-8", "set-cookie": cookie }).end(page);
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
