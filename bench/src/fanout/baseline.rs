//! The baseline of `fanout`, named *floor* in the README. One thread for each core writes the same bytes to each of its
//! sockets, so this server shows how much CPU time the kernel needs to send a frame. The server does not read from
//! clients and buffers nothing for slow clients, and clients cannot resume.

use std::{
    collections::HashMap,
    io::{ErrorKind, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use socket2::SockRef;
use tokio_tungstenite::tungstenite::{
    accept_hdr,
    handshake::server::{Request, Response},
};

use super::{plain::name, results::Flags};
use crate::Result;

enum Message {
    Connected(String, TcpStream),
    Frame(String, Arc<[u8]>),
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // The backlog of std's listener, 128, is too short if all clients connect at once.
    SockRef::from(&listener).listen(4096)?;
    println!("serves http://{}/", listener.local_addr()?);
    let cores = std::thread::available_parallelism()?.get();
    let senders: Vec<Sender<Message>> = (0..cores)
        .map(|_| {
            let (sender, messages) = channel();
            std::thread::spawn(move || write(&messages));
            sender
        })
        .collect();
    let threads = senders.clone();
    std::thread::spawn(move || accept(&listener, &threads));
    flags.follow(|room, frame| {
        let frame = framed(frame.as_bytes());
        for sender in &senders {
            // Sending cannot fail: the receiver lives until the process ends.
            let _ = sender.send(Message::Frame(room.to_owned(), frame.clone()));
        }
    })
}

fn accept(listener: &TcpListener, threads: &[Sender<Message>]) {
    for (stream, threads) in listener.incoming().flatten().zip(threads.iter().cycle()) {
        let mut path = String::new();
        #[allow(clippy::result_large_err, reason = "the library's type")]
        let record_path = |request: &Request, response: Response| {
            path = request.uri().path().to_owned();
            Ok(response)
        };
        let Ok(socket) = accept_hdr(stream, record_path) else {
            continue;
        };
        let stream = socket.into_inner();
        if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
            // Sending cannot fail: the receiver lives until the process ends.
            let _ = threads.send(Message::Connected(name(&path).to_owned(), stream));
        }
    }
}

fn write(messages: &Receiver<Message>) {
    let mut rooms: HashMap<String, Vec<TcpStream>> = HashMap::new();
    for message in messages {
        match message {
            Message::Connected(room, stream) => rooms.entry(room).or_default().push(stream),
            Message::Frame(room, frame) => {
                rooms
                    .entry(room)
                    .or_default()
                    .retain_mut(|stream| match stream.write(&frame) {
                        Ok(written) => written == frame.len(),
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                    })
            }
        }
    }
}

/// Encodes a WebSocket text frame of a server, of at most 65,535 bytes.
fn framed(text: &[u8]) -> Arc<[u8]> {
    let head = match u16::try_from(text.len()) {
        Ok(len @ ..126) => vec![0x81, len as u8],
        Ok(len) => [&[0x81, 126][..], &len.to_be_bytes()].concat(),
        Err(_) => unreachable!("a result of the feed is short"),
    };
    [&head, text].concat().into()
}
