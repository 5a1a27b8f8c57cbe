//! What is asked of a load: flags in, a plan or one sentence out.

use std::{sync::Arc, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_model::{MAX_ROOM_BYTES, Room};

use super::spike::{self, Spike};
use crate::{
    cli::values::{FASTEST_PER_SECOND, Rate, duration},
    client::{AccessFlags, Endpoint, Server, Token},
    exit::Failure,
};

/// Maximum reactions of an array: an ingest accepts no more (README.md, "Send reactions").
const MOST_BATCHED: u64 = 1000;
/// The most rooms whose finals are compared: one WebSocket each.
const MOST_VERIFIED: u64 = 1000;
/// Above it, all is the first.
const LARGEST_EXPONENT: f64 = 10.0;
/// Where people are.
const USUAL_ROOM: &str = "default";
/// How many users react, if nothing else says so.
const USUAL_USERS: u64 = 1000;
/// Where a dataflow's metrics are, if nothing else says so.
const ADMIN_PORT: u16 = 9464;
/// Where nobody is, who would look like doubled reactions.
const VERIFIED_ROOM: &str = "rehearsal";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where an ingest or `up` listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Server,
    #[command(flatten)]
    access: AccessFlags,
    /// Reactions, for example 5000/s
    #[arg(long, default_value = "100/s")]
    pub(super) rate: Rate,
    /// How long
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(super) duration: Duration,
    /// For a while, so many times the rate: 10x@30s begins after 30 s and lasts 10 s, 10x@30s+5s lasts
    /// 5 s; several with commas
    #[arg(long, value_name = "FACTORx@START[+LENGTH]", value_delimiter = ',')]
    spike: Vec<Spike>,
    /// Users that react; with --token-file they are those of its tokens [default: 1000]
    #[arg(long, value_parser = Ranged::<u64>::new().range(1..))]
    users: Option<u64>,
    /// Rooms that they react in: one is --room itself, more are ROOM-1 to ROOM-N
    #[arg(long, default_value_t = 1, value_parser = Ranged::<u64>::new().range(1..=10_000))]
    rooms: u64,
    /// The room, or how their names begin [default: default; with --verify rehearsal]
    #[arg(long)]
    room: Option<Room>,
    /// How uneven emojis, rooms and users are: the kth comes k^S times more rarely; 0 is all alike
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = exponent,
        allow_negative_numbers = true)]
    pub(super) zipf: f64,
    /// Reactions a request: more than 1 are sent as an array
    #[arg(long, default_value_t = 1, value_parser = Ranged::<u64>::new().range(1..=MOST_BATCHED))]
    pub(super) batch: u64,
    /// The most connections; they are opened as they are needed
    #[arg(long, value_name = "N", default_value_t = 4096,
        value_parser = Ranged::<u64>::new().range(1..=60_000))]
    pub(super) connections: u64,
    /// Ask for each answer only once the log has the reactions (?wait=stored)
    #[arg(long)]
    pub(super) stored: bool,
    /// Compare the finals with what was accepted: lost, doubled, late; exit 1 on a difference. Nobody
    /// else may react in the rooms meanwhile
    #[arg(long)]
    pub(super) verify: bool,
    /// How often one reaction's way to the screen is measured, or off
    #[arg(long, value_name = "RATE|off", default_value = "1/s", value_parser = probe_rate)]
    pub(super) probe: ProbeRate,
    /// Where a publisher is, if not at --url
    #[arg(long, value_name = "URL")]
    subscribe_url: Option<Server>,
    /// The metrics of the dataflow's processes, to tell late reactions from lost ones; several with
    /// commas [default: port 9464 of --url]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    metrics_url: Vec<Server>,
    /// Repeat the random choices of an earlier load
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// `None` is off.
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

/// Flags that fit each other.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) flags: Flags,
    /// Where reactions go.
    pub(super) ingest: Endpoint,
    /// Where screens are, if somebody said so.
    pub(super) screens: Option<Endpoint>,
    /// The dataflow's processes.
    pub(super) metrics: Vec<Endpoint>,
    /// How many users react.
    pub(super) users: u64,
    /// Theirs, if they have some: one each.
    pub(super) tokens: Arc<[Token]>,
    /// The fullest first.
    pub(super) rooms: Vec<Room>,
    /// In order, without overlap.
    pub(super) spikes: Vec<Spike>,
    pub(super) seed: u64,
}

impl Flags {
    /// Refuses what does not fit.
    pub(super) fn checked(mut self) -> Result<Asked, Failure> {
        let rooms = self.room_names()?;
        let spikes = std::mem::take(&mut self.spike);
        let spikes =
            spike::in_order(spikes, self.duration).map_err(|why| Failure::usage("--spike", why))?;
        let too_fast = |spike: &&Spike| self.rate.per_second * spike.factor > FASTEST_PER_SECOND;
        if let Some(spike) = spikes.iter().find(too_fast) {
            let why = format!("{spike} is above {FASTEST_PER_SECOND} reactions/s");
            return Err(Failure::usage("--spike", why));
        }
        if self.users.is_some() && self.access.has_tokens() {
            let why =
                "with --token-file the users are those of its tokens, one a line; leave it out";
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
        Ok(Asked {
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
            let why = format!("--verify compares at most {MOST_VERIFIED}");
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
            let too_long = format!("with a number behind it, longer than {MAX_ROOM_BYTES} bytes");
            Room::new(&name(number)).map_err(|_| Failure::usage("--room", too_long))
        };
        (1..=self.rooms).map(room).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn asked(arguments: &str) -> Result<Asked, String> {
        let arguments = std::iter::once("load").chain(arguments.split_whitespace());
        let program = Program::try_parse_from(arguments).map_err(|error| error.to_string())?;
        program.flags.checked().map_err(|failure| failure.sentence)
    }

    #[test]
    fn rooms_are_pages_that_one_can_open() {
        for (arguments, names) in [
            ("", &["default"][..]),
            ("--verify", &["rehearsal"]),
            ("--room match-7", &["match-7"]),
            ("--room match-7 --verify", &["match-7"]),
            ("--rooms 2", &["default-1", "default-2"]),
            ("--rooms 2 --room hall --verify", &["hall-1", "hall-2"]),
        ] {
            let rooms = asked(arguments).unwrap().rooms;
            let found: Vec<&str> = rooms.iter().map(Room::as_str).collect();
            assert_eq!(found, names, "{arguments}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_the_name_of_its_flag() {
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
            let why = asked(arguments).unwrap_err();
            assert!(why.contains(flag), "{arguments}: {why}");
        }
    }
}
