//! Collects the finals of the load's rooms while it runs.
//!
//! ```text
//!   windows  │ before │  ⏮️ first  │ the load's own, counted … │ ⏭️ last │
//! ```
//!
//! The rooms may have finals of earlier loads. So one reaction, the first mark, is sent to each room, and the load begins
//! once the window of this mark is final: later windows contain only this load, and other clients that react there. When
//! the window of the last mark is final, all windows are.

#![allow(clippy::disallowed_methods, reason = "waits with a deadline")]

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use emostream_model::{Emoji, Frame, ResultId, Room, Window};
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    client::{Answer, Connections, Endpoint, News, Subscription, Transport},
    exit::{Exit, Failure},
};

/// The first mark of every room: the load begins once its window is final.
const FIRST: &str = "⏮️";
/// The last mark of every room: once its window is final, all windows before it are, too.
const LAST: &str = "⏭️";
/// Emojis that are not part of the workload, so they are not counted. Pages and `subscribe` do not let them rise. They are
/// buttons of a player, with which people do not react, since an emoji of a fan must rise.
pub(in crate::commands) const MARKS: [&str; 3] = [FIRST, LAST, super::probe::PROBE];
/// Timeout of the first and of the last window: its length, the lateness, and one or two restarts of the server.
const WINDOW_LIMIT: Duration = Duration::from_secs(60);
/// Timeout of the first connections.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Pause before a mark is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The counts of the finals of a room.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Counts of all windows after the first, without the marks.
    pub(super) counts: HashMap<Emoji, u64>,
    /// The ids of the finals of each window; more than one id is a fault.
    pub(super) windows: BTreeMap<Window, Vec<ResultId>>,
    /// Counts outside the top 20, which are not of this load.
    pub(super) others: u64,
    /// Whether finals were missed.
    pub(super) gap: bool,
    /// Whether the final of the last mark was received.
    pub(super) complete: bool,
    /// The window of the first mark.
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

/// The collectors of all rooms.
pub(super) struct Finals {
    rooms: Vec<(Room, JoinHandle<Counted>)>,
    deadline: watch::Sender<Option<Instant>>,
}

/// Notifications of a collector: it is connected, and the first window is final.
struct CollectorProgress {
    connected: Option<oneshot::Sender<()>>,
    begun: Option<oneshot::Sender<()>>,
}

/// Subscribes to every room, and returns once the first window of all of them is final.
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
            "{server} sends no final of a reaction that was stored; check that a dataflow runs, and that the publisher \
             reads the topics that --url writes"
        )));
    }
    Ok(Finals {
        rooms: finals,
        deadline,
    })
}

/// Whether all receivers are notified within `limit`.
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
    /// Sends the last mark to every room, and waits until the windows of all of them are final.
    pub(super) async fn after_the_last_window(
        self,
        poster: &Connections,
    ) -> HashMap<Room, Counted> {
        let deadline = Instant::now() + WINDOW_LIMIT;
        let rooms: Vec<Room> = self.rooms.iter().map(|(room, _)| room.clone()).collect();
        // If this fails, the rooms do not complete, and the verdict reports that.
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

/// Stores a mark in every room. Retries until `deadline`, since the server may be restarting; a mark that is stored twice
/// does no harm.
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
                let why = format!("nothing was sent: {status} for the rooms of --verify: {body}");
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
        let news = tokio::select! {
            news = room.next() => news,
            () = passed => break,
        };
        match news {
            Ok(News::Frame { frame, .. }) => {
                counted.apply(&frame);
                progress.connected.take().map(|notify| notify.send(()));
                if counted.first.is_some() {
                    progress.begun.take().map(|notify| notify.send(()));
                }
            }
            Ok(News::Lost { .. }) => {}
            Err(_) => break,
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
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
