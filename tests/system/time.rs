//! Tests of faults of processes, brokers, other producers and clocks. Each acknowledged reaction is counted once or
//! rejected with a reason, no reaction that arrived in time is late, and `/readyz` names the cause of a delay.

mod clocks;
mod fixture;
mod future;
mod idle;
mod progress;
mod totals;
