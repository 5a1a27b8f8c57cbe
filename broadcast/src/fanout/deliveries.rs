//! Metrics of the frames that are sent to subscribers.

use emostream_log::EventClock;
use emostream_model::ResultId;
use prometheus::IntCounter;

use crate::metrics::Metrics;
use crate::room::cursor::Next;

/// Counters of the frames that a shard or a stream sends. They are looked up in the metrics once, not for each
/// delivery.
#[derive(Debug, Clone)]
pub(crate) struct Deliveries {
    finals: IntCounter,
    lives: IntCounter,
    trendings: IntCounter,
    gap_frames: IntCounter,
    metrics: Metrics,
    /// The clock that has set the times of the records, so that their delay can be measured.
    clock: EventClock,
}

impl Deliveries {
    pub(crate) fn new(metrics: &Metrics, clock: EventClock) -> Self {
        let of = |kind: &str| metrics.deliveries.with_label_values(&[kind]);
        Self {
            finals: of("final"),
            lives: of("live"),
            trendings: of("trending"),
            gap_frames: of("gap"),
            metrics: metrics.clone(),
            clock,
        }
    }

    /// Counts a frame that was written to a subscriber's socket. `found` is the newest final that the room had when the
    /// subscriber joined. The delay of this final and of earlier ones is not measured, since they are older than the
    /// subscription.
    pub(crate) fn count(&self, next: &Next, found: Option<ResultId>) {
        match next {
            Next::Final(kept) => {
                self.finals.inc();
                if !found.is_some_and(|found| kept.id.is_up_to(found)) {
                    let ms = self.clock.unix_ms().saturating_sub(kept.written_ms);
                    self.metrics.delivery.observe(ms as f64 / 1000.0);
                }
            }
            Next::Live(_, skipped) => {
                self.lives.inc();
                if *skipped > 0 {
                    self.metrics.skipped_live.inc_by(*skipped);
                }
            }
            Next::Trending(_) => self.trendings.inc(),
            Next::Gap(..) => {
                self.metrics.gaps.inc();
                self.gap_frames.inc();
            }
        }
    }
}
