//! A service manager for tests: it restarts a process that ends, after a pause and with the same arguments, until it is
//! stopped.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::net::TcpSocket;

use super::{LOOK_AGAIN, node::spawn, signal::signal, until};

/// Maximum pause before a restart.
const PAUSE_MS: u64 = 400;

/// A supervised process.
pub struct Supervised {
    shared: Arc<Shared>,
    manager: Option<JoinHandle<()>>,
}

struct Shared {
    child: Mutex<Child>,
    ends: Mutex<Vec<ExitStatus>>,
    leave: AtomicBool,
}

impl Supervised {
    /// Starts a process. `seed` determines the length of the pauses. Standard error is appended to `log`.
    pub fn start(arguments: Vec<String>, log: PathBuf, seed: u64) -> Supervised {
        let begin = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            spawn(&arguments, &log, Stdio::null())
        };
        let shared = Arc::new(Shared {
            child: Mutex::new(begin()),
            ends: Mutex::default(),
            leave: AtomicBool::new(false),
        });
        let managed = shared.clone();
        let mut rng = StdRng::seed_from_u64(seed);
        let manager = thread::spawn(move || {
            while !managed.leave.load(Ordering::SeqCst) {
                let ended = managed.child.lock().unwrap().try_wait().unwrap();
                if let Some(status) = ended {
                    managed.ends.lock().unwrap().push(status);
                    thread::sleep(Duration::from_millis(rng.random_range(0..PAUSE_MS)));
                    *managed.child.lock().unwrap() = begin();
                }
                thread::sleep(LOOK_AGAIN);
            }
        });
        Supervised {
            shared,
            manager: Some(manager),
        }
    }

    /// Sends a signal to the current process.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Returns the id of the current process.
    pub fn pid(&self) -> u32 {
        self.shared.child.lock().unwrap().id()
    }

    /// Returns how often the process has ended.
    pub fn ends(&self) -> usize {
        self.shared.ends.lock().unwrap().len()
    }

    /// Returns how each run ended: an exit code, or a signal as a negative number.
    pub fn codes(&self) -> Vec<i32> {
        let ends = self.shared.ends.lock().unwrap();
        let code = |end: &ExitStatus| end.code().or(end.signal().map(|signal| -signal)).unwrap();
        ends.iter().map(code).collect()
    }

    /// Stops restarting the process.
    pub fn leave_alone(&mut self) {
        self.shared.leave.store(true, Ordering::SeqCst);
        if let Some(manager) = self.manager.take() {
            manager.join().unwrap();
        }
    }

    /// Waits until the current process ends.
    pub fn ended(&mut self) -> ExitStatus {
        self.leave_alone();
        until("the end of a process", || {
            self.shared.child.lock().unwrap().try_wait().unwrap()
        })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.shared.leave.store(true, Ordering::SeqCst);
        if let Some(manager) = self.manager.take() {
            let _ = manager.join();
        }
        let mut child = self.shared.child.lock().unwrap_or_else(|e| e.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Returns free addresses. They stay free, because they are below the kernel's range of ephemeral ports.
pub fn free_addresses(count: usize) -> Vec<String> {
    // The socket is bound, and does not listen. Between fork and exec, a child process of another test has a copy of
    // the socket, and a copy that listens would keep the port in use.
    let free = |port: &u16| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, *port).into()).is_ok()
    };
    let ports = (0..1000).map(|_| rand::random_range(20_000..32_000_u16));
    let ports: BTreeSet<u16> = ports.filter(free).take(count).collect();
    assert_eq!(ports.len(), count, "free ports");
    let address = |port: &u16| format!("127.0.0.1:{port}");
    ports.iter().map(address).collect()
}
