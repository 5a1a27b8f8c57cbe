//! The trait of the results that an application writes in transactions.

use std::fmt::Debug;

use emostream_log::NewRecord;
use timely::ExchangeData;

/// A result of a closed window. It is sent to the sink as it is, and encoded as a record by the commit thread: to
/// encode the results of a large close would block a worker for as long as to compute them.
pub trait SinkResult: ExchangeData + Clone + Debug {
    /// The values that are needed to encode results.
    type Encoder: Clone + Send + 'static;

    /// Whether it is a final.
    fn is_final(&self) -> bool;

    /// Returns the approximate size of its record, bytes.
    fn bytes(&self) -> usize;

    /// Returns its record.
    fn record(&self, encoder: &Self::Encoder) -> NewRecord;
}
