//! Pieces of TOML that both files have.

use std::fmt::{Display, Write as _};

use super::network::{Listener, Machine};
use super::plan::Plan;

/// A value as a TOML string.
pub(super) fn quoted(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

/// A TOML list of strings.
pub(super) fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

/// A key with a value in quotation marks where there is one.
pub(super) fn key(name: &str, value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| format!("{name} = {}\n", quoted(value)))
}

/// `[cluster]` of one machine. `own` are the keys that only its program has.
pub(super) fn cluster(plan: &Plan, machine: Machine, own: &str) -> String {
    let mut text = format!(
        "[cluster]\n# Stands in every member's certificate: member 1 shows n1.{}.\nname = {}\n{own}{}\n",
        plan.cluster.domain(),
        quoted(&plan.cluster),
        key("listen", plan.place(machine, Listener::Peer)),
    );
    text.push_str("# All members, the same list everywhere.\n");
    let nodes_first = plan.machines().skip(1).chain([Machine::FrontEnd]);
    for member in nodes_first {
        let kind = match member {
            Machine::FrontEnd => "witness",
            Machine::Node(_) => "node",
        };
        let _ = writeln!(
            text,
            "[[cluster.member]]\nid = {}\nkind = \"{kind}\"\n{}",
            Plan::member_id(member),
            key("address", plan.place(member, Listener::Peer)),
        );
    }
    text.push_str(
        "[cluster.tls]\ncertificate = \"peer.pem\"\nkey = \"peer.key\"\nauthority = \"peer-ca.pem\"\n",
    );
    text
}

/// Where a program keeps its data.
pub(super) fn data_directory(plan: &Plan, installed: &'static str) -> String {
    let directory = match plan.is_on_loopback() {
        true => "data",
        false => installed,
    };
    key("data_directory", Some(directory))
}

/// The first lines of a file.
pub(super) fn heading(plan: &Plan, machine: Machine, program: &str) -> String {
    format!(
        "# {machine} of the cluster {}: configuration of {program}. Keys that are not here have their defaults;\n\
         # deploy/config of the sources explains all of them.\n\n",
        plan.cluster
    )
}

/// `[admin]`.
pub(super) fn admin(plan: &Plan, machine: Machine) -> String {
    format!(
        "[admin]\n{}\n",
        key("listen", plan.place(machine, Listener::Admin))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(texts in proptest::collection::vec(any::<String>(), 0..4)) {
            let document: toml::Table = format!("list = {}", list(&texts)).parse().unwrap();
            let read: Vec<String> = document["list"].clone().try_into().unwrap();
            prop_assert_eq!(read, texts);
        }
    }
}
