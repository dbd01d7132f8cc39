//! SIPp as the clients: a program that others wrote, which plays one scenario for one user after the other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use super::ocs::{phone_number, user_id};
use crate::tools::is_installed;

/// How SIPp spreads its calls over TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    One,
    OnePerCall,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Sipp {
    pub target: SocketAddr,
    /// Where its connections come from.
    pub source: SocketAddr,
    pub sockets: Sockets,
    pub calls: u32,
    /// How many calls there are at a time, at most.
    pub calls_at_once: u32,
    /// The numbers of the users who call, in turns.
    pub users: Range<usize>,
}

/// What SIPp counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SippTally {
    pub created: u32,
    pub successful: u32,
    pub failed: u32,
}

/// Whether it can be played; says that the test is skipped when it cannot.
///
/// # Panics
/// When it cannot under CI, where nothing is skipped.
#[must_use]
pub fn sipp_is_installed() -> bool {
    is_installed(PROGRAM, "sip-tester")
}

impl Sipp {
    /// Plays `testdata/sipp/communicator.xml`, and reads what it counted from its statistics.
    ///
    /// # Errors
    /// When it does not end in time, or ends with a failure: then with its own account of what came instead.
    pub async fn play(&self) -> anyhow::Result<SippTally> {
        let directory = tempfile::Builder::new().prefix("sipp-").tempdir()?;
        std::fs::write(directory.path().join("users.csv"), self.users_file())?;
        let output = Command::new(PROGRAM)
            .args(self.arguments())
            .current_dir(directory.path())
            .env("TERM", "vt100")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output)
            .await
            .with_context(|| format!("SIPp does not end: {self:?}"))??;
        let errors = std::fs::read_to_string(directory.path().join("errors.log")).unwrap_or_default();
        ensure!(
            output.status.success(),
            "SIPp: {}: {errors}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        SippTally::read(&directory.path().join("statistics.csv"))
    }

    fn arguments(&self) -> Vec<String> {
        let transport = match self.sockets {
            Sockets::One => "t1",
            Sockets::OnePerCall => "tn",
        };
        let scenario = scenario();
        let words = [
            self.target.to_string(),
            format!("-sf {}", scenario.display()),
            format!("-inf users.csv -t {transport} -i {}", self.source.ip()),
            format!("-m {} -l {} -r {RATE}", self.calls, self.calls_at_once),
            // A connection that is lost loses its calls.
            "-max_reconnect 0 -reconnect_close true -max_socket 1000".to_owned(),
            format!("-timeout {} -timeout_error", PATIENCE.as_secs() / 2),
            "-nostdin -trace_stat -stf statistics.csv -trace_err -error_file errors.log".to_owned(),
        ];
        let words = words.iter().flat_map(|text| text.split(' '));
        words.map(str::to_owned).collect()
    }

    fn users_file(&self) -> String {
        let users = self.users.clone();
        let lines = users.map(|user| format!("{};{}\n", user_id(user), phone_number(user)));
        format!("SEQUENTIAL\n{}", lines.collect::<String>())
    }
}

impl SippTally {
    /// The last line of a file of statistics has the sums; the first one names the columns.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).context("reading SIPp's statistics")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let (Some(names), Some(sums)) = (lines.next(), lines.last()) else {
            bail!("SIPp's statistics have no line of sums: {text}");
        };
        let columns: HashMap<&str, &str> = names.split(';').zip(sums.split(';')).collect();
        let count = |name: &str| -> anyhow::Result<u32> {
            let value = columns.get(name);
            let value = value.with_context(|| format!("no column {name} in {names}"))?;
            value.parse().with_context(|| format!("{name} is {value}"))
        };
        Ok(Self {
            created: count("TotalCallCreated")?,
            successful: count("SuccessfulCall(C)")?,
            failed: count("FailedCall(C)")?,
        })
    }
}

fn scenario() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sipp/communicator.xml")
}

const PROGRAM: &str = "sipp";
/// New calls per second, while there are fewer at a time than may be.
const RATE: u32 = 400;
const PATIENCE: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_statistics_counts() {
        let text = "StartTime;TotalCallCreated;SuccessfulCall(P);SuccessfulCall(C);FailedCall(C);\n\
                    now;3;1;1;0;\nnow;9;3;7;2;\n";
        let tally = SippTally {
            created: 9,
            successful: 7,
            failed: 2,
        };
        assert_eq!(SippTally::parse(text).unwrap(), tally);
        assert!(SippTally::parse("StartTime;FailedCall(C);\n").is_err());
        assert!(SippTally::parse("StartTime\nnow\n").is_err());
    }
}
