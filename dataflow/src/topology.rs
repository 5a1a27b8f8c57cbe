//! The topology of EmoStream: the operators between the source and the sink.

use std::time::Duration;

use emostream_model::{Emoji, Room};
use emostream_streams::{
    config::Config as EngineConfig,
    operators::{
        records::{Records, table},
        schedule::{ScheduleParams, TotalsPace},
        top::{TopParams, sliding_top},
        totals::{Totals, TotalsParams, totals},
        tumbling::tumbling_window,
        updates::write_updates,
    },
    runtime::app::{Application, Counts, WorkerContext},
    sink::result::ResultStreams,
};

use crate::{
    Config,
    format::ReactionFormat,
    results::{Finals, RoomTotals, StoredResults, TrendingTops, live_record, totals_bytes},
};

/// The EmoStream application: computes tallies, totals and trending emojis from reactions.
#[derive(Debug, Clone)]
pub struct EmoStream {
    config: Config,
    engine: EngineConfig,
}

impl EmoStream {
    /// Creates the application with this configuration.
    pub fn new(config: Config) -> EmoStream {
        EmoStream {
            engine: config.engine(),
            config,
        }
    }
}

impl Application for EmoStream {
    type Format = ReactionFormat;
    type Stored = StoredResults;
    const METRICS_PREFIX: &'static str = "emostream_dataflow";

    fn config(&self) -> &EngineConfig {
        &self.engine
    }

    fn format(&self) -> ReactionFormat {
        let emojis = self.config.emojis.clone();
        ReactionFormat { emojis }
    }

    fn build<'scope>(
        &self,
        counts: Counts<'scope, ReactionFormat>,
        worker: WorkerContext<Room, Emoji>,
        results: &mut ResultStreams<'scope>,
    ) {
        let config = &self.config;
        let max_step_counts = config.limits.max_step_counts;
        let windows = worker.windows(&self.engine, Some(config.live));
        let totals_params = TotalsParams {
            schedule: ScheduleParams {
                pace: config.totals_pace,
                size: config.window,
                finals_kept_ms: worker.finals_kept_ms,
                record_bytes: totals_bytes,
            },
            retention_ms: self.engine.retention_ms,
            final_until_ms: worker.final_until_ms,
            resets: worker.resets,
            max_step_counts,
        };
        let trending = TopParams {
            span: self.engine.span(),
            top: config.trending_top,
            final_until_ms: worker.final_until_ms,
            max_step_counts,
            durable: worker.durable.clone(),
        };
        let (span_ms, swarm_size) = (trending.span.span_ms, config.swarm_size);
        let topics = &config.topics;
        let live_topic = topics.live();

        let (finals, live) = tumbling_window(counts, windows, move |tally| {
            live_record(&tally, &live_topic, swarm_size)
        });
        write_updates(live, worker.appender, worker.metrics);
        let Totals {
            finals,
            records,
            removed,
            unwritten,
        } = totals(
            finals,
            worker.restored.totals,
            totals_params,
            worker.durable,
        );
        let trending = sliding_top(finals.clone(), worker.restored.sliding, trending);

        let resets = worker.resets;
        let records = table(records, removed.clone());
        let trending = table(trending, removed);
        let finals_format = Finals { swarm_size };
        results.add(
            finals,
            Records::new(topics.windows(), resets, finals_format),
        );
        results.add(records, Records::new(topics.totals(), resets, RoomTotals));
        let tops_format = TrendingTops { span_ms };
        results.add(
            trending,
            Records::new(topics.trending(), resets, tops_format),
        );
        results.unwritten = Some(unwritten);
    }
}

/// Returns the topology as text, for `--describe`.
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
                small_items,
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
                 {small_items} emojis once in {totals_period:?}; totals of a room without a final for
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
