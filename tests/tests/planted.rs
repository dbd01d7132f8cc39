//! Bugs that are planted on purpose: the unit test that is named beside each fails with it, and passes without.
#![allow(clippy::unwrap_used, reason = "what cannot be run proves nothing")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tandem_shared::planted::{Bug, CHOICE};
use tandem_tests::cluster::binaries;

#[test]
fn every_bug_has_a_unit_test() {
    let listed: BTreeSet<Bug> = FOUND_BY.iter().map(|(bug, _)| *bug).collect();
    assert_eq!(listed, Bug::ALL.into_iter().collect());
}

#[tokio::test]
async fn every_bug_is_found_by_its_unit_test() {
    let programs = programs();
    let results = stream::iter(FOUND_BY).map(|(bug, test)| {
        let program = programs[crate_of(test)].clone();
        async move {
            let result = run(&program, &[test], Some(bug)).await;
            anyhow::ensure!(!result.succeeded, "{test} does not find {bug:?}");
            anyhow::ensure!(
                result.said.contains("1 failed"),
                "{test} did not run: {}",
                result.said
            );
            anyhow::Ok(())
        }
    });
    results
        .buffer_unordered(AT_A_TIME)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
}

#[tokio::test]
async fn no_bug_shows_itself_unasked() {
    for (name, program) in programs() {
        let tests: BTreeSet<&str> = FOUND_BY
            .iter()
            .filter(|(_, test)| crate_of(test) == name)
            .map(|(_, test)| *test)
            .collect();
        let tests: Vec<&str> = tests.into_iter().collect();
        let result = run(&program, &tests, None).await;
        let expected = format!("{} passed", tests.len());
        assert!(
            result.succeeded && result.said.contains(&expected),
            "{name}: {}",
            result.said
        );
    }
}

/// The programs of the unit tests, by crate.
fn programs() -> BTreeMap<&'static str, PathBuf> {
    let crates: BTreeSet<&str> = FOUND_BY.iter().map(|(_, test)| crate_of(test)).collect();
    crates
        .into_iter()
        .map(|name| (name, binaries::unit_tests(name).unwrap()))
        .collect()
}

struct Run {
    succeeded: bool,
    said: String,
}

async fn run(program: &Path, tests: &[&str], bug: Option<Bug>) -> Run {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--exact")
        .args(tests.iter().map(|test| in_crate(test)));
    // A property that a bug breaks says nothing about the code as it stands.
    command
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env_remove(CHOICE)
        .kill_on_drop(true);
    if let Some(bug) = bug {
        command.env(CHOICE, bug.name());
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{tests:?} with {bug:?} does not end"))
        .unwrap();
    Run {
        succeeded: output.status.success(),
        said: String::from_utf8_lossy(&output.stdout).into_owned(),
    }
}

/// `tandem_lb` of `tandem_lb::balancer::…`.
fn crate_of(test: &'static str) -> &'static str {
    test.split_once("::").unwrap().0
}

fn in_crate<'a>(test: &'a str) -> &'a str {
    test.split_once("::").unwrap().1
}

const AT_A_TIME: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);

/// Each bug, and a unit test that it fails.
const FOUND_BY: [(Bug, &str); 0] = [];
