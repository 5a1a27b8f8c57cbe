//! A WebSocket subscriber for tests.

use std::{io, net::TcpStream, time::Duration};

use serde_json::Value;
use tungstenite::{Error, Message, WebSocket, stream::MaybeTlsStream};

pub struct Subscriber(WebSocket<MaybeTlsStream<TcpStream>>);

impl Subscriber {
    /// Connects. With `since` the subscriber resumes after the final with this id.
    pub fn connect(address: &str, room: &str, since: Option<&str>) -> io::Result<Subscriber> {
        let since = since.map_or(String::new(), |id| format!("?since={id}"));
        let url = format!("ws://{address}/v1/rooms/{room}/ws{since}");
        match tungstenite::connect(url) {
            Ok((socket, _)) => Ok(Subscriber(socket)),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Returns the next message, or `None` if no message was received for `within`. Returns an error if the connection
    /// has ended.
    pub fn next(&mut self, within: Duration) -> io::Result<Option<Value>> {
        if let MaybeTlsStream::Plain(stream) = self.0.get_mut() {
            stream.set_read_timeout(Some(within))?;
        }
        match self.0.read() {
            Ok(Message::Text(text)) => Ok(Some(serde_json::from_str(&text).unwrap())),
            Ok(Message::Close(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            Ok(_) => Ok(None),
            Err(Error::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
