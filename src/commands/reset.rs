//! `emostream reset`: lets the dataflow go on where its progress would be refused.

use std::io::{BufRead, IsTerminal, stdin};

use clap::{Args, ValueEnum};
use emostream_dataflow::{Reset, ResetFrom, reset, stored};
use emostream_log::{Log, LogError};
use emostream_model::Topics;
use indicatif::HumanCount;

use crate::{
    exit::{Exit, Failure},
    output,
    settings::{StoreFlags, TopicFlags},
    values::moment,
};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    topics: TopicFlags,
    /// Where the next run reads on: where the last one stood, or behind what is in the log now
    #[arg(long, value_name = "WHERE", default_value = "kept")]
    from: Where,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// Where the last run stood, as far as the log holds that
    Kept,
    /// Behind what is in the log now, which is skipped
    Latest,
}

pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    if !flags.yes && !stdin().is_terminal() {
        let why = "is needed, for there is no terminal to ask at";
        return Err(Failure::usage("--yes", why));
    }
    let names = flags.topics.names();
    let log = flags.store.open_existing()?;
    let Some(final_until_ms) = final_until(&names, &*log)? else {
        return say("no progress is stored: there is nothing to reset\n");
    };
    if !flags.yes && !confirmed(flags.from, final_until_ms)? {
        return say("nothing was changed\n");
    }
    let from = match flags.from {
        Where::Kept => ResetFrom::Kept,
        Where::Latest => ResetFrom::Latest,
    };
    match reset(&names, &*log, from) {
        Ok(Some(done)) => say(&report(&done, from)),
        Ok(None) => say("no progress is stored: there is nothing to reset\n"),
        Err(error) => match Failure::from(error) {
            Failure {
                exit: Exit::Restart,
                sentence,
            } => {
                let sentence = format!("{sentence}; stop the dataflow, then reset again");
                Err(Failure::new(Exit::Restart, sentence))
            }
            other => Err(other),
        },
    }
}

/// F; `None` if the dataflow never committed.
fn final_until(names: &Topics, log: &dyn Log) -> Result<Option<u64>, Failure> {
    match log.partitions(&names.progress()) {
        Err(LogError::UnknownTopic { .. }) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(stored(names, log)?.map(|stored| stored.final_until_ms)),
    }
}

fn confirmed(from: Where, final_until_ms: u64) -> Result<bool, Failure> {
    let skips = match from {
        Where::Kept => "",
        Where::Latest => " Whatever is in the log and not counted yet will never be.",
    };
    say(&format!(
        "Finals up to {} stay. A running dataflow ends, and the next one may have other settings.{skips}\n\
         Reset the progress? [y/N] ",
        moment(final_until_ms)
    ))?;
    let mut answer = String::new();
    // A terminal that is gone has not agreed.
    let read = stdin().lock().read_line(&mut answer).unwrap_or(0);
    Ok(read > 0 && matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn report(done: &Reset, from: ResetFrom) -> String {
    let records = HumanCount(done.records);
    let next = match from {
        ResetFrom::Kept => format!("the next run counts from there ({records} records to read)"),
        ResetFrom::Latest => {
            format!("the next run counts what comes from now on ({records} records skipped)")
        }
    };
    let mut said = format!(
        "{} partitions; finals up to {} stay; {next}\n",
        done.partitions,
        moment(done.final_until_ms)
    );
    if done.lost > 0 {
        let lost = HumanCount(done.lost);
        said += &format!("{lost} records were deleted before they were counted\n");
    }
    if done.anew > 0 {
        let anew = done.anew;
        said += &format!(
            "{anew} partitions no longer hold what was read from them, and are read from their beginning\n"
        );
    }
    said
}

fn say(text: &str) -> Result<(), Failure> {
    output::quietly(output::print(text))
}
