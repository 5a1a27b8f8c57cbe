//! Collects the final results of the rooms while the load runs.
//!
//! ```text
//!   windows  │ before │  ⏮️ first  │ the load's own, counted … │ ⏭️ last │
//! ```
//!
//! The rooms may have final results of earlier loads. So one reaction, the first mark, is sent to each room, and the
//! load begins once the window of this mark is final. Later windows contain only reactions of this load, and of other
//! clients that react in the room. At the end a last mark is sent. When the window of the last mark is final, all
//! windows of the load are final.

#![allow(
    clippy::disallowed_methods,
    reason = "this module waits with a deadline"
)]

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use emostream_app::process::{Exit, Failure};
use emostream_model::{Emoji, Frame, ResultId, Room, Window};
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::client::{Answer, Connections, Endpoint, Subscription, SubscriptionEvent, Transport};

/// The first mark, which is sent to every room. The load begins once its window is final.
const FIRST: &str = "⏮️";
/// The last mark, which is sent to every room. Once its window is final, all windows before it are final, too.
const LAST: &str = "⏭️";
/// The emojis that a load sends in addition to its workload, and does not count. They are symbols of a media player,
/// which people do not use as reactions. Pages and `subscribe` do not draw these emojis as rising emojis.
pub(in crate::commands) const MARKS: [&str; 3] = [FIRST, LAST, super::probe::PROBE];
/// Timeout for the final result of the first and of the last window. It includes the length of the window, the
/// lateness, and one or two restarts of the server.
const WINDOW_LIMIT: Duration = Duration::from_secs(60);
/// Timeout for the first connection of all rooms.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Time after a failed attempt until a mark is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The sums of the counts in the final results of a room.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// The counts of all windows after the window of the first mark, without the marks.
    pub(super) counts: HashMap<Emoji, u64>,
    /// The ids of the final results of each window. More than one id is an error of the server.
    pub(super) windows: BTreeMap<Window, Vec<ResultId>>,
    /// The number of reactions whose emojis are not in the top 20 of a final result. Other clients sent them, because
    /// the load uses fewer emojis.
    pub(super) others: u64,
    /// Whether the server has reported that final results were missed.
    pub(super) gap: bool,
    /// Whether the final result of the last mark was received.
    pub(super) complete: bool,
    /// The window of the first mark (the reaction that begins the load).
    pub(super) first: Option<Window>,
}

impl Counted {
    fn apply(&mut self, frame: &Frame) {
        match frame {
            Frame::Final {
                id,
                window,
                counts,
                others,
                ..
            } => {
                let has = |mark| {
                    let mark = Emoji::from_text(mark).ok();
                    counts.iter().any(|tally| Some(tally.emoji) == mark)
                };
                match self.first {
                    None if has(FIRST) => self.first = Some(*window),
                    Some(first) if *window > first => {}
                    _ => return,
                }
                if self.first == Some(*window) {
                    return;
                }
                self.windows.entry(*window).or_default().push(*id);
                self.others += others;
                self.complete |= has(LAST);
                let marks = MARKS.map(|mark| Emoji::from_text(mark).ok());
                for tally in counts {
                    if !marks.contains(&Some(tally.emoji)) {
                        *self.counts.entry(tally.emoji).or_default() += tally.count;
                    }
                }
            }
            Frame::Gap { .. } => self.gap = true,
            _ => {}
        }
    }
}

/// The tasks that collect the final results, one for each room, and the deadline at which they end.
pub(super) struct Finals {
    rooms: Vec<(Room, JoinHandle<Counted>)>,
    deadline: watch::Sender<Option<Instant>>,
}

/// The channels over which a collector reports that it is connected, and that the first window is final.
struct CollectorProgress {
    connected: Option<oneshot::Sender<()>>,
    begun: Option<oneshot::Sender<()>>,
}

/// Subscribes to every room, and returns once the first window of every room is final.
pub(super) async fn follow(
    server: &Endpoint,
    rooms: &[Room],
    poster: &Connections,
) -> Result<Finals, Failure> {
    let (deadline, _) = watch::channel(None);
    let mut finals = Vec::new();
    let (mut connected, mut begun) = (Vec::new(), Vec::new());
    for room in rooms {
        let (connects, connecting) = oneshot::channel();
        let (begins, beginning) = oneshot::channel();
        let progress = CollectorProgress {
            connected: Some(connects),
            begun: Some(begins),
        };
        let subscription = Subscription::new(server.clone(), room.clone(), Transport::WebSocket);
        let collecting = collect(subscription, progress, deadline.subscribe());
        finals.push((room.clone(), tokio::spawn(collecting)));
        connected.push(connecting);
        begun.push(beginning);
    }
    if !all(connected, CONNECT_LIMIT).await {
        let why = format!("{server} does not accept subscriptions to the rooms");
        return Err(Failure::unavailable(why));
    }
    mark(poster, rooms, FIRST, Instant::now() + WINDOW_LIMIT).await?;
    if !all(begun, WINDOW_LIMIT).await {
        return Err(Failure::unavailable(format!(
            "{server} sends no final result with a reaction that was stored; check that a dataflow runs, and that the publisher \
             reads the topics that --url writes"
        )));
    }
    Ok(Finals {
        rooms: finals,
        deadline,
    })
}

/// Waits until all receivers are notified. Returns `false` if this takes longer than `limit`, or if a sender is
/// dropped.
async fn all(receivers: Vec<oneshot::Receiver<()>>, limit: Duration) -> bool {
    let each = async {
        for receiver in receivers {
            if receiver.await.is_err() {
                return false;
            }
        }
        true
    };
    matches!(tokio::time::timeout(limit, each).await, Ok(true))
}

impl Finals {
    /// Sends the last mark to every room, and waits until its window is final in every room, at most for
    /// [`WINDOW_LIMIT`].
    pub(super) async fn after_the_last_window(
        self,
        poster: &Connections,
    ) -> HashMap<Room, Counted> {
        let deadline = Instant::now() + WINDOW_LIMIT;
        let rooms: Vec<Room> = self.rooms.iter().map(|(room, _)| room.clone()).collect();
        // An error is ignored here: without the last mark the rooms do not become complete, and the verdict reports
        // that.
        let _ = mark(poster, &rooms, LAST, deadline).await;
        let _ = self.deadline.send(Some(deadline));
        let mut counted = HashMap::new();
        for (room, task) in self.rooms {
            match task.await {
                Ok(of_room) => counted.insert(room, of_room),
                Err(defect) => std::panic::resume_unwind(defect.into_panic()),
            };
        }
        counted
    }
}

/// Sends a mark to every room, and waits until the log has stored it. Retries until `deadline`, since the server may be
/// restarting. A mark may be stored twice, because marks are not counted.
async fn mark(
    poster: &Connections,
    rooms: &[Room],
    mark: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let of_room = |room| json!({"user_id": poster.user("load"), "emoji_type": mark, "room": room});
    let body = Value::Array(rooms.iter().map(of_room).collect()).to_string();
    loop {
        let path = "/v1/reactions?wait=stored";
        let why = match poster.post(path, body.clone().into()).await {
            Answer::Status(status, _) if status.as_u16() == 200 => return Ok(()),
            Answer::Status(status, body) if status.as_u16() == 207 || status.is_client_error() => {
                let body = String::from_utf8_lossy(&body);
                let why = format!(
                    "nothing was sent, since a room of --verify was refused with {status}: {body}"
                );
                return Err(Failure::new(Exit::Mismatch, why));
            }
            Answer::Status(status, _) => status.to_string(),
            Answer::Refused(why) | Answer::Unknown(why) => why,
        };
        if Instant::now() + RETRY_PAUSE >= deadline {
            let why = format!("--verify needs a log that stores reactions: {why}");
            return Err(Failure::unavailable(why));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn collect(
    mut room: Subscription,
    mut progress: CollectorProgress,
    mut deadline: watch::Receiver<Option<Instant>>,
) -> Counted {
    let mut counted = Counted::default();
    while !counted.complete {
        let passed = async {
            let at = match deadline.wait_for(Option::is_some).await {
                Ok(at) => *at,
                Err(_) => None,
            };
            tokio::time::sleep_until(at.unwrap_or_else(Instant::now).into()).await;
        };
        let event = tokio::select! {
            event = room.next() => event,
            () = passed => break,
        };
        match event {
            Ok(SubscriptionEvent::Frame { frame, .. }) => {
                counted.apply(&frame);
                progress.connected.take().map(|notify| notify.send(()));
                if counted.first.is_some() {
                    progress.begun.take().map(|notify| notify.send(()));
                }
            }
            Ok(SubscriptionEvent::Lost { .. }) => {}
            Err(_) => break,
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::compress;

    fn a_final(start: u64, counts: &[(&str, u64)]) -> Frame {
        let tally =
            |(emoji, count): &(&str, u64)| compress(Emoji::from_text(emoji).unwrap(), *count, 1000);
        Frame::Final {
            id: format!("0-{start}").parse().unwrap(),
            room: Room::default(),
            window: Window {
                start,
                end: start + 2000,
            },
            emitted_at: 0,
            total: counts.iter().map(|(_, count)| count).sum(),
            counts: counts.iter().map(tally).collect(),
            others: 0,
            totals: Vec::new(),
            totals_others: 0,
        }
    }

    #[test]
    fn pages_know_the_marks() {
        let pages = include_str!("../../../broadcast/web/swarms.js");
        let known = pages
            .lines()
            .find(|line| line.starts_with("const MARKS"))
            .unwrap();
        for mark in MARKS {
            assert!(known.contains(mark), "{mark} is missing: {known}");
        }
    }

    #[test]
    fn only_windows_after_the_first_are_counted_and_marks_never() {
        let mut counted = Counted::default();
        counted.apply(&a_final(0, &[("🔥", 7), (LAST, 1)]));
        assert_eq!(counted.first, None, "a final of an earlier load");
        counted.apply(&a_final(2000, &[("🔥", 5), (FIRST, 1), (LAST, 1)]));
        assert!(counted.counts.is_empty() && !counted.complete);
        counted.apply(&a_final(4000, &[("🔥", 3), ("⏱️", 2), (FIRST, 1)]));
        counted.apply(&a_final(6000, &[("🔥", 1), (LAST, 1)]));
        let fire = Emoji::from_text("🔥").unwrap();
        assert_eq!(counted.counts, HashMap::from([(fire, 4)]));
        assert_eq!(counted.windows.len(), 2);
        assert!(counted.complete);
    }
}
