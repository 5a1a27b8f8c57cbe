//! The whole dataflow on one screen.

use std::{sync::Arc, time::Duration};

use emostream_log::Appender;
use timely::{
    dataflow::operators::{
        Concat, ConnectLoop, Feedback,
        probe::{self, Probe},
        vec::{Broadcast, Map},
    },
    scheduling::Activator,
    worker::Worker,
};

use crate::{
    Config,
    commit::StartCommitter,
    due::TotalsPace,
    live::write_live,
    metrics::Metrics,
    restoring::RecoveredTrending,
    results::WindowResult,
    sink::{self, Outcome, SinkStart},
    source::{News, SourceStart, SourceStreams, source},
    totals::{RestoredTotals, Totals, TotalsOutput, TotalsRules, totals},
    trending::trending,
    tumble::{Tumble, tumble},
};

/// What one worker's part of the dataflow is built from.
pub struct Parts {
    /// How it reads.
    pub source: SourceStart,
    /// How it commits, on the first worker.
    pub sink: SinkStart,
    /// Starts what commits, given what wakes the sink.
    pub committer: StartCommitter,
    /// The totals of this worker's share of the rooms, as of F.
    pub totals: Vec<RestoredTotals>,
    /// What totals are written by.
    pub totals_rules: TotalsRules,
    /// What lies in the span of this worker's share of the rooms, as of F.
    pub trending: RecoveredTrending,
    /// Writes live tallies.
    pub appender: Arc<dyn Appender>,
    /// What to count.
    pub metrics: Metrics,
}

/// Builds the dataflow on one worker. The activator runs its source; the probe handle that the source
/// was given shows what is durable.
pub fn build(worker: &mut Worker, config: &Config, parts: Parts) -> Activator {
    let max_step_counts = config.limits.max_step_counts;
    let tumbling = Tumble {
        size: config.window,
        swarm_size: config.swarm_size,
        live: config.live,
        max_step_counts,
        open_windows: parts
            .metrics
            .open_windows
            .with_label_values(&[worker.index().to_string()]),
        timers: parts.source.timers.clone(),
    };
    let durable: probe::Handle<u64> = parts.source.durable.clone();
    let final_until_ms = parts.sink.progress.final_until_ms;

    worker.dataflow_named("emostream", |scope| {
        let (told, heard) = scope.feedback(1);
        let SourceStreams {
            tallies,
            notices,
            updates,
            activator,
        } = source(scope, heard, parts.source);
        let (finals, live) = tumble(tallies, tumbling);
        write_live(live, config.topics.live(), parts.appender, parts.metrics);
        let rules = parts.totals_rules;
        let Totals { finals, outputs } = totals(finals, parts.totals, rules, durable.clone());
        let trending = trending(
            finals.clone(),
            parts.trending,
            final_until_ms,
            config.span(),
            max_step_counts,
            durable.clone(),
        );

        let results = finals
            .map(WindowResult::Final)
            .concat(trending.map(|record| WindowResult::trending(&record)));
        let totals = outputs.map(|output| match output {
            TotalsOutput::Record(totals) => Outcome::Result(WindowResult::Totals(totals)),
            TotalsOutput::Unwritten(since) => Outcome::Unwritten(since),
            TotalsOutput::Removed(table, room, start_ms) => {
                Outcome::Result(WindowResult::Removed(table, room, start_ms))
            }
        });
        let outcomes = results.map(Outcome::Result).concat(totals).concat(notices);
        let written = sink::commit(outcomes, parts.sink, parts.committer).probe_with(&durable);

        let news = updates
            .map(News::Partition)
            .concat(written.map(News::Written));
        news.broadcast().connect_loop(told);
        activator
    })
}

/// The topology as text, for `--describe`.
pub fn describe(config: &Config) -> String {
    let Config {
        topics,
        workers,
        window,
        lateness_ms,
        idle_timeout,
        hold_timeout,
        live,
        swarm_size,
        trending_span,
        trending_top,
        heartbeat,
        takeover,
        totals_retention,
        totals_pace:
            TotalsPace {
                small_emojis,
                period_ms,
                ..
            },
        ..
    } = config;
    let totals_period = Duration::from_millis(*period_ms);
    format!(
        "\
dataflow {prefix}: {workers} worker(s), windows of {window_ms} ms, lateness {lateness_ms} ms

  source: {reactions}   (its partitions dealt over the workers)
    read         decode batches and plain JSON; watermark of a partition = newest time - {lateness_ms} ms;
                 a partition that brings nothing for {idle_timeout:?} is idle once its end is reached; one
                 that cannot be read to its end holds time back for {hold_timeout:?} more
    pre-aggregate  count by (window, room, emoji) where it is read
      --> rejected, marks of progress --> commit
    exchange     by room
    tumble       [start, start + {window_ms} ms); closes when the slowest partition's watermark has passed
      --> live   every {live:?} where it changed --> {live_topic}
      --> finals swarms of {swarm_size}
    totals       differential: cumulative counts by room and emoji; the record of a room with more than
                 {small_emojis} emojis once in {totals_period:?}; totals of a room without a final for
                 longer than {totals_retention:?} begin at 0, and the room is removed
    trending     slide: a final counts for {trending_span:?}; differential: top {trending_top} emojis of each room,
                 top {trending_top} emojis and rooms of all (key *)
    commit       on one worker, one transaction a close; progress alone every {heartbeat:?}; a standby takes over
                 after {takeover:?} without a commit
      sink: {windows}
      sink: {totals}
      sink: {trending}
      sink: {rejected}
      sink: {progress}
",
        prefix = topics.prefix(),
        window_ms = window.as_ms(),
        reactions = topics.reactions(),
        live_topic = topics.live(),
        windows = topics.windows(),
        totals = topics.totals(),
        trending = topics.trending(),
        rejected = topics.rejected(),
        progress = topics.progress(),
    )
}
