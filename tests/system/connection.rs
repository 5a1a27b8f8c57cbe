//! Tests of the viewer page, whose connection and taps survive faults of the network and the server, and a user who
//! hides or leaves the page.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use fantoccini::Client;
use serde_json::{Value, json};

use crate::harness::{
    browser::{Driver, counted, holds, in_browsers, joined, shown, tap, value},
    http,
    node::Node,
    origin::{proxy, requests_a_websocket},
    until,
};

const ELEMENT: &str = "document.querySelector('emostream-room')";
const BAD_GATEWAY: &str =
    "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// The response of a server that is full or has no upstream.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
                    content-length: 0\r\nconnection: close\r\n\r\n";

async fn run(browser: &Client, script: &str) {
    browser.execute(script, Vec::new()).await.unwrap();
}

fn room(node: &Node) -> Value {
    http::get(&node.address, "/v1/rooms/default")
        .unwrap()
        .json()
}

#[test]
fn a_page_continues_after_its_server_was_killed_and_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let first = Node::up(dir.path(), &[]);
    let address = first.address.clone();
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&address).await;
        let note = "window.finals = []; document.querySelector('emostream-room')\
                    .addEventListener('final', ({ detail }) => finals.push(detail))";
        browser.execute(note, Vec::new()).await.unwrap();
        tap(&browser, "🔥").await;
        holds(&browser, "finals.length === 1").await;
        first.kill();
        shown(&browser, r#".status[data-status="connecting"]"#).await;
        let data = dir.path().join("data");
        let again = [
            "up",
            "--listen",
            &address,
            "--admin",
            "off",
            "--data",
            data.to_str().unwrap(),
        ];
        let _second = Node::start(&again, &dir.path().join("stderr"));
        shown(&browser, r#".status[data-status="open"]"#).await;
        tap(&browser, "🔥").await;
        counted(&browser, "🔥", 2).await;
        holds(&browser, "finals.length === 2").await;
        let finals = value(
            &browser,
            "finals.map(({ total, totals }) => [total, totals[0].count])",
        )
        .await;
        assert_eq!(
            finals,
            json!([[1, 1], [1, 2]]),
            "each final once, none missing"
        );
        // A page that is reloaded gets these finals from the history.
        browser.refresh().await.unwrap();
        holds(
            &browser,
            "document.querySelectorAll('#finals li').length === 2",
        )
        .await;
    });
}

#[test]
fn a_page_without_websockets_uses_server_sent_events() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    // The proxy rejects WebSockets, as the proxies of some companies do.
    let proxy = proxy(node.address.clone(), |head| {
        requests_a_websocket(head).then(|| BAD_GATEWAY.to_owned())
    });
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&proxy).await;
        let transport = format!("{ELEMENT}.stream.transport");
        assert_eq!(value(&browser, &transport).await, json!("sse"));
        tap(&browser, "🔥").await;
        counted(&browser, "🔥", 1).await;
    });
}

/// An `EventSource` does not retry after a status other than 200, so the client module has to do that.
#[test]
fn a_refused_event_stream_is_retried() {
    const REFUSALS: usize = 2;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let requests = Arc::new(AtomicUsize::new(0));
    let proxied = requests.clone();
    let proxy = proxy(node.address.clone(), move |head| {
        if requests_a_websocket(head) {
            return Some(BAD_GATEWAY.to_owned());
        }
        let refused = head.starts_with("GET /v1/rooms/default/events")
            && proxied.fetch_add(1, Ordering::SeqCst) < REFUSALS;
        refused.then(|| FULL.to_owned())
    });
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&proxy).await;
        assert_eq!(requests.load(Ordering::SeqCst), REFUSALS + 1);
        tap(&browser, "🔥").await;
        counted(&browser, "🔥", 1).await;
    });
}

#[test]
fn a_page_that_gets_retry_after_sends_no_sooner_and_loses_nothing() {
    const REFUSALS: usize = 2;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &["--per-user-rate", "2/s"]);
    let posted = AtomicUsize::new(0);
    let proxy = proxy(node.address.clone(), move |head| {
        let refused = head.starts_with("POST /v1/reactions")
            && posted.fetch_add(1, Ordering::SeqCst) < REFUSALS;
        refused.then(|| FULL.to_owned())
    });
    let note = "window.posts = []; const send = fetch; \
        window.fetch = async (to, how) => { const began = performance.now(); const answer = await send(to, how); \
          if ((how ?? to).method === 'POST') posts.push({ began, ended: performance.now(), status: answer.status, \
            wait_ms: 1000 * answer.headers.get('retry-after') }); \
          return answer; }";
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&proxy).await;
        run(&browser, note).await;
        // The first two requests get 503, as from a full server. Later the limit per user allows two reactions, and the
        // third one has to wait.
        let react = format!("{ELEMENT}.react('🔥')");
        run(&browser, &format!("{react}; {react}")).await;
        counted(&browser, "🔥", 2).await;
        run(&browser, &format!("{react}; {react}; {react}")).await;
        counted(&browser, "🔥", 5).await;
        let posts = value(&browser, "posts").await;
        let posts = posts.as_array().unwrap();
        let refused = |status: u64| posts.iter().filter(|post| post["status"] == status).count();
        assert_eq!(refused(503), REFUSALS, "{posts:?}");
        assert!(refused(429) > 0, "{posts:?}");
        for pair in posts.windows(2) {
            let of = |nth: usize, name: &str| pair[nth][name].as_f64().unwrap();
            // The timers and the clock of a browser differ by a millisecond or two, so 5 ms are tolerated.
            let waited_ms = of(1, "began") - of(0, "ended") + 5.0;
            assert!(waited_ms >= of(0, "wait_ms"), "{posts:?}");
        }
    });
}

#[test]
fn a_hidden_page_disconnects_and_resumes_when_it_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&node.address).await;
        tap(&browser, "🔥").await;
        let note = format!(
            "window.finals = []; {ELEMENT}.addEventListener('final', ({{ detail }}) => finals.push(detail.total))"
        );
        run(&browser, &note).await;
        holds(&browser, "finals.length === 1").await;
        // A hidden page closes its connection after a minute. Only the timer for that is shortened.
        let minute = "const wait = setTimeout; window.setTimeout = (act, ms) => wait(act, ms === 60_000 ? 1 : ms)";
        run(&browser, minute).await;
        let page = browser.window().await.unwrap();
        let other = browser.new_window(true).await.unwrap().handle;
        browser.switch_to_window(other).await.unwrap();
        until("no client is connected", || {
            (room(&node)["subscribers"] == 0).then_some(())
        });
        let missed = json!({"user_id": "u", "emoji_type": "👏"}).to_string();
        http::post(&node.address, "/v1/reactions", &missed).unwrap();
        until("the final that it misses", || {
            (room(&node)["total"] == 2).then_some(())
        });
        browser.switch_to_window(page).await.unwrap();
        joined(&browser).await;
        holds(&browser, "finals.length === 2").await;
        counted(&browser, "👏", 1).await;
    });
}

#[test]
fn leaving_the_page_sends_the_last_taps() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.visitor(&node.address).await;
        // The request in flight never ends here, so the next taps wait. They are sent only when the user leaves the
        // page.
        let stuck = "window.fetch = () => { window.sending = true; return new Promise(() => {}); }";
        run(&browser, &format!("{stuck}; {ELEMENT}.react('🔥')")).await;
        holds(&browser, "sending").await;
        let react = format!("{ELEMENT}.react('👏')");
        run(
            &browser,
            &format!("{react}; {react}; location.href = 'about:blank'"),
        )
        .await;
        let state = until("a final of the taps", || {
            let state = room(&node);
            (state["total"] != 0).then_some(state)
        });
        assert_eq!(state["totals"], json!([{"emoji": "👏", "count": 2}]));
    });
}
