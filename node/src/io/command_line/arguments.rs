//! The words after `tandem-node exchange`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use tandem_runtime::config::read_file;
use tandem_runtime::io::command_line::{AdminPlace, AdminPlaceError};
use thiserror::Error;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) admin: SocketAddr,
    /// The answer as received, instead of a table.
    pub(super) json: bool,
    pub(super) command: Command,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Status,
    User { user: String },
    CasList,
    CasAdd { cas: NewCas },
    CasRemove { name: String },
    CasEligible { name: String, eligible: bool },
    Rebalance { per_second: u32 },
    Certificate(CertificateCommand),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewCas {
    pub(super) name: String,
    pub(super) host: Host,
    pub(super) description: String,
    pub(super) channel_binding: bool,
    pub(super) legacy_algorithms: bool,
}

/// `HOST[:PORT]`, an IPv6 address with a port in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) host: String,
    pub(super) port: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CertificateCommand {
    List,
    Diagnose {
        host: Host,
        legacy_algorithms: bool,
    },
    Import {
        host: Host,
        /// Fingerprints, or "recommended".
        accept: Vec<String>,
        private_addresses: bool,
    },
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
pub(super) enum ArgumentError {
    #[error(transparent)]
    NotUnderstood(#[from] lexopt::Error),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("unknown argument {0:?}")]
    Unknown(String),
    #[error("{text:?} is not {wanted}")]
    Value { text: String, wanted: &'static str },
    #[error(transparent)]
    Place(#[from] AdminPlaceError),
}

/// Options and words, in any order.
#[derive(Default)]
struct Given {
    words: Vec<String>,
    place: AdminPlace,
    json: bool,
    description: String,
    no_channel_binding: bool,
    legacy_algorithms: bool,
    per_second: Option<u32>,
    accept: Vec<String>,
    private_addresses: bool,
}

/// `None`: help was asked for.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Arguments>, ArgumentError> {
    let mut parser = Parser::from_args(arguments);
    let mut given = Given::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("admin") => given.place.admin = Some(parser.value()?.parse()?),
            Arg::Long("config") => given.place.config = Some(parser.value()?.into()),
            Arg::Long("json") => given.json = true,
            Arg::Long("description") => given.description = parser.value()?.string()?,
            Arg::Long("no-channel-binding") => given.no_channel_binding = true,
            Arg::Long("legacy-algorithms") => given.legacy_algorithms = true,
            Arg::Long("per-second") => given.per_second = Some(parser.value()?.parse()?),
            Arg::Long("accept") => given.accept.push(parser.value()?.string()?),
            Arg::Long("private-addresses") => given.private_addresses = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(word) => given.words.push(word.string()?),
            Arg::Long(_) | Arg::Short(_) => return Err(argument.unexpected().into()),
        }
    }
    let admin = admin_at(&given.place)?;
    let json = given.json;
    let command = given.command()?;
    Ok(Some(Arguments { admin, json, command }))
}

impl Given {
    fn command(self) -> Result<Command, ArgumentError> {
        let mut words = Words(self.words.clone().into_iter());
        let command = match words
            .next("status, user, gateways, rebalance or certificate")?
            .as_str()
        {
            "status" => Command::Status,
            "user" => Command::User {
                user: words.next("the user's id")?,
            },
            "gateways" => self.cas_list(&mut words)?,
            "rebalance" => Command::Rebalance {
                per_second: self.per_second.unwrap_or(PER_SECOND),
            },
            "certificate" | "certificates" => Command::Certificate(self.certificate(&mut words)?),
            other => return Err(ArgumentError::Unknown(other.to_owned())),
        };
        match words.0.next() {
            Some(word) => Err(ArgumentError::Unknown(word)),
            None => Ok(command),
        }
    }

    fn cas_list(self, words: &mut Words) -> Result<Command, ArgumentError> {
        let Some(verb) = words.0.next() else {
            return Ok(Command::CasList);
        };
        Ok(match verb.as_str() {
            "list" => Command::CasList,
            "add" => Command::CasAdd {
                cas: NewCas {
                    name: words.next("the name of the CAS")?,
                    host: Host::parse(&words.next("HOST or HOST:PORT")?)?,
                    description: self.description,
                    channel_binding: !self.no_channel_binding,
                    legacy_algorithms: self.legacy_algorithms,
                },
            },
            "remove" => Command::CasRemove {
                name: words.next("the name of the CAS")?,
            },
            "eligible" => Command::CasEligible {
                name: words.next("the name of the CAS")?,
                eligible: yes_or_no(&words.next("yes or no")?)?,
            },
            _ => return Err(ArgumentError::Unknown(verb)),
        })
    }

    fn certificate(self, words: &mut Words) -> Result<CertificateCommand, ArgumentError> {
        let verb = words.next("list, diagnose, import, upload, remove, csr or signed")?;
        Ok(match verb.as_str() {
            "list" => CertificateCommand::List,
            "diagnose" => CertificateCommand::Diagnose {
                host: Host::parse(&words.next("HOST or HOST:PORT")?)?,
                legacy_algorithms: self.legacy_algorithms,
            },
            "import" => CertificateCommand::Import {
                host: Host::parse(&words.next("HOST or HOST:PORT")?)?,
                accept: self.accept,
                private_addresses: self.private_addresses,
            },
            "upload" => CertificateCommand::Upload {
                file: words.next("the file with the certificates")?.into(),
            },
            "remove" => CertificateCommand::Remove {
                fingerprint: words.next("the SHA-256 fingerprint")?,
            },
            "csr" => {
                let mut names = vec![words.next("the common name")?];
                names.extend(words.0.by_ref());
                CertificateCommand::Request { names }
            }
            "signed" => CertificateCommand::Signed {
                file: words.next("the file with the signed certificate")?.into(),
            },
            _ => return Err(ArgumentError::Unknown(verb)),
        })
    }
}

struct Words(std::vec::IntoIter<String>);

impl Words {
    fn next(&mut self, wanted: &'static str) -> Result<String, ArgumentError> {
        self.0.next().ok_or(ArgumentError::Missing(wanted))
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, ArgumentError> {
        let refused = || ArgumentError::Value {
            text: text.to_owned(),
            wanted: "HOST, HOST:PORT or [IPV6]:PORT",
        };
        let whole = |host: &str| Self {
            host: host.to_owned(),
            port: 443,
        };
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(whole(text));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Ok(whole(text));
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() || (bare.contains(':') && bare == host) {
            return Err(refused());
        }
        Ok(Self {
            host: bare.to_owned(),
            port,
        })
    }
}

fn yes_or_no(text: &str) -> Result<bool, ArgumentError> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(ArgumentError::Value {
            text: text.to_owned(),
            wanted: "yes or no",
        }),
    }
}

/// Where the node listens for administrators.
pub(super) fn admin_at(place: &AdminPlace) -> Result<SocketAddr, AdminPlaceError> {
    place.find(ADMIN_DEFAULT, |file| {
        Ok(read_file(file, crate::config::read)?.admin.listen)
    })
}

const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8081);
const PER_SECOND: u32 = 50;

pub(super) const USAGE: &str = "\
usage: tandem-node exchange COMMAND [--admin ADDRESS:PORT | --config FILE] [--json]
  status                            show every CAS: reachable, certificate, account, impersonation, users
  user USER                         show the user's CAS, since when and why, and the state of the calendar
  gateways                          list the CAS in order
  gateways add NAME HOST[:PORT]     add a CAS [--description TEXT] [--no-channel-binding] [--legacy-algorithms]
  gateways remove NAME              remove a CAS and reassign its users
  gateways eligible NAME yes|no     whether the CAS is given new users; the users it has stay
  rebalance [--per-second N]        spread the users evenly over the CAS, 50 users per second unless told otherwise
  certificate list                  list the trusted certificates and the node's own
  certificate diagnose HOST[:PORT]  show a host's certificate chain and what is wrong with it [--legacy-algorithms]
  certificate import HOST[:PORT]    show what the host offers; trust it with --accept FINGERPRINT or --accept recommended
  certificate upload FILE           trust the certificates in FILE
  certificate remove FINGERPRINT    stop trusting a certificate
  certificate csr NAME [NAME...]    print a certificate signing request for the node's own certificate
  certificate signed FILE           install the signed certificate from FILE
exit status: 0 success, 1 refused or a problem was found, 2 usage error or no answer";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, ArgumentError> {
        let words = line.split(' ').map(OsString::from);
        parse(words).map(|arguments| arguments.expect("no help was asked for"))
    }

    fn host(host: &str, port: u16) -> Host {
        Host {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn a_node_is_asked_where_it_listens_by_default() {
        let arguments = parsed("status").unwrap();
        assert_eq!(arguments.admin, ADMIN_DEFAULT);
        assert_eq!(arguments.command, Command::Status);
        let arguments = parsed("user ana --json --admin 127.0.0.1:9").unwrap();
        assert_eq!((arguments.admin.port(), arguments.json), (9, true));
        assert_eq!(
            arguments.command,
            Command::User {
                user: "ana".to_owned()
            }
        );
    }

    #[test]
    fn every_command_of_the_usage_is_understood() {
        let is_example = |word: &&str| !word.starts_with('[');
        for line in USAGE.lines().filter_map(|line| line.strip_prefix("  ")) {
            let words = line.split("  ").next().unwrap().split(' ').filter(is_example);
            let command: Vec<&str> = words.map(|word| word.split(['[', '|']).next().unwrap()).collect();
            let command = command.join(" ").replace(" N]", "");
            parsed(&command).unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }

    #[test]
    fn a_cas_is_added_with_its_host_and_port() {
        let line = "gateways add cas-1 [2001:db8::1]:8443 --description second --no-channel-binding";
        let cas = NewCas {
            name: "cas-1".to_owned(),
            host: host("2001:db8::1", 8443),
            description: "second".to_owned(),
            channel_binding: false,
            legacy_algorithms: false,
        };
        assert_eq!(parsed(line).unwrap().command, Command::CasAdd { cas });
        for (text, wanted) in [
            ("cas.lab.test", host("cas.lab.test", 443)),
            ("cas.lab.test:8443", host("cas.lab.test", 8443)),
            ("2001:db8::1", host("2001:db8::1", 443)),
            ("192.0.2.1:444", host("192.0.2.1", 444)),
        ] {
            assert_eq!(Host::parse(text).unwrap(), wanted);
        }
        for text in ["cas:0", "cas:x", ":443", "a:b:443"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn certificates_have_verbs_of_their_own() {
        let import = CertificateCommand::Import {
            host: host("cas.lab.test", 443),
            accept: vec!["recommended".to_owned()],
            private_addresses: true,
        };
        let line = "certificate import cas.lab.test --accept recommended --private-addresses";
        assert_eq!(parsed(line).unwrap().command, Command::Certificate(import));
        let request = CertificateCommand::Request {
            names: vec!["vip.lab.test".to_owned(), "n1.lab.test".to_owned()],
        };
        let line = "certificate csr vip.lab.test n1.lab.test";
        assert_eq!(parsed(line).unwrap().command, Command::Certificate(request));
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        for (line, named) in [
            ("user", "the user's id is missing"),
            ("status now", "unknown argument \"now\""),
            ("gateways sell cas-1", "unknown argument \"sell\""),
            ("gateways eligible cas-1 perhaps", "\"perhaps\" is not yes or no"),
            (
                "status --admin 127.0.0.1:1 --config a",
                "--admin and --config contradict",
            ),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
