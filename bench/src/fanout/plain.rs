//! The plain server: a task a socket, `tokio::sync::broadcast`, tokio-tungstenite at its defaults.

use std::{collections::HashMap, sync::Arc, time::Duration};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast::{self, error::RecvError},
    time::{MissedTickBehavior, interval},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

use super::feed::{WINDOW_MS, result, room};
use crate::{Outcome, backlog::now_ms};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[arg(long)]
    rooms: usize,
    #[arg(long)]
    rate: u32,
}

/// Messages that a slow socket may be behind.
const BEHIND: usize = 16;

pub(crate) fn run(flags: &Flags) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(flags))
}

async fn serve(flags: &Flags) -> Outcome<()> {
    let rooms: HashMap<String, broadcast::Sender<String>> = (0..flags.rooms)
        .map(|number| (room(number), broadcast::Sender::new(BEHIND)))
        .collect();
    let rooms = Arc::new(rooms);
    tokio::spawn(publish(rooms.clone(), Duration::from_secs(1) / flags.rate));
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener: TcpListener = socket.listen(4096)?;
    println!("serves http://{}/", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(subscriber(stream, rooms.clone()));
    }
}

async fn publish(rooms: Arc<HashMap<String, broadcast::Sender<String>>>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1.. {
        ticks.tick().await;
        for (room, sender) in &*rooms {
            let at = now_ms();
            let start = at - at % WINDOW_MS;
            // Nobody may be there.
            let _ = sender.send(result(r#""type":"live","#, room, start, Some(at), count));
        }
    }
}

async fn subscriber(stream: TcpStream, rooms: Arc<HashMap<String, broadcast::Sender<String>>>) {
    let mut path = String::new();
    #[allow(clippy::result_large_err, reason = "the library's type")]
    let look = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async(stream, look).await else {
        return;
    };
    let name = path
        .trim_start_matches("/v1/rooms/")
        .trim_end_matches("/ws");
    let Some(mut frames) = rooms.get(name).map(broadcast::Sender::subscribe) else {
        return;
    };
    let (mut to, mut from) = socket.split();
    loop {
        tokio::select! {
            heard = from.next() => match heard {
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
