//! A host clock that a test sets, for one process: Debian's libfaketime.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where Debian installs the library, below the folder of the architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The host clock of the processes that run with its environment. Their monotonic clock stays true.
pub struct HostClock {
    offset: PathBuf,
    library: PathBuf,
}

impl HostClock {
    /// A clock that shows the true time; its file is made in `dir`.
    pub fn new(dir: &Path) -> HostClock {
        let architectures = fs::read_dir("/usr/lib").unwrap();
        let library = architectures
            .map(|entry| entry.unwrap().path().join(LIBRARY))
            .find(|library| library.exists())
            .expect("libfaketime is missing; install it with: apt-get install faketime");
        let clock = HostClock {
            offset: dir.join("faketime"),
            library,
        };
        clock.set("+0");
        clock
    }

    /// The clock is so far ahead from now on.
    pub fn ahead(&self, by: Duration) {
        self.set(&format!("+{}", by.as_secs()));
    }

    /// The clock shows the true time from now on.
    pub fn correct(&self) {
        self.set("+0");
    }

    /// Replaced at once, for it may be read at any time.
    fn set(&self, offset: &str) {
        let new = self.offset.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    /// What a process is started with.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.offset)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
