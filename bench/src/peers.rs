//! Peers: programs with Kafka Streams and Flink that count the same topic as EmoStream, for comparison. Maven compiles
//! them. They run with the settings that Kafka Streams and Flink recommend.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use rdkafka::Offset;

use crate::{
    Result,
    backlog::{Backlog, Format, ResultCollector, now_ms},
    cluster::PARTITIONS,
    measured_process::MeasuredProcess,
    table::Run,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Kafka Streams with exactly_once_v2, which writes results when a window has closed.
    KafkaStreams,
    /// Flink with one slot, two checkpoints a second and an exactly-once sink.
    Flink,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::KafkaStreams => "kafka-streams",
            Peer::Flink => "flink",
        }
    }

    /// Returns the grace period of Kafka Streams, or the lateness of Flink. The grace period must be longer than the
    /// lateness: Kafka Streams has one stream time for all partitions of a task, and reads the partitions of a backlog
    /// at different speeds.
    fn grace(self) -> Duration {
        match self {
            Peer::KafkaStreams => Duration::from_secs(30),
            Peer::Flink => Duration::from_millis(750),
        }
    }

    /// Downloads the dependencies, and compiles the program.
    pub(crate) fn build(self) -> Result<()> {
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

    /// Runs the program until it has counted `topic`. CPU time is measured after it has printed `running`, so the
    /// start of the JVM does not count.
    pub(crate) fn drain(self, backlog: &Backlog) -> Result<Run> {
        let cluster = &backlog.cluster;
        let keys = match backlog.format {
            Format::Lines => "words",
            _ => "reactions",
        };
        let output = format!("bench.{}.{}", self.name(), now_ms());
        cluster.recreate(&output, PARTITIONS)?;
        let finals = cluster.reader(&output, Offset::Beginning)?;
        let state = tempfile::tempdir()?;
        let mut peer = MeasuredProcess::start(
            Command::new("java")
                .args(["-Xmx2g", "-XX:+UseParallelGC"])
                .args(["--add-opens=java.base/java.util=ALL-UNNAMED"])
                .args(["--add-opens=java.base/java.lang=ALL-UNNAMED"])
                .args([
                    "-cp",
                    &self.classes(),
                    "Tallies",
                    cluster.brokers(),
                    &backlog.topic,
                    &output,
                ])
                .arg(state.path())
                .arg(self.grace().as_millis().to_string())
                .arg(keys),
        )?;
        peer.wait_for_line("running")?;
        let (begun, before) = (Instant::now(), peer.usage()?);
        let mut collector = ResultCollector::new(backlog);
        collector.collect(
            &finals,
            |collector, key, value| {
                let line = [key, b" ", value].concat();
                collector.add_peer_result(&String::from_utf8_lossy(&line))
            },
            || peer.check_running(),
        )?;
        Ok(Run {
            usage: peer.usage()? - before,
            wall: begun.elapsed(),
            peak_mb: peer.peak_mb()?,
            comparison: collector.compare().text(),
        })
    }
}
