//! What the command line keeps to, whatever it is asked.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

mod program;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use program::{succeeds, tandem};

#[test]
fn what_is_not_understood_is_usage() {
    let here = Path::new(".");
    for words in [
        "",
        "pki",
        "pki inti --out x",
        "config check",
        "completions ksh",
        "nodes",
    ] {
        let output = tandem(here, words);
        assert_eq!(output.status.code(), Some(64), "{words}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{words}: {output:?}"
        );
    }
    let similar = tandem(here, "pki inti --out x");
    assert!(
        String::from_utf8_lossy(&similar.stderr).contains("init"),
        "{similar:?}"
    );
    for words in ["--help", "pki issue --help", "--version", "version"] {
        succeeds(here, words);
    }
}

#[test]
fn colours_are_only_for_terminals() {
    let help = succeeds(Path::new("."), "--no-color --help");
    assert!(!help.contains('\u{1b}'));
    assert!(help.contains("Exit status"), "{help}");
}

/// The completions of bash are far more than a pipe holds.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    // Dropped at the end of the statement, which closes the pipe.
    BufReader::with_capacity(16, child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(first.contains("tandem"), "{first}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn bash_accepts_the_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeds(folder.path(), &format!("completions {shell}"));
        assert!(script.contains("pki"), "{shell}");
        std::fs::write(folder.path().join(shell), script).unwrap();
    }
    let checked = Command::new("bash")
        .arg("-n")
        .arg(folder.path().join("bash"))
        .output()
        .unwrap();
    assert!(
        checked.status.success() && checked.stderr.is_empty(),
        "{checked:?}"
    );
}

#[test]
fn every_verb_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(folder.path(), "manual pages");
    let pages = folder.path().join("pages");
    for page in ["tandem", "tandem-pki", "tandem-pki-issue"] {
        let text = program::read(&pages.join(format!("{page}.1")));
        assert!(
            text.contains(".TH") && text.contains(".SH SYNOPSIS"),
            "{page}: {text}"
        );
    }
    // Where there is a reader of manual pages, it has nothing to say against them.
    let Ok(mandoc) = Command::new("mandoc")
        .args(["-T", "lint", "-W", "error"])
        .arg(pages.join("tandem.1"))
        .output()
    else {
        return;
    };
    assert!(mandoc.status.success(), "{mandoc:?}");
}
