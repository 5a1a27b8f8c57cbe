#![allow(clippy::unwrap_used, reason = "a failed test panics")]
use super::*;
use proptest::prelude::*;
use std::io::{self, Read, Write};
use tungstenite::{
    Error, Message, WebSocket,
    error::CapacityError,
    protocol::{Role, WebSocketConfig},
};

/// The effect of a client's bytes: the payloads of the pongs, and the close, if there is one.
type Outcome = (Vec<Vec<u8>>, Option<(&'static str, u16)>);

fn of_inbound(bytes: &[u8], cuts: &[usize]) -> Outcome {
    let mut inbound = Inbound::default();
    let (mut pongs, mut end) = (Vec::new(), None);
    let mut cuts = cuts.iter().cycle();
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while !rest.is_empty() && end.is_none() {
        let at = cuts
            .next()
            .map_or(rest.len(), |cut| *cut)
            .clamp(1, rest.len());
        let (piece, behind) = rest.split_at_mut(at);
        end = inbound.process(piece).map(|event| match event {
            InboundEvent::Close(code) => ("close", code.unwrap_or(0)),
            InboundEvent::Violation(code, _) => ("violation", code.into()),
        });
        pongs.push(inbound.drain_pongs());
        rest = behind;
    }
    let pongs = pongs.concat();
    let mut payloads = Vec::new();
    let mut rest = &pongs[..];
    while let [0x8a, len, behind @ ..] = rest {
        let (payload, behind) = behind.split_at(*len as usize);
        payloads.push(payload.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty(), "pongs are whole");
    (payloads, end)
}

/// A stream from which the client's bytes are read, and which stores the server's bytes.
struct TestStream<'a>(&'a [u8], Vec<u8>);

impl Read for TestStream<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for TestStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the effect of the same bytes on a server of tungstenite.
fn of_tungstenite(bytes: &[u8]) -> Outcome {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES as usize))
        .max_frame_size(Some(MESSAGE_BYTES as usize));
    let wire = TestStream(bytes, Vec::new());
    let mut socket = WebSocket::from_raw_socket(wire, Role::Server, Some(limits));
    let mut pings = Vec::new();
    let end = loop {
        match socket.read() {
            Ok(Message::Ping(payload)) => pings.push(payload.to_vec()),
            // tungstenite reports this close code if the client has sent a close code that is not allowed.
            Ok(Message::Close(Some(frame))) if frame.reason.as_str() == "Protocol violation" => {
                break Some(("violation", 1002));
            }
            Ok(Message::Close(frame)) => {
                break Some(("close", frame.map_or(0, |frame| frame.code.into())));
            }
            Ok(_) => {}
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                break None;
            }
            Err(Error::Protocol(_)) => break Some(("violation", 1002)),
            Err(Error::Utf8(_)) => break Some(("violation", 1007)),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                break Some(("violation", 1009));
            }
            Err(_) => break None,
        }
    };
    (pings, end)
}

/// A frame of a client, which may be invalid.
#[derive(Debug, Clone)]
struct Sent {
    first: u8,
    payload: Vec<u8>,
    masked: bool,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes = vec![self.first];
        let bit = if self.masked { 0x80 } else { 0 };
        match self.payload.len() {
            len @ 0..126 => bytes.push(bit | len as u8),
            len => {
                bytes.push(bit | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend(MASK);
        }
        let mask = if self.masked { MASK } else { [0; 4] };
        bytes.extend(
            self.payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(b, m)| b ^ m),
        );
        bytes
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-zé🔥]{0,20}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
        1 => proptest::collection::vec(any::<u8>(), 120..130),
        1 => (0_usize..6000).prop_map(|len| vec![b'x'; len]),
        1 => (999_u16..5001).prop_map(|code| code.to_be_bytes().to_vec()),
    ]
}

/// Generates frames that are mostly valid. An invalid frame ends the connection, so with more invalid frames the
/// sequences would be shorter and cover fewer states.
fn sent() -> impl Strategy<Value = Sent> {
    let first = prop_oneof![
        // Unfragmented text and binary messages, pings, pongs.
        6 => prop::sample::select(vec![0x81_u8, 0x82, 0x89, 0x8a]),
        // Fragments of messages: the first one, one in the middle, the last one.
        6 => prop::sample::select(vec![0x01_u8, 0x02, 0x00, 0x80]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    (first, payload(), prop::bool::weighted(0.97)).prop_map(|(first, payload, masked)| Sent {
        first,
        payload,
        masked,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Our parser and tungstenite report a violation in the same frame, or neither reports one. They may report
    /// different kinds of violation, since tungstenite parses whole messages and checks in another order.
    #[test]
    fn inbound_and_tungstenite_agree(
        frames in proptest::collection::vec(sent(), 0..12),
        cuts in proptest::collection::vec(1_usize..50, 1..20),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        let (of_inbound, of_tungstenite) = (of_inbound(&bytes, &cuts), of_tungstenite(&bytes));
        prop_assert_eq!(&of_inbound.0, &of_tungstenite.0);
        prop_assert_eq!(of_inbound.1.map(|end| end.0), of_tungstenite.1.map(|end| end.0));
        if of_inbound.1.is_some_and(|end| end.0 == "close") {
            prop_assert_eq!(of_inbound.1, of_tungstenite.1);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_how_bytes_are_split(
        frames in proptest::collection::vec(sent(), 0..12),
        junk in proptest::collection::vec(any::<u8>(), 0..40),
        cuts in proptest::collection::vec(1_usize..50, 1..20),
    ) {
        let frames: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        for bytes in [&[&frames[..], &junk].concat(), &junk] {
            // The pongs are drained after each piece, before newer pongs can replace them. So both results contain all
            // pongs.
            prop_assert_eq!(of_inbound(bytes, &cuts).1, of_inbound(bytes, &[1]).1);
            prop_assert_eq!(of_inbound(bytes, &cuts).0, of_inbound(bytes, &[1]).0);
        }
    }

    #[test]
    fn text_in_pieces_is_utf8_as_in_one(
        text in "[a-zé🔥]{0,20}",
        damage in proptest::option::of((0_usize..40, any::<u8>())),
        cut in 1_usize..6,
    ) {
        let mut bytes = text.into_bytes();
        if let Some((at, byte)) = damage && let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let mut utf8 = Utf8::default();
        let taken = bytes.chunks(cut).try_for_each(|piece| utf8.push(piece));
        prop_assert_eq!(taken.is_ok() && utf8.is_whole(), std::str::from_utf8(&bytes).is_ok());
    }
}

#[test]
fn stored_pongs_are_limited_and_the_newest_is_kept() {
    let mut inbound = Inbound::default();
    for nth in 0..10_000_u32 {
        let payload = [&nth.to_be_bytes()[..], &[0; 121]].concat();
        let ping = Sent {
            first: 0x89,
            payload,
            masked: true,
        };
        assert_eq!(inbound.process(&mut ping.bytes()), None);
        assert!(inbound.pongs.len() <= PONG_BYTES);
    }
    let pongs = inbound.drain_pongs();
    assert_eq!(pongs[pongs.len() - 125..][..4], 9999_u32.to_be_bytes());
    inbound.return_pongs(pongs.clone());
    assert_eq!(inbound.drain_pongs(), pongs);
}

/// A length must be encoded in the minimum number of bytes (RFC 6455, 5.2). tungstenite does not check this, so this
/// case is not in the comparison above.
#[test]
fn a_length_is_written_in_as_few_bytes_as_it_needs() {
    let long = [&[0x89, 0xfe, 0, 2][..], &[0; 4], b"hi"].concat();
    assert_eq!(of_inbound(&long, &[1]).1, Some(("violation", 1002)));
}
