//! The plain server of `fanout`: a task for each socket, `tokio::sync::broadcast`, and tokio-tungstenite with default
//! settings.

use std::{collections::HashMap, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast::{self, error::RecvError},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

use super::results::Flags;
use crate::Result;

/// Maximum number of messages that a slow socket may lag behind.
const CHANNEL_CAPACITY: usize = 16;

type Rooms = HashMap<String, broadcast::Sender<String>>;

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let rooms: Arc<Rooms> = Arc::new(flags.for_rooms(|| broadcast::Sender::new(CHANNEL_CAPACITY)));
    runtime.spawn(serve(rooms.clone()));
    flags.follow(|room, frame| {
        if let Some(sender) = rooms.get(room) {
            // The error is ignored: it means that the room has no subscribers.
            let _ = sender.send(frame);
        }
    })
}

async fn serve(rooms: Arc<Rooms>) -> std::io::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener: TcpListener = socket.listen(4096)?;
    println!("serves http://{}/", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(subscriber(stream, rooms.clone()));
    }
}

async fn subscriber(stream: TcpStream, rooms: Arc<Rooms>) {
    let mut path = String::new();
    #[allow(clippy::result_large_err, reason = "the library's type")]
    let record_path = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async(stream, record_path).await else {
        return;
    };
    let Some(mut frames) = rooms.get(name(&path)).map(broadcast::Sender::subscribe) else {
        return;
    };
    let (mut to, mut from) = socket.split();
    loop {
        tokio::select! {
            received = from.next() => match received {
                Some(Ok(_)) => {}
                _ => return,
            },
            frame = frames.recv() => match frame {
                Ok(frame) => if to.send(Message::text(frame)).await.is_err() {
                    return;
                },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Returns the room in a path.
pub(super) fn name(path: &str) -> &str {
    path.trim_start_matches("/v1/rooms/")
        .trim_end_matches("/ws")
}
