//! Tests of result records and frames: their JSON is as documented, and is decoded as it was encoded.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use emostream_model::*;
use proptest::prelude::*;

fn emoji(text: &str) -> Emoji {
    Emoji::from_text(text).unwrap()
}

#[test]
fn a_final_has_the_fields_of_the_interface() {
    let record = WindowRecord {
        room: Room::new("match-7").unwrap(),
        window: WindowSize::from_ms(2000)
            .unwrap()
            .window_of(1_764_000_001_999),
        emitted_at: None,
        total: 3785,
        counts: vec![compress(emoji("🔥"), 3785, 1000)],
    };
    assert_eq!(
        serde_json::to_string(&record).unwrap(),
        r#"{"room":"match-7","start":1764000000000,"end":1764000002000,"total":3785,"counts":[{"emoji":"🔥","count":3785,"swarms":3,"loose":785}]}"#
    );
}

#[test]
fn frames_read_as_in_the_interface() {
    let hello = |latest: Option<&str>| Frame::Hello {
        room: Room::default(),
        now: 1_764_000_000_000,
        heartbeat_ms: 15_000,
        latest: latest.map(|id| id.parse().unwrap()),
        window_ms: 2000,
        live_ms: 250,
        swarm_size: 1000,
        resumed: true,
        counting: true,
    };
    let gap = Frame::Gap {
        after: "3-10400".parse().unwrap(),
        reason: GapReason::Slow,
    };
    for (frame, json) in [
        (
            hello(Some("3-10421")),
            r#"{"type":"hello","room":"default","now":1764000000000,"heartbeat_ms":15000,"latest":"3-10421","window_ms":2000,"live_ms":250,"swarm_size":1000,"resumed":true}"#,
        ),
        (
            hello(None),
            r#"{"type":"hello","room":"default","now":1764000000000,"heartbeat_ms":15000,"latest":null,"window_ms":2000,"live_ms":250,"swarm_size":1000,"resumed":true}"#,
        ),
        (
            Frame::Heartbeat {
                now: 1_764_000_015_000,
                counting: true,
            },
            r#"{"type":"heartbeat","now":1764000015000}"#,
        ),
        (
            Frame::Heartbeat {
                now: 1_764_000_015_000,
                counting: false,
            },
            r#"{"type":"heartbeat","now":1764000015000,"counting":false}"#,
        ),
        (gap, r#"{"type":"gap","after":"3-10400","reason":"slow"}"#),
        (
            Frame::Bye { retry_ms: 4200 },
            r#"{"type":"bye","retry_ms":4200}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&frame).unwrap(), json);
        assert_eq!(serde_json::from_str::<Frame>(json).unwrap(), frame);
    }
}

#[test]
fn an_id_is_partition_and_offset() {
    let id: ResultId = "3-10422".parse().unwrap();
    assert_eq!((id.partition, id.offset), (3, 10_422));
    for text in [
        "",
        "3",
        "3-",
        "-3",
        "3--1",
        "+3-1",
        "3-1 ",
        "99999999999-1",
        "a-b",
    ] {
        assert!(text.parse::<ResultId>().is_err(), "{text}");
    }
}

fn counts() -> impl Strategy<Value = Vec<Tally>> {
    proptest::collection::btree_map(0_usize..1500, 1_u64..1_000_000, 0..60).prop_map(|counts| {
        let emoji = |at| Emoji::all().nth(at).unwrap();
        let mut counts: Vec<Tally> = counts
            .into_iter()
            .map(|(at, count)| compress(emoji(at), count, 1000))
            .collect();
        sort_counts(&mut counts, |tally| (tally.count, tally.emoji));
        counts
    })
}

proptest! {
    #[test]
    fn records_and_frames_survive_json(counts in counts(), start in 0_u64..1 << 40, offset: u32) {
        let window = WindowSize::from_ms(2000).unwrap().window_of(start);
        let total = counts.iter().map(|tally| tally.count).sum();
        let room = Room::new("r").unwrap();
        let record = WindowRecord { room: room.clone(), window, emitted_at: Some(7), total, counts: counts.clone() };
        let json = serde_json::to_vec(&record).unwrap();
        prop_assert_eq!(serde_json::from_slice::<WindowRecord>(&json).unwrap(), record);
        let (listed, others) = top(&counts, |tally| tally.count);
        prop_assert_eq!(listed.iter().map(|tally| tally.count).sum::<u64>() + others, total);
        let frame = Frame::Final {
            id: ResultId { partition: 1, offset: offset.into() },
            room, window, emitted_at: 9, total, counts: listed, others,
            totals: vec![], totals_others: 0,
        };
        let json = serde_json::to_vec(&frame).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Frame>(&json).unwrap(), frame);
    }

    #[test]
    fn swarms_and_loose_emojis_add_up_to_the_count(count: u64, size in 0_u64..5000) {
        let tally = compress(emoji("🔥"), count, size);
        prop_assert_eq!(u128::from(tally.swarms) * u128::from(size) + u128::from(tally.loose), u128::from(count));
        prop_assert!(size == 0 || tally.loose < size);
    }

    #[test]
    fn windows_tile_time(at_ms in 0_u64..1 << 50, size in 1_u64..100_000) {
        let size = WindowSize::from_ms(size).unwrap();
        let window = size.window_of(at_ms);
        prop_assert!(window.start <= at_ms && at_ms < window.end);
        prop_assert_eq!(window.end - window.start, size.as_ms());
        prop_assert_eq!(window.start % size.as_ms(), 0);
        prop_assert_eq!(size.floor(at_ms), window.start);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = serde_json::from_slice::<WindowRecord>(&bytes);
        let _ = serde_json::from_slice::<TotalsRecord>(&bytes);
        let _ = serde_json::from_slice::<Frame>(&bytes);
    }
}
