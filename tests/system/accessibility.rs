//! Tests that axe-core finds nothing serious on the pages, in each state and on different screens.
//!
//! axe-core also looks into the shadow tree of `<emostream-room>`. It checks rules such as names of controls, contrast
//! and ARIA attributes; `tests/system/browser.rs` has the test that uses the keyboard.

use std::{path::Path, sync::LazyLock};

use fantoccini::Client;
use serde_json::{Value, json};

use crate::harness::{
    browser::{Driver, Screen, holds, in_browsers, shown, value},
    http,
    node::Node,
    npm, until,
};

const ROOM: &str = "match-7";
const OPEN: &str = r#".status[data-status="open"]"#;

const SCREENS: [(&str, Screen); 4] = [
    ("desktop", Screen::DESKTOP),
    (
        "dark",
        Screen {
            features: &[("prefers-color-scheme", "dark")],
            ..Screen::DESKTOP
        },
    ),
    ("phone", Screen::PHONE),
    (
        "reduced motion",
        Screen {
            features: &[("prefers-reduced-motion", "reduce")],
            ..Screen::DESKTOP
        },
    ),
];

/// The script of axe-core.
static AXE: LazyLock<String> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/accessibility");
    npm::install(&folder);
    std::fs::read_to_string(folder.join("node_modules/axe-core/axe.min.js")).unwrap()
});

/// The faults that axe-core calls serious or critical, each as a sentence and the elements that have it.
const FAULTS: &str = "axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations \
    .filter(({ impact }) => ['serious', 'critical'].includes(impact)) \
    .map(({ id, help, nodes }) => [`${id}: ${help}`, ...nodes.map(({ html, failureSummary }) => `${html}: ${failureSummary}`)]))";

/// Runs axe-core on the page that is open.
async fn faults(browser: &Client) -> Value {
    // The Content-Security-Policy of the pages forbids a script element with this text, but not the driver's scripts.
    if value(browser, "!window.axe").await == json!(true) {
        browser.execute(&AXE, Vec::new()).await.unwrap();
    }
    value(browser, FAULTS).await
}

/// Checks the page that is open, on the screen that is emulated.
async fn check(browser: &Client, what: &str) {
    let faults = faults(browser).await;
    assert_eq!(faults, json!([]), "{what}: {faults:#}");
}

/// Opens a page on each screen, and checks it when it shows `css` and `ready` is true.
async fn check_on_each_screen(
    driver: &Driver,
    browser: &Client,
    url: &str,
    css: &str,
    ready: &str,
    state: &str,
) {
    for (name, screen) in &SCREENS {
        driver.emulate(browser, screen).await;
        browser.goto(url).await.unwrap();
        shown(browser, css).await;
        holds(browser, ready).await;
        check(browser, &format!("{url}, {state}, {name}")).await;
    }
}

#[test]
fn no_page_has_a_serious_fault_whether_its_room_is_idle_quiet_busy_or_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let viewer_url = format!("{url}/?room={ROOM}");
    let dashboard_url = format!("{url}/dashboard?room={ROOM}");
    let driver = Driver::start();
    in_browsers(async {
        let (viewer, dashboard) = (driver.browser().await, driver.browser().await);
        let room = format!(r#"document.querySelector('#rooms a[data-room="{ROOM}"]')"#);
        let both = async |state: &str, viewer_ready: &str, dashboard_ready: &str| {
            check_on_each_screen(&driver, &viewer, &viewer_url, OPEN, viewer_ready, state).await;
            check_on_each_screen(
                &driver,
                &dashboard,
                &dashboard_url,
                OPEN,
                dashboard_ready,
                state,
            )
            .await;
        };
        both("idle", "true", "true").await;

        let one = json!({"user_id": "u", "emoji_type": "🔥", "room": ROOM}).to_string();
        http::post(&node.address, "/v1/reactions", &one).unwrap();
        until("a final", || {
            let state = http::get(&node.address, &format!("/v1/rooms/{ROOM}")).ok()?;
            let state = state.json();
            (state["total"] == 1 && state["live"].is_null()).then_some(())
        });
        let counted = "document.querySelector('#sum').textContent === '1'";
        both("quiet", counted, &room).await;

        let crowd = [
            "load",
            "--url",
            &url,
            "--room",
            ROOM,
            "--rate",
            "300/s",
            "--duration",
            "10m",
            "--probe",
            "off",
        ];
        let crowd = Node::start_silent(&crowd, &dir.path().join("load"));
        let moments = "document.querySelectorAll('#finals li').length > 1";
        let chart = "document.querySelectorAll('#chart path').length > 4";
        both("busy", moments, chart).await;

        drop((crowd, node));
        shown(&dashboard, "#problem:not([hidden])").await;
        let notice = "document.querySelector('emostream-room').shadowRoot.querySelector('.notice:not([hidden])')";
        holds(&viewer, notice).await;
        for browser in [&viewer, &dashboard] {
            for (name, screen) in &SCREENS {
                driver.emulate(browser, screen).await;
                check(browser, &format!("outage, {name}")).await;
            }
        }
    });
}

#[test]
fn no_page_has_a_serious_fault_that_is_refused_or_names_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "a secret of at least 32 bytes, as RFC 7518 asks for").unwrap();
    let node = Node::up(dir.path(), &["--jwt-key", key.to_str().unwrap()]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        for (path, css) in [
            ("/", r#".status[data-status="closed"]"#),
            ("/?room=a%20b", r#".status[data-status="closed"]"#),
            ("/dashboard", "#problem:not([hidden])"),
        ] {
            let url = format!("http://{}{path}", node.address);
            check_on_each_screen(&driver, &browser, &url, css, "true", "refused").await;
        }
    });
}

/// Without this test, the others would pass also if axe-core did not run or did not look into the shadow tree.
#[test]
fn a_button_without_a_name_in_the_element_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&node.address).await;
        let spoil = "document.querySelector('emostream-room').shadowRoot.append(document.createElement('button'))";
        browser.execute(spoil, Vec::new()).await.unwrap();
        let faults = faults(&browser).await;
        assert_eq!(faults.as_array().unwrap().len(), 1, "{faults:#}");
        let fault = faults[0][0].as_str().unwrap();
        assert!(fault.starts_with("button-name"), "{faults:#}");
    });
}
