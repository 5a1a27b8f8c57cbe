//! The JSON responses: a room's state, its history, and the list of rooms.
//!
//! ```text
//! {"room":…,"final":{…}|null,"live":{…}|null,"total":N,"totals":[{"emoji","count"},…],
//!  "trending":{…}|null,"subscribers":N}
//! {"room":…,"finals":[{…},…]}
//! {"rooms":[{"room":…,"total":N,"totals":[…],"subscribers":N},…],
//!  "trending":{"span_ms":N,"top":[{"emoji","count"},…],"rooms":[{"room","count"},…]}|null}
//! ```
//!
//! `final`, `live` and a room's `trending` are frames, as subscribers receive them. `totals` are the counts of all
//! emojis in the room since its totals last began at 0, as of the newest final result; the list of rooms has only the
//! top 20 of them. The `trending` beside the list of rooms has the top emojis and rooms across all rooms.

use emostream_http::{Body, Principal, Response};
use emostream_model::{Count, FRAME_COUNTS, Room, RoomCount};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use crate::frame::encoded::EncodedFrame;
use crate::hub::{entry::RoomEntry, rooms::Hub};
use crate::room::state::RoomState;

/// Maximum number of rooms in the list. The rooms with the greatest totals are listed.
const LISTED_ROOMS: usize = 1000;

/// Returns the current state of the room. If the room is not known, the state contains no results.
pub(crate) fn room(hub: &Hub, room: &Room) -> Response {
    let entry = hub.find(room);
    match entry.as_deref() {
        Some(entry) => describe(room, &entry.state(), entry.audience()),
        None => describe(room, &RoomState::default(), 0),
    }
}

fn describe(room: &Room, state: &RoomState, subscribers: usize) -> Response {
    let newest = frame(state.newest().map(|newest| &newest.frame));
    let live = frame(state.live().map(|live| &live.frame));
    let totals = json(&state.totals().counts());
    let total = state.totals().total();
    let trending = frame(state.trending().map(|trending| &trending.frame));
    answer(format!(
        r#"{{"room":"{room}","final":{newest},"live":{live},"total":{total},"totals":{totals},"trending":{trending},"subscribers":{subscribers}}}"#
    ))
}

fn frame(frame: Option<&EncodedFrame>) -> &str {
    frame.map_or("null", |frame| frame.json().as_str())
}

/// Returns the final results in the ring whose windows begin within `[from_ms, to_ms)`, oldest first.
pub(crate) fn history(hub: &Hub, room: &Room, from_ms: u64, to_ms: u64) -> Response {
    let mut finals = Vec::new();
    if let Some(entry) = hub.find(room) {
        let state = entry.state();
        let within = state
            .finals()
            .filter(|f| (from_ms..to_ms).contains(&f.window.start));
        finals.extend(within.map(|kept| kept.frame.json().clone()));
    }
    let finals: Vec<&str> = finals.iter().map(|json| json.as_str()).collect();
    let finals = finals.join(",");
    answer(format!(r#"{{"room":"{room}","finals":[{finals}]}}"#))
}

#[derive(Serialize)]
struct Listed {
    room: Room,
    total: u64,
    totals: Vec<Count>,
    subscribers: usize,
}

impl Listed {
    fn new(room: Room, entry: &RoomEntry) -> Self {
        let state = entry.state();
        let mut totals = state.totals().counts();
        totals.truncate(FRAME_COUNTS);
        Self {
            room,
            total: state.totals().total(),
            totals,
            subscribers: entry.audience(),
        }
    }
}

/// The top emojis and rooms across all rooms.
#[derive(Serialize)]
struct Leading<'a> {
    span_ms: u64,
    top: &'a [Count],
    rooms: &'a [RoomCount],
}

/// Returns the active rooms that `principal` may access, those with the greatest totals first. Only a principal that
/// may access all rooms receives the top emojis and rooms across all rooms.
pub(crate) fn rooms(hub: &Hub, principal: &Principal) -> Response {
    let active = hub.active().into_iter();
    let mut rooms: Vec<Listed> = active
        .filter(|(room, _)| principal.can_access_room(room.as_str()))
        .map(|(room, entry)| Listed::new(room, &entry))
        .collect();
    rooms.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.room.cmp(&b.room)));
    rooms.truncate(LISTED_ROOMS);
    let leaders = hub.leaders().filter(|_| principal.can_access_all_rooms());
    let trending = leaders.as_ref().map(|leaders| Leading {
        span_ms: leaders.span_ms,
        top: &leaders.top,
        rooms: &leaders.rooms,
    });
    let (rooms, trending) = (json(&rooms), json(&trending));
    answer(format!(r#"{{"rooms":{rooms},"trending":{trending}}}"#))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the response can always be encoded as JSON")
}

fn answer(mut json: String) -> Response {
    // The body ends with a line break, so that a terminal shows its prompt on a new line.
    json.push('\n');
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
