//! Who listens where: every cluster on a random `127.A.B.0/24`, every host on an address of its own.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};

use super::metrics::Metrics;
use super::{Member, configuration, http};

/// Who listens where; every host of a cluster has an address of its own.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub(super) a: u8,
    pub(super) b: u8,
}

impl Addresses {
    /// A random `127.A.B.0/24` whose VIP nobody listens on.
    pub fn unused() -> anyhow::Result<Self> {
        for _ in 0..100 {
            let addresses = Self {
                a: rand::random_range(1..=254),
                b: rand::random_range(0..=255),
            };
            if std::net::TcpListener::bind(addresses.vip()).is_ok() {
                return Ok(addresses);
            }
        }
        bail!("no loopback address is free; Linux has the whole of 127.0.0.0/8")
    }

    /// A host of these by its last number. Ports stand below the ephemeral range, so no outgoing connection ever holds one.
    #[must_use]
    pub fn at(self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, self.a, self.b, host), port))
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
        self.at(1, 5060)
    }

    /// The same, for mutual TLS.
    #[must_use]
    pub fn vip_tls(self) -> SocketAddr {
        self.at(1, 5062)
    }

    #[must_use]
    pub fn outbound(self) -> SocketAddr {
        self.at(1, 5070)
    }

    #[must_use]
    pub fn node_sip(self, id: u64) -> SocketAddr {
        self.at(node_host(id), 5060)
    }

    /// Peer listener of a member of the Raft group.
    #[must_use]
    pub fn peer(self, id: u64) -> SocketAddr {
        let host = if id == configuration::WITNESS {
            1
        } else {
            node_host(id)
        };
        self.at(host, 7100)
    }

    #[must_use]
    pub fn cti_manager(self, number: usize) -> SocketAddr {
        self.at(
            20 + u8::try_from(number).expect("a story has few CTI managers"),
            4721,
        )
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
        self.at(20, 4700)
    }

    /// Another presence server, which Tandem publishes to.
    #[must_use]
    pub fn presence_server(self) -> SocketAddr {
        self.at(60, 5060)
    }

    /// The n-th OCS.
    #[must_use]
    pub fn ocs(self, number: u8) -> SocketAddr {
        self.at(40 + number, 5060)
    }

    #[must_use]
    pub fn admin(self, member: Member) -> Option<SocketAddr> {
        match member {
            Member::Lb => Some(self.at(1, 9190)),
            Member::Node(id) => Some(self.at(node_host(id), 9191)),
            Member::CtiManager(_) => None,
        }
    }
}

fn node_host(id: u64) -> u8 {
    10 + u8::try_from(id).expect("a story has few nodes")
}
