//! Tests of the producer's dashboard in a real browser: what it shows for known reactions.

use serde_json::{Value, json};

use crate::harness::{
    browser::{Driver, Look, holds, in_browsers, shown, value},
    http,
    node::Node,
    until,
};

/// Posts reactions: each emoji of `counts` as many times as its count. Waits until the room's finals contain `total`
/// reactions.
fn react(node: &Node, room: &str, counts: &[(&str, usize)], total: u64) {
    for (emoji, count) in counts {
        let one = json!({"user_id": "u", "emoji_type": emoji, "room": room});
        let body = Value::Array(vec![one; *count]).to_string();
        let answer = http::post(&node.address, "/v1/reactions", &body).unwrap();
        assert_eq!(answer.status, 202);
    }
    until("finals of what was sent", || {
        let state = http::get(&node.address, &format!("/v1/rooms/{room}")).ok()?;
        (state.json()["total"] == total).then_some(())
    });
}

#[test]
fn the_chart_shows_what_was_counted_and_gives_it_away_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    react(&node, "quiet", &[("😢", 1)], 1);
    react(&node, "match-7", &[("🔥", 30), ("👏", 12), ("❤️", 5)], 47);
    let downloads = dir.path().join("downloads");
    let driver = Driver::start();
    in_browsers(async {
        let look = Look {
            downloads: downloads.to_str(),
            ..Look::default()
        };
        let browser = driver.browser_like(&look).await;
        browser
            .goto(&format!("http://{}/dashboard?room=match-7", node.address))
            .await
            .unwrap();
        shown(&browser, r#".status[data-status="open"]"#).await;
        for (emoji, count) in [("🔥", 30), ("👏", 12), ("❤️", 5)] {
            shown(
                &browser,
                &format!(r##"#chart path[data-emoji="{emoji}"][data-count="{count}"]"##),
            )
            .await;
        }
        holds(
            &browser,
            "document.querySelector('#legend').textContent.includes('64%')",
        )
        .await;
        holds(
            &browser,
            "document.querySelector('#ever-sum').textContent === '47'",
        )
        .await;
        holds(
            &browser,
            "document.querySelector('#audience').textContent === '0'",
        )
        .await;
        // The arrow keys move through all points of the chart. The sum of these points is the room's total.
        let read = "(() => { const chart = document.querySelector('#chart'); let sum = 0; \
            const key = (key) => chart.dispatchEvent(new KeyboardEvent('keydown', { key, cancelable: true })); \
            key('Home'); let last; \
            for (;;) { const [time, total] = chart.querySelector('.tip').textContent.split('\\n'); \
              if (time === last) return sum; last = time; sum += parseInt(total); key('ArrowRight'); } })()";
        assert_eq!(value(&browser, read).await, json!(47));

        // The page is updated while it is open: with another emoji, and with the choice of another room.
        react(&node, "quiet", &[("🎉", 1)], 2);
        let other = shown(&browser, r##"#rooms a[data-room="quiet"]"##).await;
        other.click().await.unwrap();
        shown(&browser, r##"#chart path[data-emoji="🎉"]"##).await;
        browser.back().await.unwrap();
        shown(
            &browser,
            r##"#chart path[data-emoji="🔥"][data-count="30"]"##,
        )
        .await;

        for kind in ["csv", "json"] {
            shown(&browser, &format!("#{kind}"))
                .await
                .click()
                .await
                .unwrap();
        }
        let kept = |kind: &str| {
            let file = downloads.join(format!("emostream-match-7.{kind}"));
            until("the downloaded file", || {
                std::fs::read_to_string(&file).ok()
            })
        };
        let rows = kept("csv");
        assert!(
            rows.starts_with("room,id,start,end,emoji,count\r\n"),
            "{rows}"
        );
        let fires = rows.lines().filter(|row| row.contains(",🔥,"));
        let fires: u64 = fires
            .map(|row| row.rsplit(',').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(fires, 30);
        let json: Value = serde_json::from_str(&kept("json")).unwrap();
        assert_eq!(json["room"], "match-7");
        assert!(!json["finals"].as_array().unwrap().is_empty());
    });
}

#[test]
fn a_link_shows_the_room_and_the_span_that_were_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    react(&node, "match-7", &[("🔥", 30), ("👏", 12)], 42);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        browser
            .goto(&format!("http://{}/dashboard?room=match-7", node.address))
            .await
            .unwrap();
        let fires = r##"#chart path[data-emoji="🔥"][data-count="30"]"##;
        let party = r##"#chart path[data-emoji="🎉"]"##;
        shown(&browser, fires).await;
        shown(&browser, "#freeze").await.click().await.unwrap();
        holds(&browser, "location.search.includes('until=')").await;
        let link = browser.current_url().await.unwrap();
        react(&node, "match-7", &[("🎉", 3)], 45);

        browser.goto(link.as_str()).await.unwrap();
        shown(&browser, fires).await;
        // The sums of the room are the present ones, and the sums of the span are those at the end of the span.
        holds(
            &browser,
            "document.querySelector('#ever-sum').textContent === '45'",
        )
        .await;
        holds(
            &browser,
            "document.querySelector('#kept-sum').textContent === '42'",
        )
        .await;
        let parties = format!("document.querySelectorAll('{party}').length");
        assert_eq!(value(&browser, &parties).await, json!(0));

        // The table has the same counts as the chart.
        shown(&browser, "#table-details summary")
            .await
            .click()
            .await
            .unwrap();
        shown(&browser, "#table tbody tr").await;
        let sum = "[...document.querySelectorAll('#table tbody tr')] \
            .reduce((sum, row) => sum + Number(row.cells[1].textContent), 0)";
        assert_eq!(value(&browser, sum).await, json!(42));

        // The chart is no longer frozen, so it moves again.
        shown(&browser, "#freeze").await.click().await.unwrap();
        shown(&browser, party).await;
    });
}

#[test]
fn an_unreachable_server_is_reported_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let page = format!("http://{}/dashboard", node.address);
    let driver = Driver::start();
    in_browsers(async {
        let browser = driver.browser().await;
        browser.goto(&page).await.unwrap();
        shown(&browser, r#".status[data-status="open"]"#).await;
        drop(node);
        holds(
            &browser,
            "document.querySelector('#problem').textContent === 'The server does not answer.'",
        )
        .await;
    });
}
