//! Takes the screenshots of the pages for the README, by `make screenshots`. Reactions are generated for some minutes
//! first.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod harness;

use std::path::Path;

use fantoccini::Client;
use harness::{
    browser::{Driver, Look, holds, in_browsers, shown, tap},
    node::{self, Node},
};

const LIGHT: &str = "--blink-settings=preferredColorScheme=1";
const DARK: &str = "--blink-settings=preferredColorScheme=0";

#[test]
#[ignore = "it takes minutes, and writes into docs/"]
fn the_screenshots_are_written_to_docs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let crowd = [
        "load", "--url", &url, "--rate", "2500/s", "--room", "match", "--rooms", "6", "--probe",
        "off", "--seed", "7",
    ];
    // The generated load has some spikes. The last spike lasts while the screenshots are taken.
    let history = [
        "--duration",
        "150s",
        "--spike",
        "4x@20s+8s,6x@55s+5s,3x@90s+12s",
    ];
    node::output(&[&crowd[..], &history].concat());
    let present = ["--duration", "120s", "--spike", "3x@5s+100s"];
    let _present = Node::start_silent(&[&crowd[..], &present].concat(), &dir.path().join("load"));
    let driver = Driver::start();
    in_browsers(async {
        for (file, page, size, scheme) in [
            ("viewer.png", "/?room=match-1", (1280, 800), LIGHT),
            ("viewer-phone.png", "/?room=match-1", (390, 844), DARK),
            (
                "dashboard.png",
                "/dashboard?room=match-1",
                (1280, 900),
                DARK,
            ),
        ] {
            let look = Look {
                arguments: &[scheme],
                size: Some(size),
                ..Look::default()
            };
            let browser = driver.browser_like(&look).await;
            browser.goto(&format!("{url}{page}")).await.unwrap();
            shown(&browser, r#".status[data-status="open"]"#).await;
            settled(&browser, page).await;
            let png = browser.screenshot().await.unwrap();
            std::fs::write(docs.join(file), png).unwrap();
        }
    });
}

/// Waits until the page shows its main content.
async fn settled(browser: &Client, page: &str) {
    if page.starts_with("/dashboard") {
        holds(
            browser,
            "document.querySelectorAll('#peaks li').length >= 3",
        )
        .await;
        holds(
            browser,
            "document.querySelector('#delay').textContent !== '–'",
        )
        .await;
        holds(
            browser,
            "/[0-9]/.test(document.querySelector('#rooms .count').textContent)",
        )
        .await;
        return;
    }
    tap(browser, "🎉").await;
    holds(
        browser,
        "document.querySelector('#delay').textContent.includes('from a tap')",
    )
    .await;
    let aloft = "document.querySelector('emostream-room').particles > 150";
    holds(browser, aloft).await;
}
