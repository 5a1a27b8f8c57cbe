//! Making topics.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::RDKafkaErrorCode,
};

use super::{
    PATIENCE,
    config::{Config, signed},
    context::Events,
};
use crate::{Cleanup, LogError, TopicSpec};

/// How often a new topic is asked for until it is known.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Makes the topic unless it exists.
pub(super) fn create_topic(config: &Config, spec: &TopicSpec) -> Result<(), LogError> {
    let events = Events::default();
    let admin: AdminClient<Events> = config.create(&config.client(), events.clone())?;
    let settings = settings(spec);
    let mut topic = NewTopic::new(
        &spec.name,
        signed(spec.partitions),
        TopicReplication::Fixed(signed(spec.replication)),
    );
    for (key, value) in &settings {
        topic = topic.set(key, value);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE));
    let refused = |why: &dyn std::fmt::Display| {
        LogError::Refused(format!("topic {} cannot be created: {why}", spec.name))
    };
    let answers =
        wait_for(admin.create_topics([&topic], &options)).map_err(|error| refused(&error))?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut)) => {
                return Err(LogError::Unreachable {
                    brokers: config.brokers().to_owned(),
                    detail: events
                        .last()
                        .unwrap_or_else(|| "no answer to CreateTopics".to_owned()),
                });
            }
            Err((_, code)) => return Err(refused(&code)),
        }
    }
    Ok(())
}

fn settings(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let mut settings = match spec.cleanup {
        Cleanup::Compact => vec![("cleanup.policy", "compact".to_owned())],
        Cleanup::Delete { after, bytes } => {
            let mut delete = vec![
                ("cleanup.policy", "delete".to_owned()),
                ("retention.ms", after.as_millis().to_string()),
            ];
            delete.extend(bytes.map(|bytes| ("retention.bytes", bytes.to_string())));
            delete
        }
    };
    let ahead = spec.max_ahead.map(|most| most.as_millis().to_string());
    settings.extend(ahead.map(|ms| ("message.timestamp.after.max.ms", ms)));
    settings
}

/// A new topic is made by the controller; the brokers that are asked hear of it a little later.
pub(super) fn wait_until_known(
    partitions: impl Fn() -> Result<u32, LogError>,
) -> Result<(), LogError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match partitions() {
            Ok(_) => return Ok(()),
            Err(LogError::UnknownTopic { .. }) if Instant::now() < until => {
                thread::sleep(ASK_AGAIN)
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for a future of librdkafka's admin client, whose own thread wakes us; no runtime is needed.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
