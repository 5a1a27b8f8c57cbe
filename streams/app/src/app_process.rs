//! Runs an application in this process, together with the server of its admin address, until a signal or an error ends
//! the process.

use std::{net::SocketAddr, sync::Arc};

use emostream_log::Log;
use emostream_streams::{source::format::Format, topology::Application};

use crate::{
    process::{Failure, Program, Signals, block_on},
    server::{AdminServer, DataflowThread, Drain, Observability},
    topics,
};

/// An application that is the only service of a process, and the values with which the process runs it.
pub struct AppProcess<F: Format> {
    /// The program. The metric `PROGRAM_build_info` has its name and its version.
    pub program: Program,
    /// The application.
    pub app: Application<F>,
    /// The log that has the topics of the application.
    pub log: Arc<dyn Log>,
    /// The admin address, if there is one.
    pub admin: Option<SocketAddr>,
}

impl<F: Format> AppProcess<F> {
    /// Runs the application until a signal requests the end of the process, or until another process of the cluster was
    /// stopped. `create` is the command that creates the topics. The error for a missing topic names it.
    ///
    /// # Errors
    ///
    /// If a topic does not exist, the admin address cannot be bound, or the run cannot continue.
    pub fn run(self, create: &str, mut signals: Signals) -> Result<(), Failure> {
        let topics = self.app.config().topics.all();
        topics::require(&*self.log, &topics, create)?;
        block_on(async {
            let observability = Observability::new(self.program)?;
            let admin = AdminServer::start(self.admin, None, &observability).await?;
            let _watching = observability.watch_log(&self.log, topics)?;
            // From here on, a signal stops the dataflow and does not end the process at once: the dataflow must notify
            // the other processes of its cluster of the stop, even while they start.
            signals.take_over();
            let mut dataflow = DataflowThread::start(self.app, self.log, &observability)?;
            observability.all_registered();
            let signal = tokio::select! {
                ended = dataflow.until_ended() => {
                    ended?;
                    tracing::info!("another process of the cluster was stopped");
                    return Ok(());
                }
                signal = signals.next() => signal,
            };
            tracing::info!("{signal}: stopping");
            dataflow.stop(&Drain::begin()).await?;
            admin.stop().await;
            Ok(())
        })
    }
}
