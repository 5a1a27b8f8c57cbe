//! Tests of a dataflow of several processes: the processes connect in any order, refuse foreign connections, and end
//! together. In these tests each process is a thread. The processes share one log in memory, and use real TCP
//! connections.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod fixture;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use emostream_dataflow::{Activity, Cluster, Config, Ready, Stop, StreamsError};
use emostream_log::testing::{DEADLINE, until};
use emostream_model::{Batch, Emoji, Reaction, Room, Topics, UserId, WindowRecord, WindowSize};
use fixture::{Fixture, T0, run_with};
use prometheus::Registry;

const PARTITIONS: u32 = 4;

/// Returns addresses on which no process listens.
fn hosts(processes: usize) -> Vec<String> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners: Vec<TcpListener> = (0..processes).map(bind).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    listeners.iter().map(address).collect()
}

fn config(hosts: &[String], index: usize, workers: usize) -> Config {
    let mut config = fixture::config(&Topics::default(), workers);
    config.run.cluster = Some(Cluster {
        hosts: hosts.to_vec(),
        index,
        join_timeout: DEADLINE,
        token: "secret".to_owned(),
    });
    config
}

struct Process {
    stop: Stop,
    registry: Registry,
    running: JoinHandle<Result<(), StreamsError>>,
}

impl Process {
    fn start(config: Config, fixture: &Fixture) -> Process {
        Process::start_reporting(config, fixture, Arc::new(|_| {}))
    }

    fn start_reporting(config: Config, fixture: &Fixture, ready: Ready) -> Process {
        let registry = Registry::new();
        let (stop, running) = fixture.launch(config, registry.clone(), ready);
        Process {
            stop,
            registry,
            running,
        }
    }

    /// Returns the final-until time (up to which all windows are final) in seconds, from the metrics of the process;
    /// `None` if the metrics do not contain it yet.
    fn final_until(&self) -> Option<f64> {
        let families = self.registry.gather();
        let name = "emostream_dataflow_final_until_timestamp_seconds";
        let family = families.iter().find(|family| family.name() == name)?;
        Some(family.get_metric()[0].get_gauge().get_value())
    }

    fn end(self) -> Result<(), StreamsError> {
        until("the process ends", || self.running.is_finished());
        self.running.join().unwrap()
    }
}

/// Appends one reaction per 100 ms to every partition, starting at the event time `from_ms`. Then appends a heartbeat
/// that closes all windows.
fn fill(fixture: &Fixture, from_ms: u64, span_ms: u64) {
    let mut records = Vec::new();
    let mut append = |partition, at_ms, value| {
        records.push(fixture.reaction_record(partition, at_ms, value));
    };
    for partition in 0..fixture.partitions {
        for at_ms in (from_ms..from_ms + span_ms).step_by(100) {
            let reaction = Reaction {
                user: UserId::new("u").unwrap(),
                emoji: Emoji::from_text("🔥").unwrap(),
                room: Room::new(["a", "b", "c"][(at_ms / 100 % 3) as usize]).unwrap(),
                at_ms,
            };
            append(partition, at_ms, Batch::encode(at_ms, [&reaction]));
        }
        let end_ms = from_ms + span_ms + 10_000;
        append(partition, end_ms, Batch::heartbeat(end_ms));
    }
    fixture.append(records);
}

/// Checks that each window of each room is final once, and that the final results contain every reaction.
fn check(fixture: &Fixture, span_ms: u64) {
    let finals = fixture.values(&fixture.topics.windows());
    let finals: Vec<WindowRecord> = finals
        .iter()
        .map(|value| serde_json::from_slice(value).unwrap())
        .collect();
    let mut windows: Vec<_> = finals
        .iter()
        .map(|f| (f.room.to_string(), f.window.start))
        .collect();
    windows.sort();
    let before = windows.len();
    windows.dedup();
    assert_eq!(windows.len(), before, "a window is final twice");
    let total: u64 = finals.iter().map(|f| f.total).sum();
    assert_eq!(total, span_ms / 100 * u64::from(PARTITIONS));
}

#[test]
fn any_cluster_has_the_same_results_in_any_order_of_starts() {
    for (processes, workers) in [(2, 1), (3, 2)] {
        let fixture = Fixture::new(PARTITIONS);
        fill(&fixture, T0, 30_000);
        let hosts = hosts(processes);
        // The processes start in descending order of their indices. Each process dials those with smaller indices, so
        // it dials processes that do not listen yet.
        let mut running = Vec::new();
        for index in (0..processes).rev() {
            running.push(Process::start(config(&hosts, index, workers), &fixture));
        }
        until("everything is final", || {
            fixture.final_until_ms() >= T0 + 30_000
        });
        // Every process must know the final time, not only the one that commits.
        for process in &running {
            until("every process knows the final time", || {
                process.final_until() >= Some((T0 + 30_000) as f64 / 1000.0)
            });
        }
        // A stop may be requested from any process of the cluster.
        running[processes / 2].stop.request();
        for process in running {
            process.end().unwrap();
        }
        check(&fixture, 30_000);
    }
}

#[test]
fn a_cluster_continues_where_another_one_stopped() {
    let fixture = Fixture::new(PARTITIONS);
    let mut counted_ms = 0;
    for (processes, workers) in [(2, 2), (3, 1), (2, 3)] {
        fill(&fixture, T0 + 2 * counted_ms, 10_000);
        counted_ms += 10_000;
        let end_ms = T0 + 2 * counted_ms - 10_000;
        let hosts = hosts(processes);
        let start = |index| Process::start(config(&hosts, index, workers), &fixture);
        let running: Vec<Process> = (0..processes).map(start).collect();
        until("everything is final", || fixture.final_until_ms() >= end_ms);
        running[0].stop.request();
        for process in running {
            process.end().unwrap();
        }
        check(&fixture, counted_ms);
    }
}

#[test]
fn other_connections_do_not_end_a_cluster() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(2);
    let first = Process::start(config(&hosts, 0, 1), &fixture);
    let connect = || {
        let mut stranger = None;
        until("process 0 listens", || {
            stranger = TcpStream::connect(&hosts[0]).ok();
            stranger.is_some()
        });
        stranger.unwrap()
    };
    let half_open = connect();
    let mut scanner = connect();
    scanner.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut giant = connect();
    giant.write_all(b"EMOS\x01\xff\xff\xff\xff").unwrap();
    for mut refused in [scanner, giant] {
        refused.set_read_timeout(Some(DEADLINE)).unwrap();
        // The connection is reset or closed without a reply.
        assert_eq!(refused.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    let mut other = config(&hosts, 1, 1);
    other.run.cluster.as_mut().unwrap().token = "guessed".to_owned();
    let error = Process::start(other, &fixture).end().unwrap_err();
    assert_eq!(error.exit_code(), 64);
    assert!(
        error.to_string().contains("--cluster-token-file"),
        "{error}"
    );

    let second = Process::start(config(&hosts, 1, 1), &fixture);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    drop(half_open);
    second.stop.request();
    first.end().unwrap();
    second.end().unwrap();
    check(&fixture, 10_000);
}

#[test]
fn processes_with_different_settings_refuse_each_other() {
    let fixture = Fixture::new(PARTITIONS);
    let hosts = hosts(2);
    let first = Process::start(config(&hosts, 0, 1), &fixture);
    let other = Config {
        window: WindowSize::from_ms(1000).unwrap(),
        ..config(&hosts, 1, 1)
    };
    let second = Process::start(other, &fixture);
    for (process, difference) in [
        (first, "2s at this process and 1s"),
        (second, "1s at this process and 2s"),
    ] {
        let error = process.end().unwrap_err();
        assert_eq!(error.exit_code(), 64);
        let sentence = error.to_string();
        assert!(
            sentence.contains("--window") && sentence.contains(difference),
            "{sentence}"
        );
    }
}

#[test]
fn a_join_that_times_out_names_the_missing_process() {
    let fixture = Fixture::new(PARTITIONS);
    let hosts = hosts(3);
    let mut alone = config(&hosts, 0, 1);
    alone.run.cluster.as_mut().unwrap().join_timeout = Duration::from_secs(3);
    let second = Process::start(config(&hosts, 1, 1), &fixture);
    let error = Process::start(alone, &fixture).end().unwrap_err();
    assert_eq!(error.exit_code(), 69);
    assert!(error.to_string().contains("process 2"), "{error}");
    assert!(!error.to_string().contains("process 1"), "{error}");
    // A stop that is requested while the cluster forms is not a failure.
    second.stop.request();
    second.end().unwrap();
}

#[test]
fn all_processes_end_if_process_0_refuses_the_progress() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(2);
    let start = |index| Process::start(config(&hosts, index, 1), &fixture);
    let running = [start(0), start(1)];
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    running[1].stop.request();
    for process in running {
        process.end().unwrap();
    }
    let start = |index| {
        let other = run_with(config(&hosts, index, 1), |run| run.lateness_ms = 1000);
        Process::start(other, &fixture)
    };
    for process in [start(0), start(1)] {
        let error = process.end().unwrap_err();
        assert_eq!(error.exit_code(), 78, "{error}");
        assert!(error.to_string().contains("--lateness"), "{error}");
    }
}

/// Acts as process 0: accepts a data connection and a control connection from process 1.
fn welcome(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (mut data, mut control) = (None, None);
    while data.is_none() || control.is_none() {
        let mut accepted = None;
        until("process 1 dials", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (mut stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        let hello = frame(&mut stream);
        stream.write_all(b"\0\0\0\x09\"Welcome\"").unwrap();
        match hello["purpose"].as_str() {
            Some("Data") => data = Some(stream),
            _ => control = Some(stream),
        }
    }
    (data.unwrap(), control.unwrap())
}

fn frame(stream: &mut TcpStream) -> serde_json::Value {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_process_that_missed_the_beginning_joins_again_with_every_connection() {
    let fixture = Fixture::new(PARTITIONS);
    let hosts = hosts(2);
    let listener = TcpListener::bind(&hosts[0]).unwrap();
    listener.set_nonblocking(true).unwrap();
    let late = Process::start(config(&hosts, 1, 1), &fixture);
    let (mut data, mut control) = welcome(&listener);
    while frame(&mut control) != "Ready" {}
    // Simulates that process 0 ends just after its run began: timely's first bytes arrive, but the message `Begin` is
    // lost.
    data.write_all(&[7; 100]).unwrap();
    drop((data, control));
    // Process 1 opens both connections again.
    let again = welcome(&listener);
    late.stop.request();
    drop(again);
    late.end().unwrap();
}

#[test]
fn a_cluster_that_is_fenced_stands_by_as_a_whole_and_takes_over_as_a_whole() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(3);
    let (report, reports) = channel();
    let start = |index| {
        let report = report.clone();
        let ready: Ready = Arc::new(move |state| drop(report.send((index, state))));
        let config = run_with(config(&hosts, index, 1), |run| {
            run.takeover = Duration::from_secs(4);
        });
        Process::start_reporting(config, &fixture, ready)
    };
    let older = [start(0), start(1), start(2)];
    // Waits until all three processes, in any order, have reported an activity that meets the condition.
    let until_all = |is_so: fn(&Activity) -> bool| {
        let mut left = BTreeSet::from([0, 1, 2]);
        while !left.is_empty() {
            match reports.recv_timeout(DEADLINE).unwrap() {
                (index, Ok(activity)) if is_so(&activity) => left.remove(&index),
                _ => false,
            };
        }
    };
    until_all(|activity| *activity == Activity::Active);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    // A newer run of a single process fences the older run, whose next commit is refused.
    let newer = run_with(config(&hosts, 0, 1), |run| run.cluster = None);
    let newer = Process::start(newer, &fixture);
    fill(&fixture, T0 + 20_000, 10_000);
    until_all(|activity| matches!(activity, Activity::Standby(_)));
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 30_000
    });
    newer.stop.request();
    newer.end().unwrap();
    fill(&fixture, T0 + 40_000, 10_000);
    until_all(|activity| *activity == Activity::Active);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 50_000
    });
    older[2].stop.request();
    for process in older {
        process.end().unwrap();
    }
    check(&fixture, 30_000);
}

#[test]
fn a_standby_whose_cluster_loses_a_process_waits_for_it_and_fences_no_run() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let alone = run_with(config(&hosts(1), 0, 1), |run| run.cluster = None);
    let active = Process::start(alone, &fixture);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    let hosts = hosts(2);
    let (report, reports) = channel();
    let start = |index| {
        let report = report.clone();
        let ready: Ready = Arc::new(move |state| drop(report.send((index, state))));
        let config = run_with(config(&hosts, index, 1), |run| run.standby = true);
        Process::start_reporting(config, &fixture, ready)
    };
    let until_standby = |of: usize| loop {
        let (index, state) = reports.recv_timeout(DEADLINE).unwrap();
        if index == of && matches!(state, Ok(Activity::Standby(_))) {
            return;
        }
    };
    let first = start(0);
    // The test acts as process 1, which ends as soon as the cluster is complete.
    let agreement = agreement(&config(&hosts, 1, 1), &fixture);
    let connections = ["Data", "Control"].map(|purpose| {
        let mut stream = connect(&hosts[0]);
        stream.write_all(b"EMOS\x01").unwrap();
        stream.write_all(&hello(purpose, &agreement)).unwrap();
        assert_eq!(frame(&mut stream), "Welcome");
        stream
    });
    let [data, mut control] = connections;
    control.write_all(&framed(&"Ready".into())).unwrap();
    until_standby(0);
    drop((data, control));
    let second = start(1);
    until_standby(1);
    assert!(!first.running.is_finished() && !active.running.is_finished());
    fill(&fixture, T0 + 20_000, 10_000);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 30_000
    });
    second.stop.request();
    first.end().unwrap();
    second.end().unwrap();
    active.stop.request();
    active.end().unwrap();
    check(&fixture, 20_000);
}

/// Returns the settings that a process with this configuration sends in its handshake.
fn agreement(config: &Config, fixture: &Fixture) -> serde_json::Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config.clone();
    let cluster = config.run.cluster.as_mut().unwrap();
    cluster.hosts[0] = listener.local_addr().unwrap().to_string();
    cluster.index = 1;
    let process = Process::start(config, fixture);
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let hello = frame(&mut stream);
    process.stop.request();
    process.end().unwrap();
    hello["agreement"].clone()
}

fn connect(host: &str) -> TcpStream {
    let mut stranger = None;
    until("it listens", || {
        stranger = TcpStream::connect(host).ok();
        stranger.is_some()
    });
    let stream = stranger.unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Returns the handshake that process 1 sends to process 0 after the greeting.
fn hello(purpose: &str, agreement: &serde_json::Value) -> Vec<u8> {
    framed(&serde_json::json!({
        "process": 1,
        "to": 0,
        "purpose": purpose,
        "token": "secret",
        "agreement": agreement,
    }))
}

fn framed(message: &serde_json::Value) -> Vec<u8> {
    let body = message.to_string().into_bytes();
    [&(body.len() as u32).to_be_bytes(), &body[..]].concat()
}

fn read_to_its_end(stream: &mut TcpStream) {
    // The connection may be closed or reset, so an error counts as the end of the connection.
    while stream.read(&mut [0; 256]).unwrap_or(0) > 0 {}
}

#[test]
fn a_handshake_after_the_beginning_does_not_end_a_cluster() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(2);
    let start = |index| Process::start(config(&hosts, index, 1), &fixture);
    let first = start(0);
    let mut late = connect(&hosts[0]);
    late.write_all(b"EMOS\x01").unwrap();
    let second = start(1);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    let other = serde_json::json!([["--window", "9s"]]);
    // The write fails if this test is so slow that the handshake has timed out. The result is ignored, since the
    // process must continue in both cases.
    let _ = late.write_all(&hello("Data", &other));
    read_to_its_end(&mut late);
    fill(&fixture, T0 + 20_000, 10_000);
    until("it counts on", || {
        assert!(!first.running.is_finished() && !second.running.is_finished());
        fixture.final_until_ms() >= T0 + 30_000
    });
    second.stop.request();
    first.end().unwrap();
    second.end().unwrap();
}

#[test]
fn a_process_that_stops_while_the_cluster_forms_stops_alone() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(3);
    let agreement = agreement(&config(&hosts, 1, 1), &fixture);
    let start = |index| Process::start(config(&hosts, index, 1), &fixture);
    let first = start(0);
    let mut control = connect(&hosts[0]);
    control.write_all(b"EMOS\x01").unwrap();
    control.write_all(&hello("Control", &agreement)).unwrap();
    assert_eq!(frame(&mut control), "Welcome");
    control.write_all(&framed(&"AskedToStop".into())).unwrap();
    read_to_its_end(&mut control);
    let running = [first, start(1), start(2)];
    until("everything is final", || {
        assert!(!running[0].running.is_finished(), "process 0 left too");
        fixture.final_until_ms() >= T0 + 10_000
    });
    running[2].stop.request();
    for process in running {
        process.end().unwrap();
    }
}

#[test]
fn many_half_open_connections_do_not_block_a_process() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(2);
    let first = Process::start(config(&hosts, 0, 1), &fixture);
    let mut half_open: Vec<TcpStream> = (0..64).map(|_| connect(&hosts[0])).collect();
    let formed = Arc::new(AtomicBool::new(false));
    let (host, over) = (hosts[0].clone(), formed.clone());
    // If the process closes a connection, this thread opens another one.
    let reconnecting = thread::spawn(move || {
        half_open
            .iter()
            .for_each(|stream| stream.set_nonblocking(true).unwrap());
        while !over.load(Ordering::Acquire) {
            for stream in &mut half_open {
                let closed = stream.read(&mut [0]).map_or_else(
                    |error| error.kind() != std::io::ErrorKind::WouldBlock,
                    |read| read == 0,
                );
                if closed && let Ok(again) = TcpStream::connect(&host) {
                    again.set_nonblocking(true).unwrap();
                    *stream = again;
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
    });
    let second = Process::start(config(&hosts, 1, 1), &fixture);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    formed.store(true, Ordering::Release);
    reconnecting.join().unwrap();
    second.stop.request();
    first.end().unwrap();
    second.end().unwrap();
}

#[test]
fn a_process_waits_until_its_host_name_resolves() {
    let fixture = Fixture::new(PARTITIONS);
    let mut hosts = hosts(2);
    hosts[0] = "no-such-host.invalid:2101".to_owned();
    let waiting = Process::start(config(&hosts, 0, 1), &fixture);
    waiting.stop.request();
    waiting.end().unwrap();

    let mut impatient = config(&hosts, 0, 1);
    impatient.run.cluster.as_mut().unwrap().join_timeout = Duration::from_millis(300);
    let error = Process::start(impatient, &fixture).end().unwrap_err();
    assert_eq!(error.exit_code(), 64);
    assert!(
        error.to_string().contains("no-such-host.invalid"),
        "{error}"
    );
}

#[test]
fn a_connection_of_an_ended_process_blocks_its_successor_for_seconds_only() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(2);
    let agreement = agreement(&config(&hosts, 1, 1), &fixture);
    let first = Process::start(config(&hosts, 0, 1), &fixture);
    // Simulates that the machine of process 1 has lost power: the connections stay open, but send nothing more.
    let connections = ["Data", "Control"].map(|purpose| {
        let mut stream = connect(&hosts[0]);
        stream.write_all(b"EMOS\x01").unwrap();
        stream.write_all(&hello(purpose, &agreement)).unwrap();
        assert_eq!(frame(&mut stream), "Welcome");
        stream
    });
    let second = Process::start(config(&hosts, 1, 1), &fixture);
    until("everything is final", || {
        fixture.final_until_ms() >= T0 + 10_000
    });
    drop(connections);
    second.stop.request();
    first.end().unwrap();
    second.end().unwrap();
}

#[test]
fn a_stuck_worker_ends_its_process_and_its_cluster() {
    let fixture = Fixture::new(PARTITIONS);
    fill(&fixture, T0, 10_000);
    let hosts = hosts(2);
    let ready: Ready = Arc::new(|state: Result<Activity, String>| {
        while state.is_ok() {
            thread::park();
        }
    });
    let stands = Process::start_reporting(config(&hosts, 1, 1), &fixture, ready);
    let other = Process::start(config(&hosts, 0, 1), &fixture);
    let error = stands.end().unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert!(error.to_string().contains("worker 0"), "{error}");
    assert_eq!(other.end().unwrap_err().exit_code(), 75);
}
