//! Creates topics, and reads their settings.

#![allow(clippy::disallowed_methods, reason = "waits for the brokers")]

use std::{
    collections::HashMap,
    future::Future,
    net::ToSocketAddrs,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
};

use super::{
    BROKER_TIMEOUT,
    config::{Config, signed},
    context::Events,
    failure::{self, Operation},
    oauth,
};
use crate::{Cleanup, Deletion, LogError, Timestamps, TopicSpec};

/// Timeout of the request that shows at start-up whether the advertised brokers can be reached.
const ADVERTISED_TIMEOUT: Duration = Duration::from_secs(4);

/// The topic of a metadata request that is not about a topic: otherwise the response would contain every topic of the
/// cluster. The topic need not exist.
const ANY_TOPIC: &str = "__consumer_offsets";

/// Maximum time until the brokers know a new topic. It takes seconds on a broker with little CPU.
const NEW_TOPIC_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval of the requests until the brokers know a new topic.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Creates the topic unless it exists.
pub(super) fn create_topic(config: &Config, spec: &TopicSpec) -> Result<(), LogError> {
    let events = config.events();
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
        .request_timeout(Some(BROKER_TIMEOUT))
        .operation_timeout(Some(BROKER_TIMEOUT));
    let refused = |why: &dyn std::fmt::Display| {
        LogError::Refused(format!("topic {} cannot be created: {why}", spec.name))
    };
    let answers = match config.tokens() {
        Some(tokens) => oauth::admin::create_topic(config, tokens, spec, &settings)?,
        None => {
            let admin: AdminClient<Events> = config.create(&config.client(), events.clone())?;
            wait_for(admin.create_topics([&topic], &options)).map_err(|error| {
                no_response(config, &events, failure::code(&error), "CreateTopics")
                    .unwrap_or_else(|| refused(&error))
            })?
        }
    };
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                let silent = no_response(config, &events, Some(code), "CreateTopics");
                let copies = spec.replication;
                return Err(silent.unwrap_or_else(|| match code {
                    code if failure::is_denial(code) => {
                        Operation::Create.denied(format!("topic {}", spec.name))
                    }
                    RDKafkaErrorCode::InvalidReplicationFactor => refused(&format!(
                        "{copies} copies of each partition (--replication) need as many brokers"
                    )),
                    _ => refused(&code),
                }));
            }
        }
    }
    Ok(())
}

/// The setting that allows a replica without all acknowledged records to become the leader.
const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";

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
    settings.push(("min.insync.replicas", spec.min_in_sync.to_string()));
    settings.push((UNCLEAN_ELECTION, "false".to_owned()));
    let ahead = spec.max_ahead.map(|most| most.as_millis().to_string());
    settings.extend(ahead.map(|ms| ("message.timestamp.after.max.ms", ms)));
    settings
}

/// Settings of a topic that concern its records.
pub(super) struct Settings {
    pub(super) compacted: bool,
    pub(super) deleted: Option<Deletion>,
    pub(super) timestamps: Timestamps,
    pub(super) max_record_bytes: Option<u64>,
    pub(super) min_in_sync: u32,
    pub(super) unclean_election: bool,
}

/// Requests the topic's settings, including the brokers' defaults.
pub(super) fn settings_of(config: &Config, topic: &str) -> Result<Settings, LogError> {
    let events = config.events();
    let options = AdminOptions::new().request_timeout(Some(BROKER_TIMEOUT));
    let wanted = [ResourceSpecifier::Topic(topic)];
    let refused = |why: &dyn std::fmt::Display| {
        LogError::Refused(format!("topic {topic} cannot be described: {why}"))
    };
    let described = match config.tokens() {
        Some(tokens) => oauth::admin::settings_of(config, tokens, topic)?,
        None => {
            let admin: AdminClient<Events> = config.create(&config.client(), events.clone())?;
            let answers = wait_for(admin.describe_configs(&wanted, &options)).map_err(|error| {
                no_response(config, &events, failure::code(&error), "DescribeConfigs")
                    .unwrap_or_else(|| refused(&error))
            })?;
            let answer = answers.into_iter().next();
            let described = answer.ok_or_else(|| refused(&"no response"))?;
            // rdkafka drops the error of a resource. Every topic that may be described has settings, so a response
            // without settings means a missing permission.
            let described = described.and_then(|it| match it.entries.is_empty() {
                true => Err(RDKafkaErrorCode::TopicAuthorizationFailed),
                false => Ok(it.entries),
            });
            described.map(|entries| {
                let valued = entries.into_iter();
                valued
                    .filter_map(|entry| Some((entry.name, entry.value?)))
                    .collect()
            })
        }
    };
    let described: HashMap<String, String> = described.map_err(|code| {
        let silent = no_response(config, &events, Some(code), "DescribeConfigs");
        silent.unwrap_or_else(|| match failure::is_denial(code) {
            true => Operation::DescribeConfigs.denied(format!("topic {topic}")),
            false => refused(&code),
        })
    })?;
    Ok(read_settings(|name| described.get(name).cloned()))
}

/// Parses settings. Kafka represents "no limit" by -1 or by the greatest integer.
fn read_settings(value: impl Fn(&str) -> Option<String>) -> Settings {
    let number = |name: &str| {
        let number: Option<i64> = value(name).and_then(|text| text.parse().ok());
        number
            .filter(|number| *number != i64::MAX)
            .and_then(|number| u64::try_from(number).ok())
    };
    let policy = value("cleanup.policy").unwrap_or_default();
    let has = |word: &str| policy.split(',').any(|it| it.trim() == word);
    Settings {
        compacted: has("compact"),
        deleted: has("delete").then(|| Deletion {
            after: number("retention.ms").map(Duration::from_millis),
            bytes: number("retention.bytes"),
        }),
        max_record_bytes: number("max.message.bytes"),
        min_in_sync: number("min.insync.replicas").map_or(1, |replicas| replicas as u32),
        unclean_election: value(UNCLEAN_ELECTION).as_deref() == Some("true"),
        timestamps: timestamps(&value, number),
    }
}

/// Returns the source of record times. Brokers before Kafka 3.6 do not report `message.timestamp.after.max.ms`, not
/// even its default, so a missing value means that they have no such limit.
fn timestamps(
    value: impl Fn(&str) -> Option<String>,
    number: impl Fn(&str) -> Option<u64>,
) -> Timestamps {
    const MAX_AHEAD: &str = "message.timestamp.after.max.ms";
    match value("message.timestamp.type").as_deref() {
        Some("LogAppendTime") => Timestamps::Appended,
        _ if value(MAX_AHEAD).is_none() => Timestamps::WrittenWithoutLimit,
        _ => Timestamps::Written {
            max_ahead: number(MAX_AHEAD).map(Duration::from_millis),
        },
    }
}

/// Returns the error for a request that got no response in time; `None` if `code` has another meaning.
fn no_response(
    config: &Config,
    events: &Events,
    code: Option<RDKafkaErrorCode>,
    question: &str,
) -> Option<LogError> {
    let silent = matches!(
        code,
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut)
    );
    let trouble = || {
        events
            .last()
            .unwrap_or_else(|| format!("no response to {question}"))
    };
    silent.then(|| failure::silence(config.brokers(), trouble()))
}

/// Fails if this host can reach none of the brokers that the cluster advertises: all further requests go to them, and
/// each would wait for its whole timeout.
pub(super) fn check_advertised(
    client: &BaseConsumer<Events>,
    configured: &str,
) -> Result<(), LogError> {
    let Ok(metadata) = client.fetch_metadata(Some(ANY_TOPIC), ADVERTISED_TIMEOUT) else {
        // The request may fail because librdkafka has closed the connection to the broker that responded, and tries the
        // advertised brokers instead.
        let trouble = client.context().last();
        return match trouble.map(|trouble| failure::silence(configured, trouble)) {
            Some(error @ LogError::Advertised { .. }) => Err(error),
            // The next request to the brokers reports the reason.
            _ => Ok(()),
        };
    };
    let mut unknown = Vec::new();
    for broker in metadata.brokers() {
        let (host, port) = (broker.host(), broker.port());
        match (host, u16::try_from(port).unwrap_or_default()).to_socket_addrs() {
            Ok(_) => return Ok(()),
            Err(error) => unknown.push(format!("{host}:{port}: {error}")),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    Err(LogError::Advertised {
        brokers: configured.to_owned(),
        detail: unknown.join(", "),
    })
}

/// Waits until the brokers know a new topic: the controller creates it, and the other brokers receive it a little
/// later.
pub(super) fn wait_until_known(
    partitions: impl Fn() -> Result<u32, LogError>,
) -> Result<(), LogError> {
    let until = Instant::now() + NEW_TOPIC_TIMEOUT;
    loop {
        match partitions() {
            Ok(_) => return Ok(()),
            Err(LogError::UnknownTopic { .. }) if Instant::now() < until => {
                thread::sleep(RETRY_INTERVAL)
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for a future of rdkafka's admin client without an async runtime. The client's own thread wakes this one.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Settings {
        read_settings(|name| {
            let found = settings.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_broker_without_the_limit_of_future_times_differs_from_one_with_no_limit() {
        let policy = ("cleanup.policy", "delete");
        let written = ("message.timestamp.type", "CreateTime");
        let key = "message.timestamp.after.max.ms";
        let max_ahead = |limit| read(&[policy, written, (key, limit)]).timestamps;
        assert_eq!(
            max_ahead("5000"),
            Timestamps::Written {
                max_ahead: Some(Duration::from_secs(5))
            }
        );
        assert_eq!(
            max_ahead("9223372036854775807"),
            Timestamps::Written { max_ahead: None }
        );
        let old = ("message.timestamp.difference.max.ms", "9223372036854775807");
        assert_eq!(
            read(&[policy, written, old]).timestamps,
            Timestamps::WrittenWithoutLimit
        );
        let appended = ("message.timestamp.type", "LogAppendTime");
        assert_eq!(read(&[policy, appended]).timestamps, Timestamps::Appended);
    }
}
