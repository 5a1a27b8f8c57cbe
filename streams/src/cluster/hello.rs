//! The first words of a connection: who is there, and whether we count alike.
//!
//! ```text
//!  dialling process                listening process
//!  greeting, hello ──────────────▶ greeting? token? settings? place free?
//!                  ◀────────────── welcome, or why not
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

use super::wire::{self, GREETING, HELLO_BYTES, Purpose};

/// A connection that has not said hello by then is none of ours.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// What must be the same in every process, by the name of its flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement(Vec<(String, String)>);

impl Agreement {
    /// The settings that must agree, each with the name that people know.
    pub fn new(settings: Vec<(String, String)>) -> Agreement {
        Agreement(settings)
    }

    /// The first thing in which `theirs` differs, for people; `peer` is whose it is.
    pub fn difference(&self, theirs: &Agreement, peer: &str) -> Option<String> {
        let lists = self.0.iter().zip(&theirs.0);
        let mut differing = lists.filter(|(here, there)| here != there);
        match differing.next() {
            Some(((name, here), (there_name, there))) if name == there_name => {
                Some(format!("{name} is {here} here and {there} at {peer}"))
            }
            None if self.0.len() == theirs.0.len() => None,
            _ => Some(format!("{peer} is another version of emostream")),
        }
    }
}

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its index.
    pub process: usize,
    /// The index it wants to speak to.
    pub to: usize,
    /// What for.
    pub purpose: Purpose,
    /// What it knows.
    pub token: String,
    /// What it counts by.
    pub agreement: Agreement,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Come in.
    Welcome,
    /// Another token is known here.
    WrongToken,
    /// I am another process than the one you look for.
    NotMe(usize),
    /// Somebody has that index already; perhaps yourself, a moment ago.
    Taken,
    /// We would not count alike: this is what I count by.
    Differs(Agreement),
}

/// Says hello on a fresh connection, and hears the answer.
pub async fn say(stream: &mut TcpStream, hello: &Hello) -> Result<Answer> {
    stream.write_all(&GREETING).await?;
    wire::write(stream, hello).await?;
    wire::read(stream, HELLO_BYTES).await
}

/// Hears who has connected.
pub async fn hear(stream: &mut TcpStream) -> Result<Hello> {
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting != GREETING {
        let what = "it does not speak the language of this version's clusters";
        return Err(Error::new(ErrorKind::InvalidData, what));
    }
    wire::read(stream, HELLO_BYTES).await
}

/// Whether two tokens are the same, in a time that does not tell how much of them is.
pub fn same_token(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let differing = one
        .iter()
        .zip(other)
        .fold(0, |found, (a, b)| found | (a ^ b));
    one.len() == other.len() && differing == 0
}
