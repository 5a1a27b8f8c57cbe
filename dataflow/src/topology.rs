//! The topology of EmoStream.

use std::{fmt::Debug, time::Duration};

use emostream_model::Emoji;
use emostream_streams::{
    StreamsError,
    config::{AppConfig, Labels},
    progress::settings::Settings,
    topics::Topic,
    topology::{Application, Sum, Topology, Tumbling},
};

use crate::{
    Config, SWARM_SIZE,
    format::ReactionFormat,
    results::{Finals, RoomTotals, TrendingTops, live_json},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Retention of reactions. They are counted within seconds. A day is enough for a dataflow that was stopped overnight
/// to continue without a reset. A million reactions need about 20 MB.
const REACTIONS_KEPT: Duration = DAY;

/// Retention of finals and rejected records. With a week, a match of last Saturday can still be read on Friday.
const RESULTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Retention of live tallies. Ten minutes are enough for `inspect`, and the final of a window replaces its live
/// tallies.
const LIVE_KEPT: Duration = Duration::from_secs(600);

/// The EmoStream application.
pub type EmoStream = Application<ReactionFormat>;

/// Reactions → tallies of each room, totals, and what is trending.
pub fn topology(t: &Topology<ReactionFormat>, config: &Config) {
    let (topics, swarm_size) = (&config.topics, config.swarm_size);
    let reactions = Topic::new(topics.reactions()).kept(REACTIONS_KEPT);
    let live = Topic::new(topics.live()).kept(LIVE_KEPT);
    let windows = Topic::new(topics.windows()).kept(RESULTS_KEPT);
    let format = ReactionFormat {
        emojis: config.emojis.clone(),
    };
    let sum = Sum {
        retention: config.totals_retention,
        pace: config.totals_pace,
    };

    let finals = t
        .source(reactions, format)
        .group_by_key() // The key is the room.
        .window(Tumbling::of(config.window))
        .count_by_item() // The item is the emoji.
        .updates(config.live, live, move |tally| live_json(tally, swarm_size))
        .finals();

    finals.to(windows, Finals { swarm_size });
    finals.accumulate(sum).to_table(topics.totals(), RoomTotals);
    finals
        .sliding(config.trending_span)
        .top(config.trending_top)
        .to_table(topics.trending(), TrendingTops::over(config.trending_span));
}

/// Returns the EmoStream application with this configuration.
///
/// # Errors
///
/// [`StreamsError::Worker`] if the configuration contradicts itself.
pub fn application(config: &Config) -> Result<EmoStream, StreamsError> {
    Application::new(app_config(config), |t| topology(t, config))
}

fn app_config(config: &Config) -> AppConfig {
    let topics = &config.topics;
    let text = |name: &str, value: &dyn Debug| (name.to_owned(), format!("{value:?}"));
    let alias = |(name, emoji): (&String, &Emoji)| format!("{name}={emoji}");
    let aliases: Vec<String> = config.emojis.aliases().iter().map(alias).collect();
    AppConfig {
        application_id: format!("{}.dataflow", topics.prefix()),
        metrics_prefix: "emostream_dataflow".to_owned(),
        rejected: Topic::new(topics.rejected()).kept(RESULTS_KEPT),
        progress: topics.progress(),
        labels: Labels {
            source_setting: "reactions",
            source: "the reactions topic",
            window_ms: "--window (ms)",
            lateness_ms: "--lateness (ms)",
            span: "--trending-span",
            retention: "--totals-retention",
        },
        settings: Settings::default().with(SWARM_SIZE, "--swarm-size", config.swarm_size),
        agreed: vec![
            text("emostream's version", &env!("CARGO_PKG_VERSION")),
            text("--topic-prefix", &topics.prefix()),
            text("--live", &config.live),
            text("--swarm-size", &config.swarm_size),
            text("--trending-top", &config.trending_top),
            text("--emoji-alias", &aliases),
        ],
        run: config.run.clone(),
    }
}
