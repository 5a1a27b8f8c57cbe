//! Helpers of tests that start an example program as a process (feature `testing`).
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
};

use emostream_log::testing::{DEADLINE, until};

/// The text before the admin address, in the log line that contains this address.
const ADMIN_LINE: &str = "admin on http://";

/// A process of an example program, which is killed when this value is dropped.
pub struct ExampleProcess {
    child: Child,
    admin: String,
}

impl ExampleProcess {
    /// Runs an example of the package under test to its end.
    pub fn output(name: &str, arguments: &[&str]) -> Output {
        Command::new(path(name)).args(arguments).output().unwrap()
    }

    /// Starts an example of the package under test with a free port as its admin address, and waits until the example
    /// serves this address.
    ///
    /// # Panics
    ///
    /// If the process ends before that. The message contains the log lines of the process.
    pub fn start(name: &str, arguments: &[&str]) -> ExampleProcess {
        let mut child = Command::new(path(name))
            .args(arguments)
            .args(["--admin", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (found, admin) = mpsc::channel();
        // The thread reads the lines to the end, so that the pipe is never full.
        let reading = thread::spawn(move || {
            let mut log = String::new();
            for line in lines.map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(ADMIN_LINE) {
                    let address = rest.split_whitespace().next().unwrap_or_default();
                    // An error is ignored, since the test may have ended.
                    let _ = found.send(address.to_owned());
                }
                log += &line;
                log.push('\n');
            }
            log
        });
        match admin.recv_timeout(DEADLINE) {
            Ok(admin) => ExampleProcess { child, admin },
            Err(_) => {
                let _ = child.kill();
                panic!("{name} has not started:\n{}", reading.join().unwrap());
            }
        }
    }

    /// Returns the response of the admin address to a GET: its head and its body.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: example\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// Sends SIGTERM, and waits until the process has ended.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        let mut status = None;
        until("an end after SIGTERM", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for ExampleProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the path of an example, which cargo builds beside the tests.
fn path(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        example.exists(),
        "{} is not built: run `cargo test` without --test, or add --example {name}",
        example.display()
    );
    example
}
