//! A headless Chromium that chromedriver controls, and assertions about its pages.

use std::{
    fmt::Display,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::{DEADLINE, http, until};

/// Interval at which a condition on a page is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Width in pixels below which a page is emulated as on a phone.
const PHONE_PIXELS: u32 = 500;

/// A process of Debian's chromedriver. It is stopped with its browsers when this value is dropped, so also if a test
/// fails.
pub struct Driver {
    child: Child,
    port: u16,
}

/// Options of a browser.
#[derive(Default)]
pub struct Look<'a> {
    /// Additional arguments of Chromium.
    pub arguments: &'a [&'a str],
    /// Width and height of the page in pixels. A narrow page is emulated as on a phone.
    pub size: Option<(u32, u32)>,
    /// Folder of downloads.
    pub downloads: Option<&'a str>,
}

impl Driver {
    pub fn start() -> Driver {
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
        let driver = Driver { child, port };
        until("chromedriver answers", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        driver
    }

    /// Returns the process id; the browsers are its descendants.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn browser(&self) -> Client {
        self.browser_like(&Look::default()).await
    }

    /// Opens the page of the server at `address` in a browser, and waits until it has joined the default room.
    pub async fn visitor(&self, address: impl Display) -> Client {
        let browser = self.browser().await;
        browser.goto(&format!("http://{address}/")).await.unwrap();
        joined(&browser).await;
        browser
    }

    pub async fn browser_like(&self, look: &Look<'_>) -> Client {
        let mut arguments = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
        ];
        arguments.extend(look.arguments);
        let mut options = json!({"args": arguments});
        if let Some((width, height)) = look.size {
            let phone = width < PHONE_PIXELS;
            options["mobileEmulation"] = json!({"deviceMetrics": {
                "width": width, "height": height, "pixelRatio": 1, "mobile": phone, "touch": phone,
            }});
        }
        if let Some(directory) = look.downloads {
            options["prefs"] = json!({"download.default_directory": directory});
        }
        let mut capabilities = serde_json::Map::new();
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", self.port))
            .await
            .unwrap()
    }
}

/// A screen that is emulated while a page is open, and preferences of its user.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Size of the page in CSS pixels.
    pub width: u32,
    pub height: u32,
    /// Device pixels for each CSS pixel: 2 is a zoom of 200 %.
    pub scale: f64,
    /// Whether it is a touch screen, as on a phone.
    pub touch: bool,
    /// CSS media features and their values.
    pub features: &'static [(&'static str, &'static str)],
}

impl Screen {
    pub const DESKTOP: Screen = Screen {
        width: 1280,
        height: 800,
        scale: 1.0,
        touch: false,
        features: &[],
    };
    pub const PHONE: Screen = Screen {
        width: 390,
        height: 844,
        touch: true,
        ..Screen::DESKTOP
    };
}

impl Driver {
    /// Makes a browser show its page as on this screen.
    pub async fn emulate(&self, browser: &Client, screen: &Screen) {
        let metrics = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": screen.scale, "mobile": screen.touch,
        });
        let command = "Emulation.setDeviceMetricsOverride";
        self.devtools(browser, command, metrics).await;
        let touch = json!({"enabled": screen.touch});
        self.devtools(browser, "Emulation.setTouchEmulationEnabled", touch)
            .await;
        let features = screen
            .features
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}));
        let media = json!({"features": features.collect::<Vec<_>>()});
        self.devtools(browser, "Emulation.setEmulatedMedia", media)
            .await;
    }

    /// Sends a command of the DevTools protocol to a browser.
    async fn devtools(&self, browser: &Client, command: &str, parameters: Value) {
        let session = browser.session_id().await.unwrap().unwrap();
        let address = format!("127.0.0.1:{}", self.port);
        let path = format!("/session/{session}/goog/cdp/execute");
        let body = json!({"cmd": command, "params": parameters}).to_string();
        let answer = http::post(&address, &path, &body).unwrap();
        assert_eq!(answer.status, 200, "{command}: {}", answer.body);
    }

    /// Makes chromedriver close its browsers. If chromedriver were killed, they would continue to run.
    fn shut_down(&self) -> io::Result<()> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.write_all(b"GET /shutdown HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
        socket.read(&mut [0]).map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.shut_down();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a test with browsers.
pub fn in_browsers(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

/// Waits until the page has an element that matches `css`, and returns it.
pub async fn shown(browser: &Client, css: &str) -> Element {
    let found = browser
        .wait()
        .at_most(DEADLINE)
        .for_element(Locator::Css(css))
        .await;
    found.unwrap_or_else(|error| panic!("{css} is not on the page: {error}"))
}

/// Evaluates a JavaScript expression in the page, and returns its value.
pub async fn value(browser: &Client, expression: &str) -> Value {
    let script = format!("return {expression};");
    browser.execute(&script, Vec::new()).await.unwrap()
}

/// Waits until a JavaScript expression in the page is true.
pub async fn holds(browser: &Client, expression: &str) {
    let deadline = Instant::now() + DEADLINE;
    // The expression may fail while a page loads. A failure counts as false.
    let script = format!("try {{ return Boolean({expression}); }} catch {{ return false; }}");
    while browser.execute(&script, Vec::new()).await.ok() != Some(Value::Bool(true)) {
        assert!(Instant::now() < deadline, "never true: {expression}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Returns a JavaScript expression for an element in the shadow tree of `emostream-room`.
fn inside(css: &str) -> String {
    format!("document.querySelector('emostream-room').shadowRoot.querySelector('{css}')")
}

/// Waits until the `emostream-room` element is connected.
pub async fn joined(browser: &Client) {
    shown(browser, r#"emostream-room[data-status="open"]"#).await;
}

/// Taps the button of an emoji.
pub async fn tap(browser: &Client, emoji: &str) {
    let button = inside(&format!(r#"[data-emoji="{emoji}"]"#));
    holds(browser, &button).await;
    let found = value(browser, &button).await;
    let id = found.as_object().unwrap().values().next().unwrap();
    let id = id.as_str().unwrap().to_owned().into();
    let button = Element::from_element_id(browser.clone(), id);
    button.click().await.unwrap();
}

/// Waits until the button of an emoji shows at least this count.
pub async fn counted(browser: &Client, emoji: &str, at_least: u64) {
    let count = inside(&format!(r#"[data-total="{emoji}"]"#));
    holds(
        browser,
        &format!("Number({count}.textContent) >= {at_least}"),
    )
    .await;
}
