//! The wires of a cluster in namespaces: every member in a namespace of its own, joined to the hub by one cable.
//!
//! Owns the bridge, the cables, the addresses, and what is wrong with them. The PBX, the OCS and the test itself are at
//! the hub. Members listen for administrators on loopback alone; these addresses are routed from the hub, which is where
//! the administrator is. What always holds: the namespaces and all that is in them vanish with this value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Context;

use super::addresses::{OCS_HOST, PBX_HOST};
use super::firewall::{self, Cut};
use super::namespace::{Namespace, administer};
use super::slow_link::{self, SlowLink};
use super::{Addresses, Cluster, Hub, Member};

#[derive(Debug)]
pub(super) struct Network {
    addresses: Addresses,
    namespaces: BTreeMap<Member, Namespace>,
    cuts: BTreeSet<Cut>,
    slow: BTreeMap<Member, SlowLink>,
}

impl Network {
    /// The caller's thread is at the hub, as is everything that it has started.
    pub(super) fn make(_: Hub, addresses: Addresses, members: &[Member]) -> anyhow::Result<Self> {
        administer("ip", &["-batch", "-"], &hub(addresses)).context("making the hub")?;
        route_loopback_addresses("hub")?;
        let mut network = Self {
            addresses,
            namespaces: BTreeMap::new(),
            cuts: BTreeSet::new(),
            slow: BTreeMap::new(),
        };
        for member in members {
            let joined = network.join(*member);
            joined.with_context(|| format!("joining {member} to the hub"))?;
        }
        Ok(network)
    }

    pub(super) fn namespace(&self, member: Member) -> Option<&Namespace> {
        self.namespaces.get(&member)
    }

    fn join(&mut self, member: Member) -> anyhow::Result<()> {
        let namespace = Namespace::new()?;
        let cable = cable(member);
        let host = Addresses::host_of(member);
        let (admin, door) = (self.addresses.admin_host(host), Addresses::by_ipv4(host));
        let at_hub = format!(
            "link add {cable} type veth peer name {cable}-far\n\
             link set {cable}-far netns {}\n\
             link set {cable} master hub up\n\
             route add {admin}/32 via {door} dev hub\n",
            namespace.path()
        );
        administer("ip", &["-batch", "-"], &at_hub)?;
        let at_member = format!(
            "link set lo up\n\
             link set {cable}-far name {CABLE}\n\
             {}\
             link set {CABLE} up\n",
            assign(self.addresses, host, CABLE)
        );
        namespace.run(|| {
            administer("ip", &["-batch", "-"], &at_member)?;
            route_loopback_addresses(CABLE)
        })?;
        self.namespaces.insert(member, namespace);
        Ok(())
    }

    /// Lays down at a member what passes and what does not, in one step.
    fn filter(&self, member: Member) -> anyhow::Result<()> {
        let slow = self.slow.get(&member);
        let rules = firewall::rules(member, &self.cuts, slow, |member| {
            self.addresses.host(Addresses::host_of(member))
        });
        let namespace = self.at(member)?;
        let laid = namespace.run(|| administer("nft", &["-f", "-"], &rules));
        laid.with_context(|| format!("filtering what {member} gets"))
    }

    fn at(&self, member: Member) -> anyhow::Result<&Namespace> {
        let namespace = self.namespace(member);
        namespace.with_context(|| format!("{member} has no network of its own"))
    }
}

impl Cluster {
    /// Cuts these ways, besides those that are cut already.
    pub fn cut(&mut self, cuts: &[Cut]) -> anyhow::Result<()> {
        let network = self.network_mut()?;
        network.cuts.extend(cuts);
        let ends: BTreeSet<Member> = cuts.iter().map(|cut| cut.to).collect();
        ends.into_iter().try_for_each(|end| network.filter(end))
    }

    /// Whatever a member sends goes slowly from now on, and some of it is lost.
    pub fn slow_down(&mut self, member: Member, link: SlowLink) -> anyhow::Result<()> {
        let network = self.network_mut()?;
        network.slow.insert(member, link);
        network.filter(member)?;
        let namespace = network.at(member)?;
        namespace.run(|| slow_link::lay(CABLE, link))
    }

    /// Nothing is cut and nothing is slow any more.
    pub fn heal_network(&mut self) -> anyhow::Result<()> {
        let network = self.network_mut()?;
        let cut = std::mem::take(&mut network.cuts);
        let slow = std::mem::take(&mut network.slow);
        for member in slow.keys() {
            network.at(*member)?.run(|| slow_link::remove(CABLE))?;
        }
        let mut filtered: BTreeSet<Member> = cut.iter().map(|cut| cut.to).collect();
        filtered.extend(slow.keys());
        filtered.into_iter().try_for_each(|member| network.filter(member))
    }

    fn network_mut(&mut self) -> anyhow::Result<&mut Network> {
        let network = self.network.as_mut();
        network.context("this cluster is on loopback: nothing can be cut there")
    }
}

impl Drop for Network {
    /// The kernel takes its time with what is in a namespace; the names at the hub may be wanted again at once.
    fn drop(&mut self) {
        let cables = self.namespaces.keys().map(|member| cable(*member));
        let removed: String = cables
            .chain(["hub".to_owned()])
            .fold(String::new(), |mut lines, link| {
                let _ = writeln!(lines, "link del {link}");
                lines
            });
        if let Err(error) = administer("ip", &["-force", "-batch", "-"], &removed) {
            println!("{error:#}");
        }
    }
}

/// The bridge, with an address for each of those who are at the hub.
fn hub(addresses: Addresses) -> String {
    let hosts = [TEST_HOST, PBX_HOST, OCS_HOST + 1, OCS_HOST + 2];
    let assigned = hosts.map(|host| assign(addresses, host, "hub")).concat();
    format!(
        "link set lo up\n\
         link add hub type bridge\n\
         {assigned}\
         link set hub up\n\
         route replace table local local 127.0.0.1/32 dev lo\n\
         route del table local local 127.0.0.0/8 dev lo\n"
    )
}

/// Nobody has to wait until an IPv6 address is known to be nobody else's.
fn assign(addresses: Addresses, host: u8, device: &str) -> String {
    let mut assigned = format!("addr add {}/24 dev {device}\n", Addresses::by_ipv4(host));
    if let IpAddr::V6(address) = addresses.host(host) {
        let _ = writeln!(assigned, "addr add {address}/64 dev {device} nodad");
    }
    assigned
}

/// Loopback addresses are let in and out there, in the caller's namespace.
fn route_loopback_addresses(device: &str) -> anyhow::Result<()> {
    let setting = format!("/proc/sys/net/ipv4/conf/{device}/route_localnet");
    std::fs::write(&setting, "1").with_context(|| format!("writing {setting}"))
}

fn cable(member: Member) -> String {
    format!("to-{member}")
}

/// Its name at the member's end.
const CABLE: &str = "cable";
/// Where the test asks from.
const TEST_HOST: u8 = 250;
