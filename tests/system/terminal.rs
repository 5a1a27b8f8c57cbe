//! Tests of the output in a terminal: a room that is drawn live, and topics as tables.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::harness::{
    http,
    node::{self, Node},
    signal::signal,
    until,
};

/// The sequence that leaves the alternate screen and restores the terminal.
const GIVEN_BACK: &str = "\x1b[?1049l";

fn react(node: &Node, room: &str) {
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": room}).to_string();
    let answer = http::post(&node.address, "/v1/reactions", &body).unwrap();
    assert_eq!(answer.status, 202);
}

#[test]
fn a_room_is_drawn_live_and_q_and_sigterm_restore_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    for (room, ended_by) in [("quit", "q"), ("signalled", "SIGTERM")] {
        let (screen, pid) = (dir.path().join(room), dir.path().join("pid"));
        let program = env!("CARGO_BIN_EXE_emostream");
        let subscribe = format!(
            "{program} subscribe --url http://{} --room {room}",
            node.address
        );
        let command = format!(
            "stty cols 100 rows 36; echo $$ >{}; TERM=xterm exec {subscribe}",
            pid.display()
        );
        // util-linux's `script` gives the program a terminal, and records the output.
        let mut terminal = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &command])
            .arg(&screen)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let drawn = |what: &str| {
            let bytes = std::fs::read(&screen).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(what).then_some(())
        };
        until("the room on the screen", || drawn("live"));
        react(&node, room);
        until("the reaction on the screen", || drawn("🔥"));
        // The room has one final. Its id ends with the offset 0.
        until("the final on the screen", || drawn("-0"));
        assert_eq!(drawn(GIVEN_BACK), None);
        match ended_by {
            "q" => terminal.stdin.as_mut().unwrap().write_all(b"q").unwrap(),
            _ => {
                let pid = std::fs::read_to_string(&pid).unwrap();
                signal(pid.trim().parse().unwrap(), "TERM");
            }
        }
        let status = until("its end", || terminal.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "by {ended_by}");
        assert_eq!(drawn(GIVEN_BACK), Some(()), "by {ended_by}");
    }
}

fn inspect(dir: &Path, more: &[&str]) -> String {
    let data = dir.join("data");
    node::output(&[&["inspect"][..], more, &["--data", data.to_str().unwrap()]].concat())
}

#[test]
fn a_table_of_reactions_leaves_out_heartbeats_unless_they_are_requested() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    react(&node, "hall");
    until("the batch in the topic", || {
        let table = inspect(dir.path(), &["reactions"]);
        assert!(!table.contains("heartbeat"), "{table}");
        (table.contains("batch of 1") && table.contains("hall")).then_some(())
    });
    let all = inspect(
        dir.path(),
        &["reactions", "--heartbeats", "--partition", "1"],
    );
    assert!(all.contains("heartbeat"), "{all}");
    let head = all.lines().next().unwrap();
    assert!(head.contains("part") && head.contains("offset"), "{head}");
    for row in all.lines().skip(1).filter(|row| !row.trim().is_empty()) {
        assert!(
            row.trim_start().starts_with('1') || row.contains("offset"),
            "{row}"
        );
    }
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let other = ["inspect", "windows", "--room", "elsewhere", "--data", data];
    let nothing = node::run(&other);
    assert_eq!(nothing.status.code(), Some(0));
    assert_eq!(String::from_utf8(nothing.stdout).unwrap(), "");
    let printed = String::from_utf8(nothing.stderr).unwrap();
    assert!(
        printed.contains("nothing to show: emostream.windows (4 partitions, all records"),
        "{printed}"
    );
    let wrong = node::run(&["inspect", "windows", "--partition", "99", "--data", data]);
    assert_eq!(wrong.status.code(), Some(64));
    let printed = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        printed.contains("--partition") && printed.contains("0 to 3"),
        "{printed}"
    );
}
