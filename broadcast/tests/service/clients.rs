//! Clients for the tests: WebSockets use a library; Server-Sent Events and plain requests use a bare socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use serde_json::Value;
use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest,
    protocol::frame::{Frame, FrameHeader, coding::OpCode},
};

use crate::{
    contract::{check, check_message},
    fixture::DEADLINE,
};

/// A received message: its JSON text, and the parsed value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Received {
    pub(crate) text: String,
    pub(crate) json: Value,
    /// The id of a Server-Sent Event.
    pub(crate) id: Option<String>,
}

impl Received {
    fn new(text: String, id: Option<String>) -> Self {
        let json = serde_json::from_str(&text).unwrap();
        check_message(&json);
        Self { text, json, id }
    }

    pub(crate) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap()
    }

    /// Returns the kind of the message, with the id of a final result, the reason of a gap, the total of a live tally,
    /// or the trending emojis.
    pub(crate) fn brief(&self) -> String {
        let of = |member: &str| self.json[member].to_string().replace('"', "");
        match self.kind() {
            "final" => format!("final {}", of("id")),
            "gap" => format!("gap {} {}", of("after"), of("reason")),
            "live" => format!("live {}", of("total")),
            "trending" => {
                let top = self.json["top"].as_array().unwrap().iter();
                let emojis = top.map(|count| count["emoji"].as_str().unwrap());
                format!("trending {}", emojis.collect::<String>())
            }
            "hello" => format!("hello {}", of("resumed")),
            kind => kind.to_owned(),
        }
    }
}

/// A subscriber over any transport.
pub(crate) trait Subscriber {
    fn next(&mut self) -> Received;

    /// Returns the next `count` messages, each as [`Received::brief`] describes it.
    fn brief(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next().brief()).collect()
    }

    /// Returns the next `count` final results, and skips other messages.
    fn finals(&mut self, count: usize) -> Vec<Received> {
        let mut finals = Vec::new();
        while finals.len() < count {
            let next = self.next();
            if next.kind() == "final" {
                finals.push(next);
            }
        }
        finals
    }
}

pub(crate) struct Ws<S = TcpStream>(pub(crate) WebSocket<S>);

impl Ws {
    /// Subscribes to `room`. `query` is empty or `?since=…`.
    pub(crate) fn join(address: SocketAddr, room: &str, query: &str) -> Self {
        Self::over(connect(address), address, room, query)
    }
}

impl<S: Read + Write> Ws<S> {
    pub(crate) fn over(stream: S, address: SocketAddr, room: &str, query: &str) -> Self {
        let url = format!("ws://{address}/v1/rooms/{room}/ws{query}");
        let request = url.into_client_request().unwrap();
        let Ok((socket, _)) = tungstenite::client(request, stream) else {
            panic!("the handshake failed");
        };
        Self(socket)
    }

    pub(crate) fn message(&mut self) -> Message {
        self.0.read().unwrap()
    }
}

impl<S: Read + Write> Subscriber for Ws<S> {
    fn next(&mut self) -> Received {
        // Each ping of the server restarts the read timeout, so this loop needs a deadline of its own.
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "no message came");
            match self.message() {
                Message::Text(text) => return Received::new(text.to_string(), None),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

pub(crate) struct Sse {
    pub(crate) head: String,
    stream: BufReader<TcpStream>,
}

impl Sse {
    pub(crate) fn join(address: SocketAddr, room: &str, query: &str, headers: &str) -> Self {
        Self::over(connect(address), address, room, query, headers)
    }

    pub(crate) fn over(
        mut stream: TcpStream,
        address: SocketAddr,
        room: &str,
        query: &str,
        headers: &str,
    ) -> Self {
        let head = format!(
            "GET /v1/rooms/{room}/events{query} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Self { head, stream }
    }

    /// Returns the next event, or `None` at the end of the stream.
    pub(crate) fn event(&mut self) -> Option<Received> {
        let (mut kind, mut id, mut data) = (String::new(), None, String::new());
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // Lines with the size of a chunk are not fields, so they are skipped, as comments are.
            let line = line.trim_end_matches(['\r', '\n']);
            match line.split_once(": ") {
                Some(("event", value)) => kind = value.to_owned(),
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => data = value.to_owned(),
                _ if line.is_empty() && !data.is_empty() => {
                    let received = Received::new(data, id);
                    assert_eq!(received.kind(), kind);
                    return Some(received);
                }
                _ => {}
            }
        }
    }
}

impl Subscriber for Sse {
    fn next(&mut self) -> Received {
        self.event().expect("the stream goes on")
    }
}

/// A response to a plain request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let start = self.head.find(&format!("\r\n{name}: "))? + name.len() + 4;
        self.head[start..].split("\r\n").next()
    }
}

/// Sends a request and returns the response, which must be as in the OpenAPI document. `line` is method and target. Each
/// line of `headers` ends with CRLF.
pub(crate) fn ask(address: SocketAddr, line: &str, headers: &str) -> Answer {
    let mut stream = connect(address);
    let head = format!("{line} HTTP/1.1\r\nhost: {address}\r\n{headers}");
    let end = if headers.to_lowercase().contains("connection:") {
        "\r\n"
    } else {
        "connection: close\r\n\r\n"
    };
    stream.write_all(format!("{head}{end}").as_bytes()).unwrap();
    let answer = read_answer(stream);
    check(line, &answer);
    answer
}

pub(crate) fn get(address: SocketAddr, target: &str) -> Answer {
    ask(address, &format!("GET {target}"), "")
}

fn read_answer(stream: TcpStream) -> Answer {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer {
        status,
        head,
        body: String::new(),
    };
    let length = answer.header("content-length").map(|n| n.parse().unwrap());
    let mut body = stream.take(length.unwrap_or(0));
    body.read_to_string(&mut answer.body).unwrap();
    answer
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Encodes a frame as a client sends it. The mask is 0, so the payload is not changed.
pub(crate) fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        mask: Some([0; 4]),
        opcode,
        ..FrameHeader::default()
    };
    let mut bytes = Vec::new();
    let frame = Frame::from_payload(header, payload.to_vec().into());
    frame.format(&mut bytes).unwrap();
    bytes
}
