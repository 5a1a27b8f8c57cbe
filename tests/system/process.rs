//! Tests of processes and their environment: signals at any time, environment variables, the terminal, the last line of
//! output.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use emostream_log::{Log, NewRecord, embedded::EmbeddedLog};
use serde_json::{Value, json};

use crate::harness::{
    self, http,
    node::{self, Node},
    signal::signal,
    until, until_within,
};

/// Maximum time in which a process must end after a signal. It is shorter than the 8 s and more for which a start waits
/// for a broker or an upstream.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A text with control sequences. They would set the terminal's title, clear the screen in both encodings, and forge a
/// line after a carriage return.
const DRIVES: &str = "x\x1b]0;owned\x07\u{9b}2J\x1b[2J\r\nforged";

/// Returns an address that accepts connections and never responds, and a receiver that gets a message for each
/// connection.
fn silent() -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (accepted, connections) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for connection in listener.incoming() {
            kept.push(connection);
            if accepted.send(()).is_err() {
                return;
            }
        }
    });
    (address, connections)
}

/// Returns the only child of a process.
fn child_of(pid: u32) -> u32 {
    let file = format!("/proc/{pid}/task/{pid}/children");
    until("the child of unshare", || {
        fs::read_to_string(&file).ok()?.trim().parse().ok()
    })
}

fn ended_with(mut child: Child) -> Option<i32> {
    let status = until_within(AT_ONCE, "an end after the signal", || {
        child.try_wait().unwrap()
    });
    status.code()
}

#[test]
fn every_role_ends_at_once_and_with_0_by_a_signal_while_it_starts_also_as_pid_1() {
    for role in ["up", "ingest", "dataflow", "publisher", "relay"] {
        let (peer, connections) = silent();
        let flag = if role == "relay" {
            "--upstream"
        } else {
            "--kafka"
        };
        let mut arguments = vec![role, flag, &peer, "--admin", "off"];
        if role != "dataflow" {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        for (name, alone) in [("TERM", false), ("INT", false), ("TERM", true)] {
            let program = node::emostream(&arguments);
            let mut command = match alone {
                false => program,
                true => {
                    // The program runs in a PID namespace of its own, as in a container, so it has the process id 1.
                    let mut unshare = Command::new("unshare");
                    unshare.args(["-rpf", "--kill-child"]);
                    unshare.arg(program.get_program()).args(program.get_args());
                    unshare
                }
            };
            let child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            connections.recv_timeout(harness::DEADLINE).unwrap();
            match alone {
                true => signal(child_of(child.id()), name),
                false => signal(child.id(), name),
            }
            let code = ended_with(child);
            assert_eq!(code, Some(0), "{role} by SIG{name}, as PID 1: {alone}");
            // Messages for connections of the process that has ended are discarded.
            while connections.try_recv().is_ok() {}
        }
    }
}

#[test]
fn a_tool_that_a_signal_ends_before_its_work_is_done_does_not_end_with_0() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let (peer, connections) = silent();
        let child = node::emostream(&["topics", "create", "--kafka", &peer])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        connections.recv_timeout(harness::DEADLINE).unwrap();
        signal(child.id(), name);
        assert_eq!(ended_with(child), Some(code), "SIG{name}");
    }
}

/// Returns the exit code and the standard error of a command.
fn ran_with(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = node::emostream(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let stderr_text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), stderr_text)
}

#[test]
fn an_empty_variable_is_not_set() {
    let help = node::output(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    // A description that is too long for its line continues on a line with more than two spaces.
    let commands = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands = commands.filter(|command| !command.is_empty());
    let mut tried = 0;
    for command in commands.filter(|command| !["help", "topics"].contains(command)) {
        for line in node::output(&[command, "--help"]).lines() {
            let Some((_, rest)) = line.split_once("[env: ") else {
                continue;
            };
            let variable = rest.trim_end_matches(['=', ']']);
            // An empty variable does not count as set, so the error is about the unknown flag and not about the
            // variable's value.
            let (code, stderr_text) = ran_with(&[command, "--no-such-flag"], &[(variable, "")]);
            assert_eq!(code, 64);
            assert!(
                stderr_text.contains("--no-such-flag"),
                "{variable}: {stderr_text}"
            );
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}

#[test]
fn an_error_from_a_variable_names_the_variable() {
    for (arguments, variable, value, words) in [
        (&["up"][..], "EMOSTREAM_KAFKA", "nowhere", "--kafka"),
        (&["up"], "EMOSTREAM_WINDOW", "soon", "--window"),
        (&["up"], "EMOSTREAM_LATENESS", "100ms", "--lateness"),
        (&["up"], "EMOSTREAM_EMOJI_ALIAS", "goal", "--emoji-alias"),
        (&["up"], "EMOSTREAM_JWT_KEY", "/no/such/file", "--jwt-key"),
        (&["up"], "EMOSTREAM_JWKS_URL", "jwks.json", "--jwks-url"),
        (&["up"], "EMOSTREAM_JWT_ISSUER", "i", "--jwt-issuer"),
        (&["up", "--data", "d"], "EMOSTREAM_KAFKA", "b:1", "--kafka"),
        (
            &["relay", "--upstream", "a:1"],
            "EMOSTREAM_UPSTREAM_TLS",
            "yes",
            "true, false, 1 or 0",
        ),
        (&["load"], "EMOSTREAM_LOAD_RATE", "fast", "--rate"),
        (
            &["reset", "--yes"],
            "EMOSTREAM_RESET_FROM",
            "earliest",
            "--from",
        ),
        (
            &["inspect", "windows"],
            "EMOSTREAM_INSPECT_FROM",
            "yesterday",
            "--from",
        ),
    ] {
        let (code, stderr_text) = ran_with(arguments, &[(variable, value)]);
        assert_eq!(code, 64, "{arguments:?} with {variable}: {stderr_text}");
        assert_eq!(stderr_text.lines().count(), 1, "{stderr_text}");
        assert!(
            stderr_text.contains(variable) && stderr_text.contains(words),
            "{stderr_text}"
        );
    }
    let (_, stderr_text) = ran_with(&["up", "--window", "soon"], &[("EMOSTREAM_WINDOW", "2s")]);
    assert!(
        !stderr_text.contains("EMOSTREAM_WINDOW"),
        "the flag is wrong: {stderr_text}"
    );
}

#[test]
fn a_variable_of_one_command_is_not_read_by_another() {
    // `--rooms` of an ingest is a pattern, and `--rooms` of a load is a number. So a load must not read the ingest's
    // variable.
    let variables = [
        ("EMOSTREAM_ROOMS", "match-.*"),
        ("EMOSTREAM_FROM", "latest"),
    ];
    let (code, stderr_text) = ran_with(&["load", "--url", "http://127.0.0.1:1"], &variables);
    assert_eq!(code, 69, "{stderr_text}");
    let (code, stderr_text) = ran_with(&["reset", "--yes", "--data", "/no/such/dir"], &variables);
    assert_eq!(code, 64);
    assert!(stderr_text.contains("--data"), "{stderr_text}");
}

#[test]
fn the_last_line_and_the_banner_are_json_where_the_log_is() {
    for arguments in [
        &["up", "--window", "soon", "--log-format", "json"][..],
        &[
            "--log-format=json",
            "subscribe",
            "--url",
            "http://127.0.0.1:1",
        ],
    ] {
        let output = node::run(arguments);
        let stderr_text = String::from_utf8(output.stderr).unwrap();
        let line: Value = serde_json::from_str(stderr_text.lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "ERROR", "{stderr_text}");
        assert_eq!(
            line["exit_code"].as_i64(),
            output.status.code().map(i64::from)
        );
        assert!(
            line["message"].as_str().unwrap().contains("--"),
            "{stderr_text}"
        );
        assert!(line["timestamp"].is_string(), "{stderr_text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let printed = dir.path().join("printed");
    let data = dir.path().join("data");
    let arguments = ["up", "--listen", "127.0.0.1:0", "--admin", "off", "--data"];
    let mut child = node::emostream(&[&arguments[..], &[data.to_str().unwrap()]].concat())
        .env("EMOSTREAM_LOG_FORMAT", "json")
        .stdout(fs::File::create(&printed).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let banner = until("the banner", || {
        let printed = fs::read_to_string(&printed).unwrap();
        let (line, _) = printed.split_once('\n')?;
        Some(serde_json::from_str::<Value>(line).unwrap())
    });
    assert!(
        banner["url"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    signal(child.id(), "TERM");
    let status = until("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn every_role_says_what_it_is_built_from_and_what_it_uses() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(
        &[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
            dir.path().join("data").to_str().unwrap(),
        ],
        &dir.path().join("log"),
    );
    let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
    let build = metrics
        .lines()
        .find(|line| line.starts_with("emostream_build_info{"))
        .unwrap();
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(build.contains(&version) && build.ends_with(" 1"), "{build}");
    assert!(build.contains("revision=\"") && !build.contains("revision=\"\""));
    let memory = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    assert!(memory.unwrap().parse::<u64>().unwrap() > 1 << 20);
}

#[test]
fn subscribers_that_take_all_files_leave_some_for_the_administrator() {
    let dir = tempfile::tempdir().unwrap();
    let (printed, log) = (dir.path().join("printed"), dir.path().join("log"));
    let data = dir.path().join("data");
    let arguments = ["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let up = node::emostream(&[&arguments[..], &["--data", data.to_str().unwrap()]].concat());
    let mut child = Command::new("prlimit")
        .arg("--nofile=256")
        .arg(up.get_program())
        .args(up.get_args())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&printed).unwrap())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let address_behind = |file: &Path, words: &str| {
        until(words, || {
            let stderr_text = fs::read_to_string(file).unwrap();
            let (_, rest) = stderr_text.split_once(words)?;
            let end = rest.find(|c: char| c.is_whitespace() || c == '/')?;
            Some(rest[..end].to_owned())
        })
    };
    let address = address_behind(&printed, "http://");
    let admin = address_behind(&log, "admin on http://");
    assert!(fs::read_to_string(&log).unwrap().contains("only 256 files"));
    let mut subscribers = Vec::new();
    for _ in 0..400 {
        let mut subscriber = TcpStream::connect(&address).unwrap();
        let request = format!("GET /v1/rooms/a/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
        // An error is ignored, since the server may have refused and closed the connection.
        let _ = subscriber.write_all(request.as_bytes());
        subscribers.push(subscriber);
    }
    let subscribed = || {
        let metrics = http::get(&admin, "/metrics").unwrap().body;
        let count = metrics.lines().find_map(|line| {
            line.strip_prefix("emostream_publisher_subscribers{transport=\"sse\"} ")
        });
        count.unwrap().parse::<u64>().unwrap()
    };
    until("as many as are served", || {
        (subscribed() >= 100).then_some(())
    });
    for path in ["/healthz", "/readyz"] {
        assert_eq!(http::get(&admin, path).unwrap().status, 200);
    }
    let stderr_text = fs::read_to_string(&log).unwrap();
    assert!(
        !stderr_text.contains("connections cannot be accepted"),
        "{stderr_text}"
    );
    drop(subscribers);
    signal(child.id(), "TERM");
    let status = until("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// Asserts that a printed text contains no control characters but line feeds, and no forged line.
fn is_plain(printed: &str) {
    let drives = |c: char| c.is_control() && c != '\n';
    assert!(!printed.contains(drives), "{printed:?}");
    assert!(!printed.lines().any(|line| line == "forged"), "{printed:?}");
}

#[test]
fn records_of_a_topic_cannot_control_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let node = Node::up(dir.path(), &[]);
    assert!(node.stop(harness::DEADLINE).success());
    let data = format!("{data}/data");
    let log = EmbeddedLog::open(Path::new(&data)).unwrap();
    let topics = [
        "windows",
        "live",
        "totals",
        "trending",
        "rejected",
        "reactions",
        "progress",
    ];
    let mut transactor = log.transactor("a peer", harness::DEADLINE).unwrap();
    let records = topics.iter().map(|topic| NewRecord {
        topic: format!("emostream.{topic}"),
        partition: Some(0),
        time_ms: None,
        key: Some(DRIVES.into()),
        value: DRIVES.into(),
        headers: Vec::new(),
    });
    transactor.commit(records.collect()).unwrap();
    drop((transactor, log));
    for topic in topics {
        for format in ["table", "json"] {
            let printed = node::output(&["inspect", topic, "--data", &data, "--format", format]);
            // For reactions that cannot be decoded, the table shows the reason and not their bytes.
            let decoded = format == "table" && ["reactions", "rejected"].contains(&topic);
            assert!(printed.contains("owned") || decoded, "{topic}: {printed}");
            is_plain(&printed);
        }
    }
}

#[test]
fn responses_of_a_server_cannot_control_the_terminal() {
    let body = json!({"detail": DRIVES, "status": 403}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let body = body.clone();
            thread::spawn(move || {
                let mut connection = connection;
                while connection.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\n\
                         content-length: {length}\r\n\r\n{body}"
                    );
                    if connection.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    for arguments in [
        &["subscribe", "--url", &url][..],
        &["load", "--url", &url, "--duration", "3s", "--probe", "off"],
        &[
            "load",
            "--url",
            &url,
            "--duration",
            "3s",
            "--probe",
            "off",
            "--json",
        ],
    ] {
        let output = node::run(arguments);
        let printed = String::from_utf8(output.stdout).unwrap();
        let stderr_text = String::from_utf8(output.stderr).unwrap();
        assert!(
            printed.contains("owned") || stderr_text.contains("owned"),
            "{stderr_text}"
        );
        is_plain(&printed);
        is_plain(&stderr_text);
    }
}

#[test]
fn a_terminal_that_cannot_be_drawn_on_gets_lines() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    for (name, terminal) in [("dumb", "TERM=dumb"), ("none", "-u TERM")] {
        let screen = dir.path().join(name);
        let pid = screen.with_extension("pid");
        let command = format!(
            "echo $$ >{}; exec env {terminal} {} subscribe --url http://{}",
            pid.display(),
            env!("CARGO_BIN_EXE_emostream"),
            node.address
        );
        // util-linux's `script` gives the program a terminal, and records the output.
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &command])
            .arg(&screen)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let drawn = || fs::read_to_string(&screen).unwrap_or_default();
        until("a line", || {
            drawn().contains("in room default").then_some(())
        });
        assert!(!drawn().contains('\x1b'), "{terminal}: {:?}", drawn());
        let pid = fs::read_to_string(&pid).unwrap();
        signal(pid.trim().parse().unwrap(), "TERM");
        let status = until("its end", || script.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{terminal}");
    }
}
