//! The files an operator starts from: they parse, and their own tools accept them.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]
use std::collections::BTreeSet;
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
        assert!(
            text.contains("\nStartLimitIntervalSec=0\n"),
            "a service gives up after five starts"
        );
        let own = folder.path().join(format!("{name}.service.d"));
        std::fs::create_dir(&own).unwrap();
        for entry in std::fs::read_dir(deploy("systemd/drop-ins")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with(name) {
                std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
            }
        }
        succeeds(Command::new("systemd-analyze").arg("verify").arg(&unit));
        let security = ["security", "--offline=true", "--threshold=20"];
        succeeds(Command::new("systemd-analyze").args(security).arg(&unit));
    }
}

/// A key that the configuration names and the unit does not hand over keeps the service from starting.
#[test]
fn units_hand_over_the_keys_that_the_reference_configurations_name() {
    for name in ["lb", "node"] {
        let config = std::fs::read_to_string(deploy(&format!("config/{name}.toml"))).unwrap();
        let mut units = std::fs::read_to_string(deploy(&format!("systemd/tandem-{name}.service"))).unwrap();
        for entry in std::fs::read_dir(deploy("systemd/drop-ins")).unwrap() {
            let entry = entry.unwrap();
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("tandem-{name}-"))
            {
                units.push_str(&std::fs::read_to_string(entry.path()).unwrap());
            }
        }
        let handed_over: BTreeSet<_> = units
            .lines()
            .filter_map(|line| line.strip_prefix("LoadCredential="))
            .filter_map(|line| line.split_once(":/etc/tandem/"))
            .inspect(|(name, file)| assert_eq!(name, file))
            .map(|(name, _)| name)
            .collect();
        // Those in comments, too: an operator takes the mark away and expects the rest to be there.
        let named: BTreeSet<_> = config
            .lines()
            .map(|line| line.trim_start_matches(['#', ' ']))
            .filter(|line| line.starts_with("key = ") || line.starts_with("callback_key_file = "))
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        assert_eq!(handed_over, named, "of tandem-{name}");
    }
}

#[test]
fn services_run_as_users_that_sysusers_makes() {
    let users = std::fs::read_to_string(deploy("sysusers.d/tandem.conf")).unwrap();
    for name in ["tandem-lb", "tandem-node"] {
        let unit = std::fs::read_to_string(deploy(&format!("systemd/{name}.service"))).unwrap();
        assert!(unit.contains(&format!("\nUser={name}\n")));
        assert!(users.lines().any(|line| line.starts_with(&format!("u {name} "))));
    }
    if is_there("systemd-sysusers") {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let root_option = format!("--root={}", root.path().display());
        succeeds(
            Command::new("systemd-sysusers")
                .args([&root_option, "--inline", "--"])
                .args(users.lines().filter(|line| line.starts_with("u "))),
        );
        let made = std::fs::read_to_string(root.path().join("etc/passwd")).unwrap();
        assert!(
            made.contains("tandem-node:") && made.contains("tandem-lb:"),
            "{made}"
        );
    }
}

#[test]
fn prometheus_accepts_the_scrape_configurations() {
    if is_there("promtool") {
        let check = || {
            let mut promtool = Command::new("promtool");
            promtool.args(["check", "config", "--syntax-only"]);
            promtool
        };
        succeeds(check().arg(deploy("prometheus/central.yml")));
        succeeds(check().arg("--agent").arg(deploy("prometheus/agent.yml")));
    }
}

#[test]
fn prometheus_accepts_the_alerts() {
    if is_there("promtool") {
        let rules = deploy("prometheus/alerts.yml");
        succeeds(Command::new("promtool").args(["check", "rules"]).arg(rules));
    }
}

/// promtool evaluates each rule on samples for which it must fire, and on others for which it must not.
#[test]
fn every_alert_fires_and_is_silent_when_it_should() {
    let cases = std::fs::read_to_string(deploy("prometheus/alerts_test.yml")).unwrap();
    let runbook = std::fs::read_to_string(root().join("deploy/runbook.md")).unwrap();
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        for case in ["fires", "is silent"] {
            assert!(
                cases.contains(&format!("- name: {alert} {case}\n")),
                "no case says when {alert} {case}"
            );
        }
        assert!(
            runbook.contains(&format!("## {alert}\n")),
            "the runbook does not explain {alert}"
        );
        let anchor = format!("runbook_url: \"deploy/runbook.md#{}\"", alert.to_lowercase());
        assert!(
            rules.contains(&anchor),
            "{alert} does not name its section of the runbook"
        );
    }
    if is_there("promtool") {
        succeeds(
            Command::new("promtool")
                .args(["test", "rules"])
                .arg(deploy("prometheus/alerts_test.yml")),
        );
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
        let name = name.trim_end_matches("_bucket");
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
