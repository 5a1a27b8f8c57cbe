//! Sends each datum of a collection at the time it belongs to.
//!
//! Differential sends changes of several times under one stamp, the earliest of them. The sink commits
//! by stamp: without this a result could be committed before the window it belongs to, and again after
//! a restart.

use std::collections::BTreeMap;

use differential_dataflow::{
    Data, VecCollection,
    consolidation::consolidate,
    operators::arrange::{Arranged, TraceAgent},
    trace::implementations::{ValBuilder, ValSpine},
};
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

/// What `now` makes of a key's sums, whenever that changes; of no sums as well.
pub fn follow<'scope, K: Data, V: Data, W: Data>(
    sums: Arranged<'scope, TraceAgent<ValSpine<K, V, u64, i64>>>,
    name: &str,
    mut now: impl FnMut(&[(&V, i64)]) -> W + 'static,
) -> StreamVec<'scope, u64, ((K, W), u64)> {
    let known = sums.reduce_core::<_, ValBuilder<_, _, _, _>, ValSpine<K, W, u64, isize>, _, _>(
        name,
        move |_, sums, former, change| {
            change.extend(former.drain(..).map(|(value, diff)| (value, -diff)));
            change.push((now(sums), 1));
            consolidate(change);
        },
        |records, key, changes| {
            records.clear();
            let keyed = |(value, time, diff)| ((key.clone(), value), time, diff);
            records.extend(changes.drain(..).map(keyed));
        },
    );
    additions(known.as_collection(|key, value| (key.clone(), value.clone())))
}
