//! HTTP clients with keep-alive connections, which post the same request repeatedly.

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

use crate::Result;

/// The rule that decides when requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LoadMode {
    /// Each connection sends the next request as soon as it has received the response to the previous one.
    ClosedLoop,
    /// All connections together send one request in each interval of this length. The delay of a response is measured
    /// from the time at which its request was due. So a request that is sent late has a longer delay.
    OpenLoop(Duration),
}

/// The responses to all clients.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    /// Delay of each response with status 202, in ms.
    pub(crate) delays: Vec<f64>,
    /// For each other status, the number of responses.
    pub(crate) other_statuses: BTreeMap<u16, usize>,
}

impl Responses {
    /// Number of all responses.
    pub(crate) fn total(&self) -> usize {
        self.delays.len() + self.other_statuses.values().sum::<usize>()
    }

    fn add(&mut self, other: Self) {
        self.delays.extend(other.delays);
        for (status, count) in other.other_statuses {
            *self.other_statuses.entry(status).or_default() += count;
        }
    }
}

/// Clients that send the same request.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) server: SocketAddr,
    pub(crate) path: String,
    pub(crate) connections: usize,
    /// The body of each request.
    pub(crate) body: String,
    pub(crate) mode: LoadMode,
}

impl Clients {
    /// Sends requests for `span`, and returns the responses.
    pub(crate) fn post(&self, span: Duration) -> Result<Responses> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let begun = Instant::now();
            let clients: Vec<_> = (0..self.connections)
                .map(|client| {
                    let (this, until) = (self.clone(), begun + span);
                    tokio::spawn(async move {
                        let responses = this.client(client, begun, until).await;
                        responses.map_err(|error| error.to_string())
                    })
                })
                .collect();
            let mut responses = Responses::default();
            for client in clients {
                responses.add(client.await??);
            }
            Ok(responses)
        })
    }

    async fn client(&self, client: usize, begun: Instant, until: Instant) -> Result<Responses> {
        let mut stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
            self.path,
            self.body.len(),
            self.body,
        );
        let mut responses = Responses::default();
        let mut buffer = Vec::with_capacity(4096);
        for request_number in 0.. {
            let due = match self.mode {
                LoadMode::ClosedLoop => Instant::now(),
                LoadMode::OpenLoop(interval) => {
                    let nth = request_number * self.connections as u32 + client as u32;
                    begun + interval * nth
                }
            };
            if due >= until {
                break;
            }
            sleep_until(due.into()).await;
            stream.write_all(request.as_bytes()).await?;
            let status = read_response(&mut stream, &mut buffer).await?;
            match status {
                202 => responses.delays.push(due.elapsed().as_secs_f64() * 1e3),
                _ => *responses.other_statuses.entry(status).or_default() += 1,
            }
        }
        Ok(responses)
    }
}

/// Reads one response and returns its status. The server sends no bytes between the response and the next request, so
/// no received bytes have to be kept.
pub(crate) async fn read_response(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<u16> {
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
            .ok_or("a response without a length")?
            .trim()
            .parse()?;
        if buffer.len() >= head + 4 + body {
            let status = text
                .split(' ')
                .nth(1)
                .ok_or("a response without a status")?;
            return Ok(status.parse()?);
        }
    }
}
