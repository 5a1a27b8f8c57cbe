//! Tests of the messages between publishers and relays: each message is decoded as it was encoded, and any bytes give a
//! message or an error.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use emostream_model::*;
use proptest::{collection::vec, option, prelude::*};

fn emoji() -> impl Strategy<Value = Emoji> {
    any::<prop::sample::Index>()
        .prop_map(|index| Emoji::all().nth(index.index(Emoji::all().len())).unwrap())
}

fn room() -> impl Strategy<Value = Room> {
    "[A-Za-z0-9._~-]{1,64}".prop_map(|name| Room::from_record(&name).unwrap())
}

fn id() -> impl Strategy<Value = ResultId> {
    (any::<u32>(), any::<u64>()).prop_map(|(partition, offset)| ResultId { partition, offset })
}

fn window() -> impl Strategy<Value = Window> {
    any::<(u64, u64)>().prop_map(|(start, end)| Window { start, end })
}

fn counts() -> impl Strategy<Value = Vec<Count>> {
    vec(
        (emoji(), any::<u64>()).prop_map(|(emoji, count)| Count { emoji, count }),
        0..5,
    )
}

fn record() -> impl Strategy<Value = WindowRecord> {
    let tally = (emoji(), any::<(u64, u64, u64)>());
    let tally = tally.prop_map(|(emoji, (count, swarms, loose))| Tally {
        emoji,
        count,
        swarms,
        loose,
    });
    let all = (
        room(),
        window(),
        option::of(any::<u64>()),
        any::<u64>(),
        vec(tally, 0..5),
    );
    all.prop_map(|(room, window, emitted_at, total, counts)| WindowRecord {
        room,
        window,
        emitted_at,
        total,
        counts,
    })
}

fn range() -> impl Strategy<Value = ReadRange> {
    any::<(u32, u64, u64)>().prop_map(|(partition, start, end)| ReadRange {
        partition,
        start,
        end,
    })
}

fn room_count() -> impl Strategy<Value = RoomCount> {
    (room(), any::<u64>()).prop_map(|(room, count)| RoomCount { room, count })
}

fn order() -> impl Strategy<Value = ResultOrder> {
    any::<(u64, u64)>().prop_map(|(resets, start_ms)| ResultOrder { resets, start_ms })
}

fn snapshot() -> impl Strategy<Value = RoomSnapshot> {
    let trending =
        (order(), any::<String>()).prop_map(|(order, frame)| TrendingNow { order, frame });
    let all = (
        room(),
        option::of(id()),
        option::of((id(), window())),
        vec(".*", 0..3),
        option::of(order()),
        counts(),
        vec(".*", 0..3),
        option::of(trending),
    );
    all.prop_map(
        |(room, evicted_through, newest, finals, totals_as_of, totals, live, trending)| {
            RoomSnapshot {
                room,
                evicted_through,
                newest,
                finals,
                totals_as_of,
                totals,
                live,
                trending,
            }
        },
    )
}

fn update() -> impl Strategy<Value = RelayUpdate> {
    let trending = (room(), window(), any::<u64>(), counts());
    let trending = trending.prop_map(|(room, window, span_ms, top)| TrendingRecord {
        room,
        window,
        span_ms,
        top,
    });
    let leaders = (window(), any::<u64>(), counts(), vec(room_count(), 0..3));
    let leaders = leaders.prop_map(|(window, span_ms, top, rooms)| LeadersRecord {
        room: AllRooms,
        window,
        span_ms,
        top,
        rooms,
    });
    let closed = (id(), any::<(u64, u64, bool)>(), record());
    let closed = closed.prop_map(|(id, (written_ms, resets, begins), record)| RelayFinal {
        id,
        written_ms,
        resets,
        begins,
        record,
    });
    prop_oneof![
        closed.prop_map(RelayUpdate::Final),
        record().prop_map(RelayUpdate::Live),
        trending.prop_map(RelayUpdate::Trending),
        leaders.prop_map(RelayUpdate::Leaders),
        snapshot().prop_map(RelayUpdate::Room),
        range().prop_map(RelayUpdate::Read),
        (room(), order()).prop_map(|(room, before)| RelayUpdate::Removed { room, before }),
    ]
}

fn down() -> impl Strategy<Value = RelayDown> {
    let path = || vec(any::<u64>().prop_map(NodeId), 0..MAX_PATH);
    let refusal = prop_oneof![
        Just(Refusal::WrongToken),
        Just(Refusal::Full),
        Just(Refusal::Disconnected),
        Just(Refusal::Loop)
    ];
    let welcome = (any::<Nonce>(), path(), any::<(u64, u64, u64)>());
    let welcome = welcome.prop_map(|(proof, path, (window_ms, swarm_size, live_ms))| {
        let window_settings = WindowSettings {
            window_ms,
            swarm_size,
            live_ms,
        };
        RelayWelcome {
            proof,
            path,
            window_settings,
        }
    });
    prop_oneof![
        any::<Nonce>().prop_map(RelayDown::Challenge),
        refusal.prop_map(RelayDown::Refused),
        welcome.prop_map(RelayDown::Welcome),
        (any::<u64>(), vec(update(), 0..6))
            .prop_map(|(origin_us, updates)| RelayDown::Updates { origin_us, updates }),
        Just(RelayDown::SnapshotEnd),
        path().prop_map(RelayDown::Path),
        Just(RelayDown::Heartbeat),
        Just(RelayDown::Snapshot),
        any::<bool>().prop_map(RelayDown::Counting),
    ]
}

fn up() -> impl Strategy<Value = RelayUp> {
    let hello = (
        any::<u64>(),
        ".*",
        any::<Nonce>(),
        any::<Nonce>(),
        vec(range(), 0..5),
    );
    let hello = hello.prop_map(|(node, name, nonce, proof, has)| RelayHello {
        node: NodeId(node),
        name,
        nonce,
        proof,
        has,
    });
    prop_oneof![
        hello.prop_map(RelayUp::Hello),
        Just(RelayUp::Heartbeat),
        vec(room_count(), 0..5).prop_map(RelayUp::Audience),
    ]
}

/// Returns the message that follows the length in `frame`. Checks the length and the version.
fn message(frame: &[u8]) -> &[u8] {
    let (length, message) = frame.split_at(4);
    let length = u32::from_be_bytes(length.try_into().unwrap());
    assert_eq!(length as usize, message.len());
    assert_eq!(message[0], RELAY_VERSION);
    message
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(down in down(), up in up()) {
        prop_assert_eq!(RelayDown::decode(message(&down.frame())), Ok(down));
        prop_assert_eq!(RelayUp::decode(message(&up.frame())), Ok(up));
    }

    #[test]
    fn a_batch_made_piece_by_piece_is_the_message(
        pieces in vec((any::<u64>(), update()), 1..6)
    ) {
        let mut batch = RelayBatch::default();
        for (origin_us, update) in &pieces {
            batch.push(*origin_us, update);
        }
        let origin_us = pieces.iter().map(|(origin_us, _)| *origin_us).min().unwrap();
        let updates = pieces.into_iter().map(|(_, update)| update).collect();
        prop_assert_eq!(batch.take(), Some(RelayDown::Updates { origin_us, updates }.frame()));
        prop_assert!(batch.is_empty() && batch.take().is_none());
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..120)) {
        let ours = [&[RELAY_VERSION], &bytes[..]].concat();
        for bytes in [&bytes, &ours] {
            let _ = (RelayDown::decode(bytes), RelayUp::decode(bytes));
        }
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        down in down(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = message(&down.frame()).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = RelayDown::decode(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = RelayDown::decode(&bytes);
    }
}

#[test]
fn another_version_is_reported_by_its_number() {
    for version in [1, 9] {
        let (mut up, mut down) = (
            RelayUp::Heartbeat.frame(),
            RelayDown::Challenge([0; 32]).frame(),
        );
        (up[4], down[4]) = (version, version);
        let error = RelayUp::decode(&up[4..]).unwrap_err();
        assert_eq!(error, MessageError::Version(version));
        assert_eq!(RelayDown::decode(&down[4..]), Err(error.clone()));
        assert!(error.to_string().contains(&format!("version {version}")));
    }
    assert_eq!(RelayUp::decode(&[]), Err(MessageError::Empty));
    let trailing = [&RelayUp::Heartbeat.frame()[4..], &[0, 0]].concat();
    assert_eq!(RelayUp::decode(&trailing), Err(MessageError::Trailing(2)));
}

/// The format must not change without a new version number.
#[test]
fn the_bytes_of_version_2() {
    let record = WindowRecord {
        room: Room::new("r").unwrap(),
        window: Window { start: 2, end: 4 },
        emitted_at: None,
        total: 5,
        counts: vec![compress(Emoji::from_text("⚽").unwrap(), 5, 1000)],
    };
    let id = ResultId {
        partition: 3,
        offset: 300,
    };
    let closed = RelayFinal {
        id,
        written_ms: 9,
        resets: 1,
        begins: true,
        record,
    };
    let removed = RelayUpdate::Removed {
        room: Room::new("q").unwrap(),
        before: ResultOrder {
            resets: 1,
            start_ms: 7,
        },
    };
    let updates = vec![RelayUpdate::Final(closed), removed];
    let frame = RelayDown::Updates {
        origin_us: 1,
        updates,
    }
    .frame();
    let expected = [
        &[0, 0, 0, 31, 2][..],
        // The bytes of the variant `Updates` (3), its origin time (1), the number of updates (two), and the variant of
        // the first update, a final result (0).
        &[3, 1, 2, 0],
        // The bytes of a final result: its id (3-300), the time at which it was written (9), the number of backward
        // resets (one), and whether the totals begin with it (yes).
        &[3, 251, 44, 1, 9, 1, 1],
        // The bytes of its room, its window, the absent `emitted_at`, and the total.
        &[1, b'r', 2, 4, 0, 5],
        // The bytes of the number of tallies (one), the length of the emoji's text, the text, and the counts: 5 in
        // total, no swarm, 5 loose emojis.
        &[1, 3],
        "⚽".as_bytes(),
        &[5, 0, 5],
        // The bytes of the second update: its variant, a room's removal (6); the length and the text of the room's
        // name; and the position of the removal (one backward reset, window start 7).
        &[6, 1, b'q', 1, 7],
    ]
    .concat();
    assert_eq!(frame, expected);
}

/// If a message of a newer build has counts of unknown emojis, these counts are left out, and the rest is decoded.
#[test]
fn an_emoji_of_another_build_does_not_end_a_session() {
    let tally = |text| compress(Emoji::from_text(text).unwrap(), 5, 1000);
    let live = |counts| {
        RelayUpdate::Live(WindowRecord {
            room: Room::new("r").unwrap(),
            window: Window { start: 2, end: 4 },
            emitted_at: Some(3),
            total: 10,
            counts,
        })
    };
    let range = RelayUpdate::Read(ReadRange {
        partition: 1,
        start: 2,
        end: 3,
    });
    let message = |update| RelayDown::Updates {
        origin_us: 1,
        updates: vec![update, range.clone()],
    };
    let mut frame = message(live(vec![tally("⚽"), tally("🔥")])).frame();
    // One emoji is replaced by a text of the same length that is not an emoji.
    let at = frame.windows(3).position(|b| b == "⚽".as_bytes()).unwrap();
    frame[at..at + 3].copy_from_slice("新".as_bytes());
    let read = RelayDown::decode(&frame[4..]).unwrap();
    assert_eq!(read, message(live(vec![tally("🔥")])));
    let RelayDown::Updates { updates, .. } = read else {
        panic!("no updates");
    };
    let RelayUpdate::Live(record) = &updates[0] else {
        panic!("no live tally");
    };
    assert_eq!(record.unnamed(), 5);
}

/// A message of a few bytes may announce a list of millions of entries. Memory must not be allocated for them.
#[test]
fn an_announced_length_allocates_no_memory() {
    for count in [[252, 0xff, 0xff, 0xff, 0xff], [252, 0, 0, 0x40, 0]] {
        let bytes = [&[RELAY_VERSION, 2][..], &count].concat();
        assert_eq!(RelayUp::decode(&bytes), Err(MessageError::Encoding));
    }
}
