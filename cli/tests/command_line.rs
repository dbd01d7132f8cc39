//! What the command line keeps to, whatever it is asked.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

mod program;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use program::{refused, succeeds, tandem};

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
    for page in [
        "tandem",
        "tandem-pki",
        "tandem-pki-issue",
        "tandem-config-init",
        "tandem-config-check",
    ] {
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

#[test]
fn files_are_told_apart_and_checked_as_by_their_programs() {
    let folder = tempfile::tempdir().unwrap();
    let machines =
        "--vip 192.0.2.10 --lb 192.0.2.20 --node 192.0.2.21 --node 192.0.2.22 --cti cti.example.com:8000";
    std::fs::write(folder.path().join("password"), "secret\n").unwrap();
    let exchange = r"--exchange cas1.example.com cas2.example.com --exchange-account EXAMPLE\svc --exchange-password-file password";
    let written = succeeds(
        folder.path(),
        &format!("config init --cluster office {machines} {exchange} --out new"),
    );
    assert!(
        written.contains("Copy new/node-2/ to /etc/tandem/ on node-2"),
        "{written}"
    );
    let new = folder.path().join("new");
    let checked = succeeds(
        &new,
        "config check lb-1/lb.toml node-1/node.toml node-2/node.toml node-1/directory.toml",
    );
    assert_eq!(checked.lines().count(), 4, "{checked}");
    assert!(
        checked.contains("lb-1/lb.toml: valid configuration of tandem-lb"),
        "{checked}"
    );
    let verified = succeeds(&new, "pki verify --config node-1/node.toml");
    assert!(verified.contains("exchange.push"), "{verified}");
    let [first, second] =
        ["node-1", "node-2"].map(|node| program::read(&new.join(node).join("callback.key")));
    assert_eq!(first, second);
    assert_eq!(first.trim().len(), 64);
    for name in ["peer.key", "push.key", "callback.key", "exchange-password"] {
        let metadata = std::fs::metadata(new.join("node-1").join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }

    let node = new.join("node-1/node.toml");
    let text = program::read(&node);
    std::fs::write(&node, text.replace("[sip]", "[sip]\nlisten_port = 5060")).unwrap();
    std::fs::write(new.join("other.toml"), "[log]\n").unwrap();
    std::fs::write(new.join("broken.toml"), "a = = 1\n").unwrap();
    let output = tandem(
        &new,
        "config check node-1/node.toml other.toml broken.toml lb-1/lb.toml",
    );
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for wanted in [
        "sip.listen_port",
        "other.toml is not recognised",
        "broken.toml is not TOML",
    ] {
        assert!(errors.contains(wanted), "{wanted}: {errors}");
    }
    assert!(String::from_utf8_lossy(&output.stdout).contains("lb.toml: valid"));
    std::fs::remove_file(new.join("lb-1/peer.key")).unwrap();
    let keyless = refused(&new, "config check lb-1/lb.toml");
    assert!(keyless.contains("peer.key"), "{keyless}");

    let again = refused(
        folder.path(),
        &format!("config init --cluster office {machines} --out new"),
    );
    assert!(again.contains("exists and is not overwritten"), "{again}");
}

#[test]
fn an_impossible_cluster_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let machines =
        "--vip 192.0.2.10 --lb 192.0.2.20 --node 192.0.2.21 --node 192.0.2.21 --cti 192.0.2.31:8000";
    let same = refused(
        folder.path(),
        &format!("config init --cluster office {machines} --out new"),
    );
    assert!(same.contains("--port node-2."), "{same}");
    assert!(!folder.path().join("new").exists());
}
