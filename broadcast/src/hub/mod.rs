//! All rooms, behind locks, and the single entry point of updates.

pub(crate) mod entry;
pub(crate) mod offsets;
pub(crate) mod rejected_update;
pub(crate) mod rooms;
pub(crate) mod subscriber;
pub(crate) mod update_log;
pub(crate) mod updates;
pub(crate) mod upstream_status;
pub(crate) mod window_settings;
