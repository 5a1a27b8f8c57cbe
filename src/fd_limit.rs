//! The limit on open files (`RLIMIT_NOFILE`): each connection needs one.

/// Open files beside connections: the log, connections to brokers, listeners, epoll, standard streams, connections to the
/// admin address, and connections that are being refused.
const RESERVED: u64 = 256;

/// Raises the soft limit to the hard limit: shells and service managers often set the soft limit to 1024. Returns how
/// many of `connections` the process can serve beside `relays`.
///
/// Logs a warning if that is less than `connections`. Connections must not use the last files: `/healthz` would fail,
/// and an orchestrator would kill a process that is only at its limit.
pub(crate) fn raise(connections: u32, relays: u32) -> u32 {
    let reserved = RESERVED + u64::from(relays);
    let needed = u64::from(connections) + reserved;
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    let allowed = raised.or_else(|_| rlimit::Resource::NOFILE.get_soft());
    let allowed = allowed.unwrap_or(needed);
    if allowed >= needed {
        return connections;
    }
    let served = served(allowed, reserved).min(connections);
    tracing::warn!(
        "only {allowed} files may be open, so {served} connections are served at most, not {connections}; \
         raise the limit (ulimit -Hn, LimitNOFILE=) or lower --max-connections"
    );
    served
}

/// Returns how many connections `allowed` open files leave beside `reserved`, which is limited to half of them.
fn served(allowed: u64, reserved: u64) -> u32 {
    let served = allowed - reserved.min(allowed / 2);
    u32::try_from(served).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_use_the_last_files() {
        for (allowed, expected) in [(1024, 768), (600, 344), (256, 128), (2, 1), (1, 1), (0, 1)] {
            assert_eq!(served(allowed, RESERVED), expected, "{allowed}");
        }
    }
}
