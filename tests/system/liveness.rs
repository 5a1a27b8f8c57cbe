//! Tests of a network that stops forwarding without closing connections: each client notices missing heartbeats and
//! reconnects.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{
    browser::{Driver, holds, in_browsers},
    http,
    network::Network,
    node::{Node, spawn},
    origin::serve,
    until,
};

/// A page that collects finals.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>Finals</title>
<script type="module">
  import { connect } from "http://SERVER/emostream.js";
  window.finals = [];
  window.crowd = connect({ url: "http://SERVER", transport: "TRANSPORT" });
  crowd.addEventListener("final", ({ detail }) => finals.push(detail.id));
</script>"#;

/// A process of `subscribe --json`, and the frames that it has printed.
struct Subscribed {
    child: Child,
    printed: Arc<Mutex<Vec<Value>>>,
}

impl Subscribed {
    fn start(network: &Network, more: &[&str], log: &Path) -> Subscribed {
        let url = format!("http://{}", network.address);
        let arguments = [&["subscribe", "--json", "--url", &url], more].concat();
        let mut child = spawn(&arguments, log, Stdio::piped());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let keeps = printed.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let message = serde_json::from_str(&line).unwrap();
                keeps.lock().unwrap().push(message);
            }
        });
        Subscribed { child, printed }
    }

    fn count(&self, kind: &str) -> usize {
        let printed = self.printed.lock().unwrap();
        printed.iter().filter(|m| m["type"] == kind).count()
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_connection_that_dies_without_being_closed_is_replaced_and_no_final_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let network = Network::to(&node.address);
    let log = dir.path().join("subscribe");
    let subscribed = [
        Subscribed::start(&network, &[], &log),
        Subscribed::start(&network, &["--sse"], &log),
    ];
    let react = || {
        let body = json!({"user_id": 1, "emoji_type": "🔥"}).to_string();
        let answer = http::post(&node.address, "/v1/reactions?wait=stored", &body);
        assert_eq!(answer.unwrap().status, 200);
    };
    let driver = Driver::start();
    in_browsers(async {
        let mut pages = Vec::new();
        for transport in ["websocket", "sse"] {
            let page = PAGE.replace("SERVER", &network.address.to_string());
            let page = serve(page.replace("TRANSPORT", transport));
            let browser = driver.browser().await;
            browser.goto(&format!("http://{page}/")).await.unwrap();
            holds(&browser, "crowd.status === 'open'").await;
            pages.push(browser);
        }
        for each in &subscribed {
            until("hello", || (each.count("hello") == 1).then_some(()));
        }
        react();
        for page in &pages {
            holds(page, "finals.length === 1").await;
        }
        for each in &subscribed {
            until("a final", || (each.count("final") == 1).then_some(()));
        }
        network.stop();
        react();
        // The clients notice that heartbeats are missing, and reconnect.
        for page in &pages {
            holds(page, "finals.length === 2 && finals[0] !== finals[1]").await;
        }
        for each in &subscribed {
            until("the other final", || {
                (each.count("final") == 2).then_some(())
            });
            assert_eq!(each.count("gap"), 0);
        }
        // When the browser reports a network again, the page reconnects at once.
        network.stop();
        react();
        pages[0]
            .execute("dispatchEvent(new Event('online'))", Vec::new())
            .await
            .unwrap();
        let begun = std::time::Instant::now();
        holds(&pages[0], "finals.length === 3").await;
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    });
    let log_text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        log_text
            .matches("no heartbeat from the server for 30 s")
            .count(),
        2,
        "{log_text}"
    );
}
