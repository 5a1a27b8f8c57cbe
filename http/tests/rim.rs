//! The HTTP rim as a client's raw bytes meet it.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "rim/http1.rs"]
mod http1;
#[path = "rim/http2.rs"]
mod http2;
#[path = "rim/identity.rs"]
mod identity;
#[path = "rim/keep_alive.rs"]
mod keep_alive;
#[path = "rim/stage.rs"]
mod stage;
#[path = "rim/tls.rs"]
mod tls;
#[path = "rim/trust.rs"]
mod trust;
