//! A network between clients and a server, which can stop forwarding.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// A forwarder of connections that can stop forwarding without closing them. Clients see this after a change from Wi-Fi
/// to mobile, or if a firewall has dropped the state of a connection.
pub struct Network {
    pub address: SocketAddr,
    /// Number of the first connection that is still forwarded. Connections with smaller numbers forward nothing.
    living: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
}

impl Network {
    pub fn to(server: &str) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (living, opened) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let server = server.to_owned();
        let (alive, counter) = (living.clone(), opened.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&server).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let alive = alive.clone();
                    thread::spawn(move || {
                        forward(from, to, || number >= alive.load(Ordering::SeqCst))
                    });
                }
            }
        });
        Network {
            address,
            living,
            opened,
        }
    }

    /// Stops forwarding on the open connections. Connections that are opened later are forwarded.
    pub fn stop(&self) {
        let opened = self.opened.load(Ordering::SeqCst);
        self.living.store(opened, Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, is_alive: impl Fn() -> bool) {
    let mut piece = [0; 16 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(length) if length > 0 && is_alive() => {
                if to.write_all(&piece[..length]).is_err() {
                    return;
                }
            }
            // The connection was stopped, so its bytes are discarded. Neither end notices that.
            Ok(length) if length > 0 => {}
            _ if is_alive() => {
                let _ = to.shutdown(std::net::Shutdown::Write);
                return;
            }
            // The connection was stopped, so the end of the stream is not forwarded either.
            _ => loop {
                thread::park();
            },
        }
    }
}
