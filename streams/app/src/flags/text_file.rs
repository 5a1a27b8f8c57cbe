//! Reads small text files that flags name: lists and secrets.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use crate::process::Failure;

/// Maximum bytes of a secret. A longer file was probably named by mistake.
const SECRET_BYTES: usize = 1024;

/// Maximum bytes of a file. A limit is necessary because a device such as `/dev/zero` never ends. Real lists of hosts
/// are shorter than this.
const FILE_BYTES: u64 = 1 << 20;

/// Returns the text of the file that `flag` names, without a byte order mark.
pub fn read(flag: &str, file: &Path) -> Result<String, Failure> {
    contents(file).map_err(|why| Failure::usage(flag, format!("{}: {why}", file.display())))
}

/// Returns the text of a file without a byte order mark, or the reason why it cannot be read.
pub fn contents(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let opened = File::open(file).map(|opened| opened.take(FILE_BYTES + 1));
    match opened.and_then(|mut most| most.read_to_string(&mut text)) {
        Ok(bytes) if bytes as u64 <= FILE_BYTES => Ok(without_bom(text)),
        Ok(_) => Err(format!(
            "is longer than {FILE_BYTES} bytes; check the name of the file"
        )),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(
            "is not UTF-8 text; write the content as text, and a binary secret as hexadecimal digits".to_owned(),
        ),
        Err(error) => Err(error.to_string()),
    }
}

/// Removes a byte order mark, which some editors write at the start of a file and do not show.
pub fn without_bom(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Returns the secret in the file that `flag` names, without white space around it.
pub fn secret(flag: &str, file: &Path) -> Result<String, Failure> {
    let secret = read(flag, file)?.trim().to_owned();
    match secret.len() {
        0 => Err(Failure::usage(flag, format!("{} is empty", file.display()))),
        1..=SECRET_BYTES => Ok(secret),
        _ => {
            let why = format!("{} is longer than {SECRET_BYTES} bytes", file.display());
            Err(Failure::usage(flag, why))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    /// An earlier version ignored a byte order mark in the file of `--jwt-key`, but used it as a part of the token in
    /// the file of `--relay-token-file`. Now all flags ignore a byte order mark.
    #[test]
    fn a_byte_order_mark_is_not_part_of_a_secret_or_a_list() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}hunter2\n").unwrap();
        assert_eq!(
            secret("--relay-token-file", file.path()).unwrap(),
            "hunter2"
        );
        assert_eq!(read("--hostfile", file.path()).unwrap(), "hunter2\n");
        std::fs::write(file.path(), "\u{feff}\n").unwrap();
        assert!(secret("--relay-token-file", file.path()).is_err());
    }
}
