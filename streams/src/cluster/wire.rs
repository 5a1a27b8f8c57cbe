//! The messages between processes, apart from timely's data. Each message is a frame: a length, followed by JSON.

use std::io::{Error, ErrorKind, Result};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::progress::record::{PartitionProgress, PriorEpoch, Progress, Resets};

/// Maximum bytes of a frame before the handshake is complete. Any client can send a length, so it is checked before
/// memory is allocated. A handshake is much smaller, since it lists only some settings.
pub const HANDSHAKE_BYTES: usize = 64 << 10;

/// Maximum bytes of a frame after the handshake. The largest one is a beginning, which lists all partitions.
pub const CONTROL_BYTES: usize = 16 << 20;

/// The first bytes of every connection, so that clients with another protocol are detected at once. The last byte is
/// the version of this protocol.
pub const GREETING: [u8; 5] = *b"EMOS\x01";

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// The connection carries the data of timely's channels.
    Data,
    /// The messages of this module, between process 0 and another process.
    Control,
}

/// The part of the progress that every process needs at the start of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedBeginning {
    /// The time up to which every window is final (F), Unix milliseconds.
    pub final_until_ms: u64,
    /// Every partition of the source, in the order of the partitions' numbers.
    pub partitions: Vec<PartitionProgress>,
    /// The settings and offsets that were valid before each reset, since the run may read again some records that were
    /// first read with these settings.
    #[serde(rename = "formers")]
    pub prior_epochs: Vec<PriorEpoch>,
    /// The number of backward resets so far, and the final-until time that the last one has set.
    pub resets: Resets,
}

impl SharedBeginning {
    /// Returns the part of process 0's progress that the other processes need.
    pub fn of(progress: &Progress) -> SharedBeginning {
        SharedBeginning {
            final_until_ms: progress.final_until_ms,
            partitions: progress.partitions.clone(),
            prior_epochs: progress.prior_epochs.clone(),
            resets: progress.resets,
        }
    }
}

impl From<SharedBeginning> for Progress {
    fn from(shared: SharedBeginning) -> Progress {
        Progress {
            final_until_ms: shared.final_until_ms,
            partitions: shared.partitions,
            prior_epochs: shared.prior_epochs,
            resets: shared.resets,
            ..Progress::default()
        }
    }
}

/// A message between process 0 and another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// The sender is alive.
    Heartbeat,
    /// To process 0: the sender is connected to all processes.
    Ready,
    /// From process 0: process 0 stands by until the active run has ended. Contains the name of that run, for the log
    /// and `/readyz`.
    StandingBy(String),
    /// From process 0: the run begins from this state.
    Begin(SharedBeginning),
    /// From process 0: another run has taken over. The receiver stops, without closing windows, and joins again.
    Dissolve,
    /// To process 0: a stop was requested from the sender.
    #[serde(rename = "AskedToStop")]
    StopRequested,
    /// From process 0: the receiver stops, without closing windows.
    Drain,
    /// To process 0: the sender confirms the drain.
    #[serde(rename = "Draining")]
    DrainConfirmed,
    /// From process 0: all processes have confirmed the drain, and connections may close.
    #[serde(rename = "Bye")]
    Close,
    /// The sender ends with an error.
    Failed {
        /// The exit code of the sender.
        exit_code: u8,
        /// The message of the error.
        #[serde(rename = "sentence")]
        message: String,
    },
}

/// Writes one frame.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &impl Serialize) -> Result<()> {
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    to.write_all(&[&length.to_be_bytes(), &body[..]].concat())
        .await
}

/// Reads one frame of at most `most_bytes`.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most_bytes: usize,
) -> Result<T> {
    let length = from.read_u32().await? as usize;
    if length > most_bytes {
        let what = format!("a frame of {length} bytes is too long");
        return Err(Error::new(ErrorKind::InvalidData, what));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    // The error does not contain the message of serde, since that may quote bytes that any client has sent, and errors
    // are logged.
    serde_json::from_slice(&body).map_err(|error| {
        let what = format!("a frame is invalid at byte {}", error.column());
        Error::new(ErrorKind::InvalidData, what)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .build()
            .unwrap_or_else(|e| panic!("{e}"))
            .block_on(future)
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = block_on(read::<ControlMessage>(&mut &bytes[..], HANDSHAKE_BYTES));
        }

        #[test]
        fn a_frame_is_read_as_it_was_written(message in ".*", exit_code in any::<u8>()) {
            let failed = ControlMessage::Failed { exit_code, message };
            let mut bytes = Vec::new();
            block_on(write(&mut bytes, &failed)).unwrap();
            prop_assert_eq!(block_on(read::<ControlMessage>(&mut &bytes[..], CONTROL_BYTES)).unwrap(), failed);
        }
    }

    /// Processes of several versions may connect to each other during an update, so the names in the JSON must not
    /// change.
    #[test]
    fn messages_keep_their_names() {
        let (exit_code, message) = (75, "lost".to_owned());
        let named = [
            (ControlMessage::Ready, r#""Ready""#),
            (ControlMessage::StopRequested, r#""AskedToStop""#),
            (ControlMessage::DrainConfirmed, r#""Draining""#),
            (ControlMessage::Close, r#""Bye""#),
            (
                ControlMessage::Failed { exit_code, message },
                r#"{"Failed":{"exit_code":75,"sentence":"lost"}}"#,
            ),
        ];
        for (message, json) in named {
            assert_eq!(serde_json::to_string(&message).unwrap(), json);
        }
    }

    /// Every process needs the number of resets, since results have it in a header.
    #[test]
    fn each_process_begins_with_the_final_time_and_the_resets_of_process_0() {
        let progress = Progress {
            final_until_ms: 4000,
            resets: Resets {
                number: 2,
                until_ms: 2000,
            },
            ..Progress::default()
        };
        assert_eq!(Progress::from(SharedBeginning::of(&progress)), progress);
    }

    #[test]
    fn what_a_stranger_sent_is_not_repeated() {
        let frame = b"\0\0\0\x0e\"\\nforged line\"";
        let error = block_on(read::<ControlMessage>(&mut &frame[..], HANDSHAKE_BYTES)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(!error.to_string().contains("forged"), "{error}");
    }

    #[test]
    fn a_giant_length_is_refused_before_it_is_allocated() {
        let error = block_on(read::<ControlMessage>(
            &mut &[0xff; 40][..],
            HANDSHAKE_BYTES,
        ))
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
