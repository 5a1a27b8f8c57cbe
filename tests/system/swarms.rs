//! Measures the frame rate of rising swarms without a GPU. `make bench FIGURE=swarms` runs it, on a quiet machine. It
//! prints the figures and asserts nothing about them.
//!
//! ```text
//!  a page of 1920 × 1080 with a canvas ── rise() as tallies come ──▶ many emojis in the air, for seconds
//!       └── every animation frame timed ──▶ frames/s, gaps, the draw call      /proc ──▶ Chromium's CPU
//! ```

use std::{collections::BTreeSet, fs};

use crate::harness::{
    browser::{Driver, Look, holds, in_browsers, value},
    node::Node,
    origin::serve,
};

/// Width and height of the page, in pixels.
const SCREEN: (u32, u32) = (1920, 1080);

/// The measured page. Its function `rise(wanted)` keeps about `wanted` emojis in the air, in swarms of fifty. It waits
/// until the first swarms have ended, and then measures each frame for five seconds.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8">
<style>body { margin: 0 } canvas { display: block; width: 100vw; height: 100vh; accent-color: #6a5cf0; outline-color: #fff }</style>
<canvas></canvas>
<script type="module">
import { Swarms } from "http://SERVER/swarms.js";
const EMOJIS = [..."🔥👏😂😮😢🎉👍😍"];
const SWARM_SIZE = 1000, LIVE_MS = 250, LANDED_MS = 7000, TIMED_MS = 5000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const ask = requestAnimationFrame.bind(window);
let frames = [];
window.requestAnimationFrame = (draw) => ask((now) => {
  const begun = performance.now();
  draw(now);
  frames.push([now, performance.now() - begun]);
});
const share = (list, of) => [...list].sort((a, b) => a - b)[Math.floor(of * (list.length - 1))];
window.rise = async (wanted) => {
  window.timed = undefined;
  const swarms = new Swarms(document.querySelector("canvas"));
  const seen = [];
  const tallies = setInterval(() => {
    seen.push(swarms.particles);
    const each = Math.ceil((wanted - swarms.particles) / 50 / EMOJIS.length);
    if (each > 0) swarms.rise(EMOJIS.map((emoji) => ({ emoji, before: 0, after: each * SWARM_SIZE + 5 })), SWARM_SIZE, LIVE_MS);
  }, LIVE_MS);
  await pause(LANDED_MS);
  seen.length = frames.length = 0;
  window.timing = true;
  await pause(TIMED_MS);
  window.timing = false;
  clearInterval(tallies);
  const gaps = frames.slice(1).map(([now], nth) => now - frames[nth][0]);
  const drawing = frames.map(([, took]) => took);
  window.timed = {
    seen: share(seen, 0.5), frames: frames.length, rate: 1000 * gaps.length / (frames.at(-1)[0] - frames[0][0]),
    gap: share(gaps, 0.99), usual: share(drawing, 0.5), slow: share(drawing, 0.99),
  };
  swarms.close();
};
</script>"#;

#[test]
#[ignore = "a figure, for a quiet machine: it takes a minute"]
fn frame_rate_by_number_of_rising_emojis() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let page = serve(PAGE.replace("SERVER", &node.address));
    let driver = Driver::start();
    println!(
        "| in the air | frames/s | p99 ms from frame to frame | draw call p50, p99 ms | CPU ms a frame, all of Chromium |"
    );
    println!("|---|---|---|---|---|");
    in_browsers(async {
        let look = Look {
            size: Some(SCREEN),
            ..Look::default()
        };
        let browser = driver.browser_like(&look).await;
        browser.goto(&format!("http://{page}/")).await.unwrap();
        holds(&browser, "window.rise").await;
        for wanted in [1000, 3000, 5000] {
            let rise = format!("void rise({wanted})");
            browser.execute(&rise, Vec::new()).await.unwrap();
            holds(&browser, "window.timing").await;
            let before = cpu_ms(driver.pid());
            holds(&browser, "!window.timing").await;
            let cpu_ms = cpu_ms(driver.pid()) - before;
            holds(&browser, "window.timed").await;
            let timed = value(&browser, "window.timed").await;
            let of = |name: &str| timed[name].as_f64().unwrap();
            println!(
                "| {} | {:.1} | {:.1} | {:.1}, {:.1} | {:.1} |",
                of("seen"),
                of("rate"),
                of("gap"),
                of("usual"),
                of("slow"),
                cpu_ms as f64 / of("frames"),
            );
        }
    });
}

/// Returns the CPU time of a process and of its descendants.
fn cpu_ms(root: u32) -> u64 {
    const TICK_MS: u64 = 10;
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found: Vec<(u32, u32, u64)> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            // The fields after the name in parentheses are the state, the parent, …, the user time (12th) and the
            // system time (13th).
            let stat = stat(&pid)?;
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let ticks = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
            Some((pid.parse().ok()?, fields[1].parse().ok()?, ticks))
        })
        .collect();
    // Process ids wrap around, so a child may be listed before its parent. The loop adds children until there are no
    // more.
    let mut family = BTreeSet::from([root]);
    let mut ticks = 0;
    loop {
        let (kin, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(pid, parent, _)| family.contains(pid) || family.contains(parent));
        if kin.is_empty() {
            return ticks * TICK_MS;
        }
        family.extend(kin.iter().map(|(pid, ..)| *pid));
        ticks += kin.iter().map(|(.., ticks)| ticks).sum::<u64>();
        found = others;
    }
}
