//! Administration commands that ask a running process.
//!
//! Owns the request to the admin listener, the table that an answer becomes, and the exit status. Does not own arguments and
//! answers: they belong to each binary. What always holds: the exit status says whether there is no problem (0), a problem or
//! a refusal (1), or a usage error or no answer (2).

mod admin_client;
mod admin_place;
mod certificates;
mod table;

use std::fmt::Display;
use std::process::ExitCode;

use serde_json::Value;

pub use admin_client::{AdminClient, ClientError};
pub use admin_place::{AdminPlace, AdminPlaceError};
pub use certificates::{changed_certificates, file_body, listed_certificates, signed_certificates};
pub use table::Table;

/// What is written, and whether all is well.
#[derive(Debug)]
pub struct Outcome {
    pub text: String,
    pub well: bool,
}

impl Outcome {
    #[must_use]
    pub fn well(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            well: true,
        }
    }
}

/// Does what the arguments say, and turns the end into an exit status. `program` are the words before them; `Ok(None)`: help
/// was asked for.
pub fn run<A, E: Display>(
    program: &str,
    usage: &str,
    arguments: Result<Option<A>, E>,
    perform: impl FnOnce(A) -> Result<Outcome, ClientError>,
) -> ExitCode {
    let arguments = match arguments {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{usage}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{program}: {error}\n{usage}");
            return ExitCode::from(NOT_ASKED);
        }
    };
    match perform(arguments) {
        Ok(outcome) => {
            println!("{}", outcome.text.trim_end());
            ExitCode::from(if outcome.well { WELL } else { NOT_WELL })
        }
        Err(error @ ClientError::Refused { .. }) => {
            eprintln!("{program}: {error}");
            ExitCode::from(NOT_WELL)
        }
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(NOT_ASKED)
        }
    }
}

/// The items of a list; none of what is no list.
#[must_use]
pub fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value for people; nothing for what is not known.
#[must_use]
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

const WELL: u8 = 0;
const NOT_WELL: u8 = 1;
const NOT_ASKED: u8 = 2;
