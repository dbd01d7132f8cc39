//! `tandem-lb certificate …`: manages the certificates of a running front end's listeners.
//!
//! Owns the arguments of the command and the requests to the admin listener that they become. Does not own the answers:
//! `--json` prints them as they are.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tandem_runtime::config::read_file;
use tandem_runtime::io::command_line::{
    AdminClient, AdminPlace, AdminPlaceError, ClientError, Outcome, changed_certificates, file_body,
    listed_certificates, run, word,
};
use thiserror::Error;

use crate::config::{ADMIN_DEFAULT, Config};

/// Runs the command; `arguments` are those after `certificate`.
#[must_use]
pub fn certificate(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run("tandem-lb certificate", USAGE, parse(arguments), |arguments| {
        perform(&arguments)
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    admin: SocketAddr,
    /// Print the answer as it is, instead of a table.
    json: bool,
    listener: String,
    command: Command,
}

#[derive(Debug, PartialEq, Eq)]
enum Command {
    List,
    Upload {
        file: PathBuf,
    },
    Remove {
        fingerprint: String,
    },
    /// The first name is the common name.
    Request {
        names: Vec<String>,
    },
    Signed {
        file: PathBuf,
    },
}

#[derive(Debug, Error)]
enum ArgumentError {
    #[error(transparent)]
    NotUnderstood(#[from] lexopt::Error),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("unexpected argument {0:?}")]
    Unknown(String),
    #[error(transparent)]
    Place(#[from] AdminPlaceError),
}

/// Parses the arguments; `None` when help was requested.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Arguments>, ArgumentError> {
    let mut parser = Parser::from_args(arguments);
    let (mut words, mut place, mut json) = (Vec::new(), AdminPlace::default(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("admin") => place.admin = Some(parser.value()?.parse()?),
            Arg::Long("config") => place.config = Some(parser.value()?.into()),
            Arg::Long("json") => json = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(word) => words.push(word.string()?),
            Arg::Long(_) | Arg::Short(_) => return Err(argument.unexpected().into()),
        }
    }
    let (command, listener) = command(words)?;
    let admin = place.find(ADMIN_DEFAULT, |file| {
        Ok(read_file(file, Config::read)?.admin.listen)
    })?;
    Ok(Some(Arguments {
        admin,
        json,
        listener,
        command,
    }))
}

/// The command, and the name of the listener it is about.
fn command(words: Vec<String>) -> Result<(Command, String), ArgumentError> {
    let mut words = words.into_iter();
    let mut next = |wanted| words.next().ok_or(ArgumentError::Missing(wanted));
    let verb = next("list, upload, remove, csr or signed")?;
    let listener = next("the listener's name")?;
    let command = match verb.as_str() {
        "list" => Command::List,
        "upload" => Command::Upload {
            file: next("the file with the certificates")?.into(),
        },
        "remove" => Command::Remove {
            fingerprint: next("the SHA-256 fingerprint")?,
        },
        "csr" => {
            let mut names = vec![next("the common name")?];
            names.extend(words.by_ref());
            Command::Request { names }
        }
        "signed" => Command::Signed {
            file: next("the file with the signed certificate")?.into(),
        },
        _ => return Err(ArgumentError::Unknown(verb)),
    };
    match words.next() {
        Some(word) => Err(ArgumentError::Unknown(word)),
        None => Ok((command, listener)),
    }
}

fn perform(arguments: &Arguments) -> Result<Outcome, ClientError> {
    let client = AdminClient::new(arguments.admin)?;
    let name = utf8_percent_encode(&arguments.listener, NON_ALPHANUMERIC);
    let routes = format!("/listeners/{name}/certificates");
    let post = |verb: &str, body: &Value| client.post(&format!("{routes}/{verb}"), body);
    let (answer, text): (Value, fn(&Value) -> String) = match &arguments.command {
        Command::List => (client.get(&routes)?, list_text),
        Command::Upload { file } => (post("upload", &file_body(file)?)?, changed_certificates),
        Command::Remove { fingerprint } => {
            let body = json!({ "sha256_fingerprint": fingerprint });
            (post("remove", &body)?, changed_certificates)
        }
        Command::Request { names } => {
            let body = json!({ "common_name": names.first(), "names": names });
            (post("csr", &body)?, |answer| word(&answer["request_pem"]))
        }
        Command::Signed { file } => (post("signed", &file_body(file)?)?, signed_text),
    };
    Ok(Outcome {
        text: match arguments.json {
            true => answer.to_string(),
            false => text(&answer),
        },
        well: is_well(&arguments.command, &answer),
    })
}

/// Whether the answer shows no problem. An answered change was made, but the certificate shown may still have a problem.
fn is_well(command: &Command, answer: &Value) -> bool {
    let verified = |status: &Value| status.as_str() == Some("Verified");
    match command {
        Command::List => verified(&answer["own"]["status"]),
        Command::Signed { .. } => verified(&answer["status"]),
        Command::Upload { .. } | Command::Remove { .. } | Command::Request { .. } => true,
    }
}

fn list_text(answer: &Value) -> String {
    format!("{}{}", listed_certificates(answer), verdict_text(&answer["own"]))
}

fn signed_text(answer: &Value) -> String {
    format!(
        "{}{}",
        changed_certificates(&answer["chain"]),
        verdict_text(answer)
    )
}

fn verdict_text(verdict: &Value) -> String {
    format!(
        "{}: {}\n",
        word(&verdict["status"]),
        word(&verdict["explanation"])
    )
}

const USAGE: &str = "\
usage: tandem-lb certificate COMMAND LISTENER [--admin ADDRESS:PORT | --config FILE] [--json]
  list LISTENER                 show the trusted certificate authorities and the listener's own certificate
  upload LISTENER FILE          trust the certificate authorities in FILE: their clients may connect
  remove LISTENER FINGERPRINT   stop trusting a certificate authority: its clients may no longer connect
  csr LISTENER NAME [NAME...]   print a certificate signing request for these names: the VIP and all nodes
  signed LISTENER FILE          install the signed certificate from FILE
exit status: 0 success, 1 refused or the listener's certificate has a problem, 2 usage error or no answer";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, ArgumentError> {
        parse(line.split(' ').map(OsString::from)).map(|arguments| arguments.expect("no help was asked for"))
    }

    #[test]
    fn a_front_end_is_asked_where_it_listens_by_default() {
        let arguments = parsed("list ocs").unwrap();
        assert_eq!(arguments.admin, ADMIN_DEFAULT);
        assert_eq!(arguments.listener, "ocs");
        assert_eq!(arguments.command, Command::List);
        let arguments = parsed("csr ocs vip.example.com n1.example.com --json --admin 127.0.0.1:9").unwrap();
        assert_eq!((arguments.admin.port(), arguments.json), (9, true));
        let names = vec!["vip.example.com".to_owned(), "n1.example.com".to_owned()];
        assert_eq!(arguments.command, Command::Request { names });
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        for (line, named) in [
            ("list", "the listener's name is missing"),
            ("upload ocs", "the file with the certificates is missing"),
            ("list ocs now", "unexpected argument \"now\""),
            ("sell ocs", "unexpected argument \"sell\""),
            (
                "list ocs --admin 127.0.0.1:1 --config a",
                "--admin and --config contradict",
            ),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_of_the_usage_is_understood() {
        for line in USAGE.lines().filter_map(|line| line.strip_prefix("  ")) {
            let command = line.split("  ").next().unwrap();
            parsed(&command.replace(" [NAME...]", "")).unwrap();
        }
    }

    #[test]
    fn a_certificate_with_a_problem_is_not_well() {
        let answer = |status: &str| json!({ "own": { "status": status, "explanation": "so" } });
        assert!(is_well(&Command::List, &answer("Verified")));
        assert!(!is_well(&Command::List, &answer("Bad Certificates")));
        assert!(list_text(&answer("Failed")).ends_with("Failed: so\n"));
    }
}
