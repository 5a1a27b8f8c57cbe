//! What an application writes in a transaction.

use std::fmt::Debug;

use emostream_log::NewRecord;
use timely::ExchangeData;

/// A result of a closed window, on its way into a transaction. It travels to the sink as it is and becomes a record on
/// the thread that commits: encoding a large close would hold up a worker for as long as counting it.
pub trait SinkResult: ExchangeData + Clone + Debug {
    /// What results become records by.
    type Encoder: Clone + Send + 'static;

    /// Whether it is a final.
    fn is_final(&self) -> bool;

    /// The size of its record, roughly.
    fn bytes(&self) -> usize;

    /// Its record.
    fn record(&self, encoder: &Self::Encoder) -> NewRecord;
}
