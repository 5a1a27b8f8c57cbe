//! Tests of the `emostream-room` element in pages of others, and of what the viewer page shows in an idle room.

use std::time::Duration;

use fantoccini::Client;
use serde_json::json;

use crate::harness::{
    self,
    browser::{Driver, Look, counted, holds, in_browsers, joined, shown, tap, value},
    http,
    node::Node,
    origin::serve,
};

const ROOT: &str = "document.querySelector('emostream-room').shadowRoot";

async fn run(browser: &Client, script: &str) {
    browser.execute(script, Vec::new()).await.unwrap();
}

/// Opens a page of another origin with this content behind the element's script.
async fn open(browser: &Client, node: &Node, content: &str) {
    let page = format!(
        r#"<!doctype html><meta charset="utf-8"><title>Match</title>
        <script type="module" src="http://{}/emostream-room.js"></script>{content}"#,
        node.address
    );
    let origin = serve(page);
    browser.goto(&format!("http://{origin}/")).await.unwrap();
    joined(browser).await;
}

#[test]
fn an_overlay_passes_clicks_on_to_the_video_except_on_its_buttons() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        let stage = r#"<div style="position: relative; width: 640px; height: 360px">
            <button id="video" style="width: 100%; height: 100%" onclick="this.dataset.clicked = true">Play</button>
            <emostream-room overlay></emostream-room></div>"#;
        open(&browser, &node, stage).await;
        shown(&browser, "#video").await.click().await.unwrap();
        shown(&browser, "#video[data-clicked]").await;
        tap(&browser, "🔥").await;
        counted(&browser, "🔥", 1).await;
        let ground = format!("getComputedStyle({ROOT}.querySelector('.stage')).backgroundColor");
        assert_eq!(value(&browser, &ground).await, json!("rgba(0, 0, 0, 0)"));
        run(
            &browser,
            "document.querySelector('emostream-room').buttons = 'none'",
        )
        .await;
        let buttons = format!("{ROOT}.querySelector('.buttons').checkVisibility()");
        assert_eq!(value(&browser, &buttons).await, json!(false));
    });
}

#[test]
fn properties_are_attributes_and_events_bubble() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        open(
            &browser,
            &node,
            "<main><emostream-room></emostream-room></main>",
        )
        .await;
        let set = "const room = document.querySelector('emostream-room'); window.live = []; \
            document.querySelector('main').addEventListener('live', ({ target, detail }) => live.push(target === room && detail.room)); \
            Object.assign(room, { room: 'match-7', emojis: '⚽👏', user: 'u', overlay: true, paused: true, buttons: 'none', \
              maxParticles: 40, emojiBase: '/emotes' }); room.buttons = undefined";
        run(&browser, set).await;
        let attributes = "Object.fromEntries([...document.querySelector('emostream-room').attributes] \
            .filter(({ name }) => name !== 'data-status').map(({ name, value }) => [name, value]))";
        assert_eq!(
            value(&browser, attributes).await,
            json!({"room": "match-7", "emojis": "⚽👏", "user": "u", "overlay": "", "paused": "",
                   "max-particles": "40", "emoji-base": "/emotes"})
        );
        joined(&browser).await;
        tap(&browser, "⚽").await;
        holds(&browser, "live.includes('match-7')").await;
        // The element accepts a function that returns the token, so that the markup does not contain the token.
        let token = "(() => { const room = document.createElement('emostream-room'); room.token = () => 't'; \
            return [typeof room.token, room.hasAttribute('token')]; })()";
        assert_eq!(value(&browser, token).await, json!(["function", false]));
    });
}

#[test]
fn properties_that_were_set_before_the_element_was_defined_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        let early = r#"<emostream-room></emostream-room>
            <script>Object.assign(document.querySelector("emostream-room"), { room: "match-7", emojis: "⚽" })</script>"#;
        open(&browser, &node, early).await;
        let room = "document.querySelector('emostream-room').stream.room";
        assert_eq!(value(&browser, room).await, json!("match-7"));
        holds(
            &browser,
            &format!("{ROOT}.querySelectorAll('button').length === 1"),
        )
        .await;
    });
}

#[test]
fn an_own_emote_has_its_picture_and_counts_as_its_emoji() {
    // The address of every picture is this picture of one pixel, since `emoji-base` may be any address.
    const PIXEL: &str =
        "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==#{name}";
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        let content = format!(
            r#"<emostream-room emojis=":goal:=⚽ 🔥" emoji-base="{PIXEL}"></emostream-room>"#
        );
        open(&browser, &node, &content).await;
        let names = format!(
            "[...{ROOT}.querySelectorAll('button img')].map(({{ src }}) => src.split('#')[1])"
        );
        assert_eq!(value(&browser, &names).await, json!(["goal", "1f525"]));
        holds(
            &browser,
            &format!("{ROOT}.querySelector('button').ariaLabel === 'React with goal, 0 so far'"),
        )
        .await;
        tap(&browser, "⚽").await;
        let named = "document.querySelector('emostream-room').react(':goal:')";
        assert_eq!(value(&browser, named).await, json!(true));
        counted(&browser, "⚽", 2).await;
        // If a picture is missing, the emoji is shown instead.
        run(
            &browser,
            "document.querySelector('emostream-room').emojiBase = 'data:,{name}'",
        )
        .await;
        holds(
            &browser,
            &format!("{ROOT}.querySelector('.face').textContent === '⚽'"),
        )
        .await;
    });
}

/// The texts of the element in Arabic. The summary uses the plural form that its number needs.
const ARABIC: &str = r#"({
    buttons: "أرسل تفاعلا",
    react: "تفاعل بـ {emoji}",
    counted: "تفاعل بـ {emoji}، {count} حتى الآن",
    summary: ({ number, sum, top }) => {
        const forms = { one: "تفاعل واحد", two: "تفاعلان", few: `${sum} تفاعلات` };
        return `${forms[new Intl.PluralRules("ar").select(number)] ?? `${sum} تفاعلا`}. ${top}.`;
    },
    idle: "اضغط على رمز تعبيري. يراه كل من في هذه الغرفة خلال ثانية.",
    connecting: "جار الاتصال …",
    closed: "انتهى الاتصال. أعد تحميل الصفحة للاتصال مجددا.",
    noAccess: "لا يمكنك دخول هذه الغرفة. اطلب رابطا جديدا.",
    waiting: "ما زالت تفاعلاتك الأخيرة تنتظر الإرسال.",
    delayed: "سترسل تفاعلاتك بعد لحظة.",
    unavailable: "التفاعلات غير متاحة.",
})"#;

#[test]
fn a_translated_element_runs_from_right_to_left_without_an_english_word() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        let content = r#"<div lang="ar" dir="rtl"><emostream-room></emostream-room></div>"#;
        open(&browser, &node, content).await;
        run(
            &browser,
            &format!("document.querySelector('emostream-room').messages = {ARABIC}"),
        )
        .await;
        let missing = format!(
            "Object.keys((await import('http://{}/emostream-room.js')).MESSAGES).filter((key) => !(key in {ARABIC}))",
            node.address
        );
        let script = format!("const done = arguments[0]; (async () => done({missing}))()");
        let missing = browser.execute_async(&script, Vec::new()).await.unwrap();
        assert_eq!(missing, json!([]), "not translated");
        // All sentences of the element: its texts, and the labels of its buttons.
        let sentences = format!(
            "[...{ROOT}.querySelectorAll('p, span')].map(({{ textContent }}) => textContent) \
             .concat([...{ROOT}.querySelectorAll('[aria-label]')].map(({{ ariaLabel }}) => ariaLabel))"
        );
        let english = format!("{sentences}.filter((text) => /[a-z]/i.test(text))");
        holds(
            &browser,
            &format!("{ROOT}.querySelector('.hint:not([hidden])')"),
        )
        .await;
        assert_eq!(value(&browser, &english).await, json!([]), "idle");
        for _ in 0..3 {
            tap(&browser, "👏").await;
        }
        let summary = format!("{ROOT}.querySelector('[aria-live=polite]').textContent");
        holds(&browser, &format!("{summary} === '3 تفاعلات. 👏 3.'")).await;
        assert_eq!(value(&browser, &english).await, json!([]), "after taps");
        let first = format!("{ROOT}.querySelector('button').getBoundingClientRect().left");
        let last =
            format!("[...{ROOT}.querySelectorAll('button')].at(3).getBoundingClientRect().left");
        assert_eq!(
            value(&browser, &format!("{first} > {last}")).await,
            json!(true)
        );
        let wrong = "document.querySelector('emostream-room').room = 'no room'";
        run(&browser, wrong).await;
        let notice = format!("{ROOT}.querySelector('.notice:not([hidden])').textContent");
        holds(&browser, &format!("{notice} === 'التفاعلات غير متاحة.'")).await;
    });
}

#[test]
fn a_button_that_is_held_repeats_and_taps_in_a_row_are_a_combo() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&node.address).await;
        let press = |type_: &str| {
            format!(
                "{ROOT}.querySelector('[data-emoji=\"👏\"]').dispatchEvent(\
                 new PointerEvent('{type_}', {{ bubbles: true, composed: true, button: 0 }}))"
            )
        };
        run(&browser, &press("pointerdown")).await;
        // The combo grows at each repetition, so a busy machine may miss the moment of an exact number.
        let combo = format!(
            "{ROOT}.querySelector('[data-emoji=\"👏\"] .combo:not([hidden])')?.textContent"
        );
        holds(&browser, &format!("Number({combo}?.slice(1)) >= 4")).await;
        run(&browser, &press("pointerup")).await;
        counted(&browser, "👏", 4).await;
        holds(
            &browser,
            &format!("{ROOT}.querySelectorAll('.combo:not([hidden])').length === 0"),
        )
        .await;
        let shown = format!("Number({ROOT}.querySelector('[data-total=\"👏\"]').textContent)");
        let at_the_end = value(&browser, &shown).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            value(&browser, &shown).await,
            at_the_end,
            "after the release"
        );
    });
}

#[test]
fn an_idle_room_shows_what_it_is_and_the_people_and_other_rooms() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let one = json!({"user_id": "u", "emoji_type": "🔥", "room": "match-7"});
        http::post(&node.address, "/v1/reactions?wait=stored", &one.to_string()).unwrap();
        harness::until("the room is active", || {
            let rooms = http::get(&node.address, "/v1/rooms").ok()?.json();
            (rooms["rooms"][0]["room"] == "match-7").then_some(())
        });
        let browser = driver.visitor(&node.address).await;
        let hint = format!("{ROOT}.querySelector('.hint:not([hidden])')");
        holds(
            &browser,
            &format!("{hint}.textContent.startsWith('Tap an emoji.')"),
        )
        .await;
        holds(
            &browser,
            "document.querySelector('#people').textContent === 'You are the only one here.'",
        )
        .await;
        shown(&browser, "#elsewhere:not([hidden]) a").await;
        // The menu has the list, and a field for the name of another room.
        shown(&browser, "#rooms-menu summary")
            .await
            .click()
            .await
            .unwrap();
        let room = shown(&browser, r#"#rooms-list a[href="/?room=match-7"]"#).await;
        shown(&browser, "#rooms-menu[open] input[name=room]").await;
        room.click().await.unwrap();
        joined(&browser).await;
        assert_eq!(
            value(&browser, "document.querySelector('#room-name').textContent").await,
            json!("match-7")
        );
        counted(&browser, "🔥", 1).await;
    });
}

#[test]
fn up_offers_a_demo_crowd_that_is_labelled_and_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&node.address).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let state = http::get(&node.address, "/v1/rooms/default")
            .unwrap()
            .json();
        assert_eq!(state["total"], 0, "off by default");
        shown(&browser, "#demo:not([hidden]) button")
            .await
            .click()
            .await
            .unwrap();
        holds(
            &browser,
            "document.querySelector('#demo-label').textContent.startsWith('Demo crowd')",
        )
        .await;
        holds(
            &browser,
            "Number(document.querySelector('#sum').textContent) > 5",
        )
        .await;
        shown(&browser, "#demo-toggle").await.click().await.unwrap();
        holds(
            &browser,
            "document.querySelector('#demo-label').textContent === ''",
        )
        .await;
    });
}

#[test]
fn a_screen_of_any_shape_shows_all_buttons_and_scrolls_one_way() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        // The sizes of a phone held upright and sideways, a narrow screen, a desktop at a zoom of 200 %, and a big
        // screen.
        for size in [(390, 844), (844, 390), (320, 640), (640, 400), (3840, 2160)] {
            let look = Look {
                size: Some(size),
                ..Look::default()
            };
            let browser = driver.browser_like(&look).await;
            browser
                .goto(&format!("http://{}/", node.address))
                .await
                .unwrap();
            joined(&browser).await;
            let width = value(
                &browser,
                "document.documentElement.scrollWidth - innerWidth",
            )
            .await;
            assert_eq!(width, json!(0), "{size:?}");
            let reachable = format!(
                "[...{ROOT}.querySelectorAll('button')].filter((button) => {{ \
                 const {{ width, height, bottom, right }} = button.getBoundingClientRect(); \
                 return width >= 44 && height >= 44 && right <= innerWidth && bottom <= innerHeight; }}).length"
            );
            assert_eq!(value(&browser, &reachable).await, json!(8), "{size:?}");
        }
    });
}
