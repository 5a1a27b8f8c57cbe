//! Results that are written to the log, and the streams from which the sink receives them.

use std::{fmt::Debug, sync::Arc};

use emostream_log::NewRecord;
use emostream_protocol::ResultOrder;
use serde::{Deserialize, Serialize};
use timely::{
    ExchangeData,
    dataflow::{
        StreamVec, channels::pact::Exchange, operators::generic::builder_rc::OperatorBuilder,
    },
};

/// A result that is written in a transaction. The sink receives the result itself, and the commit thread encodes it as
/// a record: encoding the results of a large close takes as long as computing them, and would block a worker.
pub trait SinkResult: Debug + Send {
    /// Whether the result is a final.
    fn is_final(&self) -> bool;

    /// Returns the approximate size of the result's record, bytes.
    fn bytes(&self) -> usize;

    /// Returns the record of the result.
    fn record(&self) -> NewRecord;
}

/// Encodes the results of a stream.
pub trait ResultEncoder<T>: Send + Sync + 'static {
    /// Whether the results are finals. Other results are records of tables.
    const IS_FINAL: bool;

    /// Returns the approximate size of the record of a result, bytes.
    fn bytes(&self, result: &T) -> usize;

    /// Returns the record of a result.
    fn encode(&self, result: &T) -> NewRecord;
}

/// A result with its encoder.
#[derive(Debug)]
struct Unencoded<T, E> {
    result: T,
    encoder: Arc<E>,
}

impl<T: Debug + Send, E: ResultEncoder<T> + Debug> SinkResult for Unencoded<T, E> {
    fn is_final(&self) -> bool {
        E::IS_FINAL
    }

    fn bytes(&self) -> usize {
        self.encoder.bytes(&self.result)
    }

    fn record(&self) -> NewRecord {
        self.encoder.encode(&self.result)
    }
}

/// A function that removes all results that have arrived at an input of the sink. For each result, it calls the given
/// function with the time and the result.
pub type DrainResults = Box<dyn FnMut(&mut dyn FnMut(u64, Box<dyn SinkResult>))>;

type Connect<'scope> = Box<dyn FnOnce(&mut OperatorBuilder<'scope, u64>) -> DrainResults + 'scope>;

/// The oldest final of a worker's keys that is in no record of a table, as of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrittenSince {
    /// The index of the worker.
    pub worker: usize,
    /// The order of the oldest final that is in no record; `None` if the records contain all finals.
    pub since: Option<ResultOrder>,
}

/// The streams of results that the sink writes.
///
/// The results of a stream are written in the order in which they arrive. Within a transaction, the results of
/// different streams have no order, so results of one topic whose order matters must be in one stream or in different
/// transactions.
#[derive(Default)]
pub struct ResultStreams<'scope> {
    streams: Vec<Connect<'scope>>,
    /// Notices of the oldest final that is in no totals record; `None` if there is no table of totals.
    pub unwritten: Option<StreamVec<'scope, u64, UnwrittenSince>>,
}

impl<'scope> ResultStreams<'scope> {
    /// Adds a stream of results, which `encoder` encodes.
    pub fn add<T, E>(&mut self, stream: StreamVec<'scope, u64, T>, encoder: E)
    where
        T: ExchangeData + Debug + Send,
        E: ResultEncoder<T> + Debug,
    {
        let encoder = Arc::new(encoder);
        self.streams.push(Box::new(move |builder| {
            let mut input = builder.new_input(stream, Exchange::new(|_: &T| 0));
            Box::new(move |each| {
                input.for_each_stamp(|stamp, data| {
                    let time_ms = stamp.least().copied().unwrap_or_default();
                    for result in data.flat_map(|data| data.drain(..)) {
                        let encoder = encoder.clone();
                        each(time_ms, Box::new(Unencoded { result, encoder }));
                    }
                });
            })
        }));
    }

    /// Adds the streams as inputs of an operator, which exchanges them to the first worker.
    pub fn connect(self, builder: &mut OperatorBuilder<'scope, u64>) -> Vec<DrainResults> {
        let streams = self.streams.into_iter();
        streams.map(|connect| connect(builder)).collect()
    }
}
