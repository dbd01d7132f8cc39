//! The program under test, run as from a shell.
#![allow(
    dead_code,
    reason = "every file of tests has its own copy, and uses what it needs"
)]

use std::path::Path;
use std::process::{Command, Output};

/// Runs `tandem` with these words, in a directory.
pub(crate) fn tandem(directory: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    let command = command.args(words.split_whitespace()).current_dir(directory);
    command.env_remove("NO_COLOR").output().unwrap()
}

/// What it writes when all is well.
#[track_caller]
pub(crate) fn succeeds(directory: &Path, words: &str) -> String {
    let output = tandem(directory, words);
    assert_eq!(output.status.code(), Some(0), "tandem {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it writes to standard error when it refuses.
#[track_caller]
pub(crate) fn refused(directory: &Path, words: &str) -> String {
    let output = tandem(directory, words);
    assert_eq!(output.status.code(), Some(1), "tandem {words}: {output:?}");
    assert!(output.stdout.is_empty(), "tandem {words}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
