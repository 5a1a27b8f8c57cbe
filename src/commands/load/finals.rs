//! The finals of the load's rooms, collected while it runs.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use emostream_model::{Emoji, Frame, ResultId, Room, Window};
use serde_json::json;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    client::{Answer, News, Poster, Server, Subscription, Transport},
    exit::Failure,
};

/// The last reaction of every room: once the window that holds it is final, so are all before it.
const LAST: &str = "🏁";
/// How long the last window may take: its length, lateness, and a restart or two of the server.
const LAST_WINDOW_LIMIT: Duration = Duration::from_secs(60);
/// How long the first connections may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The pause before the last reaction is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What a room's finals said.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Counts over all windows, without the last reaction.
    pub(super) counts: HashMap<Emoji, u64>,
    /// Windows by the ids of their finals: more than one is one too many.
    pub(super) windows: BTreeMap<Window, Vec<ResultId>>,
    /// Counts outside the top 20: nothing that a load sends.
    pub(super) others: u64,
    /// Whether finals were missed.
    pub(super) gap: bool,
    /// Whether the last window came.
    pub(super) complete: bool,
}

impl Counted {
    fn take(&mut self, frame: &Frame, last: Option<Emoji>) {
        match frame {
            Frame::Final {
                id,
                window,
                counts,
                others,
                ..
            } => {
                self.windows.entry(*window).or_default().push(*id);
                self.others += others;
                for tally in counts {
                    match Some(tally.emoji) == last {
                        true => self.complete = true,
                        false => *self.counts.entry(tally.emoji).or_default() += tally.count,
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

/// Subscribes to every room, and returns once all subscriptions stand.
pub(super) async fn follow(server: &Server, rooms: &[Room]) -> Result<Finals, Failure> {
    let (deadline, _) = watch::channel(None);
    let mut finals = Vec::new();
    let mut connected = Vec::new();
    for room in rooms {
        let (stands, standing) = oneshot::channel();
        let subscription = Subscription::new(server.clone(), room.clone(), Transport::WebSocket);
        let collecting = collect(subscription, stands, deadline.subscribe());
        finals.push((room.clone(), tokio::spawn(collecting)));
        connected.push(standing);
    }
    let all = async {
        for standing in connected {
            if standing.await.is_err() {
                return false;
            }
        }
        true
    };
    match tokio::time::timeout(CONNECT_LIMIT, all).await {
        Ok(true) => Ok(Finals {
            rooms: finals,
            deadline,
        }),
        _ => Err(Failure::unavailable(format!(
            "{server} takes no subscriptions to its rooms"
        ))),
    }
}

impl Finals {
    /// Sends every room its last reaction, and waits until the windows of all of them are final.
    pub(super) async fn after_the_last_window(self, poster: &Poster) -> HashMap<Room, Counted> {
        let deadline = Instant::now() + LAST_WINDOW_LIMIT;
        for (room, _) in &self.rooms {
            send_last(poster, room, deadline).await;
        }
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

async fn send_last(poster: &Poster, room: &Room, deadline: Instant) {
    let body = json!({"user_id": "last", "emoji_type": LAST, "room": room}).to_string();
    while Instant::now() < deadline {
        match poster
            .post("/v1/reactions?wait=stored", body.clone().into())
            .await
        {
            Answer::Status(status, _) if status.is_success() => return,
            _ => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

async fn collect(
    mut room: Subscription,
    stands: oneshot::Sender<()>,
    mut deadline: watch::Receiver<Option<Instant>>,
) -> Counted {
    let last = Emoji::from_text(LAST).ok();
    let mut counted = Counted::default();
    let mut stands = Some(stands);
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
                counted.take(&frame, last);
                stands.take().map(|stands| stands.send(()));
            }
            Ok(News::Lost { .. }) => {}
            Err(_) => break,
        }
    }
    counted
}
