//! The handshake of a connection: both processes check the token, the settings and the indices.
//!
//! ```text
//!  dialling process                    listening process
//!  greeting, handshake ──────────────▶ greeting? token? settings? index free?
//!                      ◀────────────── accepted, or the reason of the rejection
//! ```

use std::{
    io::{Error, ErrorKind, Result},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::wire::{self, GREETING, HANDSHAKE_BYTES, Purpose};

/// Timeout of the handshake. A connection whose handshake takes longer is closed, since it does not belong to the
/// cluster.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings that must be the same in every process: the name of the flag, and the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings(Vec<(String, String)>);

impl ClusterSettings {
    /// Creates the list from settings, each with the name that messages use.
    pub fn new(settings: Vec<(String, String)>) -> ClusterSettings {
        ClusterSettings(settings)
    }

    /// Returns a description of the first difference between these settings and `theirs`, or `None` if they are equal.
    /// `peer` is the name of the process that has `theirs`.
    pub fn difference(&self, theirs: &ClusterSettings, peer: &str) -> Option<String> {
        let lists = self.0.iter().zip(&theirs.0);
        let mut differing = lists.filter(|(here, there)| here != there);
        match differing.next() {
            Some(((name, here), (there_name, there))) if name == there_name => Some(format!(
                "{name} is {here} at this process and {there} at {peer}"
            )),
            None if self.0.len() == theirs.0.len() => None,
            _ => Some(format!("{peer} runs another version of emostream")),
        }
    }
}

/// The request of the handshake, sent by the process that dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// The index of the process that dials.
    pub process: usize,
    /// The index of the process that it dials.
    pub to: usize,
    /// The purpose of the connection.
    pub purpose: Purpose,
    /// The token of the cluster.
    pub token: String,
    /// The settings of the process that dials.
    #[serde(rename = "agreement")]
    pub settings: ClusterSettings,
}

/// The reply of the handshake, sent by the process that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandshakeReply {
    /// The connection is accepted.
    #[serde(rename = "Welcome")]
    Accepted,
    /// The listening process has another token.
    WrongToken,
    /// The listening process has another index, which the reply contains.
    #[serde(rename = "NotMe")]
    WrongIndex(usize),
    /// The listening process has a connection from a process with that index already. It may be an old connection of
    /// the same process, so the process that dials retries.
    #[serde(rename = "Taken")]
    Duplicate,
    /// The listening process has other settings, which the reply contains.
    #[serde(rename = "Differs")]
    DifferentSettings(ClusterSettings),
}

/// Sends the handshake on a new connection, and reads the reply.
pub async fn send(stream: &mut TcpStream, handshake: &Handshake) -> Result<HandshakeReply> {
    stream.write_all(&GREETING).await?;
    wire::write(stream, handshake).await?;
    wire::read(stream, HANDSHAKE_BYTES).await
}

/// Reads the handshake of a process that has connected.
pub async fn receive(stream: &mut TcpStream) -> Result<Handshake> {
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting != GREETING {
        let what = "the other side does not use the cluster protocol of this version";
        return Err(Error::new(ErrorKind::InvalidData, what));
    }
    wire::read(stream, HANDSHAKE_BYTES).await
}

/// Whether two tokens are equal. The comparison takes the same time wherever they differ (constant-time comparison), so
/// that an attacker cannot guess a token byte by byte.
pub fn same_token(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let differing = one
        .iter()
        .zip(other)
        .fold(0, |found, (a, b)| found | (a ^ b));
    one.len() == other.len() && differing == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    /// Processes of several versions may connect to each other during an update, so the names in the JSON must not
    /// change.
    #[test]
    fn handshakes_and_replies_keep_their_names() {
        let settings = ClusterSettings::new(vec![("--window".to_owned(), "2s".to_owned())]);
        let handshake = Handshake {
            process: 1,
            to: 0,
            purpose: Purpose::Data,
            token: "secret".to_owned(),
            settings: settings.clone(),
        };
        let json = r#"{"process":1,"to":0,"purpose":"Data","token":"secret","agreement":[["--window","2s"]]}"#;
        assert_eq!(serde_json::to_string(&handshake).unwrap(), json);
        let replies = [
            (HandshakeReply::Accepted, r#""Welcome""#),
            (HandshakeReply::WrongToken, r#""WrongToken""#),
            (HandshakeReply::WrongIndex(2), r#"{"NotMe":2}"#),
            (HandshakeReply::Duplicate, r#""Taken""#),
            (
                HandshakeReply::DifferentSettings(settings),
                r#"{"Differs":[["--window","2s"]]}"#,
            ),
        ];
        for (reply, json) in replies {
            assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        }
    }
}
