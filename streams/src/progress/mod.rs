//! The progress of an application: the value, its stored form, and its comparison with the log.

pub mod newest;
pub mod record;
pub mod settings;
pub mod stored;
pub mod validate;
