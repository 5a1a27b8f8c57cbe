// Tests of the package: its files, their sizes as served, side effects, and rendering on a server.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { createElement } from "react";
import { renderToString } from "react-dom/server";

const WEB = fileURLToPath(new URL("..", import.meta.url));
const read = (file) => readFileSync(join(WEB, file), "utf8");
const PACKAGE = JSON.parse(read("package.json"));
const IMPORT = /(?:\bfrom |\bimport |\bimport\()"\.\/([^"]+)"/g;

/** Returns a file and all files of the package that it imports. */
function withImports(file, found = new Set()) {
  if (found.has(file)) return found;
  found.add(file);
  for (const [, imported] of served(read(file)).matchAll(IMPORT)) {
    const types = imported.replace(/\.js$/, ".d.ts");
    withImports(file.endsWith(".d.ts") && existsSync(join(WEB, types)) ? types : imported, found);
  }
  return found;
}

/** Returns a script as it is served, by the same rule as `without_comments` in broadcast/src/http/assets.rs. */
function served(source) {
  let isInside = false;
  return source.split("\n").map((line) => {
    const text = line.trimStart();
    if (!isInside && !text.startsWith("/*")) return text.startsWith("//") ? "" : line;
    const end = text.indexOf("*/");
    isInside = end < 0;
    return isInside ? "" : text.slice(end + 2);
  }).join("\n");
}

test("the package has every file that its exports need", () => {
  const exported = Object.values(PACKAGE.exports).flatMap((entry) => (typeof entry === "string" ? entry : Object.values(entry)));
  const needed = new Set(exported.flatMap((path) => [...withImports(path.slice("./".length))]));
  needed.delete("package.json"); // npm always packs this file
  const licences = ["LICENSE-APACHE", "LICENSE-MIT"];
  assert.deepEqual([...PACKAGE.files].sort(), [...needed, ...licences].sort());
  for (const licence of licences) assert.ok(existsSync(join(WEB, "../..", licence)));
});

for (const [name, file, most] of [["the client", "emostream.js", 8], ["the client with the element", "emostream-room.js", 24]]) {
  test(`${name} has at most ${most} KiB, gzipped`, () => {
    const sizes = [...withImports(file)].map((each) => [each, gzipSync(served(read(each)), { level: 9 }).length]);
    const bytes = sizes.reduce((sum, [, size]) => sum + size, 0);
    assert.ok(bytes <= most * 1024, `${bytes} bytes: ${sizes.join(" ")}`);
  });
}

test("a script is one without its comments, too", () => {
  for (const file of PACKAGE.files.filter((each) => each.endsWith(".js"))) {
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "--check", "-"], { input: served(read(file)) });
    assert.equal(status, 0, `${file}: ${stderr}`);
  }
});

test("only the modules that package.json names have side effects", async () => {
  assert.deepEqual(PACKAGE.sideEffects, ["./auto.js", "./emostream-room.js"]);
  assert.deepEqual([...withImports("emostream.js")], ["emostream.js"]);
  const [globals, timers] = [Reflect.ownKeys(globalThis), process.getActiveResourcesInfo()];
  await import("emostream");
  await import("emostream/react");
  assert.deepEqual([Reflect.ownKeys(globalThis), process.getActiveResourcesInfo()], [globals, timers]);
});

test("React renders a room on a server, as it is before it is joined", async () => {
  const { Room, useRoom } = await import("emostream/react");
  const room = createElement(Room, { room: "match-7", className: "crowd", emojis: "🔥" }, createElement("h1", null, "Match 7"));
  assert.equal(renderToString(room), '<div class="crowd"><h1>Match 7</h1></div>');
  const Status = () => {
    const { status, totals, stream, react } = useRoom({ url: "http://127.0.0.1:1", token: () => "a.b.c" });
    return `${status} ${totals.length} ${stream} ${react("🔥")}`;
  };
  assert.equal(renderToString(createElement(Status)), "connecting 0 undefined false");
});
