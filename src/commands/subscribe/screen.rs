//! Switches the terminal to raw mode for drawing, and restores it.
//!
//! Invariant: the terminal is restored in whatever way the command ends: by a key, a signal, a failure or a panic.

#![allow(clippy::disallowed_methods, reason = "draws at intervals")]

use std::{io, time::Duration};

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use emostream_app::process::Failure;
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{picture, scene::Scene};

/// Interval at which the picture is drawn. In one interval, emojis move by about a line. The interval is long enough
/// for a terminal over ssh to receive the picture.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// The next action of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Draw,
    End,
}

/// The terminal in raw mode, its events, and the timer for drawing. The terminal is restored when this value is
/// dropped.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    events: EventStream,
    ticks: Interval,
}

impl Screen {
    /// Switches the terminal to raw mode. ratatui installs a panic hook that restores the terminal and then calls our
    /// panic hook, so that the line about the panic is visible.
    pub(super) fn enter() -> Result<Self, Failure> {
        let terminal = ratatui::try_init().map_err(unusable)?;
        let mut ticks = interval(DRAW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Self {
            terminal,
            events: EventStream::new(),
            ticks,
        })
    }

    /// Waits for the next action. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Wish, Failure> {
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(Ok(event)) => {
                        if let Some(wish) = wish(&event) {
                            return Ok(wish);
                        }
                    }
                    // The terminal is closed.
                    Some(Err(_)) | None => return Ok(Wish::End),
                },
                _ = self.ticks.tick() => return Ok(Wish::Draw),
            }
        }
    }

    pub(super) fn draw(&mut self, scene: &Scene) -> Result<(), Failure> {
        let now = std::time::Instant::now();
        let drawn = self
            .terminal
            .draw(|frame| picture::draw(frame.area(), frame.buffer_mut(), scene, now));
        drawn.map(drop).map_err(unusable)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn wish(event: &Event) -> Option<Wish> {
    match event {
        Event::Resize(..) => Some(Wish::Draw),
        Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press,
            ..
        }) => match code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Wish::End),
            // In raw mode the terminal reports Ctrl-C as a key and sends no SIGINT.
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::End),
            _ => None,
        },
        _ => None,
    }
}

fn unusable(error: io::Error) -> Failure {
    Failure::unavailable(format!(
        "the program cannot draw on this terminal: {error}; --json prints the messages instead"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::process::{Command, Stdio};

    use emostream_app::process::{LogFormat, panic_hook};

    use super::*;

    const PANIC_HERE: &str = "EMOSTREAM_TEST_PANIC_IN_A_TERMINAL";
    const TAKEN: &str = "\x1b[?1049h";
    const GIVEN_BACK: &str = "\x1b[?1049l";

    #[test]
    fn a_panic_restores_the_terminal_before_its_message_is_printed() {
        if std::env::var_os(PANIC_HERE).is_some() {
            panic_hook::install("emostream", LogFormat::Text);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let _screen = Screen::enter().unwrap();
                panic!("while the screen is taken");
            });
        }
        let this_test = "a_panic_restores_the_terminal_before_its_message_is_printed";
        let tests = std::env::current_exe().unwrap();
        let shown = tempfile::NamedTempFile::new().unwrap();
        // The program `script` of util-linux runs the test in a terminal, and records everything that is drawn there.
        let status = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command"])
            .arg(format!("'{}' --nocapture {this_test}", tests.display()))
            .arg(shown.path())
            .env(PANIC_HERE, "1")
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        let bytes = std::fs::read(shown.path()).unwrap();
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(status.code(), Some(70), "{shown}");
        let at = |what: &str| {
            let found = shown.find(what);
            found.unwrap_or_else(|| panic!("{what:?} is missing in {shown:?}"))
        };
        assert!(at(TAKEN) < at(GIVEN_BACK), "{shown:?}");
        assert!(at(GIVEN_BACK) < at("emostream: a defect"), "{shown:?}");
    }

    #[test]
    fn q_escape_and_ctrl_c_end_it_and_nothing_else_does() {
        let key = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        assert_eq!(key(KeyCode::Char('q'), none), Some(Wish::End));
        assert_eq!(key(KeyCode::Esc, none), Some(Wish::End));
        assert_eq!(
            key(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Wish::End)
        );
        assert_eq!(key(KeyCode::Char('c'), none), None);
        assert_eq!(key(KeyCode::Up, none), None);
        assert_eq!(wish(&Event::Resize(80, 24)), Some(Wish::Draw));
    }
}
