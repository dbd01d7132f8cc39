//! What `tandem pki verify` says about one use of a certificate.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::report::{days_left, until};

/// What was found out about a certificate, its key and its trust anchors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The section of the configuration.
    pub section: String,
    /// Whether the files can be read and the key belongs to the certificate; the error says what to do.
    pub key: Result<(), String>,
    /// Whether those who are shown the certificate would accept it, as far as it can be told here.
    pub chain: Result<(), String>,
    /// The member's name, or what is wrong with it; `None` where names are not known here.
    pub name: Option<Result<String, String>>,
    /// The end of the certificate in Unix time; `None` when it cannot be read.
    pub not_after: Option<i64>,
    pub files: Vec<FileMode>,
}

/// Who may do what with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMode {
    pub path: PathBuf,
    /// The permission bits; `None` when the file is not there.
    pub mode: Option<u32>,
    pub contents: Contents,
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    Key,
    /// A certificate or a list: everybody may read it.
    Public,
}

/// How well one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Well,
    /// To be looked at soon; does not make the exit status 1.
    Soon,
    Wrong,
}

impl Mark {
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Well => "✓",
            Self::Soon => "!",
            Self::Wrong => "✗",
        }
    }

    /// The sequence that colours it in a terminal (ECMA-48).
    fn colour(self) -> &'static str {
        match self {
            Self::Well => "\u{1b}[32m",
            Self::Soon => "\u{1b}[33m",
            Self::Wrong => "\u{1b}[31m",
        }
    }
}

/// One line of the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub mark: Mark,
    pub title: &'static str,
    pub text: String,
}

/// Judges the facts; `now` is Unix time in seconds.
#[must_use]
pub fn judge(facts: &Facts, now: i64) -> Vec<Finding> {
    let mut findings = vec![
        of_result("key", &facts.key, "belongs to the certificate"),
        of_result(
            "chain",
            &facts.chain,
            "accepted by everyone who trusts the authority",
        ),
    ];
    match &facts.name {
        Some(Ok(name)) => findings.push(finding(Mark::Well, "name", name)),
        Some(Err(error)) => findings.push(finding(Mark::Wrong, "name", error)),
        None => {}
    }
    findings.extend(facts.not_after.map(|end| judge_end(end, now)));
    findings.extend(facts.files.iter().map(judge_mode));
    findings
}

fn of_result(title: &'static str, result: &Result<(), String>, well: &str) -> Finding {
    match result {
        Ok(()) => finding(Mark::Well, title, well),
        Err(error) => finding(Mark::Wrong, title, error),
    }
}

fn judge_end(not_after: i64, now: i64) -> Finding {
    let text = until(not_after, now);
    match days_left(not_after, now) {
        ..0 => finding(Mark::Wrong, "until", &format!("{text}: renew it now")),
        0..SOON_DAYS => finding(Mark::Soon, "until", &format!("{text}: renew it soon")),
        SOON_DAYS.. => finding(Mark::Well, "until", &text),
    }
}

fn judge_mode(file: &FileMode) -> Finding {
    let path = file.path.display();
    match (file.mode, file.contents) {
        (None, _) => finding(Mark::Wrong, "mode", &format!("{path} is not there")),
        (Some(mode), Contents::Key) if mode & OTHERS != 0 => finding(
            Mark::Wrong,
            "mode",
            &format!("every user of this machine may use {path} (mode {mode:03o}): chmod 600 it"),
        ),
        (Some(mode), Contents::Public) if mode & OTHERS_WRITE != 0 => finding(
            Mark::Wrong,
            "mode",
            &format!("every user of this machine may change {path} (mode {mode:03o}): chmod 644 it"),
        ),
        (Some(mode), Contents::Key | Contents::Public) => {
            finding(Mark::Well, "mode", &format!("{path} {mode:03o}"))
        }
    }
}

fn finding(mark: Mark, title: &'static str, text: &str) -> Finding {
    Finding {
        mark,
        title,
        text: text.to_owned(),
    }
}

/// The section and its findings, a line each.
#[must_use]
pub fn write(section: &str, findings: &[Finding], coloured: bool) -> String {
    let mut text = format!("{section}\n");
    for finding in findings {
        let (before, after) = match coloured {
            true => (finding.mark.colour(), "\u{1b}[0m"),
            false => ("", ""),
        };
        let symbol = finding.mark.symbol();
        let _ = writeln!(
            text,
            "  {before}{symbol}{after} {:<6} {}",
            finding.title, finding.text
        );
    }
    text
}

/// As the alert about certificates has it.
const SOON_DAYS: i64 = 21;
const OTHERS: u32 = 0o007;
const OTHERS_WRITE: u32 = 0o002;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn facts() -> Facts {
        Facts {
            section: "cluster.tls".to_owned(),
            key: Ok(()),
            chain: Ok(()),
            name: Some(Ok("n1.office.tandem".to_owned())),
            not_after: Some(100 * DAY),
            files: vec![FileMode {
                path: "peer.key".into(),
                mode: Some(0o600),
                contents: Contents::Key,
            }],
        }
    }

    fn worst(facts: &Facts) -> Option<Mark> {
        judge(facts, 0).into_iter().map(|finding| finding.mark).max()
    }

    #[test]
    fn each_fact_can_spoil_it() {
        assert_eq!(worst(&facts()), Some(Mark::Well));
        let spoilt: [fn(&mut Facts); 7] = [
            |facts| facts.key = Err("other key".to_owned()),
            |facts| facts.chain = Err("unknown issuer".to_owned()),
            |facts| facts.name = Some(Err("another name".to_owned())),
            |facts| facts.not_after = Some(-1),
            |facts| facts.files[0].mode = Some(0o604),
            |facts| facts.files[0].mode = None,
            |facts| {
                facts.files[0].mode = Some(0o666);
                facts.files[0].contents = Contents::Public;
            },
        ];
        for spoil in spoilt {
            let mut facts = facts();
            spoil(&mut facts);
            assert_eq!(worst(&facts), Some(Mark::Wrong), "{facts:?}");
        }
        let mut soon = facts();
        soon.not_after = Some(20 * DAY);
        assert_eq!(worst(&soon), Some(Mark::Soon));
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let findings = judge(&facts(), 0);
        let plain = write("cluster.tls", &findings, false);
        assert!(plain.starts_with("cluster.tls\n  ✓ key    belongs"), "{plain}");
        assert!(!plain.contains('\u{1b}'));
        assert!(write("cluster.tls", &findings, true).contains("\u{1b}[32m✓\u{1b}[0m key"));
    }
}
