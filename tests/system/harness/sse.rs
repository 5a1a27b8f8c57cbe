//! A Server-Sent Events subscriber for tests, on a plain socket.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use super::DEADLINE;

pub struct Subscriber(BufReader<TcpStream>);

/// An event, with its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: String,
    pub id: Option<String>,
    pub data: Value,
}

impl Subscriber {
    /// Connects. With `last_event_id` the subscriber resumes as a browser's EventSource does.
    pub fn connect(address: &str, room: &str, last_event_id: Option<&str>) -> Subscriber {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let resume = last_event_id.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let head = format!(
            "GET /v1/rooms/{room}/events HTTP/1.1\r\nhost: {address}\r\n{resume}\
             accept: text/event-stream\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "no head: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.to_lowercase()
                .contains("content-type: text/event-stream"),
            "{head}"
        );
        Subscriber(reader)
    }

    /// Returns the next event with data. Comments and the lines with chunk sizes are not fields, so they are skipped.
    pub fn next(&mut self) -> Event {
        let (mut kind, mut id, mut data) = (String::new(), None, String::new());
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(value) = line.strip_prefix("event:") {
                kind = value.trim().to_owned();
            } else if let Some(value) = line.strip_prefix("id:") {
                id = Some(value.trim().to_owned());
            } else if let Some(value) = line.strip_prefix("data:") {
                data += value.trim();
            } else if line.is_empty() && !data.is_empty() {
                let data = serde_json::from_str(&data).unwrap();
                return Event { kind, id, data };
            }
        }
    }
}

/// A subscriber that returns errors instead of failing the test, since its server may be killed.
pub struct Stream {
    reader: BufReader<TcpStream>,
    /// The bytes of an incomplete line.
    line: Vec<u8>,
}

impl Stream {
    /// Connects. With `since` the subscriber resumes as a browser's EventSource does.
    pub fn connect(address: &str, room: &str, since: Option<&str>) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let resume = since.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let head =
            format!("GET /v1/rooms/{room}/events HTTP/1.1\r\nhost: {address}\r\n{resume}\r\n");
        stream.write_all(head.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        match head.starts_with("HTTP/1.1 200") {
            true => Ok(Stream {
                reader,
                line: Vec::new(),
            }),
            false => Err(io::Error::other(head)),
        }
    }

    /// Returns the next message, or `None` if no message was received for `within`. Returns an error if the connection
    /// has ended.
    pub fn next(&mut self, within: Duration) -> io::Result<Option<Value>> {
        use io::ErrorKind::{TimedOut, UnexpectedEof, WouldBlock};
        self.reader.get_mut().set_read_timeout(Some(within))?;
        loop {
            match self.reader.read_until(b'\n', &mut self.line) {
                Ok(0) => return Err(UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).unwrap();
            // Every event of this server has one line of data, so a line is a whole message.
            if let Some(data) = line.strip_prefix("data: ").filter(|d| d.ends_with('\n')) {
                return Ok(Some(serde_json::from_str(data).unwrap()));
            }
        }
    }
}
