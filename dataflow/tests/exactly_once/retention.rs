//! Tests of rooms without a final result for longer than the retention of totals.

use emostream_model::{REMOVED_HEADER, TOTALS_BEGIN_HEADER};

use super::*;

const RETENTION: Duration = Duration::from_secs(20);

/// Number of rooms. It is larger than the number that a single close removes.
const ROOMS: usize = 2_500;

const MAX_REMOVED: usize = 1_000;

impl Fixture {
    fn retaining(&self, workers: usize) -> Config {
        Config {
            totals_retention: RETENTION,
            ..self.config(workers)
        }
    }

    /// Appends a reaction to each of these rooms at `at_ms`, and a heartbeat that closes their window.
    fn react(&self, at_ms: u64, rooms: impl Iterator<Item = String>) {
        let rooms: Vec<String> = rooms.collect();
        let reaction = |room| ReactionRef {
            user: "u",
            emoji: "🔥",
            room,
            at_ms,
        };
        let batches = rooms.chunks(500).map(|rooms| {
            let reactions = rooms.iter().map(|room| reaction(room));
            self.reaction_record(0, at_ms, Batch::encode(at_ms, reactions))
        });
        let beat_ms = at_ms + 2000 + LATENESS_MS;
        let heartbeat = self.reaction_record(0, beat_ms, Batch::heartbeat(beat_ms));
        self.append(batches.chain([heartbeat]).collect());
    }

    /// Runs the dataflow until the window that begins at `at_ms` is final.
    fn count(&self, workers: usize, at_ms: u64) {
        self.run_until(self.retaining(workers), || {
            self.final_until_ms() >= at_ms + 2000
        });
    }

    /// Returns the rooms that were removed from a topic. The key is the window at whose close they were removed.
    fn removed(&self, topic: &str) -> BTreeMap<u64, BTreeSet<String>> {
        let mut removed: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        read_to_end(&*self.log, topic, &mut |record| {
            if record.value.is_empty() {
                let headers = record.headers.read();
                let window = headers.iter().find(|it| it.name == REMOVED_HEADER).unwrap();
                let start_ms = std::str::from_utf8(&window.value).unwrap().parse().unwrap();
                let room = std::str::from_utf8(record.key.unwrap()).unwrap();
                assert!(removed.entry(start_ms).or_default().insert(room.to_owned()));
            }
        })
        .unwrap();
        removed
    }

    /// Returns the windows with which the totals of a room begin at 0, in seconds after [`T0`], and the newest total of
    /// the room.
    fn begins(&self, room: &str) -> (Vec<u64>, Option<u64>) {
        let (mut begins, mut total) = (Vec::new(), None);
        read_to_end(&*self.log, &self.topics.windows(), &mut |record| {
            let headers = record.headers.read();
            let closed: WindowRecord = serde_json::from_slice(record.value).unwrap();
            let is_first = headers.iter().any(|it| it.name == TOTALS_BEGIN_HEADER);
            if is_first && closed.room.as_str() == room {
                begins.push((closed.window.start - T0) / 1000);
            }
        })
        .unwrap();
        read_to_end(&*self.log, &self.topics.totals(), &mut |record| {
            if record.key == Some(room.as_bytes()) {
                let totals = serde_json::from_slice::<TotalsRecord>(record.value);
                total = totals.ok().map(|totals| totals.total);
            }
        })
        .unwrap();
        (begins, total)
    }
}

fn room(nth: usize) -> String {
    format!("room-{nth}")
}

#[test]
fn expired_rooms_are_removed_at_most_a_thousand_a_close_and_begin_at_0_again() {
    for (workers, restarts) in [(1, false), (3, false), (2, true)] {
        let fixture = Fixture::new(1);
        let mut running = (!restarts).then(|| fixture.start(fixture.retaining(workers)));
        let react = |second: u64, rooms: Vec<String>| {
            let at_ms = T0 + 1000 * second;
            fixture.react(at_ms, rooms.into_iter());
            match restarts {
                true => fixture.count(workers, at_ms),
                false => fixture.until_final(at_ms + 2000),
            }
        };
        react(0, (0..ROOMS).map(room).collect());
        // Only one room still gets reactions. They advance event time, so that all other rooms expire.
        (2..=60)
            .step_by(2)
            .for_each(|second| react(second, vec![room(0)]));
        let removed = fixture.removed(&fixture.topics.trending());
        let most = removed.values().map(BTreeSet::len).max();
        assert!(most <= Some(MAX_REMOVED), "{most:?} rooms with one close");
        assert!(removed.keys().all(|start_ms| *start_ms > T0 + 20_000));
        let all: BTreeSet<String> = removed.into_values().flatten().collect();
        assert!(all == (1..ROOMS).map(room).collect(), "{} rooms", all.len());
        let of_totals = fixture.removed(&fixture.topics.totals()).into_values();
        assert_eq!(of_totals.flatten().count(), ROOMS - 1);

        // Room 1 was removed, so its totals begin at 0. Room 0 was not removed, so its totals continue.
        react(62, vec![room(0), room(1)]);
        assert_eq!(fixture.begins(&room(0)), (vec![0], Some(32)));
        assert_eq!(fixture.begins(&room(1)), (vec![0, 62], Some(1)));
        if let Some((stop, running)) = running.take() {
            stop.request();
            running.join().unwrap().unwrap();
        }
    }
}

#[test]
fn totals_begin_at_0_after_the_retention_for_any_restart() {
    for restart in [None, Some(0), Some(20), Some(30), Some(42)] {
        let fixture = Fixture::new(1);
        // The retention is 20 s. The totals continue after 20 s without a final result, and begin at 0 after 22 s.
        for second in [0, 20, 30, 42, 44] {
            let at_ms = T0 + 1000 * second;
            // At 30 s another room gets a reaction, so that event time advances.
            let other = if second == 30 { room(8) } else { room(7) };
            fixture.react(at_ms, std::iter::once(other));
            if restart == Some(second) {
                fixture.count(2, at_ms);
            }
        }
        fixture.count(1, T0 + 44_000);
        assert_eq!(
            fixture.begins(&room(7)),
            (vec![0, 42], Some(2)),
            "{restart:?}"
        );
    }
}

impl Fixture {
    /// Returns for each record of the room "quiet" in the topic whether it is a removal.
    fn removals_of_quiet(&self, topic: &str) -> Vec<bool> {
        let mut removals = Vec::new();
        read_to_end(&*self.log, topic, &mut |record| {
            if record.key == Some(b"quiet") {
                removals.push(record.value.is_empty());
            }
        })
        .unwrap();
        removals
    }

    /// Checks that the last record of the room "quiet" is its removal, in each topic with tombstones.
    fn check_quiet_is_removed(&self) {
        for topic in [self.topics.totals(), self.topics.trending()] {
            let removals = self.removals_of_quiet(&topic);
            assert_eq!(removals.last(), Some(&true), "{topic}: {removals:?}");
        }
    }
}

/// A room without reactions for a long time disappears from the trending emojis and is removed at the same close. The
/// tombstone must follow the last trending record.
#[test]
fn the_removal_of_a_room_is_its_last_record() {
    for workers in [1, 3] {
        let fixture = Fixture::new(1);
        let (stop, running) = fixture.start(fixture.retaining(workers));
        for (second, name) in [
            (0, "quiet"),
            (1000, "other"),
            (1010, "other"),
            (1020, "other"),
        ] {
            let at_ms = T0 + 1000 * second;
            fixture.react(at_ms, std::iter::once(name.to_owned()));
            fixture.until_final(at_ms + 2000);
        }
        stop.request();
        running.join().unwrap().unwrap();
        fixture.check_quiet_is_removed();
    }
}

/// If the span and the retention are both shortened, a room may have left the new span and have expired by F. With the
/// first close its trending record becomes empty, so it is removed with a later close.
#[test]
fn a_room_is_removed_after_it_has_left_a_shorter_span() {
    for workers in [1, 3] {
        let fixture = Fixture::new(1);
        let seconds = |second: u64| T0 + 1000 * second;
        for (second, name) in [(0, "quiet"), (10, "other")] {
            fixture.react(seconds(second), std::iter::once(name.to_owned()));
        }
        let span = Duration::from_secs(40);
        let long = Config {
            trending_span: span,
            totals_retention: span,
            ..fixture.config(workers)
        };
        fixture.run_until(long, || fixture.final_until_ms() >= seconds(12));
        let (stop, running) = fixture.start(Config {
            trending_span: Duration::from_secs(2),
            totals_retention: Duration::from_secs(4),
            ..fixture.config(workers)
        });
        for second in [12, 14, 16] {
            fixture.react(seconds(second), std::iter::once("other".to_owned()));
            fixture.until_final(seconds(second + 2));
        }
        stop.request();
        running.join().unwrap().unwrap();
        fixture.check_quiet_is_removed();
        let removals = fixture.removals_of_quiet(&fixture.topics.trending());
        assert_eq!(removals, [false, false, true]);
    }
}
