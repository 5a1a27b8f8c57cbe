//! Tests of `examples/`: they are installed from their lock file, type-checked and built as their readers do it, and run
//! in a browser or in Node against a real server.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

use serde_json::{Value, json};

use crate::harness::{
    browser::{Driver, counted, holds, in_browsers, joined, tap, value},
    http,
    node::Node,
    npm,
    origin::serve_example,
    signal::signal,
    until,
};

/// Room of all examples.
const ROOM: &str = "match-7";

/// Lifetime of a token in seconds that is renewed while the test looks on.
const TOKEN_SECONDS: &str = "8";

/// The folder of the examples, in which all of them are built.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    npm::install(&examples);
    npm::npm(&examples, &["run", "build"]);
    examples
});

/// A process of Node that runs an example. It is killed when this value is dropped.
struct Script {
    child: Child,
    output: PathBuf,
}

impl Script {
    /// Starts a script of `examples/`; its output goes to a file in `dir`.
    fn start(dir: &Path, script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Script {
        let output = dir.join("output");
        let file = File::create(&output).unwrap();
        let child = Command::new("node")
            .arg(BUILT.join(script))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(file.try_clone().unwrap())
            .stdout(file)
            .spawn()
            .unwrap();
        Script { child, output }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// Waits until the output has this text.
    fn prints(&self, text: &str) {
        until(&format!("{text:?} in the output"), || {
            self.printed().contains(text).then_some(())
        });
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.printed());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Posts reactions with the same emoji.
fn react(node: &Node, emoji: &str, count: usize) {
    let one = json!({"user_id": "u", "emoji_type": emoji, "room": ROOM});
    let body = Value::Array(vec![one; count]).to_string();
    let answer = http::post(&node.address, "/v1/reactions", &body).unwrap();
    assert_eq!(answer.status, 202);
}

#[test]
fn every_page_shows_a_reaction_that_was_posted() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let button = "document.querySelector('[data-total=\"🔥\"]').textContent";
    let element = "document.querySelector('emostream-room').shadowRoot\
                   .querySelector('[data-total=\"🔥\"]').textContent";
    let sum = "document.querySelector('#sum').textContent";
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        let pages = [
            ("plain", element),
            ("overlay", element),
            ("board", sum),
            ("vite/dist", button),
            ("react/dist", button),
        ];
        for (expected, (page, count)) in (1..).zip(pages) {
            let origin = serve_example(BUILT.join(page), node.address.clone());
            browser.goto(&format!("http://{origin}/")).await.unwrap();
            // The page shows the counts of the room that it has joined, and then the new reaction.
            if expected > 1 {
                holds(&browser, &format!("{count} === '{}'", expected - 1)).await;
            }
            react(&node, "🔥", 1);
            holds(&browser, &format!("{count} === '{expected}'")).await;
            if page != "vite/dist" {
                joined(&browser).await;
            }
        }
    });
}

#[test]
fn over_a_playing_video_only_the_buttons_take_clicks() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let page = serve_example(BUILT.join("overlay"), node.address.clone());
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        browser.goto(&format!("http://{page}/")).await.unwrap();
        joined(&browser).await;
        let video = "document.querySelector('video')";
        holds(&browser, &format!("{video}.currentTime > 0")).await;
        let before = value(&browser, &format!("{video}.currentTime")).await;
        let before = before.as_f64().unwrap();
        tap(&browser, "👏").await;
        counted(&browser, "👏", 1).await;
        // The element covers the middle of the video, but a click there reaches the video.
        let hit = "(() => { const { left, top, width, height } = document.querySelector('video').getBoundingClientRect(); \
            return document.elementFromPoint(left + width / 2, top + height / 2).localName; })()";
        assert_eq!(value(&browser, hit).await, json!("video"));
        holds(
            &browser,
            &format!("{video}.currentTime > {before} && !{video}.paused"),
        )
        .await;
    });
}

#[test]
fn a_page_with_tokens_stays_connected_after_its_first_token_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "a secret of at least 32 bytes, as RFC 7518 asks for").unwrap();
    let key = key.to_str().unwrap();
    let node = Node::up(dir.path(), &["--jwt-key", key]);
    let url = format!("http://{}", node.address);
    let environment = [
        ("PORT", "0"),
        ("KEY", key),
        ("TOKEN_SECONDS", TOKEN_SECONDS),
        ("EMOSTREAM_URL", &url),
    ];
    let server = Script::start(dir.path(), "tokens/server.js", &[], &environment);
    let page = until("the address of the page", || {
        let printed = server.printed();
        printed.lines().next().map(str::to_owned)
    });
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        browser.goto(&page).await.unwrap();
        let status = "document.querySelector('#status').textContent";
        let tokens = "Number(document.querySelector('#tokens').textContent)";
        let count = "Number(document.querySelector('#count').textContent)";
        holds(&browser, &format!("{status}.startsWith('open')")).await;
        for taps in 1..=2 {
            let first = value(&browser, tokens).await.as_f64().unwrap();
            let fire = "document.querySelector('#fire').click()";
            browser.execute(fire, Vec::new()).await.unwrap();
            holds(&browser, &format!("{count} === {taps}")).await;
            holds(&browser, &format!("{tokens} > {first}")).await;
            holds(&browser, &format!("{status}.startsWith('open')")).await;
        }
    });
}

#[test]
fn the_bot_answers_the_crowd_and_ends_at_an_interrupt() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let mut bot = Script::start(dir.path(), "bot/bot.js", &[&url, ROOM], &[]);
    bot.prints("open");
    // Even if a window ends while these reactions are sent, one window contains at least ten of them.
    react(&node, "🔥", 30);
    bot.prints("of them 🔥");
    until("the bot's reaction", || {
        let state = http::get(&node.address, &format!("/v1/rooms/{ROOM}")).ok()?;
        let state = state.json();
        let mut totals = state["totals"].as_array()?.iter();
        totals.find(|total| total["emoji"] == "🎉").map(|_| ())
    });
    signal(bot.child.id(), "INT");
    let status = until("the bot's end", || bot.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}
