//! A host clock that a test can set for one process, by Debian's libfaketime.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Path at which Debian installs the library, below the folder of the architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The host clock of processes that run with [`HostClock::environment`]. Their monotonic clock is not changed.
pub struct HostClock {
    offset: PathBuf,
    library: PathBuf,
}

impl HostClock {
    /// Creates a clock that shows the true time. Its file is in `dir`.
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

    /// Sets the clock ahead of the true time.
    pub fn ahead(&self, by: Duration) {
        self.set(&format!("+{}", by.as_secs()));
    }

    /// Sets the clock to the true time.
    pub fn correct(&self) {
        self.set("+0");
    }

    /// Replaces the file atomically, since a process may read it at any time.
    fn set(&self, offset: &str) {
        let new = self.offset.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    /// Returns the environment variables for a process that uses this clock.
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
