//! Raises the limit on open files (`RLIMIT_NOFILE`), since each connection needs an open file.

/// Number of open files that are reserved for other purposes than connections: the log, connections to brokers,
/// listeners, epoll, standard streams, connections to the admin address, and connections that are being refused.
const RESERVED: u64 = 256;

/// Raises the soft limit to the hard limit, since shells and service managers often set the soft limit to 1024. Returns
/// how many connections, at most `connections`, the process can serve in addition to `relays` relays.
///
/// Logs a warning if the result is less than `connections`. Connections must not use all files: otherwise `/healthz`
/// could not be served, and an orchestrator would kill a process that has only reached its limit.
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

/// Returns the number of connections that can be served if `allowed` files may be open and `reserved` of them are kept
/// for other purposes. At most half of the files are kept.
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
