//! Describes a topology as text.

use std::time::Duration;

use super::{application::Application, recorded::Declared};
use crate::{config::Config, source::format::Format};

impl<F: Format> Application<F> {
    /// Returns the topology as text for people, in the order of the data: from the source to the topics of results.
    pub fn describe(&self) -> String {
        self.declared().describe(self.config())
    }
}

impl<F: Format> Declared<F> {
    fn describe(&self, config: &Config) -> String {
        let (topics, run) = (&config.topics, &config.run);
        let lateness_ms = run.lateness_ms;
        let mut text = format!(
            "\
dataflow {id}: {workers} worker(s), {settings}

  source: {source}   (its partitions are divided between the workers)
    read         the watermark of a partition is its newest time minus {lateness_ms} ms; a partition without
                 records for {idle:?} is idle if it was read to its end; a partition that cannot be read to
                 its end keeps windows open for {hold:?} more
    pre-aggregate  the worker that reads events counts them by window, key and item
      --> rejected, marks of progress --> commit
    exchange     by key
    tumble       [start, start + {window_ms} ms); closes when the slowest partition's watermark has passed
",
            id = topics.application_id,
            workers = run.workers,
            settings = config.settings,
            source = topics.source,
            idle = run.idle_timeout,
            hold = run.hold_timeout,
            window_ms = config.window.as_ms(),
        );
        if let Some((interval, topic)) = &self.updates {
            let topic = topic.name();
            text +=
                &format!("      --> updates of changed counts every {interval:?} --> {topic}\n");
        }
        text += "      --> finals\n";
        if let Some(totals) = &self.totals {
            let pace = totals.sum.pace;
            text += &format!(
                "    totals       cumulative counts by key and item; the record of a key with more than {small} items is
                 written once in {period:?}
",
                small = pace.small_items,
                period = Duration::from_millis(pace.period_ms),
            );
            let retention = totals.sum.retention;
            if retention < Duration::MAX {
                text += &format!(
                    "                 a key without a final for longer than {retention:?} is removed, and its totals begin at 0
                 with its next final
"
                );
            }
        }
        if let Some(tops) = &self.tops {
            text += &format!(
                "    sliding      a final counts for {span:?}; the top {top} items of each key, and the top {top} items and keys
                 over all keys (in the record with the key *)
",
                span = tops.span,
                top = tops.top,
            );
        }
        text += &format!(
            "    commit       one worker commits all results of a close in one transaction; without results it commits the
                 progress every {heartbeat:?}; a standby takes over after {takeover:?} without a commit
",
            heartbeat = run.heartbeat,
            takeover = run.takeover,
        );
        let committed = topics.results().chain([&topics.rejected, &topics.progress]);
        for topic in committed {
            text += &format!("      sink: {topic}\n");
        }
        text
    }
}
