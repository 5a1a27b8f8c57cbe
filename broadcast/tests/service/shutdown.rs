//! Graceful shutdown: the server sends `bye` to all subscribers, with a time at which to reconnect.

use emostream_log::testing::until;
use tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    clients::{Sse, Subscriber, Ws, get},
    fixture::Fixture,
};

#[test]
fn all_subscribers_are_sent_a_time_to_reconnect() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut subscribers: Vec<Ws> = (0..8).map(|_| Ws::join(node.address, "r", "")).collect();
    let mut sse = Sse::join(node.address, "r", "", "");
    for ws in &mut subscribers {
        assert_eq!(ws.next().kind(), "hello");
    }
    assert_eq!(sse.next().kind(), "hello");
    let stopping = std::thread::spawn(move || node.stop());
    let mut retries = Vec::new();
    for mut ws in subscribers {
        let bye = ws.next();
        assert_eq!(bye.kind(), "bye");
        retries.push(bye.json["retry_ms"].as_u64().unwrap());
        let Message::Close(Some(frame)) = ws.message() else {
            panic!("a close follows");
        };
        assert_eq!(u16::from(frame.code), 3001);
        // The client's library answers the close, and then the server closes the stream.
        assert!(matches!(
            ws.0.read(),
            Err(tungstenite::Error::ConnectionClosed)
        ));
    }
    assert!(retries.iter().any(|ms| *ms != retries[0]), "{retries:?}");
    assert!(
        retries.iter().all(|ms| (1..60_000).contains(ms)),
        "{retries:?}"
    );
    assert_eq!(sse.next().kind(), "bye");
    assert_eq!(sse.event(), None);
    assert_eq!(stopping.join().unwrap().remaining, 0);
}

#[test]
fn a_client_that_never_answers_the_close_does_not_delay_the_shutdown() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mute = Ws::join(node.address, "r", "");
    until("joined", || {
        node.metric(r#"subscribers{transport="websocket"}"#) == 1.0
    });
    assert_eq!(node.stop().remaining, 0);
    drop(mute);
}

#[test]
fn new_subscribers_are_refused_during_shutdown() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    node.bye_only();
    let answer = get(node.address, "/v1/rooms/r/events");
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    let request = format!("ws://{}/v1/rooms/r/ws", node.address);
    match tungstenite::connect(request) {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 503),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_clients_close_is_answered() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    ws.0.close(Some(tungstenite::protocol::CloseFrame {
        code: CloseCode::Normal,
        reason: "enough".into(),
    }))
    .unwrap();
    assert!(matches!(ws.message(), Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
    until("gone", || {
        node.metric(r#"subscribers{transport="websocket"}"#) == 0.0
    });
}
