//! Tests of the dataflow as a cluster of processes on a real Kafka. Processes are killed, frozen and added, and the
//! final results, read by Kafka's own consumer, contain every reaction exactly once.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use emostream_log::{Log, LogError, kafka::KafkaLog};
use emostream_model::Topics;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::harness::{
    self,
    kafka::{self, Broker, add_partitions},
    load::{LONG, Load, arguments, check, closes, final_until_ms, topics},
    node::{Node, last_lines},
    seed,
    supervised::{Supervised, free_addresses},
    unique, until, until_within,
};

/// Exit codes that a process of a group may have: 75 (restart), 69 (Kafka or another process is unavailable), -9
/// (killed).
const GOOD_ENDS: [i32; 3] = [75, 69, -9];

/// A group of supervised processes. If a test fails, the last lines of their logs are printed.
struct Group {
    processes: Vec<Supervised>,
    dir: PathBuf,
}

impl Drop for Group {
    fn drop(&mut self) {
        if thread::panicking() {
            for index in 0..self.processes.len() {
                println!("{}", last_lines(&self.log(index)));
            }
        }
    }
}

impl Group {
    fn start(
        dir: &Path,
        brokers: &str,
        prefix: &str,
        workers: u32,
        processes: usize,
        seed: u64,
    ) -> Group {
        let hosts = free_addresses(processes).join(",");
        let count = processes.to_string();
        let start = |index: usize| {
            let (place, log) = (index.to_string(), dir.join(format!("process-{index}")));
            let cluster = ["-n", &count, "-p", &place, "--hosts", &hosts];
            Supervised::start(
                arguments(brokers, prefix, workers, &cluster),
                log,
                seed + index as u64,
            )
        };
        Group {
            processes: (0..processes).map(start).collect(),
            dir: dir.to_owned(),
        }
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.join(format!("process-{index}"))
    }

    /// Sends SIGTERM to one process, and asserts that all processes of the group end with exit code 0.
    fn drain(mut self, signalled: usize) {
        self.processes.iter_mut().for_each(Supervised::leave_alone);
        self.processes[signalled].signal("TERM");
        for process in &mut self.processes {
            assert_eq!(process.ended().code(), Some(0));
        }
    }

    fn check_ends(&self) {
        for (index, process) in self.processes.iter().enumerate() {
            let codes = process.codes();
            let good = codes.iter().all(|code| GOOD_ENDS.contains(code));
            assert!(good, "process {index} ended with {codes:?}");
        }
    }
}

/// Reads the end offsets of topics. If a test fails, the last offsets are printed: they show whether the dataflow, the
/// load or the test's own client has stopped.
struct Seen<'a> {
    log: &'a KafkaLog,
    topics: Topics,
    answer: Mutex<Result<u64, LogError>>,
}

impl<'a> Seen<'a> {
    fn of(log: &'a KafkaLog, prefix: &str) -> Self {
        Self {
            log,
            topics: topics(prefix),
            answer: Mutex::new(Ok(0)),
        }
    }

    /// Returns a number that grows with every commit of final results. Commits of progress alone do not count, since
    /// every start makes such a commit.
    fn commits(&self) -> u64 {
        let answer = closes(self.log, self.topics.prefix());
        self.answer.lock().unwrap().clone_from(&answer);
        answer.unwrap_or(0)
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        println!("the finals ended at {:?}", self.answer.lock());
        for topic in [self.topics.reactions(), self.topics.windows()] {
            println!("{topic} holds {:?}", self.log.offsets(&topic));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
    KillBroker,
}

#[test]
fn nothing_that_is_killed_or_frozen_changes_a_final() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    // The broker needs a long session timeout. Otherwise it would be fenced when it is silent for 2 s, and no
    // transaction ends without a leader.
    let broker = Broker::start_for_a_cluster();
    let (brokers, prefix) = (broker.address(), unique("chaos"));
    kafka::create_topics(&brokers, &prefix, 4);
    let log = kafka::connect(&brokers);
    let load = Load::start(&brokers, &prefix, 4, seed);
    let group = Group::start(dir.path(), &brokers, &prefix, 2, 3, seed);
    let seen = Seen::of(&log, &prefix);
    let commits = || seen.commits();
    let committed_since = |before: u64| {
        until_within(LONG, "a commit", || (commits() > before).then_some(()));
    };
    committed_since(0);

    let mut faults = [
        vec![Fault::Kill; 20],
        vec![Fault::Freeze; 3],
        vec![Fault::KillBroker; 3],
    ];
    faults[1].append(&mut faults[2].clone());
    let mut faults: Vec<Fault> = faults[..2].concat();
    faults.shuffle(&mut rng);
    for (number, fault) in faults.into_iter().enumerate() {
        let victim = rng.random_range(0..3);
        println!("{number}: {fault:?} {victim}");
        // Some faults happen during the recovery from the previous fault, others after that recovery.
        if rng.random_bool(0.6) {
            committed_since(commits());
        } else {
            thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
        }
        match fault {
            Fault::Kill => group.processes[victim].signal("KILL"),
            Fault::Freeze => freeze(&group, victim),
            Fault::KillBroker => {
                broker.kill();
                thread::sleep(Duration::from_millis(rng.random_range(0..3000)));
                broker.come_back();
            }
        }
    }
    committed_since(commits());
    let until_ms = load.end();
    until_within(LONG, "everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    group.check_ends();
    group.drain(rng.random_range(0..3));
    check(&log, &brokers, &prefix, until_ms);
}

/// Freezes a process until the other processes have detected that and have ended. Then lets the frozen process
/// continue, after which it ends, too.
fn freeze(group: &Group, victim: usize) {
    // If the group is still starting, the other processes do not end: they wait for the frozen process as if it had not
    // started yet. So the wait below is limited.
    let pid = group.processes[victim].pid();
    let ends: Vec<usize> = group.processes.iter().map(Supervised::ends).collect();
    let frozen = Instant::now();
    harness::signal::signal(pid, "STOP");
    let others = (0..3).filter(|index| *index != victim);
    until_within(LONG, "the others notice, or had no group", || {
        let noticed = others
            .clone()
            .all(|index| group.processes[index].ends() > ends[index]);
        (noticed || frozen.elapsed() > Duration::from_secs(15)).then_some(())
    });
    harness::signal::signal(pid, "CONT");
}

#[test]
fn a_frozen_process_is_noticed_and_cannot_commit_once_it_thaws() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("frozen"));
    kafka::create_topics(&brokers, &prefix, 4);
    let log = kafka::connect(&brokers);
    let load = Load::start(&brokers, &prefix, 4, 1);
    let commits = || closes(&log, &prefix).unwrap_or(0);
    let hosts = free_addresses(2).join(",");
    let start = |index: &str, name: &str| {
        let cluster = ["-n", "2", "-p", index, "--hosts", &hosts];
        let arguments = arguments(&brokers, &prefix, 1, &cluster);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Node::start_silent(&arguments, &dir.path().join(name))
    };
    let (first, second) = (start("0", "0"), start("1", "1"));
    until("a commit", || (commits() > 0).then_some(()));
    // The process that commits is frozen, and another one takes over.
    harness::signal::signal(first.pid(), "STOP");
    assert_eq!(second.ended().code(), Some(75));
    let printed = std::fs::read_to_string(dir.path().join("1")).unwrap();
    assert!(
        printed.contains("process 0") && printed.contains("was lost"),
        "{printed}"
    );
    let (newer, second) = (start("0", "newer"), start("1", "1"));
    let before = commits();
    until("the newer group commits", || {
        (commits() > before).then_some(())
    });
    harness::signal::signal(first.pid(), "CONT");
    assert_eq!(first.ended().code(), Some(75));
    let until_ms = load.end();
    until("everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    assert_eq!(second.stop(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(newer.ended().code(), Some(0));
    check(&log, &brokers, &prefix, until_ms);
}

#[test]
fn a_group_comes_back_with_other_workers_and_with_new_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("rescale"));
    kafka::create_topics(&brokers, &prefix, 2);
    let log = kafka::connect(&brokers);
    let load = Load::start(&brokers, &prefix, 2, 2);
    let commits = || closes(&log, &prefix).unwrap_or(0);
    let counts_again = || {
        let before = commits();
        until_within(LONG, "commits", || (commits() > before + 2).then_some(()));
    };
    for (workers, processes) in [(1, 1), (2, 3), (3, 1)] {
        let group = Group::start(dir.path(), &brokers, &prefix, workers, processes, 3);
        counts_again();
        group.drain(processes - 1);
    }
    // Partitions are added while the group runs. The group restarts by itself, and then reads the new partitions, too.
    let group = Group::start(dir.path(), &brokers, &prefix, 1, 2, 4);
    counts_again();
    add_partitions(&brokers, &topics(&prefix).reactions(), 4);
    until_within(LONG, "a restart", || {
        group
            .processes
            .iter()
            .all(|process| process.codes() == [75])
            .then_some(())
    });
    load.partitions.store(4, Ordering::SeqCst);
    counts_again();
    let until_ms = load.end();
    until_within(LONG, "everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    group.drain(0);
    check(&log, &brokers, &prefix, until_ms);
}
