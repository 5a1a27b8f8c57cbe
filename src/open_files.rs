//! How many files the process may have open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open beside connections: the log, its brokers, listeners, epoll, standard streams.
const BESIDE: u64 = 256;

/// Has the process open as many files as `connections` need: shells and service managers mostly start it with
/// 1024, and leave it free to take more. Warns where that is not enough.
pub(crate) fn allow(connections: u32) {
    let needed = u64::from(connections) + BESIDE;
    let limit = getrlimit(Resource::Nofile);
    let enough = |current: Option<u64>| current.is_none_or(|current| current >= needed);
    if enough(limit.current) {
        return;
    }
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let allowed = match setrlimit(Resource::Nofile, all) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    if !enough(allowed) {
        let allowed = allowed.unwrap_or(u64::MAX);
        tracing::warn!(
            "only {allowed} files may be open, and {connections} connections need {needed}; \
             raise the limit (ulimit -Hn, LimitNOFILE=) or lower --max-connections"
        );
    }
}
