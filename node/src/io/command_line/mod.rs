//! `tandem-node exchange …` and `tandem-node cluster …`: what an administrator asks of a running node, in a terminal.
//!
//! Owns the words of the command, the questions to the admin listener that they become, and the tables that the answers
//! become. Does not own the answers: they are those of the admin routes, which `--json` shows as they are. What always
//! holds: the exit status says whether all is well (0), something is not (1), or nobody could be asked (2).

mod admin_client;
mod arguments;
mod certificates;
mod cluster;
mod gateways;
mod table;
mod user;

use std::ffi::OsString;
use std::process::ExitCode;

use admin_client::{AdminClient, ClientError};
use arguments::{ArgumentError, Arguments, Command, USAGE};

/// What is written, and whether all is well.
struct Outcome {
    text: String,
    well: bool,
}

impl Outcome {
    fn well(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            well: true,
        }
    }
}

/// `arguments` are those after `exchange`.
#[must_use]
pub fn exchange(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run("exchange", USAGE, arguments::parse(arguments), |arguments| {
        perform(&arguments)
    })
}

/// `arguments` are those after `cluster`.
#[must_use]
pub fn cluster(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = cluster::parse(arguments);
    run("cluster", cluster::USAGE, parsed, |arguments| {
        cluster::perform(&arguments)
    })
}

/// `Ok(None)`: help was asked for.
fn run<A>(
    word: &str,
    usage: &str,
    arguments: Result<Option<A>, ArgumentError>,
    perform: impl FnOnce(A) -> Result<Outcome, ClientError>,
) -> ExitCode {
    let arguments = match arguments {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{usage}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("tandem-node {word}: {error}\n{usage}");
            return ExitCode::from(NOT_ASKED);
        }
    };
    match perform(arguments) {
        Ok(outcome) => {
            println!("{}", outcome.text.trim_end());
            ExitCode::from(if outcome.well { WELL } else { NOT_WELL })
        }
        Err(error @ ClientError::Refused { .. }) => {
            eprintln!("tandem-node {word}: {error}");
            ExitCode::from(NOT_WELL)
        }
        Err(error) => {
            eprintln!("tandem-node {word}: {error}");
            ExitCode::from(NOT_ASKED)
        }
    }
}

fn perform(arguments: &Arguments) -> Result<Outcome, ClientError> {
    let client = AdminClient::new(arguments.admin)?;
    let json = arguments.json;
    match &arguments.command {
        Command::Status => gateways::status(&client, json),
        Command::User { user } => user::explain(&client, user, json),
        Command::Gateways => gateways::list(&client, json),
        Command::GatewayAdd { gateway } => gateways::add(&client, gateway),
        Command::GatewayRemove { name } => gateways::remove(&client, name),
        Command::GatewayEligible { name, eligible } => gateways::set_eligible(&client, name, *eligible),
        Command::Rebalance { per_second } => gateways::rebalance(&client, *per_second),
        Command::Certificate(command) => certificates::perform(&client, command, json),
    }
}

const WELL: u8 = 0;
const NOT_WELL: u8 = 1;
const NOT_ASKED: u8 = 2;
