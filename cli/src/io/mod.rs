//! Reads and writes the files that the command line is about, and turns the end into an exit status.
//!
//! Owns files, keys, chance and the clock, each by the environment of `tandem-runtime` where that has them. Does not own what
//! stands in certificates and configurations. What always holds: what is wrong goes to standard error with what to do about
//! it, and a reader of standard output that has seen enough is no failure.

mod authorities;
mod certify;
mod config_check;
mod config_init;
mod files;
mod manual;
mod show;
mod verify;

use std::error::Error;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory, FromArgMatches};
use tandem_runtime::io::certificates::with_causes;
use tandem_runtime::io::command_line::Outcome;
use tandem_runtime::io::environment;
use time::OffsetDateTime;

use crate::arguments::{Arguments, Configuration, Noun, Pki};

/// Does what the command line says; `words` begin with the name of the program.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    let choice = match words.iter().any(|word| word == "--no-color") {
        true => ColorChoice::Never,
        // Terminals alone, and none where NO_COLOR is set.
        false => ColorChoice::Auto,
    };
    let matches = Arguments::command().color(choice).try_get_matches_from(words);
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = if error.use_stderr() { USAGE } else { WELL };
            // Nobody is left who could be told that standard output is closed.
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    let coloured = !arguments.no_color && terminal_takes_colours();
    match perform(arguments.noun, coloured) {
        Ok(outcome) => {
            write_out(&outcome.text);
            ExitCode::from(if outcome.well { WELL } else { NOT_WELL })
        }
        Err(error) => {
            eprintln!("tandem: {}", with_causes(error.as_ref()));
            ExitCode::from(NOT_WELL)
        }
    }
}

fn perform(noun: Noun, coloured: bool) -> Result<Outcome, Box<dyn Error>> {
    match noun {
        Noun::Pki(verb) => pki(verb, coloured),
        Noun::Config(Configuration::Init(arguments)) => Ok(Outcome::well(config_init::init(*arguments)?)),
        Noun::Config(Configuration::Check { files }) => Ok(config_check::check(&files)),
        Noun::Version => Ok(Outcome::well(format!("tandem {}", env!("CARGO_PKG_VERSION")))),
        Noun::Completions { shell } => Ok(Outcome::well(manual::completions(shell))),
        Noun::Manual { directory } => Ok(Outcome::well(manual::write(&directory)?)),
    }
}

fn pki(verb: Pki, coloured: bool) -> Result<Outcome, Box<dyn Error>> {
    let text = match verb {
        Pki::Init(arguments) => authorities::init(&arguments)?,
        Pki::Issue(arguments) => certify::issue(arguments)?,
        Pki::Csr(arguments) => certify::request(arguments)?,
        Pki::Sign(arguments) => certify::sign(&arguments)?,
        Pki::Renew(arguments) => certify::renew(&arguments)?,
        Pki::Show { files } => return Ok(show::show(&files)),
        Pki::Verify { config } => return Ok(verify::verify(&config, coloured)?),
    };
    Ok(Outcome::well(text))
}

/// A reader that has gone has seen enough; a full disk is told of.
fn write_out(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("tandem: cannot write to standard output: {error}");
    }
}

/// The convention of no-color.org: whatever the variable says, unless it is empty.
fn terminal_takes_colours() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !forbidden && std::io::stdout().is_terminal()
}

/// The clock on the wall, as certificates count.
fn now() -> OffsetDateTime {
    let seconds = i64::try_from(environment::unix_time().as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

const WELL: u8 = 0;
const NOT_WELL: u8 = 1;
/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
