//! Small text files that flags name: lists, and secrets.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use crate::exit::Failure;

/// A longer secret is a file given by mistake.
const SECRET_BYTES: usize = 1024;

/// A list of all hosts is shorter, and a device is endless.
const FILE_BYTES: u64 = 1 << 20;

/// The text of the file that `flag` names.
pub(crate) fn read(flag: &str, file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let opened = File::open(file).map(|opened| opened.take(FILE_BYTES + 1));
    let why = match opened.and_then(|mut most| most.read_to_string(&mut text)) {
        Ok(bytes) if bytes as u64 <= FILE_BYTES => return Ok(text),
        Ok(_) => format!("is longer than {FILE_BYTES} bytes; name another file"),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            "is not text; write it as text, for example as hexadecimal digits".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Err(Failure::usage(flag, format!("{}: {why}", file.display())))
}

/// The secret in the file that `flag` names, without the blanks around it.
pub(crate) fn secret(flag: &str, file: &Path) -> Result<String, Failure> {
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
