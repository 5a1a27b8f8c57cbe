//! Where an application stands: the record, its stored form, and whether it fits the log.

pub mod newest;
pub mod record;
pub mod settings;
pub mod stored;
pub mod validate;
