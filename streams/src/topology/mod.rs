//! Topologies: the calls that declare what an application reads, counts and writes, in the order of the data.
//!
//! ```text
//!  topology function ─▶ calls are recorded ─┬─▶ topics, window, span, retention: the configuration
//!    (runs once)                            └─▶ operators, built on each worker
//! ```
//!
//! A topology is declared by a function, which is called once, when the [`Application`] is created. The function builds
//! no operator: the calls that it makes are recorded, and each worker builds the operators from the recorded calls. So
//! every topic is known before a run begins.
//!
//! ```
//! # use emostream_log::Record;
//! # use emostream_streams::{
//! #     aggregate::pre_aggregator::{Event, InternedKeys}, operators::tumbling::ClosedWindow,
//! #     operators::records::ValueFormat, source::format::{Format, RecordTimes}, topics::FinalSummary,
//! # };
//! use std::time::Duration;
//!
//! use emostream_protocol::WindowSize;
//! use emostream_streams::{
//!     config::AppConfig,
//!     topology::{Application, FinalFormat, Topology, Tumbling},
//! };
//!
//! # #[derive(Clone)]
//! # struct Lines;
//! # impl Format for Lines {
//! #     type Key = String;
//! #     type Item = ();
//! #     fn decode(
//! #         &self,
//! #         _: Record<'_>,
//! #         _: &mut InternedKeys<String>,
//! #         _: &mut Vec<Event<()>>,
//! #     ) -> Option<RecordTimes> {
//! #         None
//! #     }
//! # }
//! # #[derive(Debug, Clone)]
//! # struct Counts;
//! # impl ValueFormat<ClosedWindow<String, ()>> for Counts {
//! #     fn bytes(&self, _: &ClosedWindow<String, ()>) -> usize {
//! #         60
//! #     }
//! #     fn encode(&self, _: &ClosedWindow<String, ()>) -> Vec<u8> {
//! #         Vec::new()
//! #     }
//! # }
//! # impl FinalFormat<String, ()> for Counts {
//! #     fn summary(_: &[u8]) -> Option<FinalSummary> {
//! #         None
//! #     }
//! # }
//! let size = WindowSize::from_ms(2000).expect("the size of a window is above 0");
//! let app = Application::new(AppConfig::new("words"), |t: &Topology<Lines>| {
//!     t.source("words.lines", Lines)
//!         .group_by_key()
//!         .window(Tumbling::of(size))
//!         .count_by_item()
//!         .updates(Duration::from_millis(250), "words.live", |tally| {
//!             tally.key.clone().into_bytes()
//!         })
//!         .finals()
//!         .to("words.counts", Counts);
//! })?;
//! assert_eq!(
//!     app.config().topics.all(),
//!     ["words.lines", "words.counts", "words.live", "words.rejected", "words.progress"]
//! );
//! # Ok::<(), emostream_streams::StreamsError>(())
//! ```

mod application;
mod build;
mod builder;
mod describe;
mod formats;
mod json;
mod recorded;

pub use application::Application;
pub use build::{Counts, WorkerContext};
pub use builder::{
    Accumulated, Events, Finals, GroupedEvents, NoUpdates, Sliding, Sum, Topology, Tops, Tumbling,
    Updates, WindowCounts, WindowedEvents,
};
pub use formats::{DecodeCounts, FinalFormat, TopFormat, TotalsFormat};
pub use json::JsonFinals;
