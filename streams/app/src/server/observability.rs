//! The metrics and the readiness of a process.

use std::sync::Arc;

use emostream_http::{Admin, Component, Readiness};
use emostream_log::Log;
use prometheus::{IntGauge, Opts, Registry};

use super::log_watch::LogWatch;
use crate::process::{Exit, Failure, Program};

/// The metrics and the readiness of a process.
#[derive(Clone)]
pub struct Observability {
    /// The metrics, which `/metrics` serves.
    pub registry: Registry,
    /// The readiness of the components, which `/readyz` serves.
    pub readiness: Readiness,
    process: Component,
}

impl Observability {
    /// Creates the metrics and the readiness of a process of `program`. The process is not ready yet. The metrics
    /// include the version of the program and the resource usage of the process.
    pub fn new(program: Program) -> Result<Self, Failure> {
        let readiness = Readiness::new();
        let observability = Self {
            registry: Registry::new(),
            process: readiness.component("process"),
            readiness,
        };
        let registered = observability.register_process(program);
        registered.map_err(|error| Failure::new(Exit::Defect, error.to_string()))?;
        Ok(observability)
    }

    /// Reports that all components are registered. Before this call `/readyz` returns 503, even if the components that
    /// are already registered are ready.
    pub fn all_registered(&self) {
        self.process.ready();
    }

    /// Returns the endpoints for operators (health, readiness and metrics), which can be served on several addresses.
    pub fn admin(&self) -> Admin {
        Admin::new(self.registry.clone(), self.readiness.clone())
    }

    fn register_process(&self, program: Program) -> Result<(), prometheus::Error> {
        let about = Opts::new(
            format!("{}_build_info", program.name.replace('-', "_")),
            "Version of the running program; the value is always 1",
        )
        .const_label("version", program.version)
        .const_label("revision", program.revision);
        let build = IntGauge::with_opts(about)?;
        build.set(1);
        self.registry.register(Box::new(build))?;
        #[cfg(target_os = "linux")]
        self.registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(())
    }

    /// Starts a periodic check whether `log` responds for all `topics`. From now on, `/readyz` depends on its result.
    pub fn watch_log(&self, log: &Arc<dyn Log>, topics: Vec<String>) -> Result<LogWatch, Failure> {
        let component = self.readiness.component("log");
        LogWatch::start(log.clone(), topics, component)
    }
}
