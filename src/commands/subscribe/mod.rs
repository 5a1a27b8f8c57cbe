//! `emostream subscribe`: shows a room in the terminal.
//!
//! ```text
//!                 ┌─▶ Scene ──▶ picture       in a terminal
//!  Subscription ──┼─▶ lines                   in a pipe: one line per message
//!                 └─▶ messages without changes   with --json
//! ```

mod lines;
mod picture;
mod scene;
mod screen;

use std::io::IsTerminal;

use clap::Args;
use emostream_app::process::{Failure, Signals, block_on, output};
use emostream_model::Room;

use self::{lines::Lines, scene::Scene, screen::Screen};
use crate::{
    PROGRAM,
    client::{AccessFlags, Endpoint, Server, Subscription, SubscriptionEvent, Transport},
};

pub(super) use lines::clock;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Address of a publisher, a relay or `up`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Server,
    #[command(flatten)]
    access: AccessFlags,
    /// The room to follow
    #[arg(long, default_value = "default")]
    room: Room,
    /// Use Server-Sent Events instead of a WebSocket
    #[arg(long)]
    sse: bool,
    /// Print each message without changes, as one JSON object per line
    #[arg(long)]
    json: bool,
    /// Id of a final, such as 0-17: start with the results that followed it
    #[arg(long, value_name = "ID")]
    since: Option<emostream_model::ResultId>,
}

impl Flags {
    fn subscription(&self, server: Endpoint) -> Subscription {
        let transport = match self.sse {
            true => Transport::ServerSentEvents,
            false => Transport::WebSocket,
        };
        let room = Subscription::new(server, self.room.clone(), transport);
        match self.since {
            Some(id) => room.since(id),
            None => room,
        }
    }

    /// Returns the failure for a first connection that does not succeed.
    fn unreachable(&self, why: &str) -> Failure {
        let url = &self.url;
        Failure::unavailable(format!("--url: {url} is not reachable: {why}"))
    }
}

pub(crate) fn run(flags: Flags, signals: Signals) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let seen = terminal && output::can_be_drawn_on();
    let server = flags.access.open()?.to(&flags.url)?;
    match seen && !flags.json {
        true => block_on(watch(flags, server, signals)),
        false => block_on(print(flags, server)),
    }
}

/// Prints each message as one line. A signal may end the process at any time, since the terminal is not in raw mode and
/// need not be restored.
async fn print(flags: Flags, server: Endpoint) -> Result<(), Failure> {
    let mut room = flags.subscription(server);
    let mut lines = Lines::new();
    let mut connected = false;
    loop {
        match room.next().await.map_err(Failure::unavailable)? {
            SubscriptionEvent::Frame { text, frame } => {
                connected = true;
                let line = match flags.json {
                    // In JSON, line breaks and tabs occur only as white space between values, since they are escaped in
                    // strings. So a space can replace each of them, and every message is one line.
                    true => text.replace(['\n', '\r', '\t'], " "),
                    false => match lines.describe(&frame) {
                        Some(line) => line,
                        None => continue,
                    },
                };
                match output::print(&format!("{}\n", output::escaped(&line))) {
                    Ok(()) => {}
                    gone => return output::quietly(gone),
                }
            }
            SubscriptionEvent::Lost { why, .. } if !connected => {
                return Err(flags.unreachable(&why));
            }
            SubscriptionEvent::Lost { why, pause } => {
                let seconds = pause.as_secs_f64();
                output::print_error(PROGRAM.name, &format!("{why}; retrying in {seconds:.1} s"));
            }
        }
    }
}

/// Draws the room until the user or a signal ends the command. The terminal is switched to raw mode only after the
/// first message has arrived. So a wrong address is reported as one line, as all commands report it.
#[allow(
    clippy::disallowed_methods,
    reason = "reads the time at which a frame arrives"
)]
async fn watch(flags: Flags, server: Endpoint, mut signals: Signals) -> Result<(), Failure> {
    let mut room = flags.subscription(server);
    let mut scene = Scene::new(flags.room.clone());
    match room.next().await.map_err(Failure::unavailable)? {
        SubscriptionEvent::Frame { frame, .. } => scene.take(&frame, std::time::Instant::now()),
        SubscriptionEvent::Lost { why, .. } => return Err(flags.unreachable(&why)),
    }
    // From here on, a signal ends this loop and not the process at once, so that the terminal is restored before the
    // process ends.
    signals.take_over();
    let mut screen = Screen::enter()?;
    loop {
        tokio::select! {
            news = room.next() => match news.map_err(Failure::unavailable)? {
                SubscriptionEvent::Frame { frame, .. } => scene.take(&frame, std::time::Instant::now()),
                SubscriptionEvent::Lost { why, pause } => scene.lost(why, std::time::Instant::now() + pause),
            },
            wish = screen.next() => match wish? {
                screen::Wish::Draw => screen.draw(&scene)?,
                screen::Wish::End => return Ok(()),
            },
            _ = signals.next() => return Ok(()),
        }
    }
}
