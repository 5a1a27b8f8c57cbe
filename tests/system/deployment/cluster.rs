//! Tests of `make cluster`: the cluster counts exactly while its processes are killed, exports all metrics that alerts
//! and dashboards use, and leaves no process behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    files::{path, text},
    queries,
};
use crate::harness::{http, node, signal::signal, supervised::free_addresses, until, until_within};

/// A cluster that `docker/cluster.sh` has started.
struct Cluster {
    script: Child,
    dir: TempDir,
    address: String,
}

impl Cluster {
    fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let address = free_addresses(1).remove(0);
        let printed = fs::File::create(dir.path().join("output")).unwrap();
        // If the tests run in the background, they have inherited an ignored SIGINT. bash cannot reset the signal to
        // its default, so `env` does that.
        let script = Command::new("env")
            .arg("--default-signal=INT")
            .arg(path("docker/cluster.sh"))
            .env("EMOSTREAM", env!("CARGO_BIN_EXE_emostream"))
            .env("CLUSTER_DIR", dir.path())
            .env("CLUSTER_LISTEN", &address)
            .stdin(Stdio::null())
            .stdout(printed.try_clone().unwrap())
            .stderr(printed)
            .spawn()
            .unwrap();
        let mut cluster = Cluster {
            script,
            dir,
            address,
        };
        // The timeout allows for the start of Kafka and eight processes on two busy cores.
        until_within(Duration::from_secs(180), "the cluster's address", || {
            let ended = cluster.script.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", cluster.printed());
            let open = format!("Open http://{}/", cluster.address);
            cluster.printed().contains(&open).then_some(())
        });
        cluster
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.dir.path().join("output")).unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the admin address of each role, by its name.
    fn admins(&self) -> BTreeMap<String, String> {
        let printed = self.printed();
        let lines = printed.lines();
        lines
            .filter_map(|line| {
                let (name, rest) = line.split_once("metrics at http://")?;
                let address = rest.strip_suffix("/metrics")?;
                Some((name.trim().to_owned(), address.to_owned()))
            })
            .collect()
    }

    fn pid(&self, name: &str) -> u32 {
        let file = self.dir.path().join(format!("{name}.pid"));
        fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// Kills a role by SIGKILL. Waits until the next process of this role is ready, and until the proxy responds.
    fn kill(&self, name: &str) {
        let killed = self.pid(name);
        signal(killed, "KILL");
        until("another process of the same name", || {
            (self.pid(name) != killed).then_some(())
        });
        if let Some(admin) = self.admins().get(name) {
            until(name, || {
                let answer = http::get(admin, "/readyz").ok()?;
                (answer.status == 200).then_some(())
            });
        }
        until("an answer through the proxy", || {
            let answer = http::get(&self.address, "/v1/rooms").ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// Sends SIGINT. Asserts that the exit code is 0 and that all processes have ended.
    fn stop(mut self) {
        let pids: Vec<u32> = self.pids().values().copied().collect();
        signal(self.script.id(), "INT");
        let ended = until_within(Duration::from_secs(90), "an end after Ctrl-C", || {
            self.script.try_wait().unwrap()
        });
        assert!(ended.success(), "{ended}: {}", self.printed());
        for pid in pids {
            // The process that inherits the orphans reaps them only after a moment, so we wait.
            until(&format!("the end of process {pid}"), || {
                (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
            });
        }
    }

    fn pids(&self) -> BTreeMap<PathBuf, u32> {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let pids = files.filter(|file| file.extension().is_some_and(|end| end == "pid"));
        let read = |file: PathBuf| {
            let pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
            (file, pid)
        };
        let mut pids: BTreeMap<PathBuf, u32> = pids.map(read).collect();
        let kafka = self.dir.path().join("kafka/pid");
        let pid = fs::read_to_string(&kafka).unwrap().trim().parse().unwrap();
        pids.insert(kafka, pid);
        pids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.printed());
            for (file, _) in self.pids() {
                println!("{}", node::last_lines(&file.with_extension("log")));
            }
        }
        if self.script.try_wait().unwrap().is_none() {
            signal(self.script.id(), "TERM");
            let _ = self.script.wait();
        }
    }
}

/// The metrics that the roles export.
#[derive(Default)]
struct Scraped {
    metrics: BTreeSet<String>,
    /// The names of labels, by the name of the series that has them.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Scraped {
    fn by(cluster: &Cluster) -> Scraped {
        let mut scraped = Scraped::default();
        for admin in cluster.admins().values() {
            let page = http::get(admin, "/metrics").unwrap().body;
            for line in page.lines() {
                if let Some(metric) = line.strip_prefix("# TYPE ") {
                    let name = metric.split(' ').next().unwrap();
                    scraped.metrics.insert(name.to_owned());
                } else if let Some((name, labels)) = line.split_once('{') {
                    let labels = labels.split('}').next().unwrap().split("\",");
                    let labels = labels.map(|label| label.split('=').next().unwrap().to_owned());
                    scraped
                        .labels
                        .entry(name.to_owned())
                        .or_default()
                        .extend(labels);
                }
            }
        }
        scraped
    }

    /// Asserts that the metrics and labels of a query are exported.
    fn answers(&self, question: &str) {
        for metric in queries::metrics(question) {
            assert!(
                self.metrics.contains(&metric),
                "no role exports {metric}: {question}"
            );
        }
        for (name, label) in queries::selectors(question) {
            let labels = self.labels.get(&name);
            let has_label = labels.is_some_and(|labels| labels.contains(&label));
            assert!(has_label, "{name} has no label {label}: {question}");
        }
    }
}

#[test]
fn a_cluster_that_loses_each_process_once_counts_exactly_and_exports_all_watched_metrics() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let load = ["load", "--json", "--url", &url, "--verify", "--stored"];
    let crowd = ["--rate", "100/s", "--duration", "25s", "--rooms", "2"];
    let report: Value = thread::scope(|scope| {
        let loading = scope.spawn(|| node::output(&[&load[..], &crowd].concat()));
        let each = [
            "ingest-0",
            "dataflow-1",
            "publisher",
            "relay-0",
            "relay-2",
            "proxy",
        ];
        for name in each {
            cluster.kill(name);
        }
        serde_json::from_str(&loading.join().unwrap()).unwrap()
    });
    assert_eq!(report["verify"]["exact"], true, "{report}");
    assert!(
        report["verify"]["counted"].as_u64() > Some(1000),
        "{report}"
    );

    let scraped = Scraped::by(&cluster);
    for question in queries::questions() {
        scraped.answers(&question);
    }
    let page = text("docs/metrics.md");
    let page = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    // Only `up` has the metric of the event clock, and no role of this cluster has --jwks-url. So the cluster does not
    // export these metrics.
    let of_others = |name: &&str| {
        *name == "emostream_clock_ahead_seconds" || name.starts_with("emostream_jwks_")
    };
    let page: BTreeSet<String> = page
        .filter(|name| !of_others(name))
        .map(str::to_owned)
        .collect();
    assert_eq!(scraped.metrics, page, "docs/metrics.md");
    cluster.stop();
}
