//! The crowd's phones: connections that are kept, and post again and again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep_until,
};

use crate::Outcome;

/// How they post.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// The next as soon as the last is answered.
    Saturating,
    /// So many a second together, whether answered or not; delays count from when each was due.
    Every(Duration),
}

/// What a crowd was answered.
#[derive(Debug, Default)]
pub(crate) struct Posted {
    /// The delay of each answer that was 202, in ms.
    pub(crate) delays: Vec<f64>,
    /// How many answers were something else, by status.
    pub(crate) refused: BTreeMap<u16, usize>,
}

impl Posted {
    /// All answers.
    pub(crate) fn answers(&self) -> usize {
        self.delays.len() + self.refused.values().sum::<usize>()
    }

    fn add(&mut self, other: Self) {
        self.delays.extend(other.delays);
        for (status, answers) in other.refused {
            *self.refused.entry(status).or_default() += answers;
        }
    }
}

/// A crowd of phones.
#[derive(Debug, Clone)]
pub(crate) struct Phones {
    pub(crate) server: SocketAddr,
    pub(crate) path: String,
    pub(crate) connections: usize,
    /// The reactions of one request.
    pub(crate) body: String,
    pub(crate) pace: Pace,
}

impl Phones {
    /// Posts for so long.
    pub(crate) fn post(&self, span: Duration) -> Outcome<Posted> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let begun = Instant::now();
            let phones: Vec<_> = (0..self.connections)
                .map(|phone| {
                    let (this, until) = (self.clone(), begun + span);
                    tokio::spawn(async move {
                        let posted = this.phone(phone, begun, until).await;
                        posted.map_err(|error| error.to_string())
                    })
                })
                .collect();
            let mut posted = Posted::default();
            for phone in phones {
                posted.add(phone.await??);
            }
            Ok(posted)
        })
    }

    async fn phone(&self, phone: usize, begun: Instant, until: Instant) -> Outcome<Posted> {
        let mut stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
            self.path,
            self.body.len(),
            self.body,
        );
        let mut posted = Posted::default();
        let mut buffer = Vec::with_capacity(4096);
        for turn in 0.. {
            let due = match self.pace {
                Pace::Saturating => Instant::now(),
                Pace::Every(interval) => {
                    let place = turn * self.connections as u32 + phone as u32;
                    begun + interval * place
                }
            };
            if due >= until {
                break;
            }
            sleep_until(due.into()).await;
            stream.write_all(request.as_bytes()).await?;
            let status = answer(&mut stream, &mut buffer).await?;
            match status {
                202 => posted.delays.push(due.elapsed().as_secs_f64() * 1e3),
                _ => *posted.refused.entry(status).or_default() += 1,
            }
        }
        Ok(posted)
    }
}

/// Reads one answer, and nothing beyond it: none is sent before the next request.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Outcome<u16> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("the server closed a connection".into());
        }
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head])?.to_ascii_lowercase();
        let body: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .ok_or("an answer without a length")?
            .trim()
            .parse()?;
        if buffer.len() >= head + 4 + body {
            let status = text.split(' ').nth(1).ok_or("an answer without a status")?;
            return Ok(status.parse()?);
        }
    }
}
