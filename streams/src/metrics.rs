//! The Prometheus metrics of an application.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Buckets of the time between the end of a window and the commit of its results, seconds. They are narrowest around
/// the expected time, which is the lateness plus the flush interval.
const CLOSE_BUCKETS: [f64; 10] = [0.5, 0.75, 0.8, 0.85, 0.9, 1.0, 1.25, 1.5, 2.5, 10.0];

/// Buckets of the duration of a transaction, seconds.
const COMMIT_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// The metrics of an application. Clones are cheap, and any thread may use them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// 1 while this process is part of the active run.
    pub active: IntGauge,
    /// Number of events counted.
    pub events: IntCounter,
    /// Number of late events.
    pub late: IntCounter,
    /// For each reason, the number of rejected records.
    pub rejected: IntCounterVec,
    /// For each partition, the number of records that are not read yet.
    pub lag: IntGaugeVec,
    /// 1 for each partition that holds back the watermark. The labels are the partition and the reason.
    pub held: IntGaugeVec,
    /// For each partition, its watermark, Unix seconds.
    pub watermark: GaugeVec,
    /// For each worker, the number of windows with counts that are not final yet.
    pub open_windows: IntGaugeVec,
    /// The final-until time, up to which every window is final, Unix seconds.
    final_until: IntGaugeVec,
    /// Time from the end of a window to the commit of its results, seconds.
    pub close: Histogram,
    /// Duration of a transaction, seconds.
    pub commit: Histogram,
    /// For each outcome, the number of transactions.
    pub transactions: IntCounterVec,
    /// For each outcome, the number of results of open windows.
    pub live: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics. Their names begin with `prefix` and an underscore. `reasons` are the possible reasons for
    /// the rejection of a record.
    ///
    /// # Errors
    ///
    /// If metrics with these names are registered already.
    pub fn register(
        registry: &Registry,
        prefix: &str,
        reasons: &[&str],
    ) -> Result<Metrics, prometheus::Error> {
        let name = |name: &str| format!("{prefix}_{name}");
        let counter = |n: &str, help: &str| IntCounter::new(name(n), help);
        let counters = |n: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name(n), help), &[label])
        };
        let gauges =
            |n: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name(n), help), &[label]);
        let histogram = |n: &str, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(name(n), help).buckets(buckets.to_vec()))
        };
        let metrics = Metrics {
            active: IntGauge::new(
                name("active"),
                "1 while the process counts events, 0 while it starts or is a standby.",
            )?,
            events: counter("events_total", "Events counted.")?,
            late: counter(
                "late_total",
                "Events rejected because their window was closed.",
            )?,
            rejected: counters("rejected_total", "Records rejected, by reason.", "reason")?,
            lag: gauges(
                "lag_records",
                "Records below the high watermark that are not read yet, by partition.",
                "partition",
            )?,
            held: IntGaugeVec::new(
                Opts::new(
                    name("partition_held"),
                    "1 while a partition keeps windows open, by partition and reason.",
                ),
                &["partition", "reason"],
            )?,
            watermark: GaugeVec::new(
                Opts::new(
                    name("watermark_timestamp_seconds"),
                    "Watermark of each partition.",
                ),
                &["partition"],
            )?,
            open_windows: gauges(
                "open_windows",
                "Windows that have counts and are not final yet, by worker.",
                "worker",
            )?,
            // A plain gauge would start with the value 0. A vector of gauges without labels has no series until the
            // value is known.
            final_until: IntGaugeVec::new(
                Opts::new(
                    name("final_until_timestamp_seconds"),
                    "Every window that ends at or before this time is final.",
                ),
                &[],
            )?,
            close: histogram(
                "window_close_seconds",
                "Time from the end of a window to the commit of its finals.",
                &CLOSE_BUCKETS,
            )?,
            commit: histogram(
                "commit_seconds",
                "Duration of a transaction.",
                &COMMIT_BUCKETS,
            )?,
            transactions: counters("transactions_total", "Transactions, by outcome.", "outcome")?,
            live: counters("live_total", "Live results, by outcome.", "outcome")?,
        };
        registry.register(Box::new(metrics.active.clone()))?;
        registry.register(Box::new(metrics.events.clone()))?;
        registry.register(Box::new(metrics.late.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.watermark.clone()))?;
        registry.register(Box::new(metrics.open_windows.clone()))?;
        registry.register(Box::new(metrics.final_until.clone()))?;
        registry.register(Box::new(metrics.close.clone()))?;
        registry.register(Box::new(metrics.commit.clone()))?;
        registry.register(Box::new(metrics.transactions.clone()))?;
        registry.register(Box::new(metrics.live.clone()))?;
        metrics.show_zeros(reasons);
        Ok(metrics)
    }

    /// Resets the gauges when the process becomes a standby. The active run reports the same values, so a sum over all
    /// processes would otherwise count them twice.
    pub fn stand_by(&self) {
        self.active.set(0);
        self.lag.reset();
        self.held.reset();
        self.watermark.reset();
        self.open_windows.reset();
        self.final_until.reset();
    }

    /// Sets the time up to which every window is final. The series does not exist before the first final result, since
    /// an alert on the age of the value would interpret 0 as the year 1970.
    pub fn final_until(&self, until_ms: u64) {
        if until_ms > 0 {
            let until = self.final_until.with_label_values::<&str>(&[]);
            until.set((until_ms / 1000) as i64);
        }
    }

    /// Creates every series whose labels are known, with the value 0. An alert on the increase of a series that does
    /// not exist before the first failure would miss that failure.
    fn show_zeros(&self, reasons: &[&str]) {
        for reason in reasons {
            self.rejected.with_label_values(&[reason]);
        }
        for outcome in ["committed", "failed"] {
            self.transactions.with_label_values(&[outcome]);
        }
        for outcome in ["written", "dropped"] {
            self.live.with_label_values(&[outcome]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_series_is_zero_before_it_is_counted() {
        let registry = Registry::new();
        Metrics::register(&registry, "sums", &["late", "malformed"]).unwrap();
        let families = registry.gather();
        let series = |name: &str| {
            let name = format!("sums_{name}");
            let family = families.iter().find(|family| family.name() == name);
            family.map_or(0, |family| family.get_metric().len())
        };
        assert_eq!(series("final_until_timestamp_seconds"), 0);
        let shown = [
            "active",
            "rejected_total",
            "transactions_total",
            "live_total",
        ]
        .map(series);
        assert_eq!(shown, [1, 2, 2, 2]);
    }
}
