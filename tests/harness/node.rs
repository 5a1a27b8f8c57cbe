//! A running `emostream`, and one that ran to its end.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{DEADLINE, signal::signal, until, until_within, within};

/// What is shown of a log where a test fails.
const SHOWN_LINES: usize = 30;

/// The program under test, with nothing of this environment's settings.
pub fn emostream(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emostream"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EMOSTREAM_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    emostream(arguments).output().unwrap()
}

/// Runs it and takes what it prints; fails unless it ends well.
pub fn output(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Starts it; its errors are appended to `log`.
pub fn spawn(arguments: &[&str], log: &Path, stdout: Stdio) -> Child {
    spawn_in(&[], arguments, log, stdout)
}

/// Starts it with these variables in its environment.
fn spawn_in(
    environment: &[(&str, String)],
    arguments: &[&str],
    log: &Path,
    stdout: Stdio,
) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    emostream(arguments)
        .envs(environment.iter().cloned())
        .stdout(stdout)
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The end of a log, to be shown where a test fails.
pub fn said_at_last(log: &Path) -> String {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let newest = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    format!("{} ends with:\n{}", log.display(), newest.join("\n"))
}

/// A server. It is killed when it goes out of scope.
pub struct Node {
    child: Child,
    log: PathBuf,
    /// `host:port` of its listener.
    pub address: String,
}

impl Node {
    /// `up` on the embedded log in `dir`, on a port of its own.
    pub fn up(dir: &Path, extra: &[&str]) -> Node {
        let data = dir.join("data");
        let mut arguments = vec!["up", "--listen", "127.0.0.1:0", "--admin", "off"];
        arguments.extend(["--data", data.to_str().unwrap()]);
        arguments.extend(extra);
        Node::start(&arguments, &dir.join("stderr"))
    }

    /// `up` on Kafka.
    pub fn up_on_kafka(dir: &Path, brokers: &str, prefix: &str, extra: &[&str]) -> Node {
        let mut arguments = vec!["up", "--listen", "127.0.0.1:0", "--admin", "off"];
        arguments.extend(["--kafka", brokers, "--topic-prefix", prefix]);
        arguments.extend(extra);
        Node::start(&arguments, &dir.join("stderr"))
    }

    /// Any server that prints the address it listens at. Its errors are appended to `log`.
    pub fn start(arguments: &[&str], log: &Path) -> Node {
        Node::start_in(&[], arguments, log)
    }

    /// The same with these variables in its environment.
    pub fn start_in(environment: &[(&str, String)], arguments: &[&str], log: &Path) -> Node {
        let mut child = spawn_in(environment, arguments, log, Stdio::piped());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (found, address) = mpsc::channel();
        thread::spawn(move || {
            // To the end, so that the pipe never fills.
            for line in lines.map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("://") {
                    let end = rest.find(|c: char| !(c.is_alphanumeric() || ".:".contains(c)));
                    let _ = found.send(rest[..end.unwrap_or(rest.len())].to_owned());
                }
            }
        });
        match address.recv_timeout(DEADLINE) {
            Ok(address) => Node {
                child,
                log: log.to_owned(),
                address,
            },
            Err(_) => {
                let _ = child.kill();
                let status = child.wait().unwrap();
                let said = std::fs::read_to_string(log).unwrap_or_default();
                panic!("{arguments:?} printed no address and ended with {status}:\n{said}");
            }
        }
    }

    /// A process that listens nowhere.
    pub fn start_silent(arguments: &[&str], log: &Path) -> Node {
        let child = spawn(arguments, log, Stdio::null());
        Node {
            child,
            log: log.to_owned(),
            address: String::new(),
        }
    }

    /// Where it serves its administrator, as it logged it.
    pub fn admin(&self) -> String {
        until("the admin address in the log", || {
            let said = std::fs::read_to_string(&self.log).ok()?;
            let (_, rest) = said.split_once("admin on http://")?;
            let end = rest.find(|c: char| c.is_whitespace() || c == '"')?;
            Some(rest[..end].to_owned())
        })
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self, within: Duration) -> ExitStatus {
        signal(self.child.id(), "TERM");
        until_within(within, "an end after SIGTERM", || {
            self.child.try_wait().unwrap()
        })
    }

    /// Its exit code, if it ends by itself within `limit`.
    pub fn exit_code_within(&mut self, limit: Duration) -> Option<i32> {
        within(limit, || self.child.try_wait().unwrap()).and_then(|status| status.code())
    }

    /// Waits for it to end by itself.
    pub fn ended(mut self) -> ExitStatus {
        until_within(DEADLINE, "an end", || self.child.try_wait().unwrap())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", said_at_last(&self.log));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
