//! How many files the process may have open: every connection is one.

/// What is open beside connections: the log, its brokers, listeners, epoll, standard streams, connections to the
/// administrator and those that are just refused.
const BESIDE: u64 = 256;

/// Has the process open as many files as it may: shells and service managers mostly start it with 1024, and leave it
/// free to take more. Returns how many of `connections` it can serve.
///
/// Where that is less, it warns. Connections must not take the last files: `/healthz` would get none, and an
/// orchestrator would kill a process that serves all it can.
pub(crate) fn allow(connections: u32, relays: u32) -> u32 {
    let beside = BESIDE + u64::from(relays);
    let needed = u64::from(connections) + beside;
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    let allowed = raised.or_else(|_| rlimit::Resource::NOFILE.get_soft());
    let allowed = allowed.unwrap_or(needed);
    if allowed >= needed {
        return connections;
    }
    let served = served(allowed, beside).min(connections);
    tracing::warn!(
        "only {allowed} files may be open, so {served} connections are served at most, not {connections}; \
         raise the limit (ulimit -Hn, LimitNOFILE=) or lower --max-connections"
    );
    served
}

/// How many of the files that may be open are left for connections: half of them where `beside` would take more.
fn served(allowed: u64, beside: u64) -> u32 {
    let served = allowed - beside.min(allowed / 2);
    u32::try_from(served).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_the_last_files() {
        for (allowed, expected) in [(1024, 768), (600, 344), (256, 128), (2, 1), (1, 1), (0, 1)] {
            assert_eq!(served(allowed, BESIDE), expected, "{allowed}");
        }
    }
}
