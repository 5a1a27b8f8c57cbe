//! A process, a broker, another producer or a clock misbehaves: what was acknowledged is counted once or
//! reported as rejected with its reason, nothing punctual is late, and `/readyz` names what is in the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod harness;

mod time {
    mod clocks;
    mod fixture;
    mod future;
    mod idle;
    mod progress;
    mod totals;
}
