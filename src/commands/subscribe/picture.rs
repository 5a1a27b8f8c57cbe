//! Draws a scene on a terminal of any size.
//!
//! ```text
//!  room, sum, rate, state of the connection
//!  rising emojis, and swarms with their numbers
//!  Right now          │ Totals          bars
//!  Trending
//!  Last windows, with the id to resume from
//! ```

use std::time::Instant;

use emostream_model::{Emoji, Tally};
use indicatif::HumanCount;
use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, BorderType, Paragraph, Widget},
};

use super::{
    lines::{NOT_COUNTING, clock},
    scene::{FLIGHT, Flight, Scene, Standing},
};

/// Width of the column of counts, which is enough for `9,999,999,999`.
const COUNT_COLUMNS: usize = 13;
/// Width of an emoji with the space after it.
const FACE_COLUMNS: u16 = 3;
/// Number of rows of the bars and of the last windows, if the terminal is high enough.
const BARS: u16 = 8;
const MOMENTS: u16 = 5;

/// Draws the whole picture.
pub(super) fn draw(area: Rect, buffer: &mut Buffer, scene: &Scene, now: Instant) {
    let parts = [
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Length(BARS + 2),
        Constraint::Length(1),
        Constraint::Length(MOMENTS + 2),
    ];
    let [top, sky, bars, trending, moments] = Layout::vertical(parts).areas(area);
    headline(scene, now).render(top, buffer);
    draw_sky(sky, buffer, scene, now);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(bars);
    draw_now(left, buffer, scene, now);
    draw_totals(right, buffer, scene);
    trending_line(scene).render(trending, buffer);
    draw_moments(moments, buffer, scene);
}

fn headline(scene: &Scene, now: Instant) -> Line<'_> {
    let sum = HumanCount(scene.sum()).to_string();
    let rate = match is_current(scene) {
        true => HumanCount(scene.rate(now).round() as u64).to_string(),
        false => "?".to_owned(),
    };
    let mut spans = vec![
        Span::from(format!(" {} ", scene.room)).bold().reversed(),
        Span::from(format!("  {sum}")).bold(),
        Span::from(format!(" reactions   {rate}/s   ")),
    ];
    spans.push(match &scene.standing {
        Standing::Live if !scene.counting => {
            Span::from(format!("○ {NOT_COUNTING}")).fg(Color::Yellow)
        }
        Standing::Live => Span::from("● live").fg(Color::Green),
        Standing::Lost { why, next } => {
            let left = next.saturating_duration_since(now).as_secs_f64();
            Span::from(format!("○ {why}; retrying in {left:.1} s")).fg(Color::Yellow)
        }
    });
    // While the counts are not current, no notice is shown here, because the reason why they are not current is more
    // important.
    let notice = scene.notice.as_ref().filter(|_| is_current(scene));
    spans.extend(notice.map(|notice| Span::from(format!("   {notice}")).fg(Color::Yellow)));
    spans.push(Span::from("   q quits").dim());
    Line::from(spans)
}

/// Whether the counts are current. If they are not, it is not known whether the room is quiet.
fn is_current(scene: &Scene) -> bool {
    scene.standing == Standing::Live && scene.counting
}

fn panel(title: String) -> Block<'static> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().dim())
        .title(Span::from(title).bold())
}

/// Draws the emojis that rise from the lower edge. The height of each depends only on its age.
fn draw_sky(area: Rect, buffer: &mut Buffer, scene: &Scene, now: Instant) {
    let block = panel(String::new());
    let inside = block.inner(area);
    block.render(area, buffer);
    if inside.is_empty() {
        return;
    }
    // Swarms are drawn last, so that no other emoji hides their numbers.
    let (loose, swarms): (Vec<&Flight>, Vec<&Flight>) =
        scene.flights.iter().partition(|f| f.swarm.is_none());
    for flight in loose.into_iter().chain(swarms) {
        if flight.since > now {
            continue;
        }
        let age = now.duration_since(flight.since).as_secs_f64() / FLIGHT.as_secs_f64();
        if age >= 1.0 {
            continue;
        }
        let (text, style) = match flight.swarm {
            Some(count) => (
                format!("{0}{0}{0} ×{1}", face(flight.emoji), HumanCount(count)),
                Style::new().fg(Color::Magenta).add_modifier(Modifier::BOLD),
            ),
            None => (face(flight.emoji), Style::new()),
        };
        let width = Span::from(text.as_str()).width() as u16;
        let Some(free) = inside.width.checked_sub(width) else {
            continue;
        };
        let x = inside.x + (flight.place * f64::from(free + 1)) as u16;
        let row = ((1.0 - age) * f64::from(inside.height)) as u16;
        let y = inside.y + row.min(inside.height - 1);
        buffer.set_string(x, y, text, style);
    }
}

fn draw_now(area: Rect, buffer: &mut Buffer, scene: &Scene, now: Instant) {
    // While the current counts are unknown, none are shown.
    let Some(open) = scene.newest(now).filter(|_| is_current(scene)) else {
        let text = match &scene.standing {
            Standing::Lost { .. } => "Unknown without a connection.",
            Standing::Live if !scene.counting => "Unknown while counting has stopped.",
            Standing::Live => "No reactions in the current window yet.",
        };
        Paragraph::new(text)
            .dim()
            .block(panel(" Right now ".to_owned()))
            .render(area, buffer);
        return;
    };
    let (since, total) = (time(open.window.start), HumanCount(open.total));
    let block = panel(format!(" Right now: {total} since {since} "));
    let rows = open.counts.iter().map(
        |Tally {
             emoji,
             count,
             swarms,
             ..
         }| (*emoji, *count, *swarms),
    );
    draw_bars(area, buffer, block, &rows.collect::<Vec<_>>());
}

fn draw_totals(area: Rect, buffer: &mut Buffer, scene: &Scene) {
    let rows = scene
        .ranking()
        .into_iter()
        .map(|(emoji, count)| (emoji, count, 0));
    draw_bars(
        area,
        buffer,
        panel(" Totals ".to_owned()),
        &rows.collect::<Vec<_>>(),
    );
}

/// Draws one bar for each emoji. The bar of the greatest count has the full width.
fn draw_bars(area: Rect, buffer: &mut Buffer, block: Block<'_>, rows: &[(Emoji, u64, u64)]) {
    let inside = block.inner(area);
    block.render(area, buffer);
    let most = rows
        .iter()
        .map(|(_, count, _)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    let track =
        usize::from(inside.width.saturating_sub(FACE_COLUMNS)).saturating_sub(COUNT_COLUMNS);
    for ((emoji, count, swarms), row) in rows.iter().zip(inside.rows()) {
        let count_text = HumanCount(*count).to_string();
        let swarms = match swarms {
            0 => String::new(),
            1 => " 1 swarm ".to_owned(),
            swarms => format!(" {swarms} swarms "),
        };
        Line::from(vec![
            Span::from(bar(*count as f64 / most as f64, track)).fg(Color::Magenta),
            Span::from(format!("{count_text:>COUNT_COLUMNS$}")).bold(),
        ])
        .render(
            Rect {
                x: row.x.saturating_add(FACE_COLUMNS).min(row.right()),
                width: row.width.saturating_sub(FACE_COLUMNS),
                ..row
            },
            buffer,
        );
        Line::from(face(*emoji)).render(row, buffer);
        if !swarms.is_empty() && track > swarms.len() {
            let at = Rect {
                x: row.x + FACE_COLUMNS + 1,
                width: swarms.len() as u16,
                ..row
            };
            Line::from(swarms)
                .style(Style::new().reversed())
                .render(at, buffer);
        }
    }
}

/// Returns an emoji as it is drawn: without U+FE0F. With this character, some terminals draw an emoji one column wide,
/// and others two columns. If tmux and the terminal around it differ in this, the rest of the row is shifted by one
/// column.
fn face(emoji: Emoji) -> String {
    emoji.to_string().replace('\u{fe0f}', "")
}

/// Formats a time of day to the second, or to the millisecond if it is not a whole second.
fn time(at_ms: u64) -> String {
    let exact = clock(at_ms);
    exact.strip_suffix(".000").unwrap_or(&exact).to_owned()
}

/// Returns a bar that fills `share` of `columns`, exact to an eighth of a column. The rest is blank.
fn bar(share: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    let drawn = format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8]);
    format!("{drawn:<columns$}")
}

fn trending_line(scene: &Scene) -> Line<'_> {
    let Some((span_ms, top)) = &scene.trending else {
        return Line::from(" nothing is trending").dim();
    };
    let mut spans = vec![Span::from(format!(" trending, last {} s:  ", span_ms / 1000)).bold()];
    spans.extend(top.iter().map(|count| {
        Span::from(format!(
            "{} {}   ",
            face(count.emoji),
            HumanCount(count.count)
        ))
    }));
    Line::from(spans)
}

fn draw_moments(area: Rect, buffer: &mut Buffer, scene: &Scene) {
    let block = panel(" Last windows, exact ".to_owned());
    let inside = block.inner(area);
    block.render(area, buffer);
    for (moment, row) in scene.moments.iter().zip(inside.rows()) {
        let total = HumanCount(moment.total).to_string();
        let mut spans = vec![
            Span::from(format!("{}  ", time(moment.window.start))).dim(),
            Span::from(format!("{total:>COUNT_COLUMNS$}   ")).bold(),
        ];
        spans.extend(
            moment
                .counts
                .iter()
                .take(5)
                .map(|Tally { emoji, count, .. }| {
                    Span::from(format!("{} {}   ", face(*emoji), HumanCount(*count)))
                }),
        );
        Line::from(spans).render(row, buffer);
        let id = format!(" {}", moment.id);
        if let Some(left) = row.width.checked_sub(id.len() as u16 + 1) {
            let at = Rect {
                x: row.x + left,
                width: row.width - left,
                ..row
            };
            Line::from(id).dim().render(at, buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::{
        super::scene::tests::{a_final, frame, live},
        *,
    };
    use emostream_model::{Frame, Room};
    use proptest::prelude::*;
    use serde_json::json;
    use std::time::Duration;

    fn scene(now: Instant) -> Scene {
        let mut scene = Scene::new(Room::new("match-7").unwrap());
        scene.take(&a_final(0, 1234, 41_230), now);
        scene.take(&live(2000, 3785), now);
        let top = json!([{"emoji": "👏", "count": 9120}]);
        scene.take(
            &frame(json!({"type": "trending", "room": "a", "span_ms": 60000, "top": top})),
            now,
        );
        scene
    }

    fn drawn(scene: &Scene, now: Instant, width: u16, height: u16) -> String {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        draw(area, &mut buffer, scene, now);
        let row = |y| (0..width).map(move |x| (x, y));
        let rows = (0..height).map(|y| row(y).map(|at| buffer[at].symbol()).collect::<String>());
        rows.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_picture_shows_sum_bars_swarms_trending_and_the_id_to_resume_from() {
        let now = Instant::now();
        let mut scene = scene(now);
        let shown = drawn(&scene, now + Duration::from_secs(1), 100, 40);
        for part in [
            "match-7",
            "45,015 reactions",
            "● live",
            "×3,000",
            "3,785",
            "█",
            "9,120",
            "0-0",
        ] {
            assert!(shown.contains(part), "{part} is missing:\n{shown}");
        }
        let heartbeat = |counting| Frame::Heartbeat { now: 0, counting };
        scene.take(&heartbeat(false), now);
        let shown = drawn(&scene, now, 160, 40);
        for part in ["?/s", NOT_COUNTING, "Unknown while counting has stopped."] {
            assert!(shown.contains(part), "{part} is missing:\n{shown}");
        }
        assert!(!shown.contains("● live"), "{shown}");
        scene.take(&heartbeat(true), now);
        assert!(drawn(&scene, now, 100, 40).contains("● live"));
        scene.lost("the server closed".to_owned(), now + Duration::from_secs(2));
        let shown = drawn(&scene, now, 100, 40);
        assert!(
            shown.contains("○ the server closed; retrying in 2.0 s"),
            "{shown}"
        );
        // Without a connection the rate and the current counts are unknown, and are not shown as 0.
        assert!(
            shown.contains("?/s") && shown.contains("Unknown without a connection."),
            "{shown}"
        );
        assert!(!shown.contains("3,785"), "{shown}");
    }

    #[test]
    fn a_heart_does_not_shift_its_row() {
        let now = Instant::now();
        let heart = json!([{"emoji": "❤️", "count": 3000}, {"emoji": "🔥", "count": 3000}]);
        let mut scene = Scene::new(Room::new("match-7").unwrap());
        scene.take(
            &frame(
                json!({"type": "trending", "room": "a", "span_ms": 60000, "top": heart.clone()}),
            ),
            now,
        );
        let tallies = json!([
            {"emoji": "❤️", "count": 3000, "swarms": 3, "loose": 0},
            {"emoji": "🔥", "count": 3000, "swarms": 3, "loose": 0},
        ]);
        let window = json!({"type": "final", "id": "0-0", "room": "a", "start": 0, "end": 2000,
            "emitted_at": 2001, "total": 6000, "counts": tallies, "totals": heart});
        scene.take(&frame(window), now);
        let shown = drawn(&scene, now + Duration::from_secs(1), 100, 40);
        assert!(
            shown.contains('❤') && !shown.contains('\u{fe0f}'),
            "{shown}"
        );
        let bars = |face: char| {
            let row = shown
                .lines()
                .find(|row| row.contains(face) && row.contains('█'));
            row.unwrap().replace(face, "")
        };
        // `find` returns the same position for both emojis, although one of them has two columns: the buffer contains a
        // blank for the second column.
        assert_eq!(bars('❤').find('█'), bars('🔥').find('█'), "{shown}");
    }

    proptest! {
        #[test]
        fn any_size_can_be_drawn_on(width in 0_u16..200, height in 0_u16..80, age_ms in 0_u64..9000) {
            let now = Instant::now();
            drawn(&scene(now), now + Duration::from_millis(age_ms), width, height);
        }

        #[test]
        fn a_bar_is_as_wide_as_its_share(share in 0.0..=1.0_f64, columns in 0_usize..80) {
            let bar = bar(share, columns);
            prop_assert_eq!(bar.chars().count(), columns);
            let full = bar.chars().filter(|c| *c == '█').count();
            prop_assert!((full as f64 - share * columns as f64).abs() <= 1.0);
        }
    }
}
