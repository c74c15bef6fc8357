//! What the user may write.
//!
//! - [`endpoints`], [`clusters`], [`queue`], [`proxies`], [`events`]: the nouns with their verbs.
//! - [`client_keys`]: a file of a proxy.
//! - [`whole`]: commands about the system as a whole.
//! - [`check`]: flags that describe a check, shared by endpoints and clusters.
//! - [`selection`]: flags that say how endpoints are chosen.
//! - [`change`]: flags of commands that change something.
//! - [`key`]: where an API key is read from.
//! - [`values`]: values of flags that are more than text.

pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod client_keys;
pub(crate) mod clusters;
pub(crate) mod endpoints;
pub(crate) mod events;
pub(crate) mod key;
pub(crate) mod proxies;
pub(crate) mod queue;
pub(crate) mod selection;
pub(crate) mod values;
pub(crate) mod whole;

use std::{path::PathBuf, time::Duration};

use clap::{
    ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    parser::ValueSource,
};
use http::Uri;

use crate::operator::Operator;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed, or the answer is no (`diff` found differences, a check did not pass)
  2    usage: a flag, a file or a value is wrong
  3    not found
  4    conflict: it exists already, has changed meanwhile, or a precondition is not met
  5    unauthenticated, or not allowed
  6    not reachable, or not done in time
  7    a check found problems (`status --check`)
  130  interrupted";

/// Controls qcc: endpoints and their health, the failure queue, and the proxies that use them.
#[derive(Debug, Parser)]
#[command(name = "qcc-ctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads this process's command line. Ends the process if it is wrong, or asks for help.
    pub(crate) fn read() -> Self {
        let mut matches = Self::command().get_matches();
        let proxy = matches.value_source("proxy");
        let mut cli = Self::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
        cli.global.proxy_given = proxy == Some(ValueSource::CommandLine);
        cli
    }
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Control plane to ask; of several, the first that answers.
    #[arg(long, global = true, value_name = "URL", env = "QCC_CONTROL", default_value = "http://127.0.0.1:7870", value_delimiter = ',', value_parser = values::url)]
    pub(crate) control: Vec<Uri>,

    /// Admin address of the proxy to ask (`proxy` commands, and `endpoints explain` where it is given).
    #[arg(long, global = true, value_name = "URL", env = "QCC_PROXY", default_value = "http://127.0.0.1:7861", value_parser = values::url)]
    pub(crate) proxy: Uri,

    /// Whether `--proxy` was typed: `endpoints explain` then asks that proxy.
    #[arg(skip)]
    pub(crate) proxy_given: bool,

    /// Authorities that vouch for servers at https:// addresses, in PEM [default: the platform's].
    #[arg(long, global = true, value_name = "FILE", env = "QCC_CACERT")]
    pub(crate) ca_file: Option<PathBuf>,

    /// Who asks; the control plane writes it down beside what is changed (default: USER and HOST, as USER@HOST).
    #[arg(long, global = true, value_name = "NAME", env = "QCC_OPERATOR", value_parser = values::operator)]
    pub(crate) operator: Option<Operator>,

    /// Longest wait for each answer [default: 5s], or for the whole of `wait` [default: 30s].
    #[arg(long, global = true, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) timeout: Option<Duration>,

    /// How to write the answer.
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,

    /// Leave out the header line of tables.
    #[arg(long, global = true)]
    pub(crate) no_headers: bool,

    /// When to use colour; `auto` respects `NO_COLOR` and `CLICOLOR_FORCE`.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,

    /// Say more on stderr; twice for still more.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs: the contract's messages, with the contract's field names.
    Json,
    /// The same as YAML.
    Yaml,
    /// One `kind/name` a line.
    Name,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a control plane and a proxy in this process.
    ///
    /// Ctrl-C, SIGTERM and the end of its terminal (SIGHUP, unless it is ignored, as `nohup` has it)
    /// stop it: requests that run have 10 s. Ctrl-C or SIGTERM once more ends it at once.
    Up(whole::Up),

    /// Show how everything is, on one screen.
    Status(whole::Status),

    /// LLM API endpoints: base URLs, their credentials and health.
    #[command(subcommand, visible_alias = "endpoint")]
    Endpoints(endpoints::Endpoints),

    /// Sets of interchangeable endpoints, and their policies.
    #[command(subcommand, visible_alias = "cluster")]
    Clusters(clusters::Clusters),

    /// The failure queue: unhealthy endpoints that wait for a check.
    #[command(subcommand)]
    Queue(queue::Queue),

    /// Proxies, as the control plane knows them.
    #[command(subcommand)]
    Proxies(proxies::Proxies),

    /// Show what has happened, why, and on whose word.
    Events(events::Events),

    /// One proxy's account of itself (asks the proxy at `--proxy`).
    #[command(subcommand)]
    Proxy(proxies::Proxy),

    /// Keys of those who may send requests through a proxy (a file on this machine).
    #[command(subcommand)]
    ClientKeys(client_keys::ClientKeys),

    /// Have the control plane read its configuration file again, and the files that this names (a proxy:
    /// `proxy reload`). What cannot change without a restart is said; if anything is wrong, nothing changes.
    Reload(whole::Reload),

    /// Bring clusters and endpoints to the state that a file declares.
    Apply(whole::Apply),

    /// Show what `apply` would change; exit 1 if anything.
    Diff(whole::Diff),

    /// Write clusters and endpoints as a file for `apply`, without keys.
    Export,

    /// Wait for a condition.
    Wait(whole::Wait),

    /// Take over configuration from other programs.
    #[command(subcommand)]
    Import(whole::Import),

    /// Write a shell's completion script.
    Completion(whole::Completion),

    /// Show the versions of this program and of the control plane.
    Version(whole::Version),
}
