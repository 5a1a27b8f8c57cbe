//! Administrative requests of a client with a token. librdkafka could send them, but rdkafka 0.39 does not serve the
//! events of an `AdminClient`, so an `AdminClient` never gets a token (rust-rdkafka, issue 757). So this module sends
//! the requests over its own connection, with messages of the crate kafka-protocol.
//!
//! ```text
//!  TCP ─▶ TLS (SASL_SSL) ─▶ SaslHandshake ─▶ SaslAuthenticate ─▶ request, answer
//! ```
//!
//! Each message has a version that both Kafka 3.6 and Kafka 4.x support.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, CreateTopicsRequest, CreateTopicsResponse, DescribeConfigsRequest,
        DescribeConfigsResponse, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader,
        SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
        SaslHandshakeResponse,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        describe_configs_request::DescribeConfigsResource,
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes, encode_request_header_into_buffer},
};
use rdkafka::{error::RDKafkaErrorCode, types::RDKafkaRespErr};

use super::Tokens;
use crate::{
    LogError, TopicSpec,
    kafka::{
        BROKER_TIMEOUT,
        config::{Config, signed},
        tls,
        trouble::Trouble,
    },
};

const CLIENT: &str = "emostream";
/// Maximum bytes of a response. The largest responses have the settings of one topic, or the names of some hundred
/// brokers.
const MAX_RESPONSE_BYTES: usize = 16 << 20;
const OF_TOPICS: i8 = 2;

/// Result of the creation of a topic, as of rdkafka's `AdminClient`: the topic's name, and the error code if it was not
/// created.
pub(in crate::kafka) type TopicResult = Result<String, (String, RDKafkaErrorCode)>;

/// Creates a topic with `settings`.
pub(in crate::kafka) fn create_topic(
    config: &Config,
    tokens: &Tokens,
    spec: &TopicSpec,
    settings: &[(&str, String)],
) -> Result<Vec<TopicResult>, LogError> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let settings = settings.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(text(&spec.name).into())
        .with_num_partitions(signed(spec.partitions))
        .with_replication_factor(i16::try_from(spec.replication).unwrap_or(i16::MAX))
        .with_configs(settings.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(i32::try_from(BROKER_TIMEOUT.as_millis()).unwrap_or(i32::MAX));
    let mut controller = Connection::any(config, tokens)?.controller(config, tokens)?;
    let answer: CreateTopicsResponse = controller.ask(ApiKey::CreateTopics, 7, &request)?;
    let results = answer.topics.into_iter().map(|topic| {
        let name = topic.name.to_string();
        match code(topic.error_code) {
            None => Ok(name),
            Some(code) => Err((name, code)),
        }
    });
    Ok(results.collect())
}

/// Returns a topic's settings, including the brokers' defaults, or the error code of the broker.
pub(in crate::kafka) fn settings_of(
    config: &Config,
    tokens: &Tokens,
    topic: &str,
) -> Result<Result<HashMap<String, String>, RDKafkaErrorCode>, LogError> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(OF_TOPICS)
        .with_resource_name(StrBytes::from_string(topic.to_owned()))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let mut broker = Connection::any(config, tokens)?;
    let answer: DescribeConfigsResponse = broker.ask(ApiKey::DescribeConfigs, 4, &request)?;
    let mut settings = HashMap::new();
    for result in answer.results {
        if let Some(code) = code(result.error_code) {
            return Ok(Err(code));
        }
        let entries = result.configs.into_iter();
        settings
            .extend(entries.filter_map(|it| Some((it.name.to_string(), it.value?.to_string()))));
    }
    Ok(Ok(settings))
}

fn code(code: i16) -> Option<RDKafkaErrorCode> {
    if code == 0 {
        return None;
    }
    let known = RDKafkaRespErr::try_from(i32::from(code));
    Some(known.map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from))
}

/// An authenticated connection.
struct Connection {
    broker: String,
    stream: Box<dyn Stream>,
    requests: i32,
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl Connection {
    /// Connects to the first of the configured brokers that responds.
    fn any(config: &Config, tokens: &Tokens) -> Result<Self, LogError> {
        let mut last = None;
        for broker in config.brokers().split(',') {
            // As in librdkafka, there may be a protocol before the address.
            let broker = broker.trim().rsplit("://").next().unwrap_or_default();
            match Self::open(broker, config, tokens) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| away(config.brokers(), "no broker is set")))
    }

    fn open(broker: &str, config: &Config, tokens: &Tokens) -> Result<Self, LogError> {
        let refused = |trouble: Trouble| LogError::Security {
            broker: broker.to_owned(),
            detail: trouble.to_string(),
        };
        let protocol = config.value("security.protocol").unwrap_or_default();
        let stream: Box<dyn Stream> = match protocol.eq_ignore_ascii_case("sasl_ssl") {
            true => {
                let settings =
                    tls::settings(config).map_err(|why| refused(Trouble::Handshake(why)))?;
                let secured =
                    tls::secured(settings, broker).map_err(|error| match tls::trouble(&error) {
                        Some(trouble) => refused(trouble),
                        None => away(broker, error),
                    })?;
                Box::new(secured)
            }
            false => Box::new(tls::connect(broker).map_err(|error| away(broker, error))?),
        };
        let mut connection = Self {
            broker: broker.to_owned(),
            stream,
            requests: 0,
        };
        let token = tokens
            .current()
            .map_err(|why| refused(Trouble::NoToken(why)))?;
        let mechanism = SaslHandshakeRequest::default()
            .with_mechanism(StrBytes::from_static_str("OAUTHBEARER"));
        let shaken: SaslHandshakeResponse = connection.ask(ApiKey::SaslHandshake, 1, &mechanism)?;
        if shaken.error_code != 0 {
            let known: Vec<&str> = shaken.mechanisms.iter().map(|it| &**it).collect();
            return Err(refused(Trouble::Mechanism(known.join(", "))));
        }
        // The format of this message is that of RFC 7628, section 3.1.
        let first = format!("n,,\x01auth=Bearer {}\x01\x01", token.token);
        let authenticate = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(first));
        let answer: SaslAuthenticateResponse =
            connection.ask(ApiKey::SaslAuthenticate, 2, &authenticate)?;
        let reason = answer.error_message.map(|message| message.to_string());
        // A broker that refuses a token first sends JSON without an error code, and waits for another message before it
        // fails. So JSON already means that the token is refused.
        let json = String::from_utf8_lossy(&answer.auth_bytes).into_owned();
        match (answer.error_code, json.is_empty()) {
            (0, true) => Ok(connection),
            (0, false) => Err(refused(Trouble::Token(json))),
            _ => Err(refused(Trouble::Token(reason.unwrap_or_default()))),
        }
    }

    /// Connects to the controller, the broker that creates topics. With KRaft every broker forwards the request to it;
    /// with ZooKeeper no broker does.
    fn controller(mut self, config: &Config, tokens: &Tokens) -> Result<Self, LogError> {
        let nothing = MetadataRequest::default()
            .with_topics(Some(Vec::new()))
            .with_allow_auto_topic_creation(false);
        let answer: MetadataResponse = self.ask(ApiKey::Metadata, 12, &nothing)?;
        let mut brokers = answer.brokers.iter();
        let controller = brokers.find(|broker| broker.node_id == answer.controller_id);
        let Some(controller) = controller else {
            return Ok(self);
        };
        match format!("{}:{}", &*controller.host, controller.port) {
            address if address == self.broker => Ok(self),
            address => Self::open(&address, config, tokens),
        }
    }

    fn ask<Q: Encodable, A: Decodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> Result<A, LogError> {
        self.exchange(key, version, request)
            .map_err(|error| away(&self.broker, error))
    }

    fn exchange<Q: Encodable, A: Decodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> io::Result<A> {
        let wrong = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("the broker responds in another protocol: {error}"))
        };
        self.requests += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.requests)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT)));
        let mut sent = BytesMut::new();
        encode_request_header_into_buffer(&mut sent, &header).map_err(|error| wrong(&error))?;
        request
            .encode(&mut sent, version)
            .map_err(|error| wrong(&error))?;
        let length = u32::try_from(sent.len()).map_err(|error| wrong(&error))?;
        self.stream.write_all(&length.to_be_bytes())?;
        self.stream.write_all(&sent)?;
        self.stream.flush()?;

        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_RESPONSE_BYTES {
            return Err(wrong(&format!("{length} bytes")));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let version_of_header = A::header_version(version);
        let header = ResponseHeader::decode(&mut answer, version_of_header);
        let header = header.map_err(|error| wrong(&error))?;
        if header.correlation_id != self.requests {
            return Err(wrong(&"the response is for another request"));
        }
        A::decode(&mut answer, version).map_err(|error| wrong(&error))
    }
}

fn away(broker: &str, why: impl std::fmt::Display) -> LogError {
    LogError::Unreachable {
        brokers: broker.to_owned(),
        detail: why.to_string(),
    }
}
