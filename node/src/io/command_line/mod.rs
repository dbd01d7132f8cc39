//! `tandem-node exchange …` and `tandem-node cluster …`: commands of an administrator to a running node.
//!
//! Owns the arguments, the requests to the admin listener that they become, and the tables made from the answers. Does
//! not own the answers: they are those of the admin routes, which `--json` shows unchanged. What always holds: the exit
//! status says whether everything is in order (0), something is not (1), or no node could be asked (2).

mod arguments;
mod cas;
mod certificates;
mod cluster;
mod user;

use std::ffi::OsString;
use std::process::ExitCode;

use arguments::{Arguments, Command, USAGE};
use tandem_runtime::io::command_line::{AdminClient, ClientError, Outcome, run};

/// `arguments` are those after `exchange`.
#[must_use]
pub fn exchange(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(
        "tandem-node exchange",
        USAGE,
        arguments::parse(arguments),
        |arguments| perform(&arguments),
    )
}

/// `arguments` are those after `cluster`.
#[must_use]
pub fn cluster(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = cluster::parse(arguments);
    run("tandem-node cluster", cluster::USAGE, parsed, |arguments| {
        cluster::perform(&arguments)
    })
}

fn perform(arguments: &Arguments) -> Result<Outcome, ClientError> {
    let client = AdminClient::new(arguments.admin)?;
    let json = arguments.json;
    match &arguments.command {
        Command::Status => cas::status(&client, json),
        Command::User { user } => user::explain(&client, user, json),
        Command::CasList => cas::list(&client, json),
        Command::CasAdd { cas } => cas::add(&client, cas),
        Command::CasRemove { name } => cas::remove(&client, name),
        Command::CasEligible { name, eligible } => cas::set_eligible(&client, name, *eligible),
        Command::Rebalance { per_second } => cas::rebalance(&client, *per_second),
        Command::Certificate(command) => certificates::perform(&client, command, json),
    }
}
