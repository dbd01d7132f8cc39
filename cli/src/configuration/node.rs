//! `node.toml` and `directory.toml` of a new cluster.

use std::fmt::Write as _;

use super::front_end::dialled;
use super::network::{Listener, Machine, Source};
use super::plan::{ExchangePlan, Plan};
use super::text::{admin, cluster, data_directory, heading, key, list, quoted};

/// The configuration of the node with this id; the files that it names lie beside it.
#[must_use]
pub fn node_file(plan: &Plan, id: u64) -> String {
    let machine = Machine::Node(id);
    let mut text = heading(plan, machine, "tandem-node");
    let _ = writeln!(
        text,
        "[node]\nid = {id}\n{}",
        data_directory(plan, "/var/lib/tandem-node")
    );
    text.push_str(&admin(plan, machine));
    text.push_str(&sip(plan, machine));
    text.push_str("[directory]\n# Users, devices and lines: the same file on every node.\nfile = \"directory.toml\"\n\n");
    text.push_str("# In order of priority.\n");
    for (number, address) in (1..).zip(&plan.cti) {
        let _ = writeln!(
            text,
            "[[cti.connection]]\nname = \"cti-{number}\"\naddress = {}\n",
            quoted(address)
        );
    }
    if let Some(wanted) = &plan.exchange {
        text.push_str(&exchange(plan, machine, wanted));
    }
    text.push_str(&cluster(plan, machine, ""));
    text
}

fn sip(plan: &Plan, machine: Machine) -> String {
    // A front end connects from its own address, or from the VIP where that is its first one.
    let front_ends = match plan.is_on_loopback() {
        true => vec![Source::around(plan.front_end)],
        false => {
            let mut addresses = vec![plan.front_end, plan.vip.ip()];
            addresses.dedup();
            let networks = addresses
                .into_iter()
                .map(|address| Source::Network(address.into()));
            networks.collect()
        }
    };
    let outbound = match dialled(plan).is_empty() {
        true => Vec::new(),
        false => plan
            .place(Machine::FrontEnd, Listener::Outbound)
            .into_iter()
            .collect(),
    };
    format!(
        "[sip]\n# Front ends connect here, and nobody else: with mutual TLS, by the certificates of [cluster.tls].\n\
         {}trusted_front_ends = {}\npairs = \"tls\"\noutbound_front_ends = {}\n\n",
        key("listen", plan.place(machine, Listener::Sip)),
        list(front_ends),
        list(outbound),
    )
}

fn exchange(plan: &Plan, machine: Machine, wanted: &ExchangePlan) -> String {
    let push = plan.place(machine, Listener::Push);
    let trust = match plan.is_on_loopback() {
        true => "data/exchange-trust",
        false => "/var/lib/tandem-node/exchange-trust",
    };
    let mut text = format!(
        "# Account, gateways and callback.key are the same on every node.\n[exchange]\naccount = {}\n\
         password_file = \"exchange-password\"\n# Import the authority of the gateways: tandem-node exchange certificate.\n\
         trust_directory = \"{trust}\"\ncallback_key_file = \"callback.key\"\n\n\
         # The gateways post here. They must trust the authority in service-ca.pem; until they do, changes are streamed.\n\
         [exchange.push]\n{}{}certificate = \"push.pem\"\nkey = \"push.key\"\n\n",
        quoted(&wanted.account),
        key("listen", push),
        key("advertise", push.map(|place| format!("https://{place}"))),
    );
    for (number, host) in (1..).zip(&wanted.hosts) {
        let _ = writeln!(
            text,
            "[[exchange.gateway]]\nname = \"cas-{number}\"\nhost = {}\n",
            quoted(host)
        );
    }
    text
}

/// A directory without users, and how they are written.
#[must_use]
pub fn directory_file() -> &'static str {
    "# Who may control which phone. The same file on every node; a change is in force within seconds.\n\
     # deploy/config/directory.toml of the sources explains every key.\n\n\
     # [[user]]\n# id = \"joe\"\n# mail = \"joe@example.com\"\n\n\
     # [[device]]\n# name = \"SEP0002FD3BB5C5\"\n\n\
     # [[line]]\n# number = \"4711\"\n# devices = [\"SEP0002FD3BB5C5\"]\n# users = [\"joe\"]\n"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_node::config::{self, Config};
    use tandem_runtime::config::read_text;

    use super::super::plan::tests::wanted;
    use super::super::plan::{Plan, Wanted};
    use super::*;

    fn read(wanted: Wanted, id: u64) -> Config {
        let text = node_file(&Plan::new(wanted).unwrap(), id);
        read_text(Path::new("/etc/tandem/node.toml"), &text, config::read)
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn the_node_reads_what_is_written() {
        let config = read(wanted(), 2);
        assert_eq!(config.id.0, 2);
        assert_eq!(config.sip.listen.to_string(), "192.0.2.22:5060");
        let trusted: Vec<String> = config
            .sip
            .trusted_front_ends
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(trusted, ["192.0.2.20/32", "192.0.2.10/32"]);
        assert_eq!(config.sip.outbound_front_ends.len(), 1);
        assert_eq!(config.gateway.cti_connections, ["cti-1.example.com:8000"]);
        assert!(config.exchange.is_none());
    }

    #[test]
    fn exchange_is_there_where_it_is_wanted() {
        let exchange = ExchangePlan {
            hosts: vec![
                "cas1.example.com".parse().unwrap(),
                "cas2.example.com".parse().unwrap(),
            ],
            account: r"EXAMPLE\svc-presence".to_owned(),
        };
        let config = read(
            Wanted {
                exchange: Some(exchange),
                ..wanted()
            },
            1,
        );
        let exchange = config.exchange.unwrap();
        assert_eq!(exchange.cas_list.len(), 2);
        let push = exchange.push.unwrap();
        assert_eq!(push.advertise, "https://192.0.2.21:8643");
        assert_eq!(push.callback_key_file, Path::new("/etc/tandem/callback.key"));
    }

    #[test]
    fn the_directory_is_empty_and_valid_with_and_without_its_example() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("directory.toml");
        let example: Vec<&str> = directory_file()
            .lines()
            .skip(2)
            .map(|line| line.trim_start_matches("# "))
            .collect();
        for text in [directory_file(), &example.join("\n")] {
            std::fs::write(&path, text).unwrap();
            tandem_node::directory::file::read_file(&path).unwrap();
        }
    }
}
