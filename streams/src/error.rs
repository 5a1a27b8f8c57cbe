//! Why a dataflow does not start, or ends by itself.

use std::time::Duration;

use emostream_log::LogError;

use crate::mismatch::ProgressMismatch;

/// Why the dataflow ended; each says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// The log was not usable at the start.
    #[error(transparent)]
    Start(LogError),
    /// The stored progress was made under other settings.
    #[error(
        "the stored progress in {topic} belongs to other settings: {difference}; run with the former settings, or let `emostream reset` forget them: what is final stays"
    )]
    OtherSettings {
        /// The progress topic.
        topic: String,
        /// What differs.
        difference: String,
    },
    /// The source topic accepts records dated too far in the future.
    #[error(
        "{topic} accepts records dated up to {ahead} in the future, and one of them would make every punctual record late; {remedy}, or run with --unbounded-timestamps"
    )]
    UnboundedTimestamps {
        /// The source topic.
        topic: String,
        /// How far in the future.
        ahead: String,
        /// What bounds it.
        remedy: String,
    },
    /// The brokers cannot bound the future.
    #[error(
        "the brokers of {topic} are older than Kafka 3.6 and cannot refuse records dated in the future, one of which would make every punctual record late; update them, or run with --unbounded-timestamps"
    )]
    OldBrokers {
        /// The source topic.
        topic: String,
    },
    /// The source topic does not keep what open windows need.
    #[error(
        "--hold-timeout: with --window and --lateness a window may be open for {needed:?}, and {topic} keeps records for {kept:?} only, so that a restart would not find them; shorten it, or raise the topic's retention.ms"
    )]
    KeptTooShortly {
        /// The source topic.
        topic: String,
        /// How long a window may be open.
        needed: Duration,
        /// How long records are kept.
        kept: Duration,
    },
    /// The topic of finals does not keep those that complete tables.
    #[error(
        "{topic} keeps finals for {kept:?} only, but with this --window, --lateness, --hold-timeout and --trending-span a restart may need the finals of the last {needed:?} to complete the totals; raise the topic's retention.ms"
    )]
    FinalsKeptTooShortly {
        /// The windows topic.
        topic: String,
        /// How old the finals may be that a restart needs.
        needed: Duration,
        /// How long they are kept.
        kept: Duration,
    },
    /// The stored progress cannot be read.
    #[error(
        "the stored progress in {topic} is not readable ({detail}); run the version that wrote it, or start anew with another --topic-prefix (or --data directory)"
    )]
    UnreadableProgress {
        /// The progress topic.
        topic: String,
        /// What is wrong.
        detail: String,
    },
    /// The stored progress is of another Kafka cluster.
    #[error(
        "the stored progress in {topic} was written on another Kafka cluster ({stored}; this one is {now}): its offsets mean nothing here; check --kafka, or let `emostream reset --from latest` count what comes from now on"
    )]
    OtherCluster {
        /// The progress topic.
        topic: String,
        /// The id of the cluster that it was written on.
        stored: String,
        /// The id of this one.
        now: String,
    },
    /// There are finals that the stored progress does not know.
    #[error(
        "{windows} holds finals up to {newest}, but the progress in {progress} {known}: it was lost or rolled back, and to count again would double them; restore that topic, or let `emostream reset --final-until now` go on behind them"
    )]
    FinalsBeyondProgress {
        /// The windows topic.
        windows: String,
        /// The progress topic.
        progress: String,
        /// The end of the newest final.
        newest: String,
        /// What the progress says.
        known: String,
    },
    /// The last final window is ahead of this host's clock.
    #[error(
        "everything up to {final_until} is final already, which is ahead of this host's clock ({now}): a clock was wrong, and nothing would be counted until then; correct the clock, or set the final time back with `emostream reset --final-until now`"
    )]
    FinalAhead {
        /// F.
        final_until: String,
        /// This host's time.
        now: String,
    },
    /// The progress was reset while this run started, ran or stood by.
    #[error("the progress in {topic} was reset; restart this process to continue from the reset")]
    ResetMeanwhile {
        /// The progress topic.
        topic: String,
    },
    /// The progress has changed, so that the reset would do something else than what was confirmed.
    #[error(
        "the progress in {topic} has changed since you were asked; nothing was reset: run the reset again"
    )]
    ProgressMoved {
        /// The progress topic.
        topic: String,
    },
    /// A reset asks for a final time that cannot be.
    #[error("--final-until: {0}")]
    FinalUntil(String),
    /// The log does not hold what the progress was made from.
    #[error(
        "the stored progress does not fit the log: {mismatch}; `emostream reset` goes on from what the log holds, and what is final stays"
    )]
    ProgressMismatch {
        /// The first that was found.
        mismatch: ProgressMismatch,
    },
    /// The source has partitions that this run does not read.
    #[error("{topic} has {now} partitions now instead of {before}; restart, and they are read")]
    NewPartitions {
        /// The source topic.
        topic: String,
        /// How many are read.
        before: u32,
        /// How many there are.
        now: u32,
    },
    /// The address of this process in its cluster cannot be listened at.
    #[error(
        "--hosts: this process cannot listen at {host} ({detail}); stop what listens there, or name an address of this machine"
    )]
    Listen {
        /// Its address.
        host: String,
        /// What the system says.
        detail: String,
    },
    /// The cluster's processes would not count alike.
    #[error("the processes of the cluster are set up differently: {difference}; start all alike")]
    Disagreement {
        /// What differs, and where.
        difference: String,
    },
    /// Another process knows another token.
    #[error("--cluster-token-file: {peer} has another token; give every process the same file")]
    WrongToken {
        /// Who.
        peer: String,
    },
    /// Not all processes came.
    #[error(
        "the cluster is not complete after {patience:?} (--join-timeout): missing {missing}; start it, or check --hosts and the network between"
    )]
    Incomplete {
        /// Who did not come, and why if that is known.
        missing: String,
        /// How long they were waited for.
        patience: Duration,
    },
    /// Process 0 cannot begin.
    #[error("{peer} refuses to begin: {why}")]
    PeerRefuses {
        /// Who.
        peer: String,
        /// What it said.
        why: String,
        /// What it ends with.
        exit_code: u8,
    },
    /// A process of the cluster is gone.
    #[error("{peer} was lost: {why}; restart this process, and the cluster goes on where it was")]
    PeerLost {
        /// Who.
        peer: String,
        /// How it was noticed.
        why: String,
    },
    /// Process 0 of the cluster was fenced: the processes join again, and process 0 stands by.
    #[error("{peer} was fenced by another run")]
    Dissolved {
        /// Process 0.
        peer: String,
    },
    /// A worker of this process does nothing any more.
    #[error("worker {worker} of this process has stood still for seconds; restart it")]
    Stuck {
        /// Which.
        worker: usize,
    },
    /// The results can never be committed.
    #[error("the results cannot be committed: {0}")]
    NotCommitted(LogError),
    /// A transaction took longer than its timeout again and again, while the log answered.
    #[error(
        "--commit-timeout: {attempts} attempts to commit a transaction with {size:.1} MB of results took longer than {timeout:?} each, while the log answered; raise it, or the quota of this client", size = *bytes as f64 / 1e6
    )]
    CommitTooSlow {
        /// How often it was tried.
        attempts: u32,
        /// How large the results are, bytes.
        bytes: usize,
        /// The timeout.
        timeout: Duration,
    },
    /// The log failed while running.
    #[error("the dataflow stops{advice}: {0}", advice = advice(.0))]
    Log(LogError),
    /// A worker ended by a defect.
    #[error("a worker ended by a defect: {0}")]
    Worker(String),
}

impl StreamsError {
    /// Whether another run has taken over.
    pub fn is_fence(&self) -> bool {
        matches!(
            self,
            StreamsError::Start(LogError::Fenced { .. })
                | StreamsError::Log(LogError::Fenced { .. })
        )
    }

    /// Whether the processes of a cluster leave their run without ending, because another run has taken over.
    pub fn dissolves(&self) -> bool {
        self.is_fence() || matches!(self, StreamsError::Dissolved { .. })
    }

    /// The exit code of a process that ends with this error: README.md, "Operations", lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            // The brokers repeated it for as long as an ACL takes to reach them all.
            StreamsError::Start(LogError::Denied { repeated: true, .. })
            | StreamsError::Log(LogError::Denied { repeated: true, .. }) => 78,
            StreamsError::Start(LogError::Fenced { .. })
            | StreamsError::Log(_)
            | StreamsError::NewPartitions { .. }
            | StreamsError::ResetMeanwhile { .. }
            | StreamsError::ProgressMoved { .. }
            | StreamsError::PeerLost { .. }
            | StreamsError::Dissolved { .. }
            | StreamsError::Stuck { .. } => 75,
            // Two properties that do not go together: librdkafka finds it when it makes a transactor.
            StreamsError::Start(
                LogError::Property { .. } | LogError::TransactionTimeout { .. },
            ) => 64,
            StreamsError::Start(_) | StreamsError::Incomplete { .. } => 69,
            StreamsError::Listen { .. }
            | StreamsError::FinalUntil(_)
            | StreamsError::Disagreement { .. }
            | StreamsError::WrongToken { .. }
            | StreamsError::KeptTooShortly { .. }
            | StreamsError::FinalsKeptTooShortly { .. } => 64,
            StreamsError::PeerRefuses { exit_code, .. } => *exit_code,
            StreamsError::OtherSettings { .. }
            | StreamsError::UnboundedTimestamps { .. }
            | StreamsError::OldBrokers { .. }
            | StreamsError::OtherCluster { .. }
            | StreamsError::FinalsBeyondProgress { .. }
            | StreamsError::FinalAhead { .. }
            | StreamsError::UnreadableProgress { .. }
            | StreamsError::NotCommitted(_)
            | StreamsError::CommitTooSlow { .. }
            | StreamsError::ProgressMismatch { .. } => 78,
            StreamsError::Worker(_) => 70,
        }
    }
}

/// Whether a restart helps against a failure of the log.
fn advice(error: &LogError) -> &'static str {
    match error {
        LogError::Denied { repeated: true, .. } => "",
        _ => " and must be restarted",
    }
}
