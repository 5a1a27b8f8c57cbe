//! Tests of the viewer page and the `emostream-room` element in a real browser, also in a page of another origin.

use std::{path::Path, time::Duration};

use fantoccini::{
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
};
use serde_json::json;

use crate::harness::{
    browser::{Driver, Look, counted, holds, in_browsers, joined, shown, tap, value},
    http, kafka,
    node::{self, Node},
    origin::serve,
    unique,
};

#[test]
fn a_tap_in_the_browser_raises_the_count_on_every_page() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    let page = format!("http://{}/", node.address);
    in_browsers(async {
        let (tapper, watcher) = (driver.browser().await, driver.browser().await);
        for browser in [&tapper, &watcher] {
            browser.goto(&page).await.unwrap();
            shown(browser, r#".status[data-status="open"]"#).await;
        }
        for taps in 1..=3 {
            tap(&tapper, "🔥").await;
            for browser in [&tapper, &watcher] {
                counted(browser, "🔥", taps).await;
            }
        }
        // The page shows the delay of its tap. It can measure the delay only if no other page taps the same emoji.
        holds(
            &tapper,
            "document.querySelector('#delay').textContent.includes('from a tap')",
        )
        .await;
        for browser in [&tapper, &watcher] {
            // The trending panel is shown to a page that is connected, and to a page that joins later.
            shown(browser, "#trending-panel:not([hidden]) li").await;
            browser.refresh().await.unwrap();
            shown(browser, "#trending-panel:not([hidden]) li").await;
            counted(browser, "🔥", 3).await;
        }
    });
}

#[test]
fn with_reduced_motion_the_picture_changes_once_a_window_and_all_reactions_count() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let look = Look {
            arguments: &["--force-prefers-reduced-motion"],
            ..Look::default()
        };
        for (look, moves) in [(look, false), (Look::default(), true)] {
            let browser = driver.browser_like(&look).await;
            browser
                .goto(&format!("http://{}/", node.address))
                .await
                .unwrap();
            joined(&browser).await;
            // `pictures` counts the different pictures that the canvas has shown.
            let watch = "const canvas = document.querySelector('emostream-room').shadowRoot.querySelector('canvas'); \
                let shown = canvas.toDataURL(); window.pictures = 0; \
                const look = () => { const now = canvas.toDataURL(); \
                  if (now !== shown) { shown = now; window.pictures++; } requestAnimationFrame(look); }; look()";
            browser.execute(watch, Vec::new()).await.unwrap();
            tap(&browser, "👏").await;
            if moves {
                holds(&browser, "pictures > 5").await;
            } else {
                counted(&browser, "👏", 1).await;
                holds(&browser, "pictures > 0").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(value(&browser, "pictures").await, json!(1));
                let moving = value(&browser, "document.getAnimations().length").await;
                assert_eq!(moving, json!(0));
            }
        }
    });
}

#[test]
fn the_page_can_be_used_by_keyboard_and_screen_reader() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&node.address).await;
        let focused = "document.activeElement?.shadowRoot?.activeElement?.dataset.emoji";
        for _ in 0..20 {
            press(&browser, Key::Tab).await;
            if value(&browser, focused).await == json!("👏") {
                break;
            }
        }
        assert_eq!(value(&browser, focused).await, json!("👏"), "by Tab alone");
        press(&browser, Key::Enter).await;
        counted(&browser, "👏", 1).await;
        press(&browser, Key::Space).await;
        counted(&browser, "👏", 2).await;
        let inside = "document.querySelector('emostream-room').shadowRoot";
        holds(
            &browser,
            &format!("{inside}.querySelector('[aria-live=polite]').textContent.startsWith('2 reactions. 👏 2')"),
        )
        .await;
        let label = format!("{inside}.querySelector('[data-emoji=\"👏\"]').ariaLabel");
        assert_eq!(
            value(&browser, &label).await,
            json!("React with 👏, 2 so far")
        );
    });
}

async fn press(browser: &fantoccini::Client, key: Key) {
    let key = char::from(key);
    let keys = KeyActions::new("keyboard".to_owned())
        .then(KeyAction::Down { value: key })
        .then(KeyAction::Up { value: key });
    browser.perform_actions(keys).await.unwrap();
}

#[test]
fn a_narrow_screen_shows_every_button_under_the_thumb_and_scrolls_one_way() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let look = Look {
            size: Some((320, 640)),
            ..Look::default()
        };
        let browser = driver.browser_like(&look).await;
        for page in ["/?room=match-7", "/dashboard?room=match-7"] {
            browser
                .goto(&format!("http://{}{page}", node.address))
                .await
                .unwrap();
            shown(&browser, r#".status[data-status="open"]"#).await;
            let width = value(
                &browser,
                "[document.documentElement.scrollWidth, innerWidth]",
            )
            .await;
            assert_eq!(width, json!([320, 320]), "{page}");
        }
        browser.back().await.unwrap();
        joined(&browser).await;
        let buttons =
            "[...document.querySelector('emostream-room').shadowRoot.querySelectorAll('button')]";
        let reachable = format!(
            "{buttons}.filter((button) => {{ const {{ width, height, bottom, right }} = button.getBoundingClientRect(); \
             return width >= 44 && height >= 44 && right <= innerWidth && bottom <= innerHeight; }}).length"
        );
        assert_eq!(value(&browser, &reachable).await, json!(8));
        let rows = format!(
            "Object.values(Object.groupBy({buttons}, (button) => button.offsetTop)).map((row) => row.length)"
        );
        assert_eq!(value(&browser, &rows).await, json!([4, 4]), "even rows");
    });
}

#[test]
fn a_page_with_a_token_in_its_address_taps_as_its_user_and_without_one_reports_no_access() {
    const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 asks for";
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let node = Node::up(dir.path(), &["--jwt-key", key.to_str().unwrap()]);
    let claims = json!({"sub": "Zoë", "exp": 4_000_000_000_u64, "rooms": ["match-7"]});
    let secret = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Default::default(), &claims, &secret).unwrap();
    let page = format!("http://{}/?room=match-7", node.address);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        browser.goto(&page).await.unwrap();
        shown(&browser, r#".status[data-status="closed"]"#).await;
        let text = "document.querySelector('emostream-room').shadowRoot.querySelector('.notice').textContent";
        holds(&browser, &format!("{text}.includes('no access')")).await;
        // Without a token the page does not know the room, so it must not report that the room is quiet.
        holds(
            &browser,
            "document.querySelector('#rate').textContent === ''",
        )
        .await;
        // For the same reason the dashboard must not report that there are no rooms.
        browser
            .goto(&format!("http://{}/dashboard", node.address))
            .await
            .unwrap();
        shown(&browser, "#problem:not([hidden])").await;
        holds(
            &browser,
            "document.querySelector('#rooms-empty').hidden && document.querySelector('#rooms-count').textContent === ''",
        )
        .await;
        browser
            .goto(&format!("{page}&with#token={token}"))
            .await
            .unwrap();
        shown(&browser, r#".status[data-status="open"]"#).await;
        tap(&browser, "🔥").await;
        counted(&browser, "🔥", 1).await;
        // With the same token the dashboard shows the only room that the token allows.
        let dashboard = shown(&browser, "#to-dashboard").await;
        dashboard.click().await.unwrap();
        shown(&browser, r##"#rooms a[data-room="match-7"]"##).await;
        shown(&browser, r#".status[data-status="open"]"#).await;
    });
}

#[test]
fn a_publisher_s_page_sends_to_its_ingest_url_or_reports_that_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("page"));
    let store = ["--kafka", &brokers, "--topic-prefix", &prefix];
    let quiet = ["--admin", "off"];
    node::output(&[&["topics", "create", "--partitions", "2"][..], &store].concat());
    let start = |name: &str, role: &[&str]| {
        Node::start(&[role, &store, &quiet].concat(), &dir.path().join(name))
    };
    let listen = ["--listen", "127.0.0.1:0"];
    let ingest = start("ingest", &[&["ingest"][..], &listen].concat());
    let counting = [&["dataflow"][..], &store, &quiet].concat();
    let _dataflow = Node::start_silent(&counting, &dir.path().join("dataflow"));
    let url = format!("http://{}", ingest.address);
    let publisher = [&["publisher"][..], &listen].concat();
    let configured = start(
        "configured",
        &[&publisher[..], &["--ingest-url", &url]].concat(),
    );
    let unconfigured = start("unconfigured", &publisher);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        for (node, counts) in [(&unconfigured, false), (&configured, true)] {
            browser
                .goto(&format!("http://{}/", node.address))
                .await
                .unwrap();
            joined(&browser).await;
            // Details for developers are in the event, and not on the page.
            let note = "window.refused = []; document.addEventListener('refused', \
                        ({ detail }) => refused.push(detail.detail))";
            browser.execute(note, Vec::new()).await.unwrap();
            tap(&browser, "🔥").await;
            if counts {
                counted(&browser, "🔥", 1).await;
                continue;
            }
            let notice = "document.querySelector('emostream-room').shadowRoot\
                          .querySelector('.notice:not([hidden])').textContent";
            let sentence = format!("{notice} === 'Reactions are not available.'");
            holds(&browser, &sentence).await;
            holds(
                &browser,
                &format!("refused[0].includes('{}')", node.address),
            )
            .await;
        }
    });
}

/// A page of another origin, as a front-end developer would write it.
const FOREIGN: &str = r#"<!doctype html><meta charset="utf-8"><title>Match</title>
<script type="module" src="http://SERVER/emostream-room.js"></script>
<emostream-room room="match-7" emojis="🔥 👏😂"></emostream-room>"#;

#[test]
fn the_element_works_in_a_page_of_another_origin() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let foreign = serve(FOREIGN.replace("SERVER", &node.address));
    // A page that loads only `auto.js` gets the element, too.
    let short = serve(
        FOREIGN
            .replace("SERVER", &node.address)
            .replace("emostream-room.js", "auto.js"),
    );
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        for (origin, count) in [(foreign, 1), (short, 2)] {
            browser.goto(&format!("http://{origin}/")).await.unwrap();
            joined(&browser).await;
            tap(&browser, "😂").await;
            counted(&browser, "😂", count).await;
            let buttons = "document.querySelector('emostream-room').shadowRoot.querySelectorAll('button').length";
            assert_eq!(value(&browser, buttons).await, json!(3));
        }
        // The attribute `emojis` does not accept the names of emojis, so `fire` gets no button.
        let named =
            "document.querySelector('emostream-room').setAttribute('emojis', 'fire 👏 ⚽️🇫🇷1️⃣')";
        browser.execute(named, Vec::new()).await.unwrap();
        let shown = "[...document.querySelector('emostream-room').shadowRoot\
                     .querySelectorAll('button')].map(({ dataset }) => dataset.emoji).join(' ')";
        holds(&browser, &format!("{shown} === '👏 ⚽️ 🇫🇷 1️⃣'")).await;
    });
}

/// The server serves each module of the npm package without the comments at the beginning of a line, except for the
/// module for React, which needs a bundler.
#[test]
fn the_package_is_what_the_server_serves() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("broadcast/web");
    let package: serde_json::Value =
        serde_json::from_slice(&std::fs::read(web.join("package.json")).unwrap()).unwrap();
    let files = package["files"].as_array().unwrap().iter();
    let modules = files.map(|file| file.as_str().unwrap());
    for file in modules.filter(|file| file.ends_with(".js") && *file != "react.js") {
        let packed = std::fs::read_to_string(web.join(file)).unwrap();
        let served = http::get(&node.address, &format!("/{file}")).unwrap();
        assert_eq!(served.status, 200, "{file}");
        assert_eq!(
            served.body.lines().count(),
            packed.lines().count(),
            "{file}"
        );
        for (served, packed) in served.body.lines().zip(packed.lines()) {
            assert!(packed.ends_with(served), "{file}: {packed}");
        }
    }
}
