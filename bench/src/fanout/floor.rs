//! The floor: what the kernel takes to send a frame. One thread a core goes through its sockets and writes the
//! same prepared bytes to each. It hears nobody, keeps nothing for who is slow, resumes nobody.

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
use crate::Outcome;

enum News {
    Came(String, TcpStream),
    Frame(String, Arc<[u8]>),
}

pub(crate) fn run(flags: &Flags) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Its own queue of 128 is too short for all at once.
    SockRef::from(&listener).listen(4096)?;
    println!("serves http://{}/", listener.local_addr()?);
    let cores = std::thread::available_parallelism()?.get();
    let senders: Vec<Sender<News>> = (0..cores)
        .map(|_| {
            let (sender, news) = channel();
            std::thread::spawn(move || write(&news));
            sender
        })
        .collect();
    let arrivals = senders.clone();
    std::thread::spawn(move || accept(&listener, &arrivals));
    flags.follow(|room, frame| {
        let frame = framed(frame.as_bytes());
        for sender in &senders {
            // It writes for ever.
            let _ = sender.send(News::Frame(room.to_owned(), frame.clone()));
        }
    })
}

fn accept(listener: &TcpListener, arrivals: &[Sender<News>]) {
    for (stream, arrivals) in listener.incoming().flatten().zip(arrivals.iter().cycle()) {
        let mut path = String::new();
        #[allow(clippy::result_large_err, reason = "the library's type")]
        let look = |request: &Request, response: Response| {
            path = request.uri().path().to_owned();
            Ok(response)
        };
        let Ok(socket) = accept_hdr(stream, look) else {
            continue;
        };
        let stream = socket.into_inner();
        if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
            // It writes for ever.
            let _ = arrivals.send(News::Came(name(&path).to_owned(), stream));
        }
    }
}

fn write(news: &Receiver<News>) {
    let mut rooms: HashMap<String, Vec<TcpStream>> = HashMap::new();
    for news in news {
        match news {
            News::Came(room, stream) => rooms.entry(room).or_default().push(stream),
            News::Frame(room, frame) => {
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

/// A text frame of a server, of at most 65,535 bytes.
fn framed(text: &[u8]) -> Arc<[u8]> {
    let head = match u16::try_from(text.len()) {
        Ok(len @ ..126) => vec![0x81, len as u8],
        Ok(len) => [&[0x81, 126][..], &len.to_be_bytes()].concat(),
        Err(_) => unreachable!("a result of the feed is short"),
    };
    [&head, text].concat().into()
}
