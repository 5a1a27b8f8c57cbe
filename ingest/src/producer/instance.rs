//! The id of the ingest process that wrote a batch.

use rustix::system::uname;

/// Returns an id for this process: the host's name and four random hexadecimal digits, since a host may run several
/// processes, at once or one after another.
pub(crate) fn new_id() -> String {
    let host = uname();
    let host = host.nodename().to_string_lossy();
    format!("{host}-{:04x}", rand::random::<u16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_host_name_and_four_hexadecimal_digits() {
        let id = new_id();
        let (host, digits) = id.rsplit_once('-').unwrap_or_default();
        assert!(!host.is_empty(), "{id}");
        let hexadecimal = |c: char| c.is_ascii_hexdigit();
        assert!(digits.len() == 4 && digits.chars().all(hexadecimal), "{id}");
    }
}
