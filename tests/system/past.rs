//! Tests that a page that is opened a minute after the last reaction does not show this reaction as current.

use std::time::Duration;

use fantoccini::Client;
use serde_json::{Value, json};

use crate::harness::{
    browser::{Driver, holds, in_browsers, joined, shown, value},
    faketime::HostClock,
    http,
    node::Node,
    signal::signal,
    until,
};

const MINUTE: Duration = Duration::from_secs(60);
const ROOM: &str = "match-7";

/// Posts `count` reactions with the same emoji.
fn react(node: &Node, emoji: &str, count: usize) {
    let one = json!({"user_id": "u", "emoji_type": emoji, "room": ROOM});
    let body = Value::Array(vec![one; count]).to_string();
    let answer = http::post(&node.address, "/v1/reactions", &body).unwrap();
    assert_eq!(answer.status, 202);
}

/// Starts an `up`, and waits until 40 reactions of the room are final. Then sets the clock of `up` ahead by a minute.
/// So the last reaction is a minute old, and the browsers' clock is a minute behind the server's.
fn a_minute_after(dir: &std::path::Path) -> Node {
    let clock = HostClock::new(dir);
    let data = dir.join("data");
    let up = ["up", "--listen", "127.0.0.1:0", "--admin", "off", "--data"];
    let up = [&up[..], &[data.to_str().unwrap()]].concat();
    let node = Node::start_in(&clock.environment(), &up, &dir.join("stderr"));
    react(&node, "🔥", 22);
    react(&node, "👏", 10);
    react(&node, "😂", 5);
    react(&node, "❤️", 2);
    react(&node, "😮", 1);
    until("finals of all", || {
        let state = http::get(&node.address, &format!("/v1/rooms/{ROOM}")).ok()?;
        (state.json()["total"] == 40 && state.json()["live"].is_null()).then_some(())
    });
    clock.ahead(MINUTE);
    node
}

/// Makes the page store whether anything was painted on the canvas: the first pixel that is not empty sets
/// `window.painted`.
const WATCH: &str = "const canvas = document.querySelector('emostream-room').shadowRoot.querySelector('canvas'); \
    window.painted = false; \
    const look = () => { const { width, height } = canvas; \
      if (width && canvas.getContext('2d').getImageData(0, 0, width, height).data.some(Boolean)) window.painted = true; \
      else requestAnimationFrame(look); }; look()";

async fn text(browser: &Client, id: &str) -> String {
    let text = value(
        browser,
        &format!("document.getElementById('{id}').textContent"),
    )
    .await;
    text.as_str().unwrap().to_owned()
}

/// Opens a page of the room, and waits for its connection.
async fn open(browser: &Client, node: &Node, page: &str) {
    let url = format!("http://{}{page}?room={ROOM}", node.address);
    browser.goto(&url).await.unwrap();
    shown(browser, r#".status[data-status="open"]"#).await;
}

#[test]
fn a_viewer_that_comes_a_minute_late_sees_old_reactions_rise_nowhere_and_new_ones_rise() {
    let dir = tempfile::tempdir().unwrap();
    let node = a_minute_after(dir.path());
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        open(&browser, &node, "/").await;
        joined(&browser).await;
        browser.execute(WATCH, Vec::new()).await.unwrap();
        holds(
            &browser,
            "document.querySelector('#sum').textContent === '40'",
        )
        .await;
        holds(
            &browser,
            "document.querySelectorAll('#finals li').length > 0",
        )
        .await;
        // A rising emoji is on the canvas for seconds. If one had risen at the start, it would still be there.
        let aloft = "document.querySelector('emostream-room').particles";
        assert_eq!(value(&browser, aloft).await, json!(0));
        assert_eq!(value(&browser, "painted").await, json!(false));
        assert_eq!(text(&browser, "rate").await, "quiet right now");
        assert_eq!(text(&browser, "now").await, "");
        react(&node, "🎉", 1);
        holds(&browser, "painted").await;
    });
}

#[test]
fn the_last_moments_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let node = a_minute_after(dir.path());
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        open(&browser, &node, "/").await;
        holds(
            &browser,
            "document.querySelectorAll('#finals li').length > 0",
        )
        .await;
        let numbers = "[...document.querySelectorAll('#finals li')].map((li) => { \
            const number = (element) => Number(element.textContent.replace(/[^0-9]/g, '')); \
            const sum = [...li.querySelectorAll('.one')].reduce((sum, one) => sum + number(one), 0); \
            return [sum, number(li.querySelector('.count'))]; })";
        let moments = value(&browser, numbers).await;
        for moment in moments.as_array().unwrap() {
            assert_eq!(moment[0], moment[1], "{moments}");
        }
    });
}

#[test]
fn a_dashboard_that_is_opened_a_minute_late_shows_a_quiet_room_in_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let node = a_minute_after(dir.path());
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        open(&browser, &node, "/dashboard").await;
        shown(
            &browser,
            r##"#chart path[data-emoji="🔥"][data-count="22"]"##,
        )
        .await;
        let row =
            format!(r#"document.querySelector('#rooms a[data-room="{ROOM}"] .count').textContent"#);
        // The rate is unknown at first, and then 0. The page never shows the rate of a minute ago.
        for _ in 0..20 {
            let (rate, row) = (
                text(&browser, "now-rate").await,
                value(&browser, &row).await,
            );
            assert!(["–", "0"].contains(&&*rate), "{rate}");
            assert!(row == "" || row == "quiet", "{row}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(text(&browser, "now-rate").await, "0");
        assert_eq!(value(&browser, &row).await, json!("quiet"));
        // The chart continues up to the server's present time. Nothing was counted in the last minute, so the last
        // point of the chart is empty, and the last point with reactions is about a minute earlier.
        let read = "(() => { const chart = document.querySelector('#chart'); \
            const key = (key) => chart.dispatchEvent(new KeyboardEvent('keydown', { key, cancelable: true })); \
            const tip = () => chart.querySelector('.tip').textContent.split('\\n'); \
            const seconds = () => Date.parse(chart.querySelector('.tip time').dateTime) / 1000; \
            key('End'); const [, total] = tip(); const end = seconds(); \
            for (let bin = 0; bin < 1000 && tip()[1] === '0 reactions'; bin++) key('ArrowLeft'); \
            return [total, end - seconds()]; })()";
        let shown = value(&browser, read).await;
        assert_eq!(shown[0], "0 reactions");
        let apart = shown[1].as_u64().unwrap();
        assert!(apart > 45, "{apart} s to the end of the chart");
        // The audience contains viewers, but not dashboards.
        assert_eq!(text(&browser, "audience").await, "0");
        let fan = driver.browser().await;
        open(&fan, &node, "/").await;
        holds(
            &browser,
            "document.querySelector('#audience').textContent === '1'",
        )
        .await;
    });
}

#[test]
fn no_page_reports_a_quiet_room_while_the_server_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let node = a_minute_after(dir.path());
    let driver = Driver::start();
    in_browsers(async {
        let (viewer, dashboard) = (driver.browser().await, driver.browser().await);
        open(&viewer, &node, "/").await;
        open(&dashboard, &node, "/dashboard").await;
        holds(
            &dashboard,
            "document.querySelector('#now-rate').textContent === '0'",
        )
        .await;
        let chart = "document.querySelector('#chart svg').textContent";
        signal(node.pid(), "KILL");
        for browser in [&viewer, &dashboard] {
            shown(browser, r#".status[data-status="connecting"]"#).await;
        }
        shown(&dashboard, "#problem:not([hidden])").await;
        let stood = value(&dashboard, chart).await;
        assert_eq!(text(&viewer, "rate").await, "");
        assert_eq!(
            value(&viewer, "document.getElementById('now-empty').hidden").await,
            json!(true)
        );
        for (id, shown) in [("now-rate", "–"), ("audience", "–"), ("kept-sum", "40")] {
            assert_eq!(text(&dashboard, id).await, shown, "{id}");
        }
        let rooms = text(&dashboard, "rooms").await;
        assert!(!rooms.contains("quiet") && !rooms.contains("/s"), "{rooms}");
        // While the server is unreachable, the page does not know what is counted. So the chart must not move.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(value(&dashboard, chart).await, stood);
    });
}
