#!/usr/bin/env python3
"""Runs the golden cases and system tests: all binaries that `cargo test --workspace --test '*'` would run one after
another, LANES at a time. Most of their time they wait for processes, brokers and browsers, so two lanes take little
more than half of the time. The output of a binary is printed when it ends. The exit code is 1 if one of them fails.

    system.py [FLAG…]    FLAG: a flag of the test binaries, such as the name of a test
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

LANES = 2
# The binaries that take longest start first, so that no lane is left alone with one of them at the end.
LONGEST = ["exactly_once", "secured", "time", "cluster", "commits", "standby", "browser", "dashboard"]


def binaries():
    """Builds the test binaries, and returns the messages of cargo about them."""
    command = ["cargo", "test", "--workspace", "--test", "*", "--no-run", "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    messages = map(json.loads, built.stdout.splitlines())
    return [m for m in messages if m["reason"] == "compiler-artifact" and m["executable"] and "test" in m["target"]["kind"]]


def run(binary):
    """Runs a binary as cargo does: in the folder of its package."""
    folder = os.path.dirname(binary["manifest_path"])
    begun = time.monotonic()
    ended = subprocess.run(
        [binary["executable"], *sys.argv[1:]],
        cwd=folder,
        env={**os.environ, "CARGO_MANIFEST_DIR": folder},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return ended, time.monotonic() - begun


def main():
    rank = {name: place for place, name in enumerate(LONGEST)}
    queue = sorted(binaries(), key=lambda binary: rank.get(binary["target"]["name"], len(rank)))
    failed, times = [], []
    with ThreadPoolExecutor(LANES) as lanes:
        running = {lanes.submit(run, binary): binary["target"]["name"] for binary in queue}
        for future in as_completed(running):
            (ended, seconds), name = future.result(), running[future]
            print(f"     Running {name}\n{ended.stdout}", flush=True)
            times.append((seconds, name))
            if ended.returncode != 0:
                failed.append(name)
    for seconds, name in sorted(times, reverse=True):
        print(f"{seconds:6.0f} s  {name}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
