//! Stub relays, which send a hello and heartbeats, and drop all updates that they receive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use emostream_model::{NodeId, RelayDown, RelayHandshake, RelayHello, RelaySide, RelayUp};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
};

use crate::Result;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Stub relays that run as tasks in this process.
pub(crate) struct Stubs {
    counters: Arc<Counters>,
    relays: usize,
    _runtime: Runtime,
}

#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    snapshots: AtomicUsize,
    disconnected: AtomicUsize,
}

impl Stubs {
    pub(crate) fn attach(address: &str, relays: usize) -> Result<Stubs> {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build()?;
        let counters = Arc::new(Counters::default());
        for nth in 0..relays {
            let (address, counters) = (address.to_owned(), counters.clone());
            runtime.spawn(async move {
                // A stub ends only by an error, which `check` reports.
                let _ = relay(&address, nth as u64, &counters).await;
                counters.disconnected.fetch_add(1, Ordering::Relaxed);
            });
        }
        Ok(Stubs {
            counters,
            relays,
            _runtime: runtime,
        })
    }

    /// Waits until each stub has received the snapshot of all rooms.
    pub(crate) fn wait_for_snapshots(&self, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        while self.counters.snapshots.load(Ordering::Relaxed) < self.relays {
            if Instant::now() >= until {
                return Err("the stubs did not catch up".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the number of bytes that all stubs have received.
    pub(crate) fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }

    /// Returns an error if a connection was closed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.counters.disconnected.load(Ordering::Relaxed) {
            0 => Ok(()),
            disconnected => Err(format!("{disconnected} stubs were disconnected").into()),
        }
    }
}

async fn relay(address: &str, nth: u64, counters: &Counters) -> Result<(), std::io::Error> {
    let (mut reading, mut writing) = TcpStream::connect(address).await?.into_split();
    let invalid = std::io::ErrorKind::InvalidData;
    let RelayDown::Challenge(challenge) = read_message(&mut reading).await? else {
        return Err(invalid.into());
    };
    let handshake = RelayHandshake {
        challenge,
        answer: [1; 32],
        relay: NodeId(nth),
    };
    let proof = hmac::sign(
        &Key::new(HMAC_SHA256, b""),
        &handshake.proof_input(RelaySide::Relay),
    );
    let hello = RelayHello {
        node: handshake.relay,
        name: format!("stub {nth}"),
        nonce: handshake.answer,
        proof: proof.as_ref().try_into().map_err(|_| invalid)?,
        has: Vec::new(),
    };
    writing.write_all(&RelayUp::Hello(hello).frame()).await?;
    let RelayDown::Welcome(_) = read_message(&mut reading).await? else {
        return Err(invalid.into());
    };
    tokio::select! {
        ended = receive(reading, counters) => ended,
        ended = send_heartbeats(writing) => ended,
    }
}

async fn read_message(from: &mut OwnedReadHalf) -> Result<RelayDown, std::io::Error> {
    let bytes = from.read_u32().await? as usize;
    let mut message = vec![0; bytes];
    from.read_exact(&mut message).await?;
    RelayDown::decode(&message).map_err(std::io::Error::other)
}

async fn receive(mut from: OwnedReadHalf, counters: &Counters) -> Result<(), std::io::Error> {
    let snapshot_end = &RelayDown::SnapshotEnd.frame()[4..];
    let mut message = Vec::new();
    loop {
        let bytes = from.read_u32().await? as usize;
        message.resize(bytes, 0);
        from.read_exact(&mut message).await?;
        counters
            .bytes
            .fetch_add(bytes as u64 + 4, Ordering::Relaxed);
        if message == snapshot_end {
            counters.snapshots.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn send_heartbeats(mut to: OwnedWriteHalf) -> Result<(), std::io::Error> {
    loop {
        to.write_all(&RelayUp::Heartbeat.frame()).await?;
        tokio::time::sleep(HEARTBEAT).await;
    }
}
