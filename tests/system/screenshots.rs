//! Takes the screenshots of the pages in `docs/img/`, by `make screenshots`: each state of the viewer page, of the
//! dashboard, and of two examples. Reactions are generated for some minutes first.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fantoccini::Client;

use crate::harness::{
    browser::{Driver, Screen, holds, in_browsers, shown, tap},
    node::{self, Node},
    origin::serve_example,
};

const OPEN: &str = r#"document.querySelector('[data-status="open"]')"#;
const FEW_ALOFT: &str = "document.querySelector('emostream-room').particles > 0";
const SOME_ALOFT: &str = "document.querySelector('emostream-room').particles > 10";
const MANY_ALOFT: &str = "document.querySelector('emostream-room').particles > 40";
const PAINTED: &str = "(() => { \
    const canvas = document.querySelector('emostream-room').shadowRoot.querySelector('canvas'); \
    return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean); })()";
const MOMENTS: &str = "document.querySelectorAll('#finals li').length > 2";
const CHART: &str = "document.querySelectorAll('#chart path').length > 4";
const PEAKS: &str = "document.querySelectorAll('#peaks li').length > 1";
const RATES: &str = "/[0-9]/.test(document.querySelector('#rooms .count').textContent)";
const DELAY: &str = "document.querySelector('#delay').textContent !== '–'";

/// Time for transitions to end, and for emojis to spread over the page.
const SETTLED: Duration = Duration::from_millis(1500);

/// Room of the examples, and of the greatest crowd.
const ROOM: &str = "match-7";

const DARK: Screen = Screen {
    features: &[("prefers-color-scheme", "dark")],
    ..Screen::DESKTOP
};
const DARK_PHONE: Screen = Screen {
    features: DARK.features,
    ..Screen::PHONE
};
const LANDSCAPE_PHONE: Screen = Screen {
    width: 844,
    height: 390,
    ..DARK_PHONE
};
const SMALL_PHONE: Screen = Screen {
    width: 320,
    height: 568,
    ..Screen::PHONE
};
/// The desktop at a zoom of 200 %: half as wide and half as high in CSS pixels, each of which is twice as wide and
/// high.
const ZOOMED: Screen = Screen {
    width: 640,
    height: 400,
    scale: 2.0,
    ..Screen::DESKTOP
};
const FORCED_COLORS: Screen = Screen {
    features: &[
        ("forced-colors", "active"),
        ("prefers-color-scheme", "dark"),
    ],
    ..Screen::DESKTOP
};
const STILL: Screen = Screen {
    features: &[("prefers-reduced-motion", "reduce")],
    ..Screen::DESKTOP
};
/// A big screen. Its pictures are half as wide and half as high as the screen, so that the files are small.
const BOARD: Screen = Screen {
    width: 3840,
    height: 2160,
    scale: 0.5,
    ..Screen::DESKTOP
};

/// A browser that takes pictures.
struct Camera<'d> {
    driver: &'d Driver,
    browser: Client,
    folder: PathBuf,
}

impl Camera<'_> {
    async fn open(&self, url: &str, screen: &Screen) {
        self.driver.emulate(&self.browser, screen).await;
        self.browser.goto(url).await.unwrap();
    }

    /// Takes a picture of the page that is open when all of `ready` is true.
    async fn take(&self, name: &str, ready: &[&str]) {
        tokio::time::sleep(SETTLED).await;
        for expression in ready {
            holds(&self.browser, expression).await;
        }
        let png = self.browser.screenshot().await.unwrap();
        std::fs::write(self.folder.join(name).with_extension("png"), png).unwrap();
    }

    async fn shoot(&self, name: &str, url: &str, screen: &Screen, ready: &[&str]) {
        self.open(url, screen).await;
        self.take(name, ready).await;
    }
}

#[test]
#[ignore = "it takes minutes, and writes into docs/img/"]
fn the_screenshots_are_written_to_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let load = ["load", "--url", &url, "--probe", "off", "--seed", "7"];
    let crowd = |flags: &[&str]| {
        let lasting = [&load[..], &["--duration", "10m"], flags].concat();
        Node::start_silent(&lasting, &dir.path().join("load"))
    };
    // The load of the room `match` has spikes. The load of the room `talk` ends minutes before the picture of its
    // dashboard is taken.
    let talk = ["--room", "talk", "--rate", "5/s", "--duration", "20s"];
    node::output(&[&load[..], &talk].concat());
    let matches = ["--room", "match", "--rooms", "6", "--rate", "2500/s"];
    let history = [
        "--duration",
        "150s",
        "--spike",
        "4x@20s+8s,6x@55s+5s,3x@90s+12s",
    ];
    node::output(&[&load[..], &matches, &history].concat());
    let driver = Driver::start();
    in_browsers(async {
        let camera = Camera {
            driver: &driver,
            browser: driver.browser().await,
            folder: root.join("docs/img"),
        };
        let dashboard = |room: &str| format!("{url}/dashboard?room={room}");
        let viewer = |room: &str| format!("{url}/?room={room}");
        let example = |name: &str| {
            let folder = root.join("examples").join(name);
            format!("http://{}/", serve_example(folder, node.address.clone()))
        };

        let talk = dashboard("talk");
        camera
            .shoot("dashboard-quiet", &talk, &Screen::DESKTOP, &[OPEN, CHART])
            .await;
        let present = crowd(&[&matches[..], &["--spike", "3x@5s+10m"]].concat());
        let busy = dashboard("match-1");
        camera
            .shoot("dashboard-busy", &busy, &DARK, &[OPEN, PEAKS, RATES, DELAY])
            .await;
        // The dashboard of a quiet room changes to the busiest one.
        camera.open(&talk, &Screen::DESKTOP).await;
        holds(&camera.browser, RATES).await;
        let follow = shown(&camera.browser, "#follow").await;
        follow.click().await.unwrap();
        let follows = "document.querySelector('#room-name').textContent !== 'talk'";
        camera
            .take("dashboard-follow", &[OPEN, follows, PEAKS])
            .await;
        let lobby = viewer("lobby");
        camera
            .shoot("viewer-idle", &lobby, &Screen::DESKTOP, &[OPEN])
            .await;
        drop(present);
        let demo = viewer("studio");
        camera.open(&demo, &Screen::DESKTOP).await;
        let start = shown(&camera.browser, "#demo:not([hidden]) #demo-toggle").await;
        start.click().await.unwrap();
        camera.take("viewer-demo", &[MANY_ALOFT]).await;

        for (name, rate, aloft) in [
            ("quiet", "1/s", FEW_ALOFT),
            ("busy-100", "100/s", SOME_ALOFT),
        ] {
            let room = format!("concert-{name}");
            let _crowd = crowd(&["--room", &room, "--rate", rate]);
            let name = format!("viewer-{name}");
            camera
                .shoot(
                    &name,
                    &viewer(&room),
                    &Screen::DESKTOP,
                    &[OPEN, MOMENTS, aloft],
                )
                .await;
        }

        let _crowd = crowd(&["--room", ROOM, "--rate", "5000/s"]);
        let page = viewer(ROOM);
        let ready = [OPEN, MOMENTS, MANY_ALOFT];
        camera.open(&page, &Screen::DESKTOP).await;
        tap(&camera.browser, "🎉").await;
        camera.take("viewer-busy-5000", &ready).await;
        for (name, screen) in [
            ("viewer-phone", DARK_PHONE),
            ("viewer-phone-landscape", LANDSCAPE_PHONE),
            ("viewer-320", SMALL_PHONE),
            ("viewer-zoom-200", ZOOMED),
            ("viewer-forced-colors", FORCED_COLORS),
            ("viewer-3840", BOARD),
        ] {
            camera.shoot(name, &page, &screen, &ready).await;
        }
        for (name, screen) in [("board", BOARD), ("overlay", Screen::DESKTOP)] {
            let page = example(name);
            camera
                .shoot(name, &page, &screen, &[OPEN, MANY_ALOFT])
                .await;
        }
        camera
            .shoot("viewer-mosaic", &page, &STILL, &[OPEN, MOMENTS, PAINTED])
            .await;

        camera.open(&busy, &DARK).await;
        holds(&camera.browser, PEAKS).await;
        drop(node);
        let problem = "document.querySelector('#problem:not([hidden])')";
        camera.take("dashboard-outage", &[problem]).await;
    });
}
