//! An application: its configuration and its topology.

use std::{fmt, sync::Arc};

use super::{
    build::{Counts, WorkerContext},
    builder::Topology,
    recorded::Declared,
};
use crate::{
    StreamsError,
    config::{AppConfig, Config},
    recovery::restore::StoredFormat,
    sink::result::ResultStreams,
    source::format::Format,
};

/// An application: its configuration and its topology. Clones are cheap.
pub struct Application<F: Format> {
    config: Arc<Config>,
    metrics_prefix: String,
    declared: Arc<Declared<F>>,
}

impl<F: Format> Application<F> {
    /// Creates an application. The calls that the function `topology` makes declare its topology. The function is
    /// called once.
    ///
    /// # Errors
    ///
    /// [`StreamsError::Worker`] if the topology is not complete or contradicts itself. Both are defects of the
    /// application.
    pub fn new(
        config: AppConfig,
        topology: impl FnOnce(&Topology<F>),
    ) -> Result<Application<F>, StreamsError> {
        let recorder = Topology::default();
        topology(&recorder);
        let declared = recorder.into_recorded().complete()?;
        Ok(Application {
            config: Arc::new(declared.config(&config)?),
            metrics_prefix: config.metrics_prefix,
            declared: Arc::new(declared),
        })
    }

    /// Returns the complete configuration, with the topics of the topology.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the prefix of the names of the application's metrics, without the underscore after it.
    pub fn metrics_prefix(&self) -> &str {
        &self.metrics_prefix
    }

    pub(super) fn declared(&self) -> &Declared<F> {
        &self.declared
    }

    /// Returns the format of the records of the source.
    pub fn format(&self) -> F {
        self.declared.format.clone()
    }

    /// Returns the functions that decode the records from which the tables are restored.
    pub fn stored(&self) -> StoredFormat<F::Key, F::Item> {
        self.declared.stored()
    }

    /// Builds the operators between the source and the sink on one worker, and adds their results to `results`.
    pub fn build<'scope>(
        &self,
        counts: Counts<'scope, F>,
        worker: WorkerContext<F::Key, F::Item>,
        results: &mut ResultStreams<'scope>,
    ) {
        self.declared.build(&self.config, counts, worker, results);
    }
}

impl<F: Format> Clone for Application<F> {
    fn clone(&self) -> Application<F> {
        Application {
            config: self.config.clone(),
            metrics_prefix: self.metrics_prefix.clone(),
            declared: self.declared.clone(),
        }
    }
}

impl<F: Format> fmt::Debug for Application<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
