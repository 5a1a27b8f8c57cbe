//! A TCP proxy on loopback that can stop forwarding, or close its connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// Interval at which an idle connection checks the state of the link.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Bytes are forwarded.
    Up,
    /// Connections stay open, but bytes are delayed until the link is up again.
    Silent,
    /// Open and new connections are closed.
    Cut,
}

type State = Arc<(Mutex<Link>, Condvar)>;

pub struct Proxy {
    state: State,
    /// The port of the proxy.
    pub port: String,
}

impl Proxy {
    /// Starts a proxy that forwards connections to `to`.
    pub fn start(to: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let state: State = Arc::new((Mutex::new(Link::Up), Condvar::new()));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // If the server is unreachable, the client's connection is closed.
                let Ok(server) = TcpStream::connect(&to) else {
                    continue;
                };
                let ends = [(&client, &server), (&server, &client)];
                for (from, to) in ends {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = shared.clone();
                    thread::spawn(move || pass(from, to, &state));
                }
            }
        });
        Proxy { state, port }
    }

    pub fn fall_silent(&self) {
        self.set(Link::Silent);
    }

    pub fn cut(&self) {
        self.set(Link::Cut);
    }

    pub fn come_up(&self) {
        self.set(Link::Up);
    }

    fn set(&self, link: Link) {
        *self.state.0.lock().unwrap() = link;
        self.state.1.notify_all();
    }
}

/// Forwards bytes in one direction until either end closes or the link is cut.
fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    from.set_read_timeout(Some(LOOK_AGAIN)).unwrap();
    let mut bytes = vec![0; 64 << 10];
    while is_up(state) {
        let read = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if is_timeout(error.kind()) => continue,
            Err(_) => break,
        };
        // If the link has become silent during the read, these bytes are forwarded when it is up again.
        if !is_up(state) || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Waits while the link is silent. Returns false if the link is cut.
fn is_up(state: &State) -> bool {
    let (link, changed) = &**state;
    let link = link.lock().unwrap();
    let link = changed.wait_while(link, |link| *link == Link::Silent);
    *link.unwrap() != Link::Cut
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
