//! Sends each datum of a collection at the time it belongs to.
//!
//! Differential sends changes of several times under one stamp, the earliest of them. The sink commits
//! by stamp: without this a result could be committed before the window it belongs to, and again after
//! a restart.

use std::collections::BTreeMap;

use differential_dataflow::VecCollection;
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{StreamVec, channels::pact::Pipeline, operators::generic::Operator},
};

/// What each time adds to a collection, at that time; what it takes away is left out.
pub fn additions<'scope, D: Clone + 'static>(
    changes: VecCollection<'scope, u64, D, isize>,
) -> StreamVec<'scope, u64, (D, u64)> {
    changes
        .inner
        .unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "additions", |_, _| {
            move |input, output| {
                input.for_each_stamp(|stamp, data| {
                    let mut times: BTreeMap<u64, Vec<(D, u64)>> = BTreeMap::new();
                    let changes = data.flat_map(|data| data.drain(..));
                    for (datum, time_ms, _) in changes.filter(|(.., diff)| *diff > 0) {
                        times.entry(time_ms).or_default().push((datum, time_ms));
                    }
                    for (time_ms, added) in times {
                        let at = stamp.delayed(&time_ms, 0);
                        output.session(&at).give_iterator(added.into_iter());
                    }
                });
            }
        })
}
