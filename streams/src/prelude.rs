//! The names that a topology and the format of its source need, to be imported by `use emostream_streams::prelude::*`.

pub use emostream_log::Record;
pub use emostream_protocol::WindowSize;

pub use crate::{
    StreamsError,
    aggregate::pre_aggregator::{Event, InternedKeys},
    config::{AppConfig, RunConfig},
    source::format::{Format, RecordTimes},
    topics::Topic,
    topology::{Application, JsonFinals, Sum, Topology, Tumbling},
};
