//! Encoded frames. Each frame is serialised once, and all connections that send it share its bytes.

use std::sync::OnceLock;

use bytes::Bytes;
use emostream_model::{Frame, ResultId};
use tungstenite::{
    Utf8Bytes,
    protocol::frame::coding::{Data, OpCode},
};

use crate::frame::sse::{self, Framing};
use crate::frame::websocket;

/// Initial capacity of the buffer for a frame's JSON. Most frames are shorter.
const JSON_BYTES: usize = 512;

/// A frame as JSON, as a WebSocket frame, and as a Server-Sent Event. The event is encoded when the first connection
/// needs it.
#[derive(Debug, Clone)]
pub(crate) struct EncodedFrame {
    /// A slice of `websocket`, so the JSON is stored once.
    json: Utf8Bytes,
    websocket: Bytes,
    kind: &'static str,
    field: SseField,
    event: OnceLock<Event>,
}

/// A field of a Server-Sent Event that the browser's `EventSource` interprets.
#[derive(Debug, Clone, Copy)]
enum SseField {
    None,
    /// The field `id`. A browser that reconnects sends it back, and the stream resumes after the final result with this
    /// id.
    Id(ResultId),
    /// The field `retry`: the delay in ms after which the browser reconnects.
    Retry(u64),
}

/// An encoded Server-Sent Event, and the HTTP/1.1 chunk that contains it.
#[derive(Debug, Clone)]
struct Event {
    /// A slice of `chunk`, so the event is stored once.
    event: Bytes,
    chunk: Bytes,
}

impl PartialEq for EncodedFrame {
    /// Compares only the JSON texts, since all other fields are derived from the JSON.
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl Eq for EncodedFrame {}

impl EncodedFrame {
    pub(crate) fn new(frame: &Frame) -> Self {
        let mut json = Vec::with_capacity(JSON_BYTES);
        serde_json::to_writer(&mut json, frame).expect("a frame can always be encoded as JSON");
        let websocket = Bytes::from(websocket::framed(OpCode::Data(Data::Text), &json));
        let text = websocket.slice(websocket.len() - json.len()..);
        Self {
            json: Utf8Bytes::try_from(text).expect("JSON is UTF-8"),
            websocket,
            kind: frame.kind(),
            field: match frame {
                Frame::Final { id, .. } => SseField::Id(*id),
                Frame::Bye { retry_ms } => SseField::Retry(*retry_ms),
                _ => SseField::None,
            },
            event: OnceLock::new(),
        }
    }

    /// Returns the frame as JSON text.
    pub(crate) fn json(&self) -> &Utf8Bytes {
        &self.json
    }

    /// Returns the whole WebSocket frame, header included.
    pub(crate) fn websocket(&self) -> &Bytes {
        &self.websocket
    }

    /// Returns the whole Server-Sent Event, blank line included, encoded for `framing`.
    pub(crate) fn sse(&self, framing: Framing) -> &Bytes {
        let event = self.event.get_or_init(|| {
            let field = match self.field {
                SseField::None => String::new(),
                SseField::Id(id) => format!("id: {id}\n"),
                SseField::Retry(ms) => format!("retry: {ms}\n"),
            };
            // The JSON has no line breaks, so one `data` line is enough.
            let event = format!("event: {}\n{field}data: {}\n\n", self.kind, self.json);
            let chunk = Bytes::from(sse::chunk(&event));
            let end = chunk.len() - sse::CHUNK_END.len();
            Event {
                event: chunk.slice(end - event.len()..end),
                chunk,
            }
        });
        match framing {
            Framing::Chunks => &event.chunk,
            Framing::Bare => &event.event,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_same_json_over_each_transport() {
        let encoded = EncodedFrame::new(&Frame::Bye { retry_ms: 4200 });
        let json = r#"{"type":"bye","retry_ms":4200}"#;
        let event = format!("event: bye\nretry: 4200\ndata: {json}\n\n");
        assert_eq!(encoded.json().as_str(), json);
        assert_eq!(encoded.websocket()[..2], [0x81, json.len() as u8]);
        assert_eq!(encoded.websocket()[2..], *json.as_bytes());
        assert_eq!(encoded.sse(Framing::Bare), event.as_bytes());
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        assert_eq!(encoded.sse(Framing::Chunks), chunk.as_bytes());
    }
}
