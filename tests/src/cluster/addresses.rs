//! Who listens where: every host on an address of its own, on a random `127.A.B.0/24` or on the wires of a test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail};

use super::metrics::Metrics;
use super::{Member, configuration, http};

/// Who listens where; every host of a cluster has an address of its own.
#[derive(Debug, Clone, Copy)]
pub struct Addresses(Site);

/// Where the hosts are.
#[derive(Debug, Clone, Copy)]
enum Site {
    /// `127.A.B.0/24`.
    Loopback { a: u8, b: u8 },
    /// A network that a test has made, and nobody beyond it can see.
    Made(Family),
}

/// Of which kind the addresses of a made network are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Addresses {
    /// In `127.A.B.0/24`, whoever listens there.
    #[must_use]
    pub fn on_loopback(a: u8, b: u8) -> Self {
        Self(Site::Loopback { a, b })
    }

    pub(super) fn in_a_made_network(family: Family) -> Self {
        Self(Site::Made(family))
    }

    /// A random `127.A.B.0/24` whose VIP nobody listens on.
    pub fn unused() -> anyhow::Result<Self> {
        for _ in 0..100 {
            let addresses = Self::on_loopback(rand::random_range(1..=254), rand::random_range(0..=255));
            if std::net::TcpListener::bind(addresses.vip()).is_ok() {
                return Ok(addresses);
            }
        }
        bail!("no loopback address is free; Linux has the whole of 127.0.0.0/8")
    }

    /// A host of these by its last number. Ports stand below the ephemeral range, so no outgoing connection ever holds one.
    #[must_use]
    pub fn at(self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.host(host), port)
    }

    /// The address of the host with that number.
    pub(super) fn host(self, host: u8) -> IpAddr {
        match self.0 {
            Site::Loopback { a, b } => Ipv4Addr::new(127, a, b, host).into(),
            Site::Made(Family::V4) => Self::by_ipv4(host).into(),
            Site::Made(Family::V6) => Ipv6Addr::new(0xfd86, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// What a host has in a made network besides, or as its only address: the test asks by IPv4, whatever members use.
    pub(super) fn by_ipv4(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 86, 0, host)
    }

    /// Where members listen for administrators: a loopback address, and nobody else's in a made network.
    pub(super) fn admin_host(self, host: u8) -> IpAddr {
        match self.0 {
            Site::Loopback { .. } => self.host(host),
            Site::Made(_) => Ipv4Addr::new(127, 86, 0, host).into(),
        }
    }

    /// Everybody's addresses, as an operator would allow them.
    pub(super) fn network(self) -> &'static str {
        match self.0 {
            Site::Loopback { .. } => "127.0.0.0/8",
            Site::Made(Family::V4) => "10.86.0.0/24",
            Site::Made(Family::V6) => "fd86::/64",
        }
    }

    /// The number of the host that a member is.
    pub(super) fn host_of(member: Member) -> u8 {
        match member {
            Member::Lb => FRONT_END_HOST,
            Member::Node(id) => node_host(id),
            Member::CtiManager(number) => cti_manager_host(number),
        }
    }

    /// What a member answers there now.
    pub async fn get(self, member: Member, path: &str) -> anyhow::Result<serde_json::Value> {
        let address = self
            .admin(member)
            .context("a CTI manager has no admin listener")?;
        http::request(address, "GET", path, "").await?.json()
    }

    /// What a member exposes now.
    pub async fn metrics(self, member: Member) -> anyhow::Result<Metrics> {
        let address = self
            .admin(member)
            .context("a CTI manager has no admin listener")?;
        let response = http::request(address, "GET", "/metrics", "").await?;
        Ok(Metrics::parse(&response.body))
    }

    /// Where a second process of a node has its admin listener.
    pub(super) fn admin_beside(self, id: u64) -> SocketAddr {
        self.at(200 + node_host(id), 9191)
    }

    #[must_use]
    pub fn vip(self) -> SocketAddr {
        self.at(FRONT_END_HOST, 5060)
    }

    /// The same, for mutual TLS.
    #[must_use]
    pub fn vip_tls(self) -> SocketAddr {
        self.at(FRONT_END_HOST, 5062)
    }

    #[must_use]
    pub fn outbound(self) -> SocketAddr {
        self.at(FRONT_END_HOST, 5070)
    }

    #[must_use]
    pub fn node_sip(self, id: u64) -> SocketAddr {
        self.at(node_host(id), 5060)
    }

    /// Peer listener of a member of the Raft group.
    #[must_use]
    pub fn peer(self, id: u64) -> SocketAddr {
        let host = if id == configuration::WITNESS {
            FRONT_END_HOST
        } else {
            node_host(id)
        };
        self.at(host, 7100)
    }

    #[must_use]
    pub fn cti_manager(self, number: usize) -> SocketAddr {
        self.at(cti_manager_host(number), 4721)
    }

    /// The n-th Client Access Server, from 0.
    #[must_use]
    pub fn cas(self, number: usize) -> SocketAddr {
        self.at(60 + u8::try_from(number).expect("a story has few servers"), 4430)
    }

    /// Where a node takes callbacks.
    #[must_use]
    pub fn push(self, id: u64) -> SocketAddr {
        self.at(node_host(id), 8643)
    }

    #[must_use]
    pub fn pbx(self) -> SocketAddr {
        self.at(PBX_HOST, 4700)
    }

    /// Another presence server, which Tandem publishes to.
    #[must_use]
    pub fn presence_server(self) -> SocketAddr {
        self.at(60, 5060)
    }

    /// The n-th OCS.
    #[must_use]
    pub fn ocs(self, number: u8) -> SocketAddr {
        self.at(OCS_HOST + number, 5060)
    }

    #[must_use]
    pub fn admin(self, member: Member) -> Option<SocketAddr> {
        match member {
            Member::Lb => Some(SocketAddr::new(self.admin_host(FRONT_END_HOST), 9190)),
            Member::Node(id) => Some(SocketAddr::new(self.admin_host(node_host(id)), 9191)),
            Member::CtiManager(_) => None,
        }
    }
}

fn node_host(id: u64) -> u8 {
    10 + u8::try_from(id).expect("a story has few nodes")
}

fn cti_manager_host(number: usize) -> u8 {
    PBX_HOST + u8::try_from(number).expect("a story has few CTI managers")
}

const FRONT_END_HOST: u8 = 1;
pub(super) const PBX_HOST: u8 = 20;
/// The first OCS is one above.
pub(super) const OCS_HOST: u8 = 40;
