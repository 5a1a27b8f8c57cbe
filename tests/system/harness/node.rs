//! Processes of `emostream`: servers, and commands that run to their end.

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

/// Number of log lines that are shown if a test fails.
const SHOWN_LINES: usize = 30;

/// Returns a command of the program under test, without the `EMOSTREAM_` variables of the environment.
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

/// Runs the program until it ends, and returns its output.
pub fn run(arguments: &[&str]) -> Output {
    emostream(arguments).output().unwrap()
}

/// Runs the program and returns its standard output; fails if its exit code is not 0.
pub fn output(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Starts the program. Standard error is appended to `log`.
pub fn spawn(arguments: &[&str], log: &Path, stdout: Stdio) -> Child {
    spawn_in(&[], arguments, log, stdout)
}

/// Starts the program with additional environment variables.
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

/// Returns the last lines of a log, to be printed if a test fails.
pub fn last_lines(log: &Path) -> String {
    let log_text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log_text.lines().collect();
    let newest = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    format!("{} ends with:\n{}", log.display(), newest.join("\n"))
}

/// A process of a server, which is killed when this value is dropped.
pub struct Node {
    child: Child,
    log: PathBuf,
    /// `host:port` of its listener.
    pub address: String,
}

impl Node {
    /// Starts `up` on the embedded log in `dir`, on a free port.
    pub fn up(dir: &Path, extra: &[&str]) -> Node {
        let data = dir.join("data");
        let mut arguments = vec!["up", "--listen", "127.0.0.1:0", "--admin", "off"];
        arguments.extend(["--data", data.to_str().unwrap()]);
        arguments.extend(extra);
        Node::start(&arguments, &dir.join("stderr"))
    }

    /// Starts `up` on Kafka.
    pub fn up_on_kafka(dir: &Path, brokers: &str, prefix: &str, extra: &[&str]) -> Node {
        let mut arguments = vec!["up", "--listen", "127.0.0.1:0", "--admin", "off"];
        arguments.extend(["--kafka", brokers, "--topic-prefix", prefix]);
        arguments.extend(extra);
        Node::start(&arguments, &dir.join("stderr"))
    }

    /// Starts a server that prints its address. Standard error is appended to `log`.
    pub fn start(arguments: &[&str], log: &Path) -> Node {
        Node::start_in(&[], arguments, log)
    }

    /// Starts a server with additional environment variables.
    pub fn start_in(environment: &[(&str, String)], arguments: &[&str], log: &Path) -> Node {
        let mut child = spawn_in(environment, arguments, log, Stdio::piped());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (found, address) = mpsc::channel();
        thread::spawn(move || {
            // The thread reads the output to its end, so that the pipe is never full.
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
                let log_text = std::fs::read_to_string(log).unwrap_or_default();
                panic!("{arguments:?} printed no address and ended with {status}:\n{log_text}");
            }
        }
    }

    /// Starts a process that prints no address.
    pub fn start_silent(arguments: &[&str], log: &Path) -> Node {
        let child = spawn(arguments, log, Stdio::null());
        Node {
            child,
            log: log.to_owned(),
            address: String::new(),
        }
    }

    /// Returns the admin address, which is read from the log.
    pub fn admin(&self) -> String {
        until("the admin address in the log", || {
            let log_text = std::fs::read_to_string(&self.log).ok()?;
            let (_, rest) = log_text.split_once("admin on http://")?;
            let end = rest.find(|c: char| c.is_whitespace() || c == '"')?;
            Some(rest[..end].to_owned())
        })
    }

    /// Returns the text that the process has written to its log.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process by SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM, waits until the process has ended, and returns its exit status.
    pub fn stop(mut self, within: Duration) -> ExitStatus {
        signal(self.child.id(), "TERM");
        until_within(within, "an end after SIGTERM", || {
            self.child.try_wait().unwrap()
        })
    }

    /// Waits at most `limit` until the process has ended. Returns its exit code, or `None` if it has not
    /// ended or a signal has killed it.
    pub fn exit_code_within(&mut self, limit: Duration) -> Option<i32> {
        within(limit, || self.child.try_wait().unwrap()).and_then(|status| status.code())
    }

    /// Waits until the process has ended, and returns its exit status.
    pub fn ended(mut self) -> ExitStatus {
        until_within(DEADLINE, "an end", || self.child.try_wait().unwrap())
    }

    /// Returns whether the process is still running.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", last_lines(&self.log));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
