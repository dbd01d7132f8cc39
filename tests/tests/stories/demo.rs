//! The README's first command, small and quick.

use std::process::{Command, Output};

#[test]
fn the_demo_ends_well_and_says_what_the_clients_saw() {
    let output = demo(&["--users", "250", "--pace", "1"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for wanted in [
        "250 signed in at first",
        "twice: 0",
        "longest pause",
        "n1 125, n2 125",
        "cas1 73, cas2 73, cas3 72, cas4 72",
        "0 others moved",
        "/metrics",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is missing:\n{said}");
    }
}

#[test]
fn the_demo_ends_badly_when_a_client_loses_anything() {
    let output = demo(&["--users", "250", "--pace", "0", "--plant-fault"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("requests failed") && complaint.contains("status: 481"),
        "{complaint}"
    );
}

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(arguments)
        .output()
        .unwrap()
}
