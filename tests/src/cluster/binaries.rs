//! The binaries under test: those of the same build as this program.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The path of one of the workspace's binaries, built if need be.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    match built {
        Ok(directory) => Ok(directory.join(name)),
        Err(error) => bail!("building the binaries: {error}"),
    }
}

/// What `tandem-node` says to these arguments.
pub async fn ask_node(arguments: &[&str]) -> anyhow::Result<Output> {
    let path = path("tandem-node")?;
    let mut command = tokio::process::Command::new(&path);
    let output = command.args(arguments).kill_on_drop(true).output();
    tokio::time::timeout(super::DEADLINE, output)
        .await
        .with_context(|| format!("{arguments:?} does not end"))?
        .with_context(|| format!("starting {}", path.display()))
}

/// The programs of the unit tests, by crate, from the build that this test belongs to.
pub fn unit_tests() -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let (mut command, _) = cargo_build()?;
    let output = command
        .arg("--message-format=json")
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    ensure!(output.status.success(), "cargo build: {}", output.status);
    let messages = std::str::from_utf8(&output.stdout).context("reading what cargo says")?;
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message| unit_test(&message)).collect())
}

fn unit_test(message: &Value) -> Option<(String, PathBuf)> {
    let target = &message["target"];
    let is_wanted = target["kind"][0] == "lib" && message["profile"]["test"] == true;
    let executable = message["executable"].as_str().filter(|_| is_wanted)?;
    Some((target["name"].as_str()?.to_owned(), PathBuf::from(executable)))
}

/// Runs cargo even when they exist: a story must not judge yesterday's binary.
fn build() -> anyhow::Result<PathBuf> {
    let (mut command, directory) = cargo_build()?;
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(directory)
}

/// The command that builds what this program starts, and where that lies.
fn cargo_build() -> anyhow::Result<(Command, PathBuf)> {
    let executable = std::env::current_exe().context("finding this program")?;
    let directory = executable
        .ancestors()
        .skip(1)
        .find(|ancestor| !ancestor.ends_with("deps") && !ancestor.ends_with("examples"))
        .context("this program lies nowhere")?;
    let target = directory.parent().context("no target directory")?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let is_test = executable.parent().is_some_and(|folder| folder.ends_with("deps"));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet"]);
    // Cargo unites the features of what it builds together: another selection would build the dependencies twice.
    if is_test {
        command.args(["--workspace", "--all-targets"]);
    } else {
        // The rest would take longer than these: every program of a release build is optimised as a whole.
        for (package, program) in STARTED {
            command.args(["-p", package, "--bin", program]);
        }
    }
    command
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if directory.ends_with("release") {
        command.arg("--release");
    }
    // What cargo tells a test of its crate is no part of the environment of a build: ring's build script asks for it,
    // and everything above ring would be built anew whenever it differs.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if TOLD_BY_CARGO.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    Ok((command, directory.to_path_buf()))
}

/// What the harness starts, and whose it is.
const STARTED: [(&str, &str); 3] = [
    ("tandem-lb", "tandem-lb"),
    ("tandem-node", "tandem-node"),
    ("tandem-tests", "tandem-cti-manager"),
];
const TOLD_BY_CARGO: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CFG_", "OUT_DIR"];
