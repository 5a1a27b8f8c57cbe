// The type declarations, compiled strictly and with the checks of libraries: for the client without a DOM, for Node with
// the package ws, and for a page with React.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const path = (url) => fileURLToPath(new URL(url, import.meta.url));

for (const project of ["client", "node", "page"]) {
  test(`types of ${project}`, () => {
    const tsc = path("../node_modules/typescript/bin/tsc");
    const { status, stdout, stderr } = spawnSync(process.execPath, [tsc, "--project", path(`types/${project}`)], { encoding: "utf8" });
    assert.equal(stdout + stderr, "");
    assert.equal(status, 0);
  });
}
