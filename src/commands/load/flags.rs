//! The flags of `load` and their validation.

use std::{sync::Arc, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_app::{flags::parse::duration, process::Failure};
use emostream_model::{MAX_ROOM_BYTES, Room};

use super::spike::{self, Spike};
use crate::{
    cli::parse::{MAX_PER_SECOND, Rate},
    client::{AccessFlags, Endpoint, Server, Token},
};

/// Maximum number of reactions in one request. An ingest accepts no more (docs/reference/limits.md).
const MOST_BATCHED: u64 = 1000;
/// Maximum number of rooms with `--verify`, which opens a WebSocket for each room.
const MOST_VERIFIED: u64 = 1000;
/// Maximum of `--zipf`. With greater exponents, nearly all choices would be the first item.
const LARGEST_EXPONENT: f64 = 10.0;
/// Default of `--room`: the room that the web page opens by default.
const USUAL_ROOM: &str = "default";
/// Default of `--users`.
const USUAL_USERS: u64 = 1000;
/// Port in the default of `--metrics-url`.
const ADMIN_PORT: u16 = 9464;
/// Default of `--room` with `--verify`. It is a room that no page opens by default, because reactions of other users
/// would be reported as doubled ones.
const VERIFIED_ROOM: &str = "rehearsal";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Address of an ingest or of `up`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Server,
    #[command(flatten)]
    access: AccessFlags,
    /// Rate at which reactions are sent, for example 5000/s
    #[arg(long, default_value = "100/s")]
    pub(super) rate: Rate,
    /// Time for which reactions are sent
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(super) duration: Duration,
    /// Multiply the rate for some time: 10x@30s multiplies it by 10 after 30 s, for 10 s; 10x@30s+5s does so for 5 s.
    /// Separate several by commas
    #[arg(long, value_name = "FACTORx@START[+LENGTH]", value_delimiter = ',')]
    spike: Vec<Spike>,
    /// Number of users who react; with --token-file the users are those of its tokens [default: 1000]
    #[arg(long, value_parser = Ranged::<u64>::new().range(1..))]
    users: Option<u64>,
    /// Number of rooms. One room has the name ROOM (see --room), several have the names ROOM-1 to ROOM-N
    #[arg(long, default_value_t = 1, value_parser = Ranged::<u64>::new().range(1..=10_000))]
    rooms: u64,
    /// Name of the room, or prefix of the names of several rooms [default: default; with --verify rehearsal]
    #[arg(long)]
    room: Option<Room>,
    /// Exponent S of Zipf's law, by which emojis, rooms and users are chosen: the kth is chosen k^S times less often
    /// than the first; with 0 all have the same probability
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = exponent,
        allow_negative_numbers = true)]
    pub(super) zipf: f64,
    /// Number of reactions per request; several reactions are sent as an array
    #[arg(long, default_value_t = 1, value_parser = Ranged::<u64>::new().range(1..=MOST_BATCHED))]
    pub(super) batch: u64,
    /// Maximum number of connections; they are opened when they are needed
    #[arg(long, value_name = "N", default_value_t = 4096,
        value_parser = Ranged::<u64>::new().range(1..=60_000))]
    pub(super) connections: u64,
    /// Request that ingest responds only when the log has stored the reactions (?wait=stored)
    #[arg(long)]
    pub(super) stored: bool,
    /// Compare the final results with the accepted reactions. Report lost, doubled and late reactions, and exit with 1
    /// on a difference. No other client may react in the rooms at the same time
    #[arg(long)]
    pub(super) verify: bool,
    /// Rate of additional single reactions, with which `load` measures the time until a subscriber receives a reaction;
    /// off sends none
    #[arg(long, value_name = "RATE|off", default_value = "1/s", value_parser = probe_rate)]
    pub(super) probe: ProbeRate,
    /// Address of the publisher or relay from which `load` reads the results [default: --url]
    #[arg(long, value_name = "URL")]
    subscribe_url: Option<Server>,
    /// Admin addresses of the dataflow's processes, separated by commas. Their metrics distinguish late reactions from
    /// lost ones [default: port 9464 of --url]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    metrics_url: Vec<Server>,
    /// Seed of the random choices; the same seed repeats the requests of an earlier load
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// The rate at which the probe sends reactions; `None` for `off`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbeRate(pub(super) Option<Rate>);

fn probe_rate(text: &str) -> Result<ProbeRate, String> {
    match text {
        "off" => Ok(ProbeRate(None)),
        _ => text.parse().map(|rate| ProbeRate(Some(rate))),
    }
}

fn exponent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(exponent) if (0.0..=LARGEST_EXPONENT).contains(&exponent) => Ok(exponent),
        _ => Err(format!("not a number from 0 to {LARGEST_EXPONENT}")),
    }
}

/// The validated flags.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) flags: Flags,
    /// The server to which reactions are sent.
    pub(super) ingest: Endpoint,
    /// The server for subscriptions; `None` if `--subscribe-url` is not set.
    pub(super) screens: Option<Endpoint>,
    /// The admin addresses of the dataflow's processes.
    pub(super) metrics: Vec<Endpoint>,
    /// Number of users.
    pub(super) users: u64,
    /// The tokens of the users; empty without `--token-file`.
    pub(super) tokens: Arc<[Token]>,
    /// The rooms, the most frequent first.
    pub(super) rooms: Vec<Room>,
    /// The spikes, in order and without overlaps.
    pub(super) spikes: Vec<Spike>,
    pub(super) seed: u64,
}

impl Flags {
    /// Validates the flags and reads the files.
    pub(super) fn validate(mut self) -> Result<Settings, Failure> {
        let rooms = self.room_names()?;
        let spikes = std::mem::take(&mut self.spike);
        let spikes =
            spike::in_order(spikes, self.duration).map_err(|why| Failure::usage("--spike", why))?;
        let too_fast = |spike: &&Spike| self.rate.per_second * spike.factor > MAX_PER_SECOND;
        if let Some(spike) = spikes.iter().find(too_fast) {
            let why = format!("{spike} is above {MAX_PER_SECOND} reactions/s");
            return Err(Failure::usage("--spike", why));
        }
        if self.users.is_some() && self.access.has_tokens() {
            let why =
                "cannot be used with --token-file, whose tokens name the users; remove one of them";
            return Err(Failure::usage("--users", why));
        }
        let access = self.access.open()?;
        let tokens = access.tokens().clone();
        let ingest = access.to(&self.url)?;
        let screens = self.subscribe_url.as_ref();
        let screens = screens.map(|url| access.to(url)).transpose()?;
        if self.metrics_url.is_empty() {
            self.metrics_url.push(self.url.at_port(ADMIN_PORT));
        }
        let metrics = self.metrics_url.iter();
        let metrics = metrics.map(|url| access.without_token(url));
        let metrics = metrics.collect::<Result<Vec<Endpoint>, Failure>>()?;
        let users = match tokens.len() {
            0 => self.users.unwrap_or(USUAL_USERS),
            tokens => tokens as u64,
        };
        let seed = self
            .seed
            .unwrap_or_else(|| u64::from(rand::random::<u32>()));
        Ok(Settings {
            flags: self,
            ingest,
            screens,
            metrics,
            users,
            tokens,
            rooms,
            spikes,
            seed,
        })
    }

    fn room_names(&self) -> Result<Vec<Room>, Failure> {
        if self.verify && self.rooms > MOST_VERIFIED {
            let why = format!("must be at most {MOST_VERIFIED} with --verify");
            return Err(Failure::usage("--rooms", why));
        }
        let usual = match self.verify {
            true => VERIFIED_ROOM,
            false => USUAL_ROOM,
        };
        let begin = self.room.as_ref().map_or(usual, Room::as_str);
        let name = |number| match self.rooms {
            1 => begin.to_owned(),
            _ => format!("{begin}-{number}"),
        };
        let room = |number| {
            let too_long = format!(
                "is too long: with the number of the room, a name has more than {MAX_ROOM_BYTES} bytes"
            );
            Room::new(&name(number)).map_err(|_| Failure::usage("--room", too_long))
        };
        (1..=self.rooms).map(room).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn settings(arguments: &str) -> Result<Settings, String> {
        let arguments = std::iter::once("load").chain(arguments.split_whitespace());
        let program = Program::try_parse_from(arguments).map_err(|error| error.to_string())?;
        program.flags.validate().map_err(|failure| failure.message)
    }

    #[test]
    fn rooms_have_names_that_pages_can_open() {
        for (arguments, names) in [
            ("", &["default"][..]),
            ("--verify", &["rehearsal"]),
            ("--room match-7", &["match-7"]),
            ("--room match-7 --verify", &["match-7"]),
            ("--rooms 2", &["default-1", "default-2"]),
            ("--rooms 2 --room hall --verify", &["hall-1", "hall-2"]),
        ] {
            let rooms = settings(arguments).unwrap().rooms;
            let found: Vec<&str> = rooms.iter().map(Room::as_str).collect();
            assert_eq!(found, names, "{arguments}");
        }
    }

    #[test]
    fn an_invalid_flag_is_refused_by_its_name() {
        let long_room = format!("--rooms 10 --room {}", "r".repeat(MAX_ROOM_BYTES));
        for (arguments, flag) in [
            (long_room.as_str(), "--room"),
            ("--verify --rooms 1001", "--rooms"),
            ("--rooms 0", "--rooms"),
            ("--users 0", "--users"),
            ("--zipf -1", "--zipf"),
            ("--zipf x", "--zipf"),
            ("--zipf NaN", "--zipf"),
            ("--batch 0", "--batch"),
            ("--connections 0", "--connections"),
            ("--spike 10", "--spike"),
            ("--duration 10s --spike 2x@10s", "--spike"),
            ("--spike 2x@10s,2x@12s", "--spike"),
            ("--rate 1000000/s --spike 11x@10s", "--spike"),
            ("--probe never", "--probe"),
            ("--metrics-url http://a,ftp://b", "--metrics-url"),
            ("--cacert nowhere.pem", "--cacert"),
            ("--token-file nowhere", "--token-file"),
            ("--users 7 --token-file nowhere", "--users"),
        ] {
            let why = settings(arguments).unwrap_err();
            assert!(why.contains(flag), "{arguments}: {why}");
        }
    }
}
