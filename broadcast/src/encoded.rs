//! Frames as they go out: serialised once, shared by all who receive them.

use bytes::Bytes;
use emostream_model::Frame;
use tungstenite::Utf8Bytes;

/// A frame's JSON, as WebSocket text and as a Server-Sent Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    kind: &'static str,
    json: Utf8Bytes,
    event: Bytes,
}

impl Encoded {
    pub(crate) fn new(frame: &Frame) -> Self {
        let json = serde_json::to_string(frame).expect("frames are plain data with string keys");
        let kind = frame.kind();
        let id = match frame {
            Frame::Final { id, .. } => format!("id: {id}\n"),
            _ => String::new(),
        };
        Self {
            kind,
            // JSON has no line breaks of its own, so one data line holds it.
            event: Bytes::from(format!("event: {kind}\n{id}data: {json}\n\n")),
            json: Utf8Bytes::from(json),
        }
    }

    /// The frame's type.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The JSON text.
    pub(crate) fn json(&self) -> &Utf8Bytes {
        &self.json
    }

    /// The whole event, blank line included.
    pub(crate) fn event(&self) -> &Bytes {
        &self.event
    }
}
