//! How both binaries begin and end: arguments, configuration, exit status.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use super::build;
use super::shutdown::{DrainOutcome, ShutdownReason};
use crate::config::{Section, read_file};

/// Reads arguments and configuration, runs (or, for `--check-config`, checks what the configuration names), and turns the end into an exit status. What cannot be said in the log,
/// because there is none yet, goes to standard error.
pub fn main<C, K, E>(
    program: &str,
    read: impl FnOnce(&mut Section) -> Option<C>,
    check: impl FnOnce(&C) -> Result<(), K>,
    run: impl FnOnce(C) -> Result<ExitStatus, E>,
) -> ExitCode
where
    K: Error,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let (path, action) = match parse_arguments(std::env::args_os().skip(1)) {
        Ok(Arguments::Config { path, action }) => (path, action),
        Ok(Arguments::Help) => {
            println!("{}", usage(program));
            return ExitCode::SUCCESS;
        }
        Ok(Arguments::Version) => {
            println!("{program} {} ({})", build::VERSION, build::COMMIT);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{program}: {error}\n{}", usage(program));
            return ExitStatus::Failed.into();
        }
    };
    let config = match read_file(&path, read) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{program}: {}", with_causes(&error));
            return ExitStatus::BadConfiguration.into();
        }
    };
    match action {
        Action::CheckConfig => match check(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{program}: {}", with_causes(&error));
                ExitStatus::BadConfiguration.into()
            }
        },
        Action::Run => {
            end_on_panic(program);
            run(config).map_or_else(
                |error| {
                    eprintln!("{program}: {}", with_causes(error.into().as_ref()));
                    ExitStatus::Failed.into()
                },
                ExitCode::from,
            )
        }
    }
}

/// A part that panicked has left what it owned half-done, and the others would wait for it for ever: the process ends, with
/// one line that says where, and is started again by its service manager.
fn end_on_panic(program: &str) {
    let program = program.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let said = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("without a word");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(program, at, said, "a task of this process panicked; exiting");
        std::process::exit(PANICKED);
    }));
}

/// As Rust's own main thread ends after a panic.
const PANICKED: i32 = 101;

/// What a binary tells whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Drained,
    Failed,
    /// `EX_CONFIG` of sysexits.h: starting again without mending the file is of no use, and systemd is told so.
    BadConfiguration,
}

impl ExitStatus {
    /// A process that was asked to stop, and left nothing behind, has done well.
    #[must_use]
    pub fn of(reason: &ShutdownReason, outcome: &DrainOutcome) -> Self {
        match (reason, outcome) {
            (ShutdownReason::Signal(_), DrainOutcome::Drained) => Self::Drained,
            (ShutdownReason::Signal(_), DrainOutcome::Cut(_)) | (ShutdownReason::TaskEnded(_), _) => {
                Self::Failed
            }
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Drained => 0,
            ExitStatus::Failed => 1,
            ExitStatus::BadConfiguration => 78,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Arguments {
    Config { path: PathBuf, action: Action },
    Help,
    Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Run,
    CheckConfig,
}

#[derive(Debug, Error)]
enum ArgumentError {
    #[error(transparent)]
    NotUnderstood(#[from] lexopt::Error),
    #[error("--config FILE is missing")]
    ConfigMissing,
}

fn parse_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, ArgumentError> {
    use lexopt::Arg;

    let mut parser = lexopt::Parser::from_args(arguments);
    let mut path = None;
    let mut action = Action::Run;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("config") => path = Some(PathBuf::from(parser.value()?)),
            Arg::Long("check-config") => action = Action::CheckConfig,
            Arg::Long("help") | Arg::Short('h') => return Ok(Arguments::Help),
            Arg::Long("version") | Arg::Short('V') => return Ok(Arguments::Version),
            Arg::Long(_) | Arg::Short(_) | Arg::Value(_) => return Err(argument.unexpected().into()),
        }
    }
    let path = path.ok_or(ArgumentError::ConfigMissing)?;
    Ok(Arguments::Config { path, action })
}

fn usage(program: &str) -> String {
    format!(
        "usage: {program} --config FILE [--check-config]\n\
         exit status: 0 drained, 1 failed, 78 bad configuration"
    )
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.contains(&error_text) {
            text = format!("{text}: {error_text}");
        }
        cause = error.source();
    }
    text
}

/// How many files and sockets this process may have open: as many as the operating system allows it at most, once this
/// has been called. `None` where that cannot be told.
#[must_use]
pub fn raise_descriptor_limit() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => Some(hard),
        Err(_) => Some(soft),
    }
}

/// Whether this process, or the machine, has no descriptor left: nobody else's fault.
#[must_use]
pub fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    let errors = [Errno::EMFILE, Errno::ENFILE].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|code| errors.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, ArgumentError> {
        parse_arguments(arguments.iter().map(OsString::from))
    }

    /// In a process of its own: the test below starts it.
    #[test]
    fn panic_in_a_thread_when_asked_to() {
        if std::env::var(PANICS).is_ok() {
            end_on_panic("tandem-test");
            let _ = std::thread::spawn(|| panic!("planted")).join();
            // Not reached.
            std::process::exit(0);
        }
    }

    #[test]
    fn a_panic_anywhere_ends_the_process() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "io::process::tests::panic_in_a_thread_when_asked_to"])
            .env(PANICS, "yes")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(PANICKED), "{output:?}");
    }

    const PANICS: &str = "TANDEM_TEST_PANICS";

    #[test]
    fn the_two_commands_of_a_unit_file_are_understood() {
        let path = PathBuf::from("/etc/tandem/lb.toml");
        let run = parse(&["--config", "/etc/tandem/lb.toml"]).unwrap();
        assert_eq!(
            run,
            Arguments::Config {
                path: path.clone(),
                action: Action::Run
            }
        );
        let check = parse(&["--check-config", "--config=/etc/tandem/lb.toml"]).unwrap();
        assert_eq!(
            check,
            Arguments::Config {
                path,
                action: Action::CheckConfig
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(matches!(parse(&[]), Err(ArgumentError::ConfigMissing)));
        assert!(matches!(
            parse(&["--config"]),
            Err(ArgumentError::NotUnderstood(_))
        ));
        assert!(matches!(
            parse(&["--config", "a", "b"]),
            Err(ArgumentError::NotUnderstood(_))
        ));
        assert_eq!(parse(&["--help"]).unwrap(), Arguments::Help);
    }

    #[test]
    fn only_a_whole_drain_that_was_asked_for_is_a_success() {
        let signal = ShutdownReason::Signal("SIGTERM");
        assert_eq!(
            ExitStatus::of(&signal, &DrainOutcome::Drained),
            ExitStatus::Drained
        );
        assert_eq!(
            ExitStatus::of(&signal, &DrainOutcome::Cut(vec![("client", 2)])),
            ExitStatus::Failed
        );
        let ended = ShutdownReason::TaskEnded("listener");
        assert_eq!(ExitStatus::of(&ended, &DrainOutcome::Drained), ExitStatus::Failed);
    }
}
