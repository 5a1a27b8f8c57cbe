//! The format of the `reactions` topic: batches of an ingest, and plain JSON records.

use emostream_log::Record;
use emostream_model::{Batch, Emoji, EmojiNames, InvalidReaction, Payload, PayloadError, Room};
use emostream_streams::{
    aggregate::pre_aggregator::{Event, InternedKeys},
    source::format::{Format, RecordTimes},
};

/// The format of the `reactions` topic.
#[derive(Debug, Clone, Default)]
pub struct ReactionFormat {
    /// The emoji names that plain JSON records may use.
    pub emojis: EmojiNames,
}

impl Format for ReactionFormat {
    type Key = Room;
    type Item = Emoji;
    const UNKNOWN_ITEM: &'static str = "unknown_emoji";

    fn decode(
        &self,
        record: Record<'_>,
        rooms: &mut InternedKeys<Room>,
        events: &mut Vec<Event<Emoji>>,
    ) -> Option<RecordTimes> {
        let room = |name: &str| Room::from_record(name).ok();
        let of_record = RecordTimes::of(&record);
        let at_ms = record.time_ms;
        match Payload::decode(record.value, &self.emojis) {
            Ok(Payload::Batch(batch)) => {
                let names = batch.rooms().iter();
                let rooms: Vec<_> = names.map(|name| rooms.number(name, room)).collect();
                let event = |(room, emoji, at_ms): (usize, usize, u64)| Event {
                    at_ms,
                    key: rooms[room],
                    item: batch.emojis()[emoji],
                };
                events.extend(batch.entries().map(event));
                Some(RecordTimes {
                    base_ms: batch.base_ms(),
                    newest_ms: batch.newest_ms(),
                })
            }
            Ok(Payload::Plain(plain)) => {
                events.push(Event {
                    at_ms,
                    key: rooms.number(&plain.room, room),
                    item: Some(plain.emoji),
                });
                Some(of_record)
            }
            Err(PayloadError::Invalid(InvalidReaction::UnknownEmoji { .. })) => {
                events.push(Event {
                    at_ms,
                    key: None,
                    item: None,
                });
                Some(of_record)
            }
            Err(_) => None,
        }
    }

    fn parts(&self, record: Record<'_>, parts: &[Vec<usize>]) -> Vec<Vec<u8>> {
        let batch = Batch::decode(record.value).ok();
        let base_ms = batch.as_ref().map_or(0, Batch::base_ms);
        let reactions = batch.and_then(|batch| batch.reactions().ok());
        let value = |(number, part): (usize, &Vec<usize>)| match &reactions {
            Some(reactions) if part.len() == reactions.len() => record.value.to_vec(),
            Some(reactions) => {
                let part = part.iter().map(|index| reactions[*index]);
                Batch::encode(base_ms, part)
            }
            // The users in the batch cannot be decoded, so the rejected parts of the batch cannot be encoded
            // separately. The last part gets the whole value, so that the value is written only once.
            None if number + 1 == parts.len() => record.value.to_vec(),
            None => Vec::new(),
        };
        parts.iter().enumerate().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::{ReactionRef, WindowSize};
    use emostream_streams::{
        aggregate::pre_aggregator::PreAggregator,
        progress::record::{AheadLimit, PartitionProgress, PriorEpoch},
        sink::rejections::Rejected,
        source::partition::{NO_WINDOW, PartitionReading, Read, ReadingTime, Rules},
        time::holds::AheadRecord,
    };

    /// The text of an emoji that this build does not know.
    const UNKNOWN: &str = "新";

    const T0: u64 = 1_764_000_000_000;

    /// The time of this host's clock.
    const NOW_MS: u64 = T0 + 3_600_000;

    struct Fixture {
        rules: Rules<ReactionFormat>,
        reading: PartitionReading,
        aggregate: PreAggregator<Room, Emoji>,
        rejected: Vec<Rejected>,
        offset: u64,
        final_until_ms: u64,
    }

    impl Fixture {
        fn new(read_offset: u64, final_until_ms: u64) -> Fixture {
            Fixture::with(read_offset, final_until_ms, None, &[])
        }

        fn with(
            read_offset: u64,
            final_until_ms: u64,
            ahead: Option<AheadLimit>,
            prior_epochs: &[PriorEpoch],
        ) -> Fixture {
            let rules = Rules {
                size: WindowSize::from_ms(2000).unwrap(),
                lateness_ms: 750,
                format: ReactionFormat::default(),
            };
            let progress = PartitionProgress {
                read_offset,
                ahead,
                ..PartitionProgress::begin(3, 0)
            };
            Fixture {
                reading: PartitionReading::resume(&progress, final_until_ms, prior_epochs, &rules),
                rules,
                aggregate: PreAggregator::default(),
                rejected: Vec::new(),
                offset: 0,
                final_until_ms,
            }
        }

        fn accept(&mut self, time_ms: u64, value: &[u8]) -> Read {
            self.read(time_ms, value).unwrap()
        }

        fn read(&mut self, time_ms: u64, value: &[u8]) -> Result<Read, AheadRecord> {
            let record = Record {
                partition: 3,
                offset: self.offset,
                time_ms,
                key: None,
                value,
                headers: &(),
            };
            let time = ReadingTime {
                closed_until_ms: 0,
                final_until_ms: self.final_until_ms,
                now_ms: NOW_MS,
            };
            let (aggregate, rejected) = (&mut self.aggregate, &mut self.rejected);
            let read = self
                .reading
                .read(record, &self.rules, time, aggregate, rejected);
            self.offset += u64::from(read.is_ok());
            read
        }

        fn counts(&mut self) -> Vec<(u64, String, u64)> {
            let mut all = Vec::new();
            let size = self.rules.size;
            self.aggregate.drain(|time_ms, tallies| {
                let start = size.floor(time_ms) - T0;
                all.extend(tallies.map(|(room, emoji, n)| (start, format!("{room} {emoji}"), n)));
            });
            all.sort();
            all
        }
    }

    fn reaction(emoji: &str, at_ms: u64) -> ReactionRef<'_> {
        ReactionRef {
            user: "u",
            emoji,
            room: "a",
            at_ms,
        }
    }

    fn reactions_of(rejected: &Rejected) -> Vec<ReactionRef<'_>> {
        Batch::decode(&rejected.value).unwrap().reactions().unwrap()
    }

    fn batch(times: &[u64]) -> Vec<u8> {
        let reactions = times.iter().map(|at| ("🔥", *at));
        batch_of(&reactions.collect::<Vec<_>>())
    }

    /// Returns a batch with these emojis and times.
    fn batch_of(reactions: &[(&str, u64)]) -> Vec<u8> {
        let base_ms = reactions.iter().map(|(_, at)| at).min().unwrap();
        let reactions = reactions.iter().map(|(emoji, at)| reaction(emoji, T0 + at));
        Batch::encode(T0 + base_ms, reactions)
    }

    #[test]
    fn a_batch_that_spans_two_windows_counts_in_both() {
        let mut fixture = Fixture::new(0, 0);
        let read = fixture.accept(T0 + 2100, &batch(&[1900, 1999, 2000]));
        assert_eq!(
            read,
            Read {
                counted: 3,
                late: 0
            }
        );
        assert_eq!(
            fixture.counts(),
            [(0, "a 🔥".into(), 2), (2000, "a 🔥".into(), 1)]
        );
        assert_eq!(fixture.reading.clock().watermark_ms(), T0 + 2000 - 750);
    }

    #[test]
    fn a_late_reaction_is_rejected_not_counted() {
        let mut fixture = Fixture::new(0, 0);
        fixture.accept(T0 + 5000, &Batch::heartbeat(T0 + 5000));
        let read = fixture.accept(T0 + 5100, &batch(&[1000, 4500]));
        assert_eq!(
            read,
            Read {
                counted: 1,
                late: 1
            }
        );
        assert_eq!(fixture.counts(), [(4000, "a 🔥".into(), 1)]);
        let [rejected] = &fixture.rejected[..] else {
            panic!("one rejection")
        };
        assert_eq!((rejected.reason.as_str(), rejected.offset), ("late", 1));
        assert_eq!(reactions_of(rejected), [reaction("🔥", T0 + 1000)]);
    }

    #[test]
    fn a_batch_is_rejected_by_window_since_a_run_may_begin_between_two_of_them() {
        let times = [1000, 4500, 2500, 1500];
        let (first, second) = ((2000, vec![1000, 1500]), (4000, vec![2500]));
        for (read_offset, final_until_ms, expected) in [
            (0, 0, vec![first, second.clone()]),
            // The batch has events in two windows. The window that ends at 2 s was final before this run, so the
            // previous run has committed the rejection of its events. The window that ends at 4 s was not final, so
            // this run rejects its events.
            (2, T0 + 2000, vec![second]),
            // Both windows were final when the batch was read, so their events are rejected together.
            (0, T0 + 4000, vec![(4000, vec![1000, 2500, 1500])]),
        ] {
            let mut fixture = Fixture::new(read_offset, final_until_ms);
            fixture.accept(T0 + 5000, &Batch::heartbeat(T0 + 5000));
            fixture.accept(T0 + 5100, &batch(&times));
            let of = |r: &Rejected| {
                let times = reactions_of(r).into_iter().map(|r| r.at_ms - T0);
                (r.settled_at_ms - T0, times.collect::<Vec<_>>())
            };
            let rejected: Vec<_> = fixture.rejected.iter().map(of).collect();
            assert_eq!(rejected, expected);
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_rejected_and_the_rest_counts() {
        let mut fixture = Fixture::new(0, 0);
        fixture.accept(T0, br#"{"user_id":"u","emoji_type":"fire","room":"b"}"#);
        fixture.accept(T0 + 1, b" broken");
        fixture.accept(T0 + 2, b"{\"user_id\":");
        fixture.accept(T0 + 3, &batch(&[3]));
        assert_eq!(
            fixture.counts(),
            [(0, "a 🔥".into(), 1), (0, "b 🔥".into(), 1)]
        );
        let reasons: Vec<_> = fixture
            .rejected
            .iter()
            .map(|r| (r.offset, r.reason.as_str()))
            .collect();
        assert_eq!(reasons, [(1, "malformed"), (2, "malformed")]);
        assert_eq!(fixture.rejected[0].value, b" broken");
    }

    /// Returns the reason, the end of the window, and the emojis of each rejection. All rejected records must be
    /// batches.
    fn parts(fixture: &Fixture) -> Vec<(&str, u64, Vec<&str>)> {
        let rejected = fixture.rejected.iter();
        let parts = rejected.map(|r| {
            let emojis = reactions_of(r).iter().map(|it| it.emoji).collect();
            (&*r.reason, r.settled_at_ms.saturating_sub(T0), emojis)
        });
        parts.collect()
    }

    #[test]
    fn only_reactions_with_an_unknown_emoji_are_rejected_in_one_part_per_window() {
        let mut fixture = Fixture::new(0, 0);
        let sent = [
            (UNKNOWN, 1000),
            ("🔥", 1000),
            (UNKNOWN, 2500),
            ("年", 1500),
            ("🔥", 2600),
        ];
        let read = fixture.accept(T0 + 2600, &batch_of(&sent));
        assert_eq!((read.counted, read.late), (2, 0));
        assert_eq!(
            fixture.counts(),
            [(0, "a 🔥".into(), 1), (2000, "a 🔥".into(), 1)]
        );
        let expected = [
            ("unknown_emoji", 2000, vec![UNKNOWN, "年"]),
            ("unknown_emoji", 4000, vec![UNKNOWN]),
        ];
        assert_eq!(parts(&fixture), expected);
        assert_eq!(fixture.reading.clock().newest_ms(), T0 + 2600);
    }

    #[test]
    fn an_unknown_emoji_of_a_closed_window_is_late_with_the_known_ones() {
        let mut fixture = Fixture::new(0, 0);
        fixture.accept(T0 + 5000, &Batch::heartbeat(T0 + 5000));
        let sent = [(UNKNOWN, 1000), ("🔥", 1000), (UNKNOWN, 4500)];
        let read = fixture.accept(T0 + 5100, &batch_of(&sent));
        assert_eq!((read.counted, read.late), (0, 2));
        let expected = [
            ("late", 2000, vec![UNKNOWN, "🔥"]),
            ("unknown_emoji", 6000, vec![UNKNOWN]),
        ];
        assert_eq!(parts(&fixture), expected);
    }

    #[test]
    fn a_window_with_an_unknown_emoji_alone_is_read_again_until_it_is_final() {
        let sent = batch_of(&[(UNKNOWN, 1000), (UNKNOWN, 2500)]);
        let plain = format!(r#"{{"user_id":"u","emoji_type":"{UNKNOWN}"}}"#);
        for record in [&sent[..], plain.as_bytes()] {
            let mut fixture = Fixture::new(0, 0);
            fixture.accept(T0 + 2500, record);
            fixture.accept(T0 + 5000, &Batch::heartbeat(T0 + 5000));
            let marks = fixture.reading.advance(T0 - 2000, T0 + 2000, 2, false);
            let resume = marks.last().unwrap().1.resume_offset;
            assert_eq!(resume, 0, "its last window is open");
            let marks = fixture.reading.advance(T0 + 2000, T0 + 4000, 2, false);
            assert_eq!(marks.last().unwrap().1.resume_offset, 2);
            // The next run reads the record again. That run does not reject the events whose window was final, since
            // this run has committed their rejection.
            let mut again = Fixture::new(2, T0 + 2000);
            again.accept(T0 + 2500, record);
            let settled_at_ms: Vec<u64> = again.rejected.iter().map(|r| r.settled_at_ms).collect();
            assert_eq!(settled_at_ms, [T0 + 4000]);
        }
    }

    #[test]
    fn a_plain_record_is_rejected_by_its_emoji_or_as_malformed() {
        let mut fixture = Fixture::new(0, 0);
        fixture.accept(T0, br#"{"user_id":"u","emoji_type":"no emoji"}"#);
        fixture.accept(T0 + 1, br#"{"user_id":"","emoji_type":"no emoji"}"#);
        fixture.accept(T0 + 2, br#"{"user_id":"u"}"#);
        let rejected = fixture.rejected.iter();
        let rejected: Vec<_> = rejected.map(|r| (&*r.reason, r.settled_at_ms)).collect();
        let expected = [
            ("unknown_emoji", T0 + 2000),
            ("malformed", NO_WINDOW),
            ("malformed", NO_WINDOW),
        ];
        assert_eq!(rejected, expected);
    }

    #[test]
    fn a_batch_from_the_future_does_not_move_time() {
        let mut fixture = Fixture::new(0, 0);
        fixture.accept(T0 + 1000, &batch(&[100_000]));
        assert_eq!(fixture.reading.clock().watermark_ms(), T0 + 250);
        assert_eq!(fixture.rejected[0].reason, "ahead");
    }

    #[test]
    fn rejections_of_an_earlier_run_are_not_repeated() {
        let mut fixture = Fixture::new(1, T0);
        fixture.accept(T0, b"junk");
        fixture.accept(T0, b"junk");
        assert_eq!(fixture.rejected.len(), 1);
        assert_eq!(fixture.rejected[0].offset, 1);
    }

    #[test]
    fn a_record_ahead_of_this_hosts_clock_is_not_read_and_changes_nothing() {
        let mut fixture = Fixture::new(0, 0);
        fixture.accept(NOW_MS, &batch(&[3_600_000]));
        let ahead = AheadRecord {
            offset: 1,
            time_ms: NOW_MS + 5_001,
        };
        let plain = br#"{"user_id":"u","emoji_type":"fire"}"#;
        for _ in 0..2 {
            assert_eq!(fixture.read(NOW_MS + 5_001, plain), Err(ahead));
            assert_eq!(fixture.reading.clock().newest_ms(), NOW_MS);
        }
        assert_eq!(fixture.accept(NOW_MS + 5_000, plain).counted, 1);
        assert!(fixture.rejected.is_empty());
    }

    #[test]
    fn below_the_offset_of_a_reset_newer_events_than_its_limit_are_rejected_once() {
        let limit = AheadLimit {
            below_offset: 3,
            limit_ms: T0 + 5_000,
        };
        let mut fixture = Fixture::with(0, 0, Some(limit), &[]);
        fixture.accept(T0 + 5_000, &batch(&[4_000, 5_001, 9_000]));
        fixture.accept(NOW_MS + 60_000, br#"{"user_id":"u","emoji_type":"fire"}"#);
        assert_eq!(fixture.reading.clock().newest_ms(), T0 + 4_000);
        let rejections = |fixture: &Fixture| -> Vec<(u64, String, u64)> {
            let of = fixture.rejected.iter();
            of.map(|r| (r.offset, r.reason.clone(), r.settled_at_ms))
                .collect()
        };
        let expected = [(0, "ahead".to_owned(), 0), (1, "ahead".to_owned(), 0)];
        assert_eq!(rejections(&fixture), expected);
        let part = [5_001, 9_000].map(|at_ms| reaction("🔥", T0 + at_ms));
        assert_eq!(reactions_of(&fixture.rejected[0]), part);
        // The limit applies only to records before `below_offset`.
        fixture.offset = 3;
        fixture.accept(T0 + 9_000, &batch(&[9_000]));
        assert_eq!(fixture.reading.clock().newest_ms(), T0 + 9_000);
        assert_eq!(
            fixture.counts(),
            [(4_000, "a 🔥".into(), 1), (8_000, "a 🔥".into(), 1)]
        );
        // A later run reads the first record again. The offset of the record is below the committed offset, so that run
        // does not reject the events again.
        let mut again = Fixture::with(2, 0, Some(limit), &[]);
        again.accept(T0 + 5_000, &batch(&[4_000, 5_001, 9_000]));
        assert!(again.rejected.is_empty());
    }

    #[test]
    fn events_of_a_prior_epoch_are_not_rejected_as_ahead() {
        let limit = AheadLimit {
            below_offset: 3,
            limit_ms: T0 + 5_000,
        };
        let epoch = PriorEpoch {
            window_ms: 2000,
            lateness_ms: 750,
            final_until_ms: T0 + 8_000,
            read_offsets: vec![(3, 1)],
            ahead: Vec::new(),
        };
        let mut fixture = Fixture::with(0, 0, Some(limit), &[epoch]);
        // The first two events of the first record were counted before the reset, so they are neither counted nor
        // rejected again.
        fixture.accept(T0 + 9_000, &batch(&[4_000, 7_000, 9_000]));
        fixture.accept(T0 + 9_000, &batch(&[4_000, 7_000]));
        let offsets: Vec<u64> = fixture.rejected.iter().map(|r| r.offset).collect();
        assert_eq!(offsets, [0, 1]);
        assert_eq!(fixture.counts(), [(4_000, "a 🔥".into(), 1)]);
    }
}
