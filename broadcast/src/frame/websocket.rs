//! WebSocket frames as a server sends them (RFC 6455, section 5).

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, OpCode},
};

/// Encodes an unfragmented and unmasked frame. A server must not mask its frames.
pub(crate) fn framed(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let bytes = payload.len() as u64;
    let mut frame = Vec::with_capacity(header.len(bytes) + payload.len());
    header
        .format(bytes, &mut frame)
        .expect("a write to a Vec never fails");
    frame.extend_from_slice(payload);
    frame
}

/// Encodes a close frame with a code and a short reason.
pub(crate) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
    framed(OpCode::Control(Control::Close), &payload)
}
