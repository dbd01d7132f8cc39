//! Which commit a release is of, for `--version` and the metric `tandem_build_info`.
//!
//! `TANDEM_COMMIT` in the environment wins, for those who build from an archive. A dev build says `dev`: it would have to be
//! compiled again after every commit otherwise.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=TANDEM_COMMIT");
    println!("cargo::rustc-env=TANDEM_BUILD_COMMIT={}", commit());
}

fn commit() -> String {
    if let Ok(commit) = std::env::var("TANDEM_COMMIT") {
        return commit;
    }
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return "dev".to_owned();
    }
    let moves = Path::new("../../.git/logs/HEAD");
    if moves.exists() {
        println!("cargo::rerun-if-changed={}", moves.display());
    }
    git(&["log", "-1", "--format=%h %cs"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}
