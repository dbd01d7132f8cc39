//! The files an operator starts from: they parse, and their own tools accept them.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]
use std::path::{Path, PathBuf};
use std::process::Command;

use tandem_runtime::config;

#[test]
fn the_reference_configuration_of_the_front_end_is_valid() {
    config::read_file(&deploy("config/lb.toml"), tandem_lb::config::Config::read).unwrap();
}

#[test]
fn the_reference_configuration_of_a_node_is_valid() {
    config::read_file(&deploy("config/node.toml"), tandem_node::config::read).unwrap();
    tandem_node::directory::file::read_file(&deploy("config/directory.toml")).unwrap();
}

#[test]
fn systemd_accepts_the_units_and_finds_little_exposed() {
    if !is_there("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["tandem-lb", "tandem-node"] {
        let text = std::fs::read_to_string(deploy(&format!("systemd/{name}.service"))).unwrap();
        assert!(text.contains(&format!(
            "ExecStartPre=/usr/bin/{name} --config /etc/tandem/{}.toml --check-config",
            name.trim_start_matches("tandem-")
        )));
        // verify looks for the program, which is not installed here.
        let unit = folder.path().join(format!("{name}.service"));
        std::fs::write(&unit, text.replace(&format!("/usr/bin/{name}"), "/bin/true")).unwrap();
        succeeds(Command::new("systemd-analyze").arg("verify").arg(&unit));
        let security = ["security", "--offline=true", "--threshold=20"];
        succeeds(Command::new("systemd-analyze").args(security).arg(&unit));
    }
}

#[test]
fn prometheus_accepts_the_scrape_configuration() {
    if is_there("promtool") {
        let arguments = ["check", "config", "--syntax-only"];
        succeeds(
            Command::new("promtool")
                .args(arguments)
                .arg(deploy("prometheus/tandem.yml")),
        );
    }
}

#[test]
fn prometheus_accepts_the_alerts() {
    if is_there("promtool") {
        let rules = deploy("prometheus/alerts.yml");
        succeeds(Command::new("promtool").args(["check", "rules"]).arg(rules));
    }
}

/// An alert about a metric that nobody exposes never fires.
#[test]
fn alerts_are_about_metrics_that_the_programs_expose() {
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let names = rules.split(|character| !is_name(character));
    let mut sources = String::new();
    for folder in ["lb/src", "node/src", "shared/raft/src", "shared/runtime/src"] {
        read_all(&root().join(folder), &mut sources);
    }
    for name in names.filter(|name| name.starts_with("tandem_")) {
        assert!(sources.contains(&format!("\"{name}\"")), "nobody exposes {name}");
    }
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The test command installs it, or says that it could not; under CI that is a failure.
fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(tool).is_file());
    if !found {
        println!("SKIPPED: {tool} is not on this machine");
        assert!(
            std::env::var_os("CI").is_none(),
            "{tool} is missing, and nothing is skipped in CI"
        );
    }
    found
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn deploy(file: &str) -> PathBuf {
    root().join("deploy").join(file)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}
