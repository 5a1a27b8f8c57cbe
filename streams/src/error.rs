//! Errors because of which an application does not start, or ends although its stop was not requested.

use std::time::Duration;

use emostream_log::LogError;

use crate::mismatch::ProgressMismatch;

/// An error because of which an application ends. Each message states how to fix the error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// The log could not be used when the application started.
    #[error(transparent)]
    Start(LogError),
    /// The stored progress was written by a run with other settings.
    #[error(
        "the stored progress in {topic} was written with other settings: {difference}; use the previous settings, or discard them with `emostream reset`, which keeps all finals"
    )]
    OtherSettings {
        /// The progress topic.
        topic: String,
        /// The first setting that differs, with both values.
        difference: String,
    },
    /// The source topic accepts records with timestamps too far in the future.
    #[error(
        "{topic} accepts records with timestamps up to {ahead} in the future, and one such record would make all correct records late; {remedy}, or run with --unbounded-timestamps"
    )]
    UnboundedTimestamps {
        /// The source topic.
        topic: String,
        /// The limit that the topic has, as text.
        ahead: String,
        /// The way in which an operator can lower the limit.
        remedy: String,
    },
    /// The brokers cannot reject records with timestamps in the future.
    #[error(
        "the brokers of {topic} are older than Kafka 3.6 and cannot reject records with timestamps in the future, one of which would make all correct records late; upgrade the brokers, or run with --unbounded-timestamps"
    )]
    OldBrokers {
        /// The source topic.
        topic: String,
    },
    /// The retention of the source topic is shorter than the longest time for which a window may be open.
    #[error(
        "--hold-timeout: with this --window and --lateness a window may be open for {needed:?}, but {topic} keeps records for {kept:?} only, so a restart would not find all of them; use a shorter --hold-timeout, or raise the topic's retention.ms"
    )]
    KeptTooShortly {
        /// The source topic.
        topic: String,
        /// Maximum time for which a window may be open.
        needed: Duration,
        /// The retention of the topic.
        kept: Duration,
    },
    /// The retention of the topic of final results is shorter than the maximum age of the final results that a restart
    /// needs to complete tables.
    #[error(
        "{topic} keeps finals for {kept:?} only, but with this --window, --lateness, --hold-timeout and --trending-span a restart may need the finals of the last {needed:?} to complete the totals; raise the topic's retention.ms"
    )]
    FinalsKeptTooShortly {
        /// The topic of final results.
        topic: String,
        /// The maximum age of the final results that a restart needs.
        needed: Duration,
        /// The retention of the topic.
        kept: Duration,
    },
    /// The stored progress cannot be read.
    #[error(
        "the stored progress in {topic} cannot be read ({detail}); run the version that wrote it, or start from nothing with another --topic-prefix (or --data directory)"
    )]
    UnreadableProgress {
        /// The progress topic.
        topic: String,
        /// The reason why the progress cannot be read.
        detail: String,
    },
    /// The stored progress was written on another Kafka cluster, so its offsets are not valid on this one.
    #[error(
        "the stored progress in {topic} was written on another Kafka cluster ({stored}; this one is {now}), so its offsets are not valid here; check --kafka, or count only new records with `emostream reset --from latest`"
    )]
    OtherCluster {
        /// The progress topic.
        topic: String,
        /// The id of the cluster on which the progress was written.
        stored: String,
        /// The id of the connected cluster.
        now: String,
    },
    /// The log contains final results that are newer than the stored progress.
    #[error(
        "{windows} contains finals up to {newest}, but the progress in {progress} {known}: it was lost or rolled back, so events would be counted twice; restore {progress}, or continue after the newest final with `emostream reset --final-until now`"
    )]
    FinalsBeyondProgress {
        /// The topic of final results.
        windows: String,
        /// The progress topic.
        progress: String,
        /// The end of the window of the newest final result.
        newest: String,
        /// The state of the progress, as text.
        known: String,
    },
    /// The stored final-until time is ahead of this host's clock.
    #[error(
        "all windows up to {final_until} are final already, but this host's clock is behind that time ({now}): a clock was wrong, and no event would be counted until then; correct the clock, or set the final time back with `emostream reset --final-until now`"
    )]
    FinalAhead {
        /// The time up to which every window is final.
        final_until: String,
        /// This host's time.
        now: String,
    },
    /// A reset has changed the stored progress while this run was starting, was active, or was a standby.
    #[error("the progress in {topic} was reset; restart this process to continue from the reset")]
    ResetMeanwhile {
        /// The progress topic.
        topic: String,
    },
    /// The stored progress has changed after the user confirmed the plan of a reset, so the reset would have another
    /// effect than the plan shows.
    #[error(
        "the progress in {topic} has changed since the reset was confirmed; nothing was reset: run the reset again"
    )]
    ProgressMoved {
        /// The progress topic.
        topic: String,
    },
    /// The final-until time that a reset requests is not valid.
    #[error("--final-until: {0}")]
    FinalUntil(String),
    /// The log does not contain the records from which the stored progress was computed.
    #[error(
        "the stored progress does not match the log: {mismatch}; `emostream reset` continues with the records that the log contains, and keeps all finals"
    )]
    ProgressMismatch {
        /// The first mismatch that was found.
        mismatch: ProgressMismatch,
    },
    /// The source topic has partitions that this run does not read, since they were added after its start.
    #[error(
        "{topic} has {now} partitions now, but this process reads {before}; restart it to read all of them"
    )]
    NewPartitions {
        /// The source topic.
        topic: String,
        /// The number of partitions that this run reads.
        before: u32,
        /// The number of partitions of the topic.
        now: u32,
    },
    /// This process cannot listen on its address in the cluster.
    #[error(
        "--hosts: this process cannot listen on {host} ({detail}); stop the process that uses this port, or use an address of this machine"
    )]
    Listen {
        /// The address.
        host: String,
        /// The error of the operating system.
        detail: String,
    },
    /// The processes of the cluster have different settings, so their results would differ.
    #[error(
        "the processes of the cluster have different settings: {difference}; start all of them with the same flags"
    )]
    Disagreement {
        /// The first difference, with the name of the process.
        difference: String,
    },
    /// Another process of the cluster has another token.
    #[error("--cluster-token-file: {peer} has another token; give every process the same file")]
    WrongToken {
        /// The name of the other process.
        peer: String,
    },
    /// Not all processes of the cluster have connected in time.
    #[error(
        "the cluster is not complete after {patience:?} (--join-timeout): missing {missing}; start the missing processes, or check --hosts and the network"
    )]
    Incomplete {
        /// The processes that are missing, each with the reason if it is known.
        missing: String,
        /// The time for which this process has waited for the others.
        patience: Duration,
    },
    /// Process 0 of the cluster reported an error, because of which the run cannot begin.
    #[error("{peer} cannot begin the run: {why}")]
    PeerRefuses {
        /// The name of process 0.
        peer: String,
        /// The error that process 0 reported.
        why: String,
        /// The exit code that process 0 reported.
        exit_code: u8,
    },
    /// Another process of the cluster has ended, does not respond, or cannot be reached.
    #[error(
        "{peer} was lost: {why}; restart this process, and the cluster continues from the last commit"
    )]
    PeerLost {
        /// The name of the process.
        peer: String,
        /// The event by which the loss was detected.
        why: String,
    },
    /// Another run has fenced process 0 of the cluster. Afterwards, the processes connect to each other again, and
    /// process 0 becomes a standby.
    #[error("{peer} was fenced by another run")]
    Dissolved {
        /// The name of process 0.
        peer: String,
    },
    /// A worker of this process has not taken a step for seconds.
    #[error(
        "worker {worker} of this process has been blocked for several seconds; restart the process"
    )]
    Stuck {
        /// The index of the worker.
        worker: usize,
    },
    /// The results cannot be committed, and a retry would not help.
    #[error("the results cannot be committed: {0}")]
    NotCommitted(LogError),
    /// Several attempts to commit a transaction took longer than its timeout, although the log responded.
    #[error(
        "--commit-timeout: {attempts} attempts to commit a transaction with {size:.1} MB of results took longer than {timeout:?} each, although the log responded; raise the timeout, or the quota of this client", size = *bytes as f64 / 1e6
    )]
    CommitTooSlow {
        /// The number of attempts.
        attempts: u32,
        /// The size of the results, bytes.
        bytes: usize,
        /// The timeout of transactions.
        timeout: Duration,
    },
    /// The log failed during the run.
    #[error("the dataflow stops{advice}: {0}", advice = advice(.0))]
    Log(LogError),
    /// A worker ended because of a defect in the program.
    #[error("a worker ended because of a defect: {0}")]
    Worker(String),
}

impl StreamsError {
    /// Whether another run has fenced this one.
    pub fn is_fence(&self) -> bool {
        matches!(
            self,
            StreamsError::Start(LogError::Fenced { .. })
                | StreamsError::Log(LogError::Fenced { .. })
        )
    }

    /// Whether only the run ends with this error, and the processes of its cluster continue as standbys, because
    /// another run has taken over.
    pub fn dissolves(&self) -> bool {
        self.is_fence() || matches!(self, StreamsError::Dissolved { .. })
    }

    /// Returns the exit code of a process that ends with this error. docs/reference/exit-codes.md lists the codes.
    pub fn exit_code(&self) -> u8 {
        match self {
            // The brokers denied access for longer than a new ACL takes to reach all of them, so a restart would not
            // help.
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
            // The flags are wrong, so the exit code is the one for a usage error. librdkafka detects properties that
            // exclude each other only when a transactor is created.
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

/// Returns the part of the message that recommends a restart. It is empty if a restart cannot fix the failure of the
/// log.
fn advice(error: &LogError) -> &'static str {
    match error {
        LogError::Denied { repeated: true, .. } => "",
        _ => " and must be restarted",
    }
}
