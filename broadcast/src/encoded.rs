//! Frames as they go out: serialised and framed once, shared by all who receive them.

use bytes::Bytes;
use emostream_model::Frame;
use tungstenite::{
    Utf8Bytes,
    protocol::frame::coding::{Data, OpCode},
};

use crate::{sse, websocket};

/// A frame's JSON, as a WebSocket frame, as a Server-Sent Event, and as a chunk that holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// A part of `websocket`.
    json: Utf8Bytes,
    websocket: Bytes,
    /// A part of `chunk`.
    event: Bytes,
    chunk: Bytes,
}

impl Encoded {
    pub(crate) fn new(frame: &Frame) -> Self {
        let json = serde_json::to_vec(frame).expect("frames are plain data with string keys");
        let websocket = Bytes::from(websocket::framed(OpCode::Data(Data::Text), &json));
        let text = websocket.slice(websocket.len() - json.len()..);
        let json = Utf8Bytes::try_from(text).expect("JSON is UTF-8");
        let kind = frame.kind();
        // What a browser's EventSource heeds by itself: where to resume, and when to come back.
        let heeded = match frame {
            Frame::Final { id, .. } => format!("id: {id}\n"),
            Frame::Bye { retry_ms } => format!("retry: {retry_ms}\n"),
            _ => String::new(),
        };
        // JSON has no line breaks of its own, so one data line holds it.
        let event = format!("event: {kind}\n{heeded}data: {json}\n\n");
        let chunk = Bytes::from(sse::chunk(&event));
        let end = chunk.len() - sse::CHUNK_END.len();
        Self {
            json,
            websocket,
            event: chunk.slice(end - event.len()..end),
            chunk,
        }
    }

    /// The JSON text.
    pub(crate) fn json(&self) -> &Utf8Bytes {
        &self.json
    }

    /// The whole WebSocket frame.
    pub(crate) fn websocket(&self) -> &Bytes {
        &self.websocket
    }

    /// The whole event, blank line included.
    pub(crate) fn event(&self) -> &Bytes {
        &self.event
    }

    /// The whole event, as a chunk of HTTP/1.1.
    pub(crate) fn chunk(&self) -> &Bytes {
        &self.chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_the_same_whatever_it_goes_by() {
        let encoded = Encoded::new(&Frame::Bye { retry_ms: 4200 });
        let json = r#"{"type":"bye","retry_ms":4200}"#;
        let event = format!("event: bye\nretry: 4200\ndata: {json}\n\n");
        assert_eq!(encoded.json().as_str(), json);
        assert_eq!(encoded.websocket()[..2], [0x81, json.len() as u8]);
        assert_eq!(encoded.websocket()[2..], *json.as_bytes());
        assert_eq!(encoded.event(), event.as_bytes());
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        assert_eq!(encoded.chunk(), chunk.as_bytes());
    }
}
