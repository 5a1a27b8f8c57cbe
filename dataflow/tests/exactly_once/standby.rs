//! Tests of standbys: when they take over, and from which progress they continue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emostream_dataflow::{
    Activity, Config, HEARTBEAT, Ready, ResetFrom, RunIdentity, Stop, StreamsError, WINDOW_MS,
};
use emostream_log::NewRecord;
use prometheus::Registry;

use crate::{DEADLINE, Fixture, T0, all_final_ms, check, closing, events, rng, run_with, until};

/// Time without a commit after which a standby takes over: three heartbeats, the shortest time that the program
/// accepts. It is not shorter than that, since a busy machine may delay a heartbeat.
const TAKEOVER: Duration = Duration::from_secs(6);

/// A run in a thread, with the reports of its readiness.
struct Running {
    stop: Stop,
    thread: JoinHandle<Result<(), StreamsError>>,
    reports: Receiver<Result<Activity, String>>,
    registry: Registry,
}

impl Running {
    fn start(fixture: &Fixture, config: Config) -> Running {
        let (report, reports) = channel();
        let ready: Ready = Arc::new(move |state| drop(report.send(state)));
        let registry = Registry::new();
        let (stop, thread) = fixture.launch(config, registry.clone(), ready);
        Running {
            stop,
            thread,
            reports,
            registry,
        }
    }

    /// Waits until the run reports that it is active.
    fn until_active(&self) {
        while self.reports.recv_timeout(DEADLINE).unwrap() != Ok(Activity::Active) {}
        assert_eq!(self.active(), 1);
    }

    /// Waits until the run reports that it stands by. Returns its description of the active run.
    fn until_standby(&self) -> String {
        loop {
            if let Ok(Activity::Standby(active)) = self.reports.recv_timeout(DEADLINE).unwrap() {
                assert_eq!(self.active(), 0);
                return active;
            }
        }
    }

    /// Returns the value of the metric `active`.
    fn active(&self) -> i64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|it| it.name() == "emostream_dataflow_active");
        family.unwrap().get_metric()[0].get_gauge().get_value() as i64
    }

    /// Returns the number of series of the metrics that only an active run has.
    fn series(&self) -> usize {
        let of_active = [
            "lag_records",
            "partition_held",
            "watermark_timestamp_seconds",
        ];
        let of_active = of_active.map(|name| format!("emostream_dataflow_{name}"));
        let families = self.registry.gather();
        let shown = families
            .iter()
            .filter(|it| of_active.iter().any(|name| name == it.name()));
        shown.map(|family| family.get_metric().len()).sum()
    }

    fn stop(self) {
        self.stop.request();
        self.thread.join().unwrap().unwrap();
    }

    /// Returns the exit code of a run that ends by itself.
    fn ended(self) -> u8 {
        self.thread.join().unwrap().unwrap_err().exit_code()
    }
}

impl Fixture {
    fn standby(&self, workers: usize) -> Config {
        run_with(self.taking_over(workers), |run| run.standby = true)
    }

    fn taking_over(&self, workers: usize) -> Config {
        run_with(self.config(workers), |run| run.takeover = TAKEOVER)
    }

    /// Waits for the first commit of progress. A run may report that it is active before it commits.
    fn until_stored(&self) {
        if self.commits() == 0 {
            self.until_commit();
        }
    }

    fn until_commit(&self) {
        self.until_commit_after(self.commits());
    }

    fn until_commit_after(&self, before: u64) {
        until("there is a commit", || self.commits() != before);
    }

    /// Commits changed progress as another run would. This fences the runs of the test.
    fn commit_as(&self, change: impl Fn(&mut serde_json::Value)) {
        let mut transactor = self.log.transactor("emostream.dataflow", DEADLINE).unwrap();
        let newest = self.values(&self.topics.progress()).pop().unwrap();
        let mut progress: serde_json::Value = serde_json::from_slice(&newest).unwrap();
        change(&mut progress);
        let record = NewRecord {
            topic: self.topics.progress(),
            partition: Some(0),
            time_ms: None,
            key: Some("dataflow".into()),
            value: progress.to_string().into(),
            headers: Vec::new(),
        };
        transactor.commit(vec![record]).unwrap();
    }
}

#[test]
fn a_standby_counts_on_where_the_active_run_stopped_committing_and_not_before() {
    let fixture = Fixture::new(2);
    let (records, oracle) = events(&fixture, &mut rng(11), 20_000);
    let half = records.len() / 2;
    fixture.append(records[..half].to_vec());
    let active = Running::start(&fixture, fixture.taking_over(2));
    active.until_active();
    let standby = Running::start(&fixture, fixture.standby(1));
    standby.until_standby();
    // No events arrive for longer than the takeover time: the heartbeats alone prevent a takeover.
    thread::sleep(TAKEOVER + 2 * HEARTBEAT);
    assert_eq!((active.active(), standby.active()), (1, 0));
    fixture.until_commit();
    let committed = Instant::now();
    active.stop();
    fixture.append(records[half..].to_vec());
    fixture.append(closing(&fixture, 20_000));
    fixture.until_final(all_final_ms(20_000));
    let after = committed.elapsed();
    assert!(after >= TAKEOVER, "{after:?}");
    standby.until_active();
    standby.stop();
    check(&fixture, &oracle);
}

#[test]
fn of_two_runs_the_fenced_one_stands_by_and_takes_over_later() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(12), 20_000);
    let half = records.len() / 2;
    fixture.append(records[..half].to_vec());
    let older = Running::start(&fixture, fixture.taking_over(1));
    older.until_active();
    let newer = Running::start(&fixture, fixture.taking_over(2));
    older.until_standby();
    // No reactions were appended, so the older run has detected the fence when it committed a heartbeat.
    assert_eq!(older.series(), 0);
    newer.until_active();
    thread::sleep(TAKEOVER);
    assert_eq!(
        (older.active(), newer.active()),
        (0, 1),
        "they do not fence each other"
    );
    newer.stop();
    older.until_active();
    assert!(older.series() > 0);
    fixture.append(records[half..].to_vec());
    fixture.append(closing(&fixture, 20_000));
    fixture.until_final(all_final_ms(20_000));
    older.stop();
    check(&fixture, &oracle);
}

#[test]
fn a_fenced_run_names_the_one_that_took_over() {
    let fixture = Fixture::new(1);
    let run = Running::start(&fixture, fixture.taking_over(1));
    run.until_active();
    let other = RunIdentity {
        host: "elsewhere".to_owned(),
        process: 3,
        pid: 4711,
        started_ms: 0,
    };
    fixture.commit_as(|progress| progress["run"] = serde_json::to_value(&other).unwrap());
    let names = ["elsewhere", "process 3", "pid 4711"];
    loop {
        let active = run.until_standby();
        if names.iter().all(|name| active.contains(name)) {
            break;
        }
    }
    // The other run commits nothing more, so the fenced run takes over again.
    run.until_active();
    run.stop();
}

#[test]
fn the_first_of_two_standbys_begins_where_nothing_was_ever_committed() {
    let fixture = Fixture::new(1);
    let (first, second) = (
        Running::start(&fixture, fixture.standby(1)),
        Running::start(&fixture, fixture.standby(1)),
    );
    let (records, oracle) = events(&fixture, &mut rng(13), 20_000);
    fixture.append(records);
    fixture.append(closing(&fixture, 20_000));
    fixture.until_final(all_final_ms(20_000));
    until("one is active", || first.active() + second.active() == 1);
    first.stop();
    second.stop();
    check(&fixture, &oracle);
}

#[test]
fn a_standby_ends_with_75_after_a_reset_and_one_that_is_started_then_takes_over() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(14), 20_000);
    fixture.append(records);
    let active = Running::start(&fixture, fixture.taking_over(1));
    active.until_active();
    let standby = Running::start(&fixture, fixture.standby(1));
    standby.until_standby();
    fixture.until_stored();
    fixture.reset(ResetFrom::Kept).unwrap();
    assert_eq!((active.ended(), standby.ended()), (75, 75));
    let standby = Running::start(&fixture, fixture.standby(1));
    standby.until_active();
    fixture.append(closing(&fixture, 20_000));
    fixture.until_final(all_final_ms(20_000));
    standby.stop();
    check(&fixture, &oracle);
}

/// After a reset, the final-until time may lie within a window of the new size. A run rounds the final-until time up to
/// the end of that window, but stores the original value in its first heartbeat, so that a run that begins from the
/// heartbeat rounds the same value.
#[test]
fn the_first_heartbeat_after_a_reset_repeats_the_final_time_as_it_was_stored() {
    let fixture = Fixture::new(1);
    let begun = Running::start(&fixture, fixture.taking_over(1));
    begun.until_active();
    fixture.until_stored();
    begun.stop();
    fixture.commit_as(|progress| {
        progress.as_object_mut().unwrap().remove("settings");
        progress["final_until_ms"] = (T0 + 13).into();
    });
    let before = fixture.commits();
    let run = Running::start(&fixture, fixture.taking_over(1));
    run.until_active();
    fixture.until_commit_after(before);
    let settings = fixture.progress().unwrap().settings.unwrap();
    assert_eq!(settings.number(WINDOW_MS), Some(2000));
    assert_eq!(fixture.final_until_ms(), T0 + 13);
    run.stop();
}

#[test]
fn a_run_ends_with_75_also_after_a_reset_that_keeps_its_settings() {
    let fixture = Fixture::new(1);
    let active = Running::start(&fixture, fixture.taking_over(1));
    active.until_active();
    fixture.until_stored();
    fixture.reject_ahead();
    assert_eq!(active.ended(), 75);
}

#[test]
fn a_standby_of_other_settings_refuses_at_once_and_when_they_change() {
    let fixture = Fixture::new(1);
    let active = Running::start(&fixture, fixture.taking_over(1));
    active.until_active();
    fixture.until_stored();
    let other = run_with(fixture.standby(1), |run| run.lateness_ms = 1000);
    assert_eq!(Running::start(&fixture, other).ended(), 78);
    assert_eq!(active.active(), 1);
    let standby = Running::start(&fixture, fixture.standby(1));
    standby.until_standby();
    active.stop();
    fixture.commit_as(|progress| progress["settings"]["lateness_ms"] = 1000.into());
    assert_eq!(standby.ended(), 78);
}

#[test]
fn a_standby_waits_for_minutes_where_the_last_record_has_no_heartbeat() {
    let fixture = Fixture::new(1);
    let active = Running::start(&fixture, fixture.taking_over(1));
    active.until_active();
    active.stop();
    fixture.commit_as(|progress| drop(progress.as_object_mut().unwrap().remove("heartbeat_ms")));
    let standby = Running::start(&fixture, fixture.standby(1));
    standby.until_standby();
    thread::sleep(2 * TAKEOVER);
    assert_eq!(standby.active(), 0);
    standby.stop();
}

#[test]
fn a_standby_that_detects_a_commit_just_before_the_fence_continues_to_wait() {
    let fixture = Fixture::new(1);
    let begun = Running::start(&fixture, fixture.taking_over(1));
    begun.until_active();
    begun.stop();
    let (before, after) = (fixture.commits(), fixture.clone());
    let commits = Arc::new(AtomicBool::new(false));
    let committed = commits.clone();
    // A takeover reads the end offsets of the reactions last, just before the check and the fence, so the other run
    // commits at that moment.
    let slow = fixture.faulty(|log| {
        log.before_offsets(move |topic| {
            let is_checking = topic == after.topics.reactions() && after.commits() == before;
            if is_checking && committed.load(Ordering::SeqCst) {
                committed.store(false, Ordering::SeqCst);
                after.commit_as(|_| {});
            }
        })
    });
    let standby = Running::start(&slow, slow.standby(1));
    standby.until_standby();
    commits.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    standby.until_active();
    let took = begun.elapsed();
    assert!(
        !commits.load(Ordering::SeqCst) && took > 2 * TAKEOVER - HEARTBEAT,
        "{took:?}"
    );
    standby.stop();
}
