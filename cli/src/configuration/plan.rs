//! What a new cluster is made of, once it is known to be possible.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tandem_cluster::MemberAddress;
use thiserror::Error;

use super::network::{Listener, Machine, Place, PortChoice, Source};
use crate::pki::name::{ClusterName, HostName};

/// What an administrator asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub cluster: ClusterName,
    pub vip: Place,
    pub front_end: IpAddr,
    /// The first one is `n1`.
    pub nodes: Vec<IpAddr>,
    pub cti: Vec<MemberAddress>,
    pub clients: Vec<Source>,
    pub exchange: Option<ExchangePlan>,
    pub ports: Vec<PortChoice>,
}

/// How the nodes reach Exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangePlan {
    pub hosts: Vec<HostName>,
    pub account: String,
}

/// A cluster that can be: every listener has a place of its own.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) cluster: ClusterName,
    pub(super) vip: SocketAddr,
    pub(super) cti: Vec<MemberAddress>,
    pub(super) clients: Vec<Source>,
    pub(super) exchange: Option<ExchangePlan>,
    pub(super) front_end: IpAddr,
    pub(super) nodes: Vec<IpAddr>,
    places: BTreeMap<(Machine, Listener), SocketAddr>,
}

impl Plan {
    /// # Errors
    /// When there are too many nodes, two listeners want the same place, or an address is nobody's.
    pub fn new(wanted: Wanted) -> Result<Self, PlanError> {
        if wanted.nodes.len() > NODES_MAX {
            return Err(PlanError::TooManyNodes);
        }
        let addresses = [wanted.vip.address, wanted.front_end];
        for address in addresses.iter().chain(&wanted.nodes) {
            if address.is_unspecified()
                || address.is_multicast()
                || *address == IpAddr::V4(Ipv4Addr::BROADCAST)
            {
                return Err(PlanError::NoMachine { address: *address });
            }
        }
        let places = places(&wanted)?;
        let vip = places[&(Machine::FrontEnd, Listener::Sip)];
        let clients = match wanted.clients.is_empty() {
            true => vec![Source::around(vip.ip())],
            false => wanted.clients,
        };
        Ok(Self {
            cluster: wanted.cluster,
            vip,
            cti: wanted.cti,
            clients,
            exchange: wanted.exchange,
            front_end: wanted.front_end,
            nodes: wanted.nodes,
            places,
        })
    }

    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Who may connect to the front end.
    #[must_use]
    pub fn clients(&self) -> &[Source] {
        &self.clients
    }

    #[must_use]
    pub fn wants_exchange(&self) -> bool {
        self.exchange.is_some()
    }

    /// The front end first.
    pub fn machines(&self) -> impl Iterator<Item = Machine> {
        let nodes = (1..).zip(&self.nodes).map(|(id, _)| Machine::Node(id));
        std::iter::once(Machine::FrontEnd).chain(nodes)
    }

    /// The member that a machine is: nodes count from 1, the front end is 100.
    #[must_use]
    pub fn member_id(machine: Machine) -> u64 {
        match machine {
            Machine::FrontEnd => WITNESS,
            Machine::Node(id) => id,
        }
    }

    /// Where a machine of the plan listens; `None` where it does not.
    #[must_use]
    pub fn place(&self, machine: Machine, listener: Listener) -> Option<SocketAddr> {
        self.places.get(&(machine, listener)).copied()
    }

    /// A trial: every machine is this one, and their data lie beside their files.
    pub(super) fn is_on_loopback(&self) -> bool {
        let mut addresses = self.nodes.iter().chain([&self.front_end]);
        addresses.all(IpAddr::is_loopback)
    }
}

fn places(wanted: &Wanted) -> Result<BTreeMap<(Machine, Listener), SocketAddr>, PlanError> {
    let mut places = BTreeMap::new();
    let mut add = |machine, listener: Listener, address| {
        let place = SocketAddr::new(address, listener.default_port(machine));
        places.insert((machine, listener), place);
    };
    add(Machine::FrontEnd, Listener::Sip, wanted.vip.address);
    add(Machine::FrontEnd, Listener::Outbound, wanted.front_end);
    for (machine, address) in machines(wanted) {
        if machine != Machine::FrontEnd {
            add(machine, Listener::Sip, address);
            if wanted.exchange.is_some() {
                add(machine, Listener::Push, address);
            }
        }
        add(machine, Listener::Peer, address);
        add(machine, Listener::Admin, admin_address(address));
    }
    let vip = wanted.vip.port.map(|port| PortChoice {
        machine: Machine::FrontEnd,
        listener: Listener::Sip,
        port,
    });
    for choice in vip.iter().chain(&wanted.ports) {
        let place = places.get_mut(&(choice.machine, choice.listener));
        place
            .ok_or(PlanError::NoListener { choice: *choice })?
            .set_port(choice.port);
    }
    check_distinct(wanted, &places)?;
    Ok(places)
}

/// The machines and their own addresses.
fn machines(wanted: &Wanted) -> impl Iterator<Item = (Machine, IpAddr)> {
    let nodes = (1..)
        .zip(&wanted.nodes)
        .map(|(id, address)| (Machine::Node(id), *address));
    std::iter::once((Machine::FrontEnd, wanted.front_end)).chain(nodes)
}

/// Administrators ask on the machine itself (OPS-7). Machines of a trial share one, and each keeps to its own address.
fn admin_address(machine: IpAddr) -> IpAddr {
    match machine.is_loopback() {
        true => machine,
        false => Ipv4Addr::LOCALHOST.into(),
    }
}

fn check_distinct(
    wanted: &Wanted,
    places: &BTreeMap<(Machine, Listener), SocketAddr>,
) -> Result<(), PlanError> {
    let addresses: BTreeMap<Machine, IpAddr> = machines(wanted).collect();
    let mut taken = BTreeMap::new();
    for (second, place) in places {
        // Every machine has a loopback network of its own.
        let machine = addresses.get(&second.0);
        let host = machine.filter(|machine| place.ip().is_loopback() && !machine.is_loopback());
        if let Some(first) = taken.insert((host, *place), *second) {
            return Err(PlanError::SamePlace {
                place: *place,
                first: listener_name(first),
                second: listener_name(*second),
            });
        }
    }
    Ok(())
}

fn listener_name((machine, listener): (Machine, Listener)) -> String {
    format!("{machine}.{}", listener.word())
}

/// Why there is no such cluster.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("a cluster has up to {NODES_MAX} nodes: leave some out")]
    TooManyNodes,
    #[error("{address} is the address of no single machine: give the machine's own")]
    NoMachine { address: IpAddr },
    #[error(
        "{first} and {second} would both listen on {place}: give one of them another port with --port {second}=PORT"
    )]
    SamePlace {
        place: SocketAddr,
        first: String,
        second: String,
    },
    #[error(
        "there is no listener for --port {choice}: look at `tandem config init --help` for those that there are"
    )]
    NoListener { choice: PortChoice },
}

/// The front end's member: nodes are counted from 1, and there are fewer.
pub const WITNESS: u64 = 100;
const NODES_MAX: usize = 7;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::configuration) fn wanted() -> Wanted {
        Wanted {
            cluster: "office".parse().unwrap(),
            vip: "192.0.2.10".parse().unwrap(),
            front_end: [192, 0, 2, 20].into(),
            nodes: vec![[192, 0, 2, 21].into(), [192, 0, 2, 22].into()],
            cti: vec!["cti-1.example.com:8000".parse().unwrap()],
            clients: Vec::new(),
            exchange: None,
            ports: Vec::new(),
        }
    }

    #[test]
    fn machines_have_their_usual_ports() {
        let plan = Plan::new(wanted()).unwrap();
        assert_eq!(plan.machines().count(), 3);
        let place = |machine, listener| plan.place(machine, listener).map(|place| place.to_string());
        let vip = place(Machine::FrontEnd, Listener::Sip);
        assert_eq!(vip.as_deref(), Some("192.0.2.10:5060"));
        let admin = place(Machine::Node(2), Listener::Admin);
        assert_eq!(
            admin.as_deref(),
            Some("127.0.0.1:8081"),
            "every machine has its own"
        );
        assert_eq!(place(Machine::Node(2), Listener::Push), None);
        assert_eq!(plan.clients()[0].to_string(), "192.0.2.0/24");
    }

    #[test]
    fn a_port_may_be_another_one() {
        let plan = Plan::new(Wanted {
            vip: "192.0.2.10:5062".parse().unwrap(),
            ports: vec!["node-1.peer=7001".parse().unwrap()],
            ..wanted()
        })
        .unwrap();
        assert_eq!(plan.vip.port(), 5062);
        let peer = plan.place(Machine::Node(1), Listener::Peer).unwrap();
        assert_eq!(peer.port(), 7001);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_way_out() {
        let message = |wanted| Plan::new(wanted).unwrap_err().to_string();
        let same = message(Wanted {
            nodes: vec![[192, 0, 2, 21].into(); 2],
            ..wanted()
        });
        assert!(same.contains("--port node-2.sip=PORT"), "{same}");
        let same_loopback = message(Wanted {
            front_end: [192, 0, 2, 21].into(),
            ports: ["node-1.peer=7001", "lb-1.admin=8081"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            ..wanted()
        });
        assert!(same_loopback.contains("127.0.0.1:8081"), "{same_loopback}");
        let absent = message(Wanted {
            ports: vec!["node-3.peer=7001".parse().unwrap()],
            ..wanted()
        });
        assert!(absent.contains("node-3.peer=7001"), "{absent}");
        let nobody = message(Wanted {
            front_end: [0, 0, 0, 0].into(),
            ..wanted()
        });
        assert!(nobody.contains("0.0.0.0"), "{nobody}");
        let many = message(Wanted {
            nodes: (1..=8).map(|host| [192, 0, 2, host].into()).collect(),
            ..wanted()
        });
        assert!(many.contains("up to 7"), "{many}");
    }
}
