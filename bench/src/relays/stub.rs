//! Relays that say hello and heartbeats, and throw away what they are told.

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

use crate::Outcome;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Relays in this process.
pub(crate) struct Stubs {
    counted: Arc<Counted>,
    relays: usize,
    _runtime: Runtime,
}

#[derive(Default)]
struct Counted {
    bytes: AtomicU64,
    present: AtomicUsize,
    lost: AtomicUsize,
}

impl Stubs {
    pub(crate) fn attach(feed: &str, relays: usize) -> Outcome<Stubs> {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build()?;
        let counted = Arc::new(Counted::default());
        for nth in 0..relays {
            let (feed, counted) = (feed.to_owned(), counted.clone());
            runtime.spawn(async move {
                // It ends by an error only, and that is told at the end.
                let _ = relay(&feed, nth as u64, &counted).await;
                counted.lost.fetch_add(1, Ordering::Relaxed);
            });
        }
        Ok(Stubs {
            counted,
            relays,
            _runtime: runtime,
        })
    }

    /// Until each has all there was.
    pub(crate) fn wait_until_present(&self, patience: Duration) -> Outcome<()> {
        let until = Instant::now() + patience;
        while self.counted.present.load(Ordering::Relaxed) < self.relays {
            if Instant::now() >= until {
                return Err("the stubs did not catch up".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// All that they were told.
    pub(crate) fn bytes(&self) -> u64 {
        self.counted.bytes.load(Ordering::Relaxed)
    }

    /// An error if one was let go.
    pub(crate) fn check(&self) -> Outcome<()> {
        match self.counted.lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(format!("{lost} stubs were let go").into()),
        }
    }
}

async fn relay(feed: &str, nth: u64, counted: &Counted) -> Result<(), std::io::Error> {
    let (mut reading, mut writing) = TcpStream::connect(feed).await?.into_split();
    let none = std::io::ErrorKind::InvalidData;
    let RelayDown::Challenge(challenge) = hear(&mut reading).await? else {
        return Err(none.into());
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
        proof: proof.as_ref().try_into().map_err(|_| none)?,
        has: Vec::new(),
    };
    writing.write_all(&RelayUp::Hello(hello).frame()).await?;
    let RelayDown::Welcome(_) = hear(&mut reading).await? else {
        return Err(none.into());
    };
    tokio::select! {
        ended = listen(reading, counted) => ended,
        ended = live(writing) => ended,
    }
}

async fn hear(from: &mut OwnedReadHalf) -> Result<RelayDown, std::io::Error> {
    let bytes = from.read_u32().await? as usize;
    let mut message = vec![0; bytes];
    from.read_exact(&mut message).await?;
    RelayDown::decode(&message).map_err(std::io::Error::other)
}

async fn listen(mut from: OwnedReadHalf, counted: &Counted) -> Result<(), std::io::Error> {
    let present = &RelayDown::SnapshotEnd.frame()[4..];
    let mut message = Vec::new();
    loop {
        let bytes = from.read_u32().await? as usize;
        message.resize(bytes, 0);
        from.read_exact(&mut message).await?;
        counted.bytes.fetch_add(bytes as u64 + 4, Ordering::Relaxed);
        if message == present {
            counted.present.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn live(mut to: OwnedWriteHalf) -> Result<(), std::io::Error> {
    loop {
        to.write_all(&RelayUp::Heartbeat.frame()).await?;
        tokio::time::sleep(HEARTBEAT).await;
    }
}
