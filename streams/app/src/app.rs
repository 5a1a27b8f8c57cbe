//! The command line of an application.

use std::process::ExitCode;

use clap::{Arg, ArgAction, Args, Command};
use emostream_log::EventClock;
use emostream_streams::{
    StreamsError,
    config::{AppConfig, Labels, RunConfig},
    source::format::Format,
    topology::Application,
};
use tracing::level_filters::LevelFilter;

use crate::{
    app_process::AppProcess,
    flags::{
        AdminFlags, ClusterFlags, DescribedKafkaFlags, KafkaFlags, PartitionFlags, RunFlags,
        StandbyFlags,
    },
    process::{Arguments, Failure, LogFlags, Program, Signals, output, parsed},
    topics,
};

/// Maximum characters of an application id. The names of topics begin with it, and Kafka allows names of at most 249
/// characters.
const MOST_ID_CHARACTERS: usize = 200;

/// A program that runs one application, creates the topics of this application, and prints its topology:
///
/// ```text
/// NAME --kafka broker:9092 -w 2                            runs the application
/// NAME topics create --kafka broker:9092 --partitions 8    creates the topics that do not exist
/// NAME --describe                                          prints the topology
/// ```
///
/// Each flag can also be set by the environment variable `NAME_FLAG`. The program has the flags of `emostream dataflow`
/// for clusters, standbys and runs, and the same log lines, metrics, readiness and exit codes.
///
/// # Examples
///
/// ```no_run
/// # use emostream_streams::prelude::*;
/// # #[derive(Clone)]
/// # struct Lines;
/// # impl Format for Lines {
/// #     type Key = String;
/// #     type Item = ();
/// #     fn decode(
/// #         &self,
/// #         record: Record<'_>,
/// #         _: &mut InternedKeys<String>,
/// #         _: &mut Vec<Event<()>>,
/// #     ) -> Option<RecordTimes> {
/// #         Some(RecordTimes::of(&record))
/// #     }
/// # }
/// use emostream_app::App;
///
/// fn word_count(config: AppConfig) -> Result<Application<Lines>, StreamsError> {
///     let id = config.application_id.clone();
///     Application::new(config, |t: &Topology<Lines>| {
///         t.source(format!("{id}.lines"), Lines)
///             .group_by_key()
///             .window(Tumbling::of(WindowSize::from_ms(2000).expect("above 0")))
///             .count_by_item()
///             .finals()
///             .to(format!("{id}.counts"), JsonFinals::Events);
///     })
/// }
///
/// fn main() -> std::process::ExitCode {
///     App::new("word_count", "Counts words").run(|(), config| word_count(config))
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct App {
    program: Program,
    about: &'static str,
}

/// The flags with which the application runs. `A` are the flags that only this application has.
#[derive(Args)]
#[group(skip)]
struct AppFlags<A: Args> {
    #[command(flatten)]
    kafka: DescribedKafkaFlags,
    #[command(flatten)]
    admin: AdminFlags,
    #[command(flatten)]
    own: OwnFlags<A>,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    standby: StandbyFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Print the topology and exit
    #[arg(long)]
    describe: bool,
}

/// The flags of `topics create`.
#[derive(Args)]
#[group(skip)]
struct CreateFlags<A: Args> {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    own: OwnFlags<A>,
    #[command(flatten)]
    partitions: PartitionFlags,
}

/// The flags that the topology depends on: the id of the application, and its own flags.
#[derive(Args)]
#[group(skip)]
struct OwnFlags<A: Args> {
    /// Id of the application: its transactional id and consumer group, and the prefix of the names of its topics
    #[arg(long, value_name = "ID", value_parser = application_id)]
    application_id: String,
    #[command(flatten)]
    of_application: A,
}

/// Parses the id of an application. The names of topics begin with it.
fn application_id(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let fits = (1..=MOST_ID_CHARACTERS).contains(&text.len()) && text.bytes().all(legal);
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("write 1 to {MOST_ID_CHARACTERS} of the characters A-Z a-z 0-9 . _ -")
    })
}

impl App {
    /// Creates a program. `name` is the name of the program, and the default of the application's id. `about` is the
    /// first line of the help.
    pub fn new(name: &'static str, about: &'static str) -> App {
        let program = Program {
            name,
            version: "unknown",
            revision: "unknown",
        };
        App { program, about }
    }

    /// Sets the version and the revision that `--version` and the metric `NAME_build_info` show.
    #[must_use]
    pub fn version(mut self, version: &'static str, revision: &'static str) -> App {
        self.program.version = version;
        self.program.revision = revision;
        self
    }

    /// Runs the program, and returns its exit code.
    ///
    /// `application` creates the application from two arguments: the flags that only this application has, and a
    /// configuration with the application id and the flags of the run. For an application without flags, the first
    /// argument has the type `()`.
    pub fn run<A, F>(
        self,
        application: impl FnOnce(A, AppConfig) -> Result<Application<F>, StreamsError>,
    ) -> ExitCode
    where
        A: Args,
        F: Format,
    {
        self.program
            .run(&self.arguments::<A>(), |matches, signals| {
                let log: LogFlags = parsed(matches)?;
                match matches.subcommand() {
                    Some((_, topics)) => {
                        log.start(LevelFilter::WARN);
                        signals.interrupt_work();
                        let create = topics.subcommand().map_or(topics, |(_, create)| create);
                        self.create_topics(parsed(create)?, application)
                    }
                    None => {
                        log.start(LevelFilter::INFO);
                        self.serve(parsed(matches)?, application, signals)
                    }
                }
            })
    }

    fn arguments<A: Args>(&self) -> Arguments {
        let name = self.program.name;
        let default_id = |id: Arg| id.default_value(name).required(false);
        let create = CreateFlags::<A>::augment_args(Command::new("create"))
            .mut_arg("application_id", default_id)
            .about("Create the topics that do not exist yet");
        let topics = Command::new("topics")
            .about("Create the topics of the application")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand(create);
        let help = Arg::new("help")
            .long("help")
            .action(ArgAction::HelpLong)
            .global(true)
            .help("Print help; -h without FILE does the same");
        let program = AppFlags::<A>::augment_args(Command::new(name));
        let program = LogFlags::augment_args(program)
            .mut_arg("application_id", default_id)
            .arg(help)
            .subcommand(topics)
            .about(self.about)
            .version(self.program.version)
            .disable_help_flag(true)
            .disable_help_subcommand(true)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true);
        Arguments {
            parser: program,
            prefix: name.replace('-', "_").to_uppercase(),
            tools: &[],
            common_flags: &[],
            missing_command: format!(
                "a command is missing: `{name} topics create` creates the topics of the application"
            ),
        }
    }

    fn serve<A: Args, F: Format>(
        &self,
        flags: AppFlags<A>,
        application: impl FnOnce(A, AppConfig) -> Result<Application<F>, StreamsError>,
        signals: Signals,
    ) -> Result<(), Failure> {
        let cluster = flags.cluster.cluster()?;
        let run = flags.run.config(EventClock::host())?;
        let run = RunConfig {
            cluster,
            ..flags.standby.applied_to(run)?
        };
        let config = self.config(&flags.own.application_id, run);
        let app = application(flags.own.of_application, config)?;
        if flags.describe {
            return output::quietly(output::print(&app.describe()));
        }
        let log = flags.kafka.connect()?;
        let create = format!(
            "`{} topics create --partitions N` and the same --kafka and --application-id",
            self.program.name
        );
        let process = AppProcess {
            program: self.program,
            app,
            log,
            admin: flags.admin.address(),
        };
        process.run(&create, signals)
    }

    fn create_topics<A: Args, F: Format>(
        &self,
        flags: CreateFlags<A>,
        application: impl FnOnce(A, AppConfig) -> Result<Application<F>, StreamsError>,
    ) -> Result<(), Failure> {
        let config = self.config(&flags.own.application_id, RunConfig::default());
        let app = application(flags.own.of_application, config)?;
        let flags_of_topics = &flags.partitions;
        let min_in_sync = flags_of_topics.min_in_sync()?;
        let (partitions, replication) = (flags_of_topics.partitions, flags_of_topics.replication);
        let mut specs = app.config().topics.specs(partitions, replication);
        specs.iter_mut().for_each(|it| it.min_in_sync = min_in_sync);
        let log = flags.kafka.connect_once()?;
        topics::create(&*log, &specs, "")
    }

    /// Returns the configuration of the application with this id.
    fn config(&self, application_id: &str, run: RunConfig) -> AppConfig {
        AppConfig {
            metrics_prefix: self.program.name.replace('-', "_"),
            labels: Labels {
                lateness_ms: "--lateness (ms)",
                ..Labels::default()
            },
            run,
            ..AppConfig::new(application_id)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::ffi::OsString;

    use super::*;
    use crate::process::Parsed;

    fn arguments() -> Arguments {
        App::new("word-count", "Counts words").arguments::<()>()
    }

    fn parse(line: &str) -> Parsed {
        arguments().parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_flags_are_consistent() {
        arguments().complete().debug_assert();
    }

    #[test]
    fn every_flag_reads_a_variable_of_the_program() {
        let parser = arguments().complete();
        let flags = parser
            .get_arguments()
            .filter(|flag| flag.get_id() != "help");
        let variables = flags.map(|flag| flag.get_env().unwrap().to_string_lossy());
        let variables: Vec<_> = variables.collect();
        assert!(variables.iter().all(|it| it.starts_with("WORD_COUNT_")));
        assert!(variables.contains(&"WORD_COUNT_LOG_FORMAT".into()));
    }

    #[test]
    fn h_is_help_if_no_file_follows() {
        for (line, flag) in [
            ("word-count -h", "--standby"),
            ("word-count -w 2 -h", "--cluster-token-file"),
            ("word-count topics create -h", "--partitions"),
            ("word-count topics create --help", "--application-id"),
        ] {
            let Parsed::Print(help) = parse(line) else {
                panic!("{line} prints no help");
            };
            assert!(help.contains(flag), "{line}: {help}");
        }
        assert!(matches!(
            parse("word-count --kafka b:1 -h hosts"),
            Parsed::Run(_)
        ));
    }

    #[test]
    fn only_a_command_that_uses_kafka_needs_its_address() {
        for line in ["word-count", "word-count topics create"] {
            let Parsed::Invalid(why) = parse(line) else {
                panic!("{line} is accepted");
            };
            assert!(why.contains("--kafka"), "{line}: {why}");
        }
        for line in [
            "word-count --describe",
            "word-count --kafka b:1 -w 2 --standby --commit-timeout 30s",
            "word-count topics create --kafka b:1 --partitions 4 -v",
        ] {
            assert!(matches!(parse(line), Parsed::Run(_)), "{line}");
        }
        let Parsed::Invalid(why) = parse("word-count topics") else {
            panic!("a command is missing");
        };
        assert!(why.contains("`word-count topics create`"), "{why}");
    }

    #[test]
    fn an_id_is_the_beginning_of_a_topic_s_name() {
        assert_eq!(
            application_id("words.of-2_b"),
            Ok("words.of-2_b".to_owned())
        );
        for text in ["", "a b", "ä", "a/b"] {
            assert!(application_id(text).is_err(), "{text}");
        }
    }
}
