//! The summary of a run, as text or as one JSON object. As text, the verdict is printed separately, because it is known
//! later.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;

use super::{
    flags::Settings,
    ledger::Sent,
    probe::Probed,
    schedule::Schedule,
    sender::Performed,
    verdict::{Verdict, longest_pause},
};
use crate::{client::Opened, output};

/// Delay of the generator in milliseconds above which a warning is printed. If one request in a hundred is sent later
/// than this, the figures measure this machine and not the server.
const TOO_LATE_MS: f64 = 25.0;

/// The summary of a run. Its fields are the fields of the JSON object that `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    url: String,
    /// The most frequent room.
    room: String,
    rooms: usize,
    rate_per_second: f64,
    duration_s: f64,
    spikes: Vec<String>,
    users: u64,
    batch: u64,
    zipf: f64,
    stored: bool,
    seed: u64,
    interrupted: bool,
    /// Whether the run ended early because the server accepted no reaction.
    given_up: bool,
    reactions: Reactions,
    requests: Requests,
    answer_ms: Option<Latency>,
    /// The delay of requests that this machine caused, not the server.
    own_delay_ms: Option<Latency>,
    connections: Opened,
    to_screen: Option<ToScreen>,
    verify: Option<Verdict>,
}

#[derive(Debug, Serialize)]
struct Reactions {
    planned: u64,
    accepted: u64,
    unknown: u64,
}

#[derive(Debug, Serialize)]
struct Requests {
    planned: u64,
    sent: u64,
    answers: BTreeMap<String, u64>,
    /// The reason in the first response of each outcome that is an error.
    why: BTreeMap<String, String>,
}

/// Percentiles of a latency, milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct ToScreen {
    latency_ms: Option<Latency>,
    /// Number of reactions of the probe that a frame showed.
    shown: u64,
    never_shown: u64,
    not_accepted: u64,
    longest_pause_ms: f64,
}

impl Report {
    /// Creates the summary of a run, without a verdict.
    pub(super) fn new(
        settings: &Settings,
        plan: &Schedule,
        performed: &Performed,
        sent: &Sent,
        connections: Opened,
        probed: Option<&Probed>,
    ) -> Self {
        let flags = &settings.flags;
        let accepted = sent.reactions();
        let answers = sent.answers.iter();
        let why = answers
            .clone()
            .filter_map(|(name, of)| Some((name.clone(), of.why.clone()?)));
        Self {
            url: settings.ingest.to_string(),
            room: settings.rooms[0].to_string(),
            rooms: settings.rooms.len(),
            rate_per_second: flags.rate.per_second,
            duration_s: flags.duration.as_secs_f64(),
            spikes: settings.spikes.iter().map(ToString::to_string).collect(),
            users: settings.users,
            batch: flags.batch,
            zipf: flags.zipf,
            stored: flags.stored,
            seed: settings.seed,
            interrupted: false,
            given_up: false,
            reactions: Reactions {
                planned: plan.posts() * flags.batch,
                accepted: accepted.accepted,
                unknown: accepted.unknown,
            },
            requests: Requests {
                planned: plan.posts(),
                sent: performed.sent,
                answers: answers
                    .map(|(name, of)| (name.clone(), of.requests))
                    .collect(),
                why: why.collect(),
            },
            answer_ms: Latency::of(&sent.latency_us),
            own_delay_ms: Latency::of(&performed.own_delay_us),
            connections,
            to_screen: probed.map(|probed| ToScreen {
                latency_ms: Latency::of(&probed.shown_us),
                shown: probed.shown_us.len(),
                never_shown: probed.missed,
                not_accepted: probed.unsent,
                longest_pause_ms: ms(probed.longest_pause),
            }),
            verify: None,
        }
    }

    /// Notes that a signal ended the run.
    pub(super) fn interrupted(&mut self) {
        self.interrupted = true;
    }

    /// Notes that the run ended early because the server accepted no reaction.
    pub(super) fn given_up(&mut self) {
        self.given_up = true;
    }

    /// Adds the verdict to the summary.
    pub(super) fn verified(&mut self, verdict: Verdict) {
        self.verify = Some(verdict);
    }

    /// Returns the number of requests with each outcome, with the reasons of errors.
    fn answers(&self) -> String {
        let Requests { answers, why, .. } = &self.requests;
        let each = answers.iter().map(|(name, requests)| match why.get(name) {
            Some(why) => {
                let (requests, why) = (HumanCount(*requests), output::escaped(why));
                format!("{requests} × {name} ({why})")
            }
            None => format!("{} × {name}", HumanCount(*requests)),
        });
        each.collect::<Vec<String>>().join(", ")
    }

    /// Whether no reaction was accepted.
    pub(super) fn accepted_nothing(&self) -> bool {
        self.reactions.accepted == 0
    }

    /// Returns the longest time between two tallies that the probe received.
    pub(super) fn longest_pause_ms(&self) -> Option<f64> {
        self.to_screen
            .as_ref()
            .map(|screen| screen.longest_pause_ms)
    }

    /// Returns the sentence of the error if the run failed: no reaction was accepted, or the finals do not match.
    pub(super) fn complaint(&self) -> Option<String> {
        if self.given_up || self.accepted_nothing() && self.requests.sent > 0 {
            let early = match self.given_up {
                true => ", so the load ended early",
                false => "",
            };
            return Some(format!("nothing was accepted{early}: {}", self.answers()));
        }
        let inexact = self.verify.as_ref().is_some_and(|verdict| !verdict.holds());
        inexact.then(|| "the finals do not match the accepted reactions".to_owned())
    }

    /// Returns the result of a run without `--verify` as a sentence.
    pub(super) fn in_words(&self) -> String {
        let Reactions {
            accepted, unknown, ..
        } = self.reactions;
        let sent = self.requests.sent * self.batch;
        let refused = sent.saturating_sub(accepted + unknown);
        let mut words = match (refused, unknown) {
            (0, 0) => format!("all {} reactions were accepted", HumanCount(accepted)),
            _ => format!(
                "of {} reactions {} were accepted and {} refused; the outcome of {} is unknown",
                HumanCount(sent),
                HumanCount(accepted),
                HumanCount(refused),
                HumanCount(unknown)
            ),
        };
        if let Some(latency) = self.answer_ms {
            words += &format!("; 99 of 100 responses arrived within {:.0} ms", latency.p99);
        }
        if let Some(screen) = &self.to_screen {
            if let Some(seen) = screen.latency_ms {
                let (median, tries) = (seen.p50, screen.shown);
                words += &format!(
                    "; a reaction was on a screen after {median:.0} ms (the median of {tries} tries)"
                );
            }
            words += &format!("; {}", longest_pause(screen.longest_pause_ms));
        }
        format!("verdict    {words}\n")
    }

    /// Returns the summary as JSON on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report can always be encoded as JSON")
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

impl Latency {
    fn of(us: &Histogram<u64>) -> Option<Self> {
        let ms = |quantile| us.value_at_quantile(quantile) as f64 / 1000.0;
        (!us.is_empty()).then(|| Self {
            p50: ms(0.5),
            p90: ms(0.9),
            p99: ms(0.99),
            p99_9: ms(0.999),
            max: us.max() as f64 / 1000.0,
        })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            p50,
            p90,
            p99,
            p99_9,
            max,
        } = self;
        write!(
            f,
            "p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, p99.9 {p99_9:.1} ms, max {max:.1} ms"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepted = HumanCount(self.reactions.accepted);
        let sent = HumanCount(self.requests.sent);
        let answers = self.answers();
        writeln!(
            f,
            "reactions  {accepted} accepted in {sent} requests: {answers}"
        )?;
        if let Some(latency) = self.answer_ms {
            writeln!(f, "answers    {latency}")?;
        }
        if let Some(to_screen) = &self.to_screen {
            write!(f, "{to_screen}")?;
        }
        let (planned, limit) = (self.requests.planned, self.connections.limit);
        let sent = self.requests.sent;
        if sent < planned && !self.interrupted && !self.given_up {
            writeln!(
                f,
                "           {} of {planned} requests were never sent: all {limit} connections were \
                 waiting for answers",
                planned - sent
            )?;
        }
        if self.connections.open_files_reached {
            writeln!(
                f,
                "           the limit on open files allowed {limit} connections; raise it by ulimit -n"
            )?;
        }
        let own = self.own_delay_ms.map_or(0.0, |own| own.p99);
        if own > TOO_LATE_MS {
            writeln!(
                f,
                "           this machine sent one of a hundred requests {own:.0} ms late or later: lower \
                 the rate, or send arrays (--batch)"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ToScreen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shown,
            never_shown,
            not_accepted,
            ..
        } = self;
        if let Some(latency) = self.latency_ms {
            // A high percentile depends on only a few measurements, so their number is printed, too.
            let beyond = |share: f64| (*shown as f64 * share).ceil().max(1.0);
            let [p90, p99, p99_9] = [0.1, 0.01, 0.001].map(beyond);
            writeln!(
                f,
                "to screen  {latency}\n           of {shown} tries: p90 is based on the slowest {p90}, p99 on {p99}, \
                 p99.9 on {p99_9}"
            )?;
        }
        writeln!(f, "           {}", longest_pause(self.longest_pause_ms))?;
        if never_shown + not_accepted > 0 {
            writeln!(
                f,
                "           {never_shown} were not shown in time, {not_accepted} were not accepted"
            )?;
        }
        Ok(())
    }
}
