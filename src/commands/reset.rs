//! `emostream reset`: changes the stored progress, so that the dataflow can continue where it would refuse to start
//! otherwise.

use std::io::{BufRead, IsTerminal, stdin};

use clap::{Args, ValueEnum};
use emostream_dataflow::{
    FinalTime, Plan, Reset, ResetFrom, ResetRequest, plan, reset, streams_topics,
};
use emostream_log::{Log, LogError};
use emostream_model::Topics;
use indicatif::HumanCount;

use crate::{
    cli::flags::{StoreFlags, TopicFlags},
    cli::parse::{From, moment, now_ms},
    exit::{Exit, Failure},
    log_socket::{LogEndpoint, LogSocket},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    topics: TopicFlags,
    /// Position from which the next run reads: the stored offsets, or the end of the log, after the records that are in
    /// it now
    #[arg(long, value_name = "WHERE", default_value = "kept")]
    from: Where,
    /// Use this after a clock was wrong or progress was lost: everything up to this time is final, and later windows are
    /// counted, even if they already have finals
    #[arg(long, value_name = "now|TIME", value_parser = final_until, allow_hyphen_values = true)]
    final_until: Option<FinalUntil>,
    /// Reject the records in the log whose timestamps are more than 5 s ahead of this host's clock. If only this flag
    /// is set, nothing else changes
    #[arg(long)]
    reject_ahead: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// At the stored offsets, or at the oldest record if the records at these offsets were deleted
    Kept,
    /// After the records that are in the log now; they are not counted
    Latest,
}

/// The value of `--final-until`: the time up to which everything is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FinalUntil {
    Now,
    /// A given time, Unix milliseconds.
    At(u64),
}

fn final_until(text: &str) -> Result<FinalUntil, String> {
    match text.parse() {
        _ if text == "now" => Ok(FinalUntil::Now),
        Ok(From::At(at_ms)) => Ok(FinalUntil::At(at_ms)),
        _ => Err("write now, or a time such as 2026-01-31T20:15:00Z".to_owned()),
    }
}

const NOTHING: &str = "no progress is stored: there is nothing to reset\n";

pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    if !flags.yes && !stdin().is_terminal() {
        let why = "is required without a terminal, because the command cannot ask for confirmation";
        return Err(Failure::usage("--yes", why));
    }
    let request = request(&flags);
    let names = flags.topics.names();
    let dir = flags.store.embedded_dir();
    let log = flags.store.open_existing()?;
    let Some(dir) = dir else {
        return change(&names, &*log, &request, flags.yes);
    };
    super::run(async {
        // Serves the log to `inspect` while the user reads what the reset would do and confirms it.
        let _socket = LogSocket::start(&dir, LogEndpoint::new(log.clone()).router());
        change(&names, &*log, &request, flags.yes)
    })
}

/// Resets the progress if the user confirms it, or if `confirmed_before` is set.
fn change(
    names: &Topics,
    log: &dyn Log,
    request: &ResetRequest,
    confirmed_before: bool,
) -> Result<(), Failure> {
    let Some(plan) = planned(names, log, request)? else {
        return say(NOTHING);
    };
    say(&consequences(request, &plan))?;
    if !confirmed_before && !confirmed()? {
        return say("nothing was changed\n");
    }
    match reset(&streams_topics(names), log, request, &plan) {
        Ok(done) => say(&report(&done, request, &plan)),
        Err(error) => match Failure::from(error) {
            Failure {
                exit: Exit::Restart,
                message,
            } => {
                let message = format!("{message}; stop the dataflow, then reset again");
                Err(Failure::new(Exit::Restart, message))
            }
            other => Err(other),
        },
    }
}

fn request(flags: &Flags) -> ResetRequest {
    let now_ms = now_ms();
    ResetRequest {
        from: match flags.from {
            Where::Kept => ResetFrom::Kept,
            Where::Latest => ResetFrom::Latest,
        },
        final_until_ms: flags.final_until.map(|until| match until {
            FinalUntil::Now => now_ms,
            FinalUntil::At(at_ms) => at_ms,
        }),
        reject_ahead: flags.reject_ahead,
        now_ms,
    }
}

fn planned(names: &Topics, log: &dyn Log, request: &ResetRequest) -> Result<Option<Plan>, Failure> {
    match log.partitions(&names.progress()) {
        Err(LogError::UnknownTopic { .. }) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(plan(&streams_topics(names), log, request)?),
    }
}

/// Returns a description of the effects of the reset, which is printed before the user is requested to confirm.
fn consequences(request: &ResetRequest, plan: &Plan) -> String {
    let until = moment(plan.final_until_ms);
    let mut text = match plan.final_time {
        FinalTime::Kept if request.reject_ahead && request.final_until_ms.is_none() => {
            format!(
                "Records in the log whose timestamps are more than 5 s after {} will be rejected.\n",
                moment(request.now_ms)
            )
        }
        FinalTime::Kept => format!("Finals up to {until} are kept.\n"),
        FinalTime::Forward => format!(
            "Everything up to {until} will be final (before: up to {}). Reactions in the log that are not counted by \
             then will be rejected as late.\n",
            moment(plan.stored_until_ms)
        ),
        FinalTime::Backward => format!(
            "The final time will be set back from {} to {until}.\n",
            moment(plan.stored_until_ms)
        ),
        FinalTime::Begun => format!(
            "No progress is stored. All records in the log up to {until} will count as committed already.\n"
        ),
    };
    let after = &plan.finals_after;
    if after.finals > 0 {
        text += &format!(
            "{} finals with {} reactions are later than that and are kept. Their windows may get a second final, of other \
             reactions, and the totals count both:\n",
            HumanCount(after.finals),
            HumanCount(after.events)
        );
        for (end_ms, room, total) in &after.first {
            text += &format!(
                "  {room}, window until {}: {}\n",
                moment(*end_ms),
                HumanCount(*total)
            );
        }
        let others = after.finals - after.first.len() as u64;
        if others > 0 {
            text += &format!("  and {} more\n", HumanCount(others));
        }
    }
    if plan.final_time == FinalTime::Backward {
        text += &format!(
            "Records in the log that are not counted yet, and whose timestamps are more than 5 s after {until}, will be rejected with the reason `ahead`.\n"
        );
    }
    if request.from == ResetFrom::Latest {
        text += "Records in the log that are not counted yet will never be counted.\n";
    }
    text
}

fn confirmed() -> Result<bool, Failure> {
    say(
        "A running dataflow ends, and the next run continues from the new progress. Reset the progress? [y/N] ",
    )?;
    let mut answer = String::new();
    // If the terminal is closed, the answer is no.
    let read = stdin().lock().read_line(&mut answer).unwrap_or(0);
    Ok(read > 0 && matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn report(done: &Reset, request: &ResetRequest, plan: &Plan) -> String {
    let records = HumanCount(done.records);
    let next = match request.from {
        ResetFrom::Kept => format!("the next run continues with {records} records to read"),
        ResetFrom::Latest => {
            format!("the next run counts reactions from now on ({records} records skipped)")
        }
    };
    let mut text = format!(
        "{} partitions; finals up to {} are kept; {next}\n",
        done.partitions,
        moment(done.final_until_ms)
    );
    if plan.final_time == FinalTime::Begun {
        let settled = HumanCount(done.settled);
        text += &format!("{settled} records up to then count as committed already\n");
    }
    if done.lost > 0 {
        let lost = HumanCount(done.lost);
        text += &format!("{lost} records were deleted before they were counted\n");
    }
    if done.replaced > 0 {
        let replaced = done.replaced;
        text += &format!(
            "{replaced} partitions no longer contain the records that were read, and are read from their beginning\n"
        );
    }
    text += "Running dataflows and standbys end with exit code 75; start them again.\n";
    text
}

fn say(text: &str) -> Result<(), Failure> {
    output::quietly(output::print(text))
}
