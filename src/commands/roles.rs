//! What every serving process has around its service: threads, signals, the admin address, an end.
//!
//! ```text
//!  bind ──▶ start ──▶ serve … ──SIGTERM, SIGINT──▶ drain ──▶ 0
//!                       └──── ended by itself ────▶ drain ──▶ its exit code
//! ```

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use emostream_dataflow::{Activity, Config, DataflowError, Stop};
use emostream_http::{
    Admin, Authenticator, Component, Drained, Limits, Listener, Readiness, Tls, listen, serve,
};
use emostream_log::{EventClock, Log};
use prometheus::{IntGauge, Opts, PullingGauge, Registry};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::log_watch::LogWatch;
use crate::{
    exit::{Exit, Failure},
    logging::{LogFormat, json_line},
    output,
};

/// All of a drain. Closing the log may take another second of the ten that a process has.
const DRAIN_LIMIT: Duration = Duration::from_millis(8_500);

/// How often the files of a certificate are looked at; a new pair is used after two looks. A certificate is
/// replaced weeks before it ends.
const TLS_LOOK: Duration = Duration::from_secs(2);

/// The administrator asks short questions, a few at a time.
const ADMIN_CONNECTIONS: u32 = 64;
const ADMIN_DRAIN: Duration = Duration::from_millis(200);

/// Takes an address; the error names the flag to mend.
pub(super) fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    listen(address).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("{address} is in use; stop what listens there, or choose another")
            }
            _ => format!("{address} cannot be listened on: {error}"),
        };
        Failure::usage(flag, why)
    })
}

/// The address of a listener.
pub(super) fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(Failure::unavailable)
}

/// `http`, or `https` where TLS is spoken.
pub(super) fn scheme(tls: &Option<Tls>) -> &'static str {
    match tls {
        Some(_) => "https",
        None => "http",
    }
}

/// Has the process take a new certificate when there is one. To be called in a tokio runtime.
pub(super) fn follow(tls: &Option<Tls>) {
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.follow(TLS_LOOK).await });
    }
}

/// Prints where the process is reached: `text` for people, a line of JSON for machines.
pub(super) fn announce(format: LogFormat, text: &str, url: &str) -> Result<(), Failure> {
    let line = match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => json_line("INFO", "serving", json!({ "url": url })) + "\n",
    };
    // A server whose output nobody reads serves all the same.
    output::quietly(output::print(&line))
}

/// The time that is left of a drain: an orchestrator gives a process ten seconds.
pub(super) struct Drain {
    deadline: Instant,
}

impl Drain {
    pub(super) fn begin() -> Self {
        Self {
            deadline: Instant::now() + DRAIN_LIMIT,
        }
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for a listener's connections to end, as long as there is time.
    pub(super) async fn wait_for(&self, serving: JoinHandle<Drained>) {
        match tokio::time::timeout(self.left(), serving).await {
            Ok(Ok(Drained { left: 0 })) => {}
            Ok(Ok(Drained { left })) => tracing::warn!(left, "connections did not end in time"),
            // Its panic would have ended the process.
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!("connections did not end in time"),
        }
    }
}

/// What a process tells its administrator.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) registry: Registry,
    pub(super) readiness: Readiness,
}

impl Watch {
    /// Shows how far the event clock of this process is ahead of the host clock.
    pub(super) fn clock(&self, clock: EventClock) -> Result<(), Failure> {
        // The two clocks are read one after the other: less than a millisecond is no difference.
        let ahead = move || clock.ahead_of_host().as_millis() as f64 / 1000.0;
        PullingGauge::new(
            "emostream_clock_ahead_seconds",
            "How far the clock that dates events is ahead of the host clock, which stepped back.",
            Box::new(ahead),
        )
        .and_then(|gauge| self.registry.register(Box::new(gauge)))
        .map_err(|error| Failure::new(Exit::Defect, error.to_string()))
    }

    /// Of a process that is not ready for anything yet; its metrics say what runs and what it uses.
    pub(super) fn new() -> Result<Self, Failure> {
        let watch = Self {
            registry: Registry::new(),
            readiness: Readiness::default(),
        };
        let registered = watch.register_process();
        registered.map_err(|error| Failure::new(Exit::Defect, error.to_string()))?;
        Ok(watch)
    }

    /// Answers what operators request, on whatever address serves it.
    pub(super) fn admin(&self) -> Admin {
        Admin::new(self.registry.clone(), self.readiness.clone())
    }

    fn register_process(&self) -> Result<(), prometheus::Error> {
        let about = Opts::new("emostream_build_info", "The program that runs; always 1")
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

    /// Starts the task that fetches the key set of `--jwks-url`, if the flag is set. Call it in a tokio runtime, before
    /// the `--admin` address is served: otherwise `/readyz` would be 200 for a moment although there are no keys.
    pub(super) fn follow_keys(&self, authenticator: &Authenticator) -> Result<(), Failure> {
        let following = authenticator.follow(&self.registry, &self.readiness);
        following.map_err(|error| Failure::new(Exit::Defect, error.to_string()))
    }

    /// Has readiness follow whether `log` answers for all `topics`.
    pub(super) fn follow(
        &self,
        log: &Arc<dyn Log>,
        topics: Vec<String>,
    ) -> Result<LogWatch, Failure> {
        let component = self.readiness.component("log");
        LogWatch::start(log.clone(), topics, component)
    }
}

/// The admin address of a process, served until it is dropped: longer than any drain.
pub(super) struct AdminServer {
    shutdown: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds, and answers from now on. Nothing for `--admin off`.
    pub(super) async fn start(
        admin: Option<SocketAddr>,
        tls: Option<Tls>,
        watch: &Watch,
    ) -> Result<Self, Failure> {
        let shutdown = CancellationToken::new();
        let Some(admin) = admin else {
            return Ok(Self {
                shutdown,
                serving: None,
            });
        };
        let listener = bind("--admin", admin)?;
        tracing::info!("admin on {}://{}", scheme(&tls), address(&listener)?);
        let listener = Listener::new(listener, tls);
        let router = watch.admin().router();
        let limits = Limits {
            connections: ADMIN_CONNECTIONS,
            drain: ADMIN_DRAIN,
            ..Limits::default()
        };
        let stopping = shutdown.clone();
        let serving = tokio::spawn(async move {
            serve(listener, router, limits, stopping).await;
        });
        Ok(Self {
            shutdown,
            serving: Some(serving),
        })
    }

    /// Answers no more.
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        if let Some(serving) = self.serving {
            // Its panic would have ended the process.
            let _ = serving.await;
        }
    }
}

/// How long a dataflow that stops may wait for a log that does not answer. What it was committing is
/// either committed or not, and the next run finds out: nothing is lost by not waiting.
const LOG_PATIENCE: Duration = Duration::from_millis(400);

/// A dataflow on a thread of its own.
pub(super) struct Counting {
    stop: Stop,
    log: Arc<dyn Log>,
    reactions: String,
    begun: watch::Receiver<bool>,
    ended: oneshot::Receiver<Result<(), DataflowError>>,
}

impl Counting {
    pub(super) fn start(config: Config, log: Arc<dyn Log>, watch: &Watch) -> Result<Self, Failure> {
        let stop = Stop::default();
        let reactions = config.topics.reactions();
        let counted = log.clone();
        let (end, ended) = oneshot::channel();
        let (registry, stopping) = (watch.registry.clone(), stop.clone());
        let component: Component = watch.readiness.component("dataflow");
        let (begins, begun) = watch::channel(false);
        let ready = Arc::new(move |state: Result<Activity, String>| match state {
            Ok(Activity::Active) => {
                component.ready_as("active");
                begins.send_replace(true);
            }
            Ok(Activity::Standby(active)) => {
                component.ready_as(format!("standby; {active}"));
                begins.send_replace(false);
            }
            Err(why) => component.not_ready(why),
        });
        thread::Builder::new()
            .name("dataflow".to_owned())
            .spawn(move || {
                let outcome = emostream_dataflow::run(config, counted, &registry, stopping, ready);
                // Nobody listens any more once the process is ending.
                let _ = end.send(outcome);
            })
            .map_err(|error| {
                Failure::unavailable(format!("the dataflow's thread cannot start: {error}"))
            })?;
        Ok(Self {
            stop,
            log,
            reactions,
            begun,
            ended,
        })
    }

    /// Waits until it counts; an error if it ends before.
    pub(super) async fn begins(&mut self) -> Result<(), Failure> {
        let mut begun = self.begun.clone();
        tokio::select! {
            Ok(_) = begun.wait_for(|begun| *begun) => Ok(()),
            failure = self.fails() => Err(failure),
        }
    }

    /// Waits until it ends by itself: by a failure, or well, because another process of its cluster was
    /// asked to stop.
    pub(super) async fn ends(&mut self) -> Result<(), Failure> {
        match (&mut self.ended).await {
            Ok(ended) => ended.map_err(Failure::from),
            Err(_) => Err(Failure::new(Exit::Defect, "the dataflow's thread is gone")),
        }
    }

    /// Waits until it ends by itself, which alone it does by a failure only.
    pub(super) async fn fails(&mut self) -> Failure {
        match self.ends().await {
            Err(failure) => failure,
            Ok(()) => Failure::new(Exit::Defect, "the dataflow ended without being asked to"),
        }
    }

    /// Stops it. One that has not begun, or waits for a log that is away, is left where it stands.
    pub(super) async fn stop(self, drain: &Drain) -> Result<(), Failure> {
        self.stop.request();
        let patience = match *self.begun.borrow() {
            true => drain.left(),
            false => LOG_PATIENCE,
        };
        let until = Instant::now() + patience;
        let answers = async || {
            let (log, topic) = (self.log.clone(), self.reactions.clone());
            let answer = tokio::task::spawn_blocking(move || log.answers(&topic, LOG_PATIENCE));
            matches!(answer.await, Ok(Ok(())))
        };
        // Asked again and again: the log may go away while the last transaction is under way.
        let left_behind = async {
            while Instant::now() < until && answers().await {
                tokio::time::sleep(LOG_PATIENCE).await;
            }
        };
        tokio::select! {
            biased;
            ended = self.ended => match ended {
                Ok(Err(error)) => Err(error.into()),
                _ => Ok(()),
            },
            () = left_behind => {
                tracing::warn!("the dataflow does not wait for the log any longer; what was not committed is counted by the next run");
                Ok(())
            }
        }
    }
}
