//! `lb.toml` of a new cluster.

use std::fmt::Write as _;

use super::network::{Listener, Machine, Source};
use super::plan::{Plan, WITNESS};
use super::text::{admin, cluster, data_directory, heading, key, list, quoted};

/// The front end's configuration; the files that it names lie beside it.
#[must_use]
pub fn front_end_file(plan: &Plan) -> String {
    let mut text = heading(plan, Machine::FrontEnd, "tandem-lb");
    text.push_str("# Connections with the nodes: mutual TLS with the certificates of [cluster.tls].\npairs = \"tls\"\n\n");
    text.push_str(&admin(plan, Machine::FrontEnd));
    text.push_str(&listener(plan));
    for machine in plan.machines() {
        if let Machine::Node(id) = machine {
            let address = key("address", plan.place(machine, Listener::Sip));
            let _ = writeln!(text, "[[node]]\nid = {id}\n{address}");
        }
    }
    text.push_str(&outbound(plan));
    let own = format!(
        "member_id = {WITNESS}\n{}",
        data_directory(plan, "/var/lib/tandem-lb")
    );
    text.push_str(&cluster(plan, Machine::FrontEnd, &own));
    text
}

fn listener(plan: &Plan) -> String {
    let mut text = format!(
        "# What clients connect to. For mutual TLS, add a listener like the one in deploy/config/lb.toml, with a\n\
         # certificate from `tandem pki issue --vip`.\n\
         [[listener]]\nname = \"ocs\"\naddress = {}\ntransport = \"tcp\"\nmode = \"message\"\n\n\
         # Who may connect; everybody else is refused.\n",
        quoted(plan.vip)
    );
    for client in plan.clients() {
        let _ = writeln!(text, "[[listener.allow]]\nsource = {}\n", quoted(client));
    }
    text
}

/// Clients that are known by a host name alone cannot be dialled: a network is wanted here.
fn outbound(plan: &Plan) -> String {
    let networks = dialled(plan);
    if networks.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "# Where nodes dial to reach clients that have no connection, and which clients they may reach.\n\
         [outbound]\n{}allow = {}\n{}",
        key("listen", plan.place(Machine::FrontEnd, Listener::Outbound)),
        list(networks),
        key("source_address", Some(plan.vip.ip())),
    );
    if plan.is_on_loopback() {
        text.push_str("# Connections of loopback come from any of its addresses.\n");
        let _ = writeln!(text, "allow_from = {}", list([Source::around(plan.front_end)]));
    }
    text.push('\n');
    text
}

/// The clients' networks that nodes may dial through the front end.
pub(super) fn dialled(plan: &Plan) -> Vec<&Source> {
    let clients = plan.clients().iter();
    clients
        .filter(|client| match client {
            Source::Network(_) => true,
            Source::Host(_) => false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_lb::config::Config;
    use tandem_runtime::config::{PairTransport, read_text};

    use super::super::plan::tests::wanted;
    use super::super::plan::{Plan, Wanted};
    use super::*;

    fn read(wanted: Wanted) -> Config {
        let text = front_end_file(&Plan::new(wanted).unwrap());
        read_text(Path::new("/etc/tandem/lb.toml"), &text, Config::read)
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn the_front_end_reads_what_is_written() {
        let config = read(wanted());
        assert_eq!(config.pairs, PairTransport::Tls);
        assert_eq!(config.listeners[0].address.to_string(), "192.0.2.10:5060");
        assert_eq!(config.nodes.len(), 2);
        let cluster = config.cluster.unwrap();
        assert_eq!(cluster.member_id.0, WITNESS);
        assert_eq!(cluster.data_directory, Path::new("/var/lib/tandem-lb"));
        assert_eq!(cluster.section.members.len(), 3);
        let outbound = config.outbound.unwrap();
        assert_eq!(outbound.source_address.to_string(), "192.0.2.10");
        assert!(outbound.allow_from.is_empty());
    }

    #[test]
    fn clients_by_name_may_connect_and_are_not_dialled() {
        let clients = vec!["ocs1.example.com".parse().unwrap()];
        let config = read(Wanted { clients, ..wanted() });
        assert!(config.outbound.is_none());
    }

    #[test]
    fn ipv6_is_written_as_it_is_read() {
        let config = read(Wanted {
            vip: "2001:db8::10".parse().unwrap(),
            front_end: "2001:db8::20".parse().unwrap(),
            nodes: vec!["2001:db8::21".parse().unwrap()],
            ..wanted()
        });
        assert_eq!(config.listeners[0].address.to_string(), "[2001:db8::10]:5060");
    }
}
