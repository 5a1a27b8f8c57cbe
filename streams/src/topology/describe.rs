//! Describes a topology as text.

use std::time::Duration;

use super::{application::Application, recorded::Declared};
use crate::{config::Config, source::format::Format};

impl<F: Format> Application<F> {
    /// Returns the topology as text, from the source to the topics of results, for people.
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

  source: {source}   (its partitions dealt over the workers)
    read         watermark of a partition = newest time - {lateness_ms} ms; a partition without records for
                 {idle:?} is idle once its end is reached; one that cannot be read to its end keeps
                 windows open for {hold:?} more
    pre-aggregate  count by (window, key, item) where it is read
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
                "    totals       differential: cumulative counts by key and item; the record of a key with more than
                 {small} items once in {period:?}
",
                small = pace.small_items,
                period = Duration::from_millis(pace.period_ms),
            );
            let retention = totals.sum.retention;
            if retention < Duration::MAX {
                text += &format!(
                    "                 totals of a key without a final for longer than {retention:?} begin at 0, and the key is
                 removed
"
                );
            }
        }
        if let Some(tops) = &self.tops {
            text += &format!(
                "    sliding      slide: a final counts for {span:?}; differential: top {top} items of each key, top {top} items
                 and keys of all (key *)
",
                span = tops.span,
                top = tops.top,
            );
        }
        text += &format!(
            "    commit       on one worker, one transaction a close; progress alone every {heartbeat:?}; a standby takes
                 over after {takeover:?} without a commit
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
