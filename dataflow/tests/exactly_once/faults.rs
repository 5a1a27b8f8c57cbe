//! Things that happen at the worst moment, by a log that lets a test in between.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    time::Duration,
};

use emostream_log::{
    Appender, Log, LogError, Reader, TopicDescription, TopicSpec, Transactor, Wake,
};

use crate::{DEADLINE, Stage, all_final_ms, check, closing, events, rng};

/// The stage's log, which first does what the test asks.
struct Interposed {
    log: Arc<dyn Log>,
    before_fencing: Box<dyn Fn() + Send + Sync>,
    before_offsets: Box<dyn Fn(&str) + Send + Sync>,
}

impl Interposed {
    fn on(stage: &Stage) -> Interposed {
        Interposed {
            log: stage.log.clone(),
            before_fencing: Box::new(|| {}),
            before_offsets: Box::new(|_| {}),
        }
    }
}

impl Log for Interposed {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.log.create_topic(spec)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        self.log.describe(topic)
    }

    fn answers(&self, topic: &str, patience: Duration) -> Result<(), LogError> {
        self.log.answers(topic, patience)
    }

    fn offsets(&self, topic: &str, partition: u32) -> Result<Range<u64>, LogError> {
        (self.before_offsets)(topic);
        self.log.offsets(topic, partition)
    }

    fn offset_at(&self, topic: &str, partition: u32, time_ms: u64) -> Result<u64, LogError> {
        self.log.offset_at(topic, partition, time_ms)
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader(topic, from, wake)
    }

    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        self.log.appender(timeout)
    }

    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        (self.before_fencing)();
        self.log.transactor(id, timeout)
    }
}

#[test]
fn what_an_older_run_commits_until_it_is_fenced_is_not_counted_again() {
    let stage = Stage::new(1);
    let (records, oracle) = events(&stage, &mut rng(3), 20_000);
    let (before, after) = records.split_at(records.len() / 2);
    stage.append(before.to_vec());
    let mut after = after.to_vec();
    after.extend(closing(&stage, 20_000));
    let older = stage.clone();
    let newer = Stage {
        log: Arc::new(Interposed {
            before_fencing: Box::new(move || {
                let enough = || older.final_until_ms() > 0;
                older.run_until(older.config(1), enough);
                older.append(after.clone());
            }),
            ..Interposed::on(&stage)
        }),
        ..stage.clone()
    };
    newer.run_until(newer.config(1), || {
        stage.final_until_ms() >= all_final_ms(20_000)
    });
    check(&stage, &oracle);
}

#[test]
fn a_stop_waits_for_one_answer_of_the_log_not_for_one_a_partition() {
    let stage = Stage::new(4);
    let asked = Arc::new(AtomicUsize::new(0));
    let (measuring, measures) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let (count, topic) = (asked.clone(), stage.topics.reactions());
    let slow = Stage {
        log: Arc::new(Interposed {
            before_offsets: Box::new(move |of| {
                // The first four ask where to begin; what follows measures the lag.
                if of == topic && count.fetch_add(1, Ordering::SeqCst) >= 4 {
                    measuring.send(()).unwrap();
                    let _ = may_go_on.lock().unwrap().recv();
                }
            }),
            ..Interposed::on(&stage)
        }),
        ..stage.clone()
    };
    let (stop, running) = slow.start(slow.config(1));
    measures.recv_timeout(DEADLINE).unwrap();
    stop.request();
    drop(go_on);
    running.join().unwrap().unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}
