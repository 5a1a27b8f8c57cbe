//! The metrics and the readiness of a process.

use std::sync::Arc;

use emostream_http::{Admin, Authenticator, Component, Readiness};
use emostream_log::{EventClock, Log};
use prometheus::{IntGauge, Opts, PullingGauge, Registry};

use super::log_watch::LogWatch;
use crate::exit::{Exit, Failure};

/// The metrics and the readiness of a process.
#[derive(Clone)]
pub(crate) struct Observability {
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    process: Component,
}

impl Observability {
    /// Registers a metric: how far the event clock of this process is ahead of the host clock.
    pub(crate) fn register_clock(&self, clock: EventClock) -> Result<(), Failure> {
        // The two clocks are read one after the other, so the difference is cut to whole milliseconds.
        let ahead = move || clock.ahead_of_host().as_millis() as f64 / 1000.0;
        PullingGauge::new(
            "emostream_clock_ahead_seconds",
            "Time by which the event clock is ahead of the host clock, because the host clock stepped back.",
            Box::new(ahead),
        )
        .and_then(|gauge| self.registry.register(Box::new(gauge)))
        .map_err(|error| Failure::new(Exit::Defect, error.to_string()))
    }

    /// Creates the metrics and the readiness of a process, which is not ready yet. The metrics include its version and
    /// its resource usage.
    pub(crate) fn new() -> Result<Self, Failure> {
        let readiness = Readiness::new();
        let observability = Self {
            registry: Registry::new(),
            process: readiness.component("process"),
            readiness,
        };
        let registered = observability.register_process();
        registered.map_err(|error| Failure::new(Exit::Defect, error.to_string()))?;
        Ok(observability)
    }

    /// Reports that all components are registered. Before this call `/readyz` returns 503, even if the components that
    /// are already registered are ready.
    pub(crate) fn all_registered(&self) {
        self.process.ready();
    }

    /// Returns the endpoints for operators (health, readiness and metrics), which can be served on several addresses.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(self.registry.clone(), self.readiness.clone())
    }

    fn register_process(&self) -> Result<(), prometheus::Error> {
        let about = Opts::new(
            "emostream_build_info",
            "Version of the running program; the value is always 1",
        )
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("revision", env!("EMOSTREAM_REVISION"));
        let build = IntGauge::with_opts(about)?;
        build.set(1);
        self.registry.register(Box::new(build))?;
        #[cfg(target_os = "linux")]
        self.registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(())
    }

    /// Starts the task that fetches the key set of `--jwks-url`, if the flag is set. Requires a tokio runtime. Call it
    /// before the `--admin` address is served: otherwise `/readyz` would be 200 for a moment although no keys are
    /// loaded.
    pub(crate) fn fetch_keys(&self, authenticator: &Authenticator) -> Result<(), Failure> {
        let started = authenticator.follow(&self.registry, &self.readiness);
        started.map_err(|error| Failure::new(Exit::Defect, error.to_string()))
    }

    /// Starts the check whether `log` responds for all `topics`, on which `/readyz` depends.
    pub(crate) fn watch_log(
        &self,
        log: &Arc<dyn Log>,
        topics: Vec<String>,
    ) -> Result<LogWatch, Failure> {
        let component = self.readiness.component("log");
        LogWatch::start(log.clone(), topics, component)
    }
}
