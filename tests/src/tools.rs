//! Programs of others, which `./test` installs.

use std::process::{Command, Stdio};

/// Whether a program is there; says that the test is skipped, and what to install, when it is not.
///
/// # Panics
/// When it is missing under CI, where nothing is skipped.
#[must_use]
pub fn is_installed(program: &str, debian_package: &str) -> bool {
    let started = Command::new(program)
        .arg("-v")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = started.is_ok();
    let is_ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(
        is_there || !is_ci,
        "{program} is missing, and nothing is skipped under CI"
    );
    if !is_there {
        println!("SKIPPED: no {program}; ./test installs the Debian package {debian_package}");
    }
    is_there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_there_whatever_it_makes_of_the_question() {
        assert!(is_installed("false", "coreutils"));
    }
}
