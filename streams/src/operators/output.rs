//! The outputs of an operator.

use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        operators::generic::{OutputBuilder, OutputBuilderSession, builder_rc::OperatorBuilder},
    },
};

/// The builder of the containers in which data are sent.
type Collected<D> = CapacityContainerBuilder<Vec<D>>;

/// An activated output of an operator, to which the operator sends data while it runs.
pub(super) type Output<'a, D> = OutputBuilderSession<'a, u64, Collected<D>>;

/// Adds an output to an operator. Returns the output and its stream.
pub(super) fn new_output<'scope, D: Clone + 'static>(
    builder: &mut OperatorBuilder<'scope, u64>,
) -> (OutputBuilder<u64, Collected<D>>, StreamVec<'scope, u64, D>) {
    let (output, stream) = builder.new_output();
    (OutputBuilder::from(output), stream)
}
