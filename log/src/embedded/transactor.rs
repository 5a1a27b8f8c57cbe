//! Transactions of the embedded log, fenced by an epoch in the database.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use super::{
    Core,
    queue::{Request, record_bytes},
};
use crate::{LogError, NewRecord, Transactor};

/// Maximum bytes of a transaction, which is in memory until it is committed. It has room for the results of some
/// windows of 10,000 rooms with 50 emojis each.
const TRANSACTION_BYTES: usize = 256 * 1024 * 1024;

pub(super) struct EmbeddedTransactor {
    core: Arc<Core>,
    id: String,
    epoch: u64,
    timeout: Duration,
    /// Records that were written since the last commit.
    written: Vec<NewRecord>,
    written_bytes: usize,
    failed: bool,
}

impl EmbeddedTransactor {
    /// Fences every older transactor of `id`.
    pub(super) fn open(core: Arc<Core>, id: &str, timeout: Duration) -> Result<Self, LogError> {
        let epoch = core.request(|reply| Request::Fence {
            id: id.to_owned(),
            reply,
        })?;
        Ok(Self {
            core,
            id: id.to_owned(),
            epoch,
            timeout,
            written: Vec::new(),
            written_bytes: 0,
            failed: false,
        })
    }

    fn try_commit(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        let (reply, answer) = sync_channel(1);
        let (id, epoch) = (self.id.clone(), self.epoch);
        self.core.offer(Request::Commit {
            id,
            epoch,
            records,
            reply,
        })?;
        match answer.recv_timeout(self.timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(LogError::Aborted {
                detail: format!(
                    "the disk took longer than {:?}; read from the log whether the records are stored",
                    self.timeout
                ),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(super::queue::closed()),
        }
    }
}

impl Transactor for EmbeddedTransactor {
    fn write(&mut self, mut records: Vec<NewRecord>) -> Result<(), LogError> {
        if self.failed {
            let detail = "an earlier transaction failed; open a new transactor".to_owned();
            return Err(LogError::Aborted { detail });
        }
        for record in &records {
            let bytes = record_bytes(record);
            self.written_bytes += bytes;
            if self.written_bytes > TRANSACTION_BYTES {
                self.failed = true;
                return Err(LogError::NotAccepted {
                    topic: record.topic.clone(),
                    bytes,
                    reason: format!(
                        "a transaction of the embedded log may have at most {} MiB",
                        TRANSACTION_BYTES >> 20
                    ),
                });
            }
        }
        self.written.append(&mut records);
        Ok(())
    }

    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.write(records)?;
        let records = std::mem::take(&mut self.written);
        self.written_bytes = 0;
        let committed = self.try_commit(records);
        self.failed = committed.is_err();
        committed
    }
}
