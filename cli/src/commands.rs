//! What the commands do: one module for each noun, and for each command about the whole.

mod apply;
mod client_keys;
mod clusters;
mod completion;
mod endpoints;
mod events;
mod import;
mod proxies;
mod proxy;
mod queue;
mod reload;
mod status;
mod stream;
mod up;
mod version;
mod wait;

use std::io::{self, BufRead, IsTerminal};

use qcc_proto::tls::Roots;

use crate::{
    args::{Cli, Command},
    client::{Caller, Server},
    error::{Error, Exit},
    operator::Operator,
    output::Output,
};

/// How a command that did its work answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// The question's answer is no.
    No,
    /// A check found problems.
    Problems,
}

impl Answer {
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Done => Exit::Done,
            Self::No => Exit::Failed,
            Self::Problems => Exit::Problems,
        }
    }
}

/// What every command has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) control: Server,
    pub(crate) proxy: Server,
    /// Whether the user has named the proxy on the command line.
    pub(crate) proxy_given: bool,
    pub(crate) output: Output,
}

impl Context {
    /// A proxy's admin service at another address than `--proxy`.
    fn admin_of(&self, url: http::Uri) -> Server {
        Server::proxy(url, self.proxy.caller().clone())
    }
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<Answer, Error> {
    let global = cli.global;
    let caller = Caller {
        operator: global.operator.clone().or_else(Operator::of_this_process),
        timeout: global.timeout,
        roots: (global.ca_file.clone()).map_or(Roots::Platform, Roots::Only),
    };
    let context = Context {
        output: Output::new(&global),
        control: Server::control(global.control, caller.clone()),
        proxy: Server::proxy(global.proxy, caller),
        proxy_given: global.proxy_given,
    };
    match cli.command {
        Command::Up(args) => up::run(args, &context).await,
        Command::Status(args) => status::run(&args, &context).await,
        Command::Endpoints(command) => endpoints::run(command, &context).await,
        Command::Clusters(command) => clusters::run(command, &context).await,
        Command::Queue(command) => queue::run(command, &context).await,
        Command::Proxies(command) => proxies::run(command, &context).await,
        Command::Events(args) => events::run(&args, &context).await,
        Command::Proxy(command) => proxy::run(command, &context).await,
        Command::ClientKeys(command) => client_keys::run(&command, &context),
        Command::Reload(args) => reload::control(&args, &context).await,
        Command::Apply(args) => apply::apply(&args, &context).await,
        Command::Diff(args) => apply::diff(&args, &context).await,
        Command::Export => apply::export(&context).await,
        Command::Wait(args) => wait::run(args, &context).await,
        Command::Import(command) => import::run(command, &context).await,
        Command::Completion(args) => completion::run(&args, &context),
        Command::Version(args) => version::run(&args, &context).await,
    }
}

/// Asks on a terminal before something is lost. Without one, only `--yes` will do: a script that
/// waits for an answer nobody gives helps nobody.
fn confirm(yes: bool, what: &str) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::usage(format!(
            "this would {what}, and there is no terminal to ask on"
        ))
        .hint("pass `--yes`"));
    }
    eprint!("{what}? [y/N] ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::failed("not confirmed; nothing was changed")),
    }
}

/// An answer without the message that its method always sends.
fn missing(what: &str) -> Error {
    Error::failed(format!("the server's answer lacks the {what}"))
        .hint("client and server may be of different versions; compare `qcc-ctl version`")
}
