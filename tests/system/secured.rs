//! Tests of a Kafka with TLS, authentication and ACLs. Each role works with exactly the permissions that `topics check`
//! prints, each failure is one sentence that names its cause, and no output contains a secret.

mod fixture;
mod logins;
mod permissions;
mod refusals;
mod secrets;
mod tokens;
