//! The page in a real browser: a tap, and the count rises, also on somebody else's page.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod harness;

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator};
use harness::{
    DEADLINE, kafka,
    node::{self, Node},
    unique, until,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

/// How long a page may take to show something.
const SHOWN: Duration = Duration::from_secs(30);

/// Debian's chromedriver; killed at the end, and its browsers with it.
struct Driver {
    child: Child,
    url: String,
}

impl Driver {
    fn start() -> Driver {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("this test needs chromedriver ({error}): apt-get install chromium chromium-driver")
            });
        let driver = Driver {
            child,
            url: format!("http://127.0.0.1:{port}"),
        };
        until("chromedriver answers", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        driver
    }

    async fn browser(&self) -> Client {
        let options = json!({
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--no-first-run"]
        });
        let mut capabilities = serde_json::Map::new();
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_tap_in_the_browser_raises_the_count_on_every_page() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let driver = Driver::start();
    let page = format!("http://{}/", node.address);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (tapper, watcher) = (driver.browser().await, driver.browser().await);
        for browser in [&tapper, &watcher] {
            browser.goto(&page).await.unwrap();
            shown(browser, r#"[data-status="open"]"#).await;
        }
        for taps in 1..=3 {
            let button = shown(&tapper, r#"[data-emoji="🔥"]"#).await;
            button.click().await.unwrap();
            for browser in [&tapper, &watcher] {
                total_reaches(browser, taps).await;
            }
        }
        for browser in [&tapper, &watcher] {
            // Its own taps, and what a late joiner finds there.
            shown(browser, "#trending-panel:not([hidden]) li").await;
            browser.refresh().await.unwrap();
            shown(browser, "#trending-panel:not([hidden]) li").await;
        }
        for browser in [tapper, watcher] {
            browser.close().await.unwrap();
        }
    });
}

#[test]
fn a_page_with_a_token_in_its_address_taps_as_its_bearer_and_without_one_is_told_why() {
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let browser = driver.browser().await;
        browser.goto(&page).await.unwrap();
        shown(&browser, r#"[data-status="closed"]"#).await;
        let notice = shown(&browser, "#notice").await.text().await.unwrap();
        assert!(notice.contains("token"), "{notice}");
        browser
            .goto(&format!("{page}&with#token={token}"))
            .await
            .unwrap();
        shown(&browser, r#"[data-status="open"]"#).await;
        let button = shown(&browser, r#"[data-emoji="🔥"]"#).await;
        button.click().await.unwrap();
        total_reaches(&browser, 1).await;
        browser.close().await.unwrap();
    });
}

#[test]
fn a_publishers_page_sends_to_the_ingest_that_it_names_and_else_says_that_nothing_takes_them() {
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
    let told = start("told", &[&publisher[..], &["--ingest-url", &url]].concat());
    let untold = start("untold", &publisher);
    let driver = Driver::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let browser = driver.browser().await;
        let tap = async |node: &Node| {
            let page = format!("http://{}/", node.address);
            browser.goto(&page).await.unwrap();
            shown(&browser, r#"[data-status="open"]"#).await;
            let button = shown(&browser, r#"[data-emoji="🔥"]"#).await;
            button.click().await.unwrap();
        };
        tap(&untold).await;
        let notice = shown(&browser, "#notice:not([hidden])").await;
        let said = notice.text().await.unwrap();
        assert!(said.contains("Nothing takes reactions at"), "{said}");
        assert!(said.contains(&untold.address), "{said}");
        tap(&told).await;
        total_reaches(&browser, 1).await;
        browser.close().await.unwrap();
    });
}

async fn shown(browser: &Client, css: &str) -> fantoccini::elements::Element {
    let found = browser
        .wait()
        .at_most(SHOWN)
        .for_element(Locator::Css(css))
        .await;
    found.unwrap_or_else(|error| panic!("{css} is not on the page: {error}"))
}

async fn total_reaches(browser: &Client, at_least: u64) {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let cell = shown(browser, r#"[data-total="🔥"]"#).await;
        let text = cell.text().await.unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        if digits.parse::<u64>().is_ok_and(|total| total >= at_least) {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the total shows {text}, not {at_least}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
