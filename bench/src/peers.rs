//! Kafka Streams and Flink, counting the same topic: compiled by Maven, run as they recommend.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use rdkafka::Offset;

use crate::{
    Outcome,
    backlog::{Gathering, now_ms},
    child::Contender,
    cluster::{Cluster, PARTITIONS},
    crowd::{Crowd, Names, Tallies},
    table::Run,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Kafka Streams, exactly_once_v2, results when a window has closed.
    KafkaStreams,
    /// Flink, one slot, checkpoints twice a second, an exactly-once sink.
    Flink,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::KafkaStreams => "kafka-streams",
            Peer::Flink => "flink",
        }
    }

    /// How long it waits for stragglers. Kafka Streams makes partitions that it reads at different
    /// speeds late to each other, so that it needs half a minute in a backlog.
    fn grace(self) -> Duration {
        match self {
            Peer::KafkaStreams => Duration::from_secs(30),
            Peer::Flink => Duration::from_millis(750),
        }
    }

    /// Fetches and compiles it.
    pub(crate) fn build(self) -> Outcome<()> {
        let pom = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(self.name())
            .join("pom.xml");
        let built = Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(&pom)
            .args([
                "compile",
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
            ])
            .status()?;
        if built.success() {
            Ok(())
        } else {
            Err(format!("Maven cannot build {}", pom.display()).into())
        }
    }

    fn classes(self) -> String {
        let built: PathBuf = [
            env!("CARGO_MANIFEST_DIR"),
            "..",
            "target",
            "bench",
            self.name(),
        ]
        .iter()
        .collect();
        format!(
            "{}:{}/*",
            built.join("classes").display(),
            built.join("dependency").display()
        )
    }

    /// Counts `topic`. Its CPU is taken from when it says that it runs, so that the start of its
    /// virtual machine does not count.
    pub(crate) fn drain(
        self,
        cluster: &Cluster,
        topic: &str,
        crowd: &Crowd,
        names: &Names,
        truth: &Tallies,
    ) -> Outcome<Run> {
        let output = format!("bench.{}.{}", self.name(), now_ms());
        cluster.renew(&output, PARTITIONS)?;
        let finals = cluster.finals(&output, Offset::Beginning)?;
        let state = tempfile::tempdir()?;
        let mut peer = Contender::start(
            Command::new("java")
                .args(["-Xmx2g", "-XX:+UseParallelGC"])
                .args(["--add-opens=java.base/java.util=ALL-UNNAMED"])
                .args(["--add-opens=java.base/java.lang=ALL-UNNAMED"])
                .args([
                    "-cp",
                    &self.classes(),
                    "Tallies",
                    cluster.brokers(),
                    topic,
                    &output,
                ])
                .arg(state.path())
                .arg(self.grace().as_millis().to_string()),
        )?;
        peer.hear("running")?;
        let (begun, before) = (Instant::now(), peer.cpu()?);
        let mut gathering = Gathering::new(truth, crowd);
        gathering.gather(
            &finals,
            |gathering, key, value| {
                let line = [key, b" ", value].concat();
                gathering.line(&String::from_utf8_lossy(&line), names)
            },
            || peer.check(),
        )?;
        Ok(Run {
            cpu: peer.cpu()? - before,
            wall: begun.elapsed(),
            peak_mb: peer.peak_mb()?,
            verdict: gathering.verdict().text(),
        })
    }
}
