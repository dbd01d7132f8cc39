//! Where machines listen, and who may connect.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use crate::pki::name::HostName;

/// What a machine listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// Clients at the VIP, front ends at a node.
    Sip,
    /// Nodes that dial clients.
    Outbound,
    /// Other members.
    Peer,
    /// Administrators.
    Admin,
    /// Exchange.
    Push,
}

impl Listener {
    pub const ALL: [Self; 5] = [Self::Sip, Self::Outbound, Self::Peer, Self::Admin, Self::Push];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sip => "sip",
            Self::Outbound => "outbound",
            Self::Peer => "peer",
            Self::Admin => "admin",
            Self::Push => "push",
        }
    }

    /// The port unless another one is chosen; as in the reference configuration.
    #[must_use]
    pub fn default_port(self, machine: Machine) -> u16 {
        match (self, machine) {
            (Self::Sip, _) => 5060,
            (Self::Outbound, _) => 5070,
            (Self::Peer, _) => 7000,
            (Self::Admin, Machine::FrontEnd) => 9060,
            (Self::Admin, Machine::Node(_)) => 8081,
            (Self::Push, _) => 8643,
        }
    }
}

/// One machine of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    FrontEnd,
    /// By its id, from 1.
    Node(u64),
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrontEnd => formatter.write_str("lb-1"),
            Self::Node(id) => write!(formatter, "node-{id}"),
        }
    }
}

impl FromStr for Machine {
    type Err = NoPortChoice;

    fn from_str(text: &str) -> Result<Self, NoPortChoice> {
        if text == "lb-1" {
            return Ok(Self::FrontEnd);
        }
        let digits = text.strip_prefix("node-").ok_or(NoPortChoice)?;
        let id: u64 = digits.parse().map_err(|_| NoPortChoice)?;
        if id >= 1 && id.to_string() == digits {
            Ok(Self::Node(id))
        } else {
            Err(NoPortChoice)
        }
    }
}

/// Another port than the usual one: `node-2.admin=9081`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortChoice {
    pub machine: Machine,
    pub listener: Listener,
    pub port: u16,
}

impl FromStr for PortChoice {
    type Err = NoPortChoice;

    fn from_str(text: &str) -> Result<Self, NoPortChoice> {
        let (place, port) = text.split_once('=').ok_or(NoPortChoice)?;
        let (machine, word) = place.split_once('.').ok_or(NoPortChoice)?;
        let listener = Listener::ALL.into_iter().find(|listener| listener.word() == word);
        Ok(Self {
            machine: machine.parse()?,
            listener: listener.ok_or(NoPortChoice)?,
            port: parse_port(port).ok_or(NoPortChoice)?,
        })
    }
}

impl fmt::Display for PortChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, listener, port) = (self.machine, self.listener.word(), self.port);
        write!(formatter, "{machine}.{listener}={port}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("MACHINE.LISTENER=PORT is wanted, as lb-1.peer=7001 or node-2.admin=9081")]
pub struct NoPortChoice;

/// An address, and a port where it is not the usual one: `192.0.2.10`, `192.0.2.10:5062`, `[2001:db8::1]:5062`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let place: SocketAddr = text.parse().map_err(|_| NoPlace)?;
        match place.port() {
            0 => Err(NoPlace),
            port => Ok(Self {
                address: place.ip(),
                port: Some(port),
            }),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(formatter),
            None => self.address.fmt(formatter),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an IP address is wanted, and a port where it is not the usual one: 192.0.2.10 or 192.0.2.10:5062")]
pub struct NoPlace;

/// Who may connect to the front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Network(IpNet),
    Host(String),
}

impl Source {
    /// The network around an address: 24 bits of IPv4, 64 of IPv6; on loopback all of it.
    #[must_use]
    pub fn around(address: IpAddr) -> Self {
        let bits = match address {
            IpAddr::V4(address) if address.is_loopback() => 8,
            IpAddr::V4(_) => 24,
            IpAddr::V6(address) if address.is_loopback() => 128,
            IpAddr::V6(_) => 64,
        };
        let network =
            IpNet::new(address, bits).map_or_else(|_| IpNet::from(address), |network| network.trunc());
        Self::Network(network)
    }
}

impl FromStr for Source {
    type Err = NoSource;

    fn from_str(text: &str) -> Result<Self, NoSource> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        match text.parse() {
            Ok(HostName::Address(address)) => Ok(Self::Network(address.into())),
            Ok(HostName::Dns(name)) if !name.starts_with("*.") => Ok(Self::Host(name)),
            Ok(HostName::Dns(_)) | Err(_) => Err(NoSource),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(formatter),
            Self::Host(name) => formatter.write_str(name),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an address, a network or a host name is wanted: 192.0.2.7, 192.0.2.0/24 or ocs1.example.com")]
pub struct NoSource;

/// Port 0 is nobody's.
fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_port_is_chosen_for_one_listener() {
        let choice = PortChoice {
            machine: Machine::Node(2),
            listener: Listener::Admin,
            port: 9081,
        };
        assert_eq!("node-2.admin=9081".parse(), Ok(choice));
        for text in [
            "",
            "node-2.admin",
            "node-2.admin=0",
            "node-2.admin=65536",
            "node-0.admin=1",
            "node-02.admin=1",
            "lb-2.peer=1",
            "node-2.sips=1",
            "node-2=1",
        ] {
            assert_eq!(text.parse::<PortChoice>(), Err(NoPortChoice), "{text:?}");
        }
    }

    #[test]
    fn the_network_of_an_address_is_the_usual_one() {
        for (address, network) in [
            ("192.0.2.10", "192.0.2.0/24"),
            ("127.3.4.5", "127.0.0.0/8"),
            ("2001:db8::10", "2001:db8::/64"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(Source::around(address.parse().unwrap()).to_string(), network);
        }
    }

    proptest! {
        #[test]
        fn a_port_is_read_back_as_it_is_written(node in 0_u64..1000, listener in 0_usize..5, port in 1_u16..) {
            let machine = if node == 0 { Machine::FrontEnd } else { Machine::Node(node) };
            let choice = PortChoice { machine, listener: Listener::ALL[listener], port };
            prop_assert_eq!(choice.to_string().parse(), Ok(choice));
        }

        #[test]
        fn places_are_read_back_as_they_are_written(address: IpAddr, port in proptest::option::of(1_u16..)) {
            let place = Place { address, port };
            prop_assert_eq!(place.to_string().parse(), Ok(place));
        }

        #[test]
        fn whatever_is_typed_is_understood_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<PortChoice>();
            let _ = text.parse::<Place>();
            if let Ok(source) = text.parse::<Source>() {
                prop_assert_eq!(source.to_string().parse(), Ok(source));
            }
        }
    }
}
