//! Reads `lb.toml` into the configuration that the program uses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tandem_cluster::{MemberRole, NodeId};
use tandem_runtime::config::{AdminConfig, ClusterSection, LogConfig, PairTransport, Section, TlsFiles};
use tandem_runtime::io::shutdown::DrainTimings;
use tandem_runtime::io::sip_stream::{MessageDeadlines, SendLimits};
use tandem_runtime::io::sip_tls::{Authorities, SipTlsSettings};
use tandem_sip::FramerLimits;
use tandem_sip::host_name::HostName;

use crate::access::{Access, AllowedSource};
use crate::balancer::health::HealthSettings;
use crate::balancer::node_set::ConfiguredNode;
use crate::balancer::settings::BalancerSettings;
use crate::io::node_check::{CheckKind, CheckSettings};

/// The front end's configuration, validated.
#[derive(Debug, Clone)]
pub struct Config {
    pub log: LogConfig,
    pub admin: AdminConfig,
    pub listeners: Vec<ListenerConfig>,
    pub nodes: Vec<ConfiguredNode>,
    /// How connections with the nodes are secured.
    pub pairs: PairTransport,
    pub keepalive: KeepaliveConfig,
    pub outbound: Option<OutboundConfig>,
    pub limits: Limits,
    pub balancer: BalancerSettings,
    pub deadlines: MessageDeadlines,
    /// A client connection is closed when nothing arrives on it for this long and no request is outstanding.
    pub idle: Duration,
    pub drain: DrainTimings,
    /// Without it the front end does not know which sessions have moved, beyond what the failure of their node implies.
    pub cluster: Option<ClusterConfig>,
}

/// `[[listener]]`: one VIP, port and transport.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    pub name: String,
    pub address: SocketAddr,
    /// Shown to clients instead of the address.
    pub host_name: Option<String>,
    pub mode: Mode,
    /// Mutual TLS; `None` is plain TCP.
    pub tls: Option<SipTlsSettings>,
    /// Who may connect.
    pub access: Access,
    /// Load balancers in front of this one, whose connections begin with a PROXY protocol header with the client's address.
    pub proxies: Vec<IpNet>,
}

/// How the connections of a listener are distributed: message by message, or as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Message,
    Connection,
}

/// `[keepalive]` (LB-1).
#[derive(Debug, Clone)]
pub struct KeepaliveConfig {
    pub health: HealthSettings,
    pub check: CheckSettings,
}

/// `[outbound]`: the listener through which nodes open connections to clients from the VIP.
#[derive(Debug, Clone)]
pub struct OutboundConfig {
    pub listen: SocketAddr,
    /// Networks and ports of the clients that may be connected to.
    pub allow: Vec<IpNet>,
    pub allow_ports: Vec<u16>,
    /// Networks that may use the listener, besides the addresses of the nodes.
    pub allow_from: Vec<IpNet>,
    /// The local address of connections to clients: the VIP.
    pub source_address: IpAddr,
}

/// `[limits]`: bounds on everything (LB-10).
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// Messages per second from one address, also the permitted burst; 0 is no limit.
    pub messages_per_second_per_address: u64,
    /// Bytes per second from one address in connection mode, also the permitted burst; 0 is no limit.
    pub bytes_per_second_per_address: u64,
    pub nodes_max: usize,
    pub kept_bytes_in_all_max: usize,
    pub framer: FramerLimits,
    pub client_queue: SendLimits,
    pub node_queue: SendLimits,
}

/// `[cluster]`: the cluster member that this process runs.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    pub member_id: NodeId,
    pub data_directory: PathBuf,
    pub section: ClusterSection,
}

impl Config {
    /// Reads the whole document; all problems are collected in the sections.
    #[must_use]
    pub fn read(root: &mut Section) -> Option<Self> {
        let log = LogConfig::read(root);
        let admin = AdminConfig::read(root, ADMIN_DEFAULT);
        let listeners = read_listeners(root);
        let nodes = read_nodes(root);
        let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
        let pairs = PairTransport::read(root, &addresses);
        let keepalive = read_keepalive(&mut root.section("keepalive"), &listeners);
        let outbound = root
            .optional_section("outbound")
            .map(|mut section| read_outbound(&mut section));
        let mut balancer = BalancerSettings::default();
        let limits = read_limits(&mut root.section("limits"), &mut balancer);
        let mut timers = root.section("timers");
        let (deadlines, idle) = read_timers(&mut timers, &mut balancer);
        let drain = read_drain(&mut root.section("drain"));
        let cluster = root
            .optional_section("cluster")
            .map(|mut section| read_cluster(&mut section));
        let cluster = cluster.flatten();
        pairs.check(root, "pairs", cluster.as_ref().map(|cluster| &cluster.section));
        if let Some(cluster) = &cluster {
            check_membership(root, &nodes, &cluster.section);
        }
        Some(Self {
            log,
            admin,
            listeners,
            nodes,
            pairs,
            keepalive,
            outbound: outbound.flatten(),
            limits,
            balancer,
            deadlines,
            idle,
            drain,
            cluster,
        })
    }
}

fn read_listeners(root: &mut Section) -> Vec<ListenerConfig> {
    let mut sections = root.sections("listener");
    let listeners: Vec<ListenerConfig> = sections.iter_mut().filter_map(read_listener).collect();
    if sections.is_empty() {
        root.problem("listener", "is missing", "at least one [[listener]]");
    }
    let names: BTreeSet<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    if names.len() < listeners.len() {
        root.problem(
            "listener",
            "two listeners have the same name",
            "a different name for each listener",
        );
    }
    let addresses: BTreeSet<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
    if addresses.len() < listeners.len() {
        root.problem(
            "listener",
            "two listeners have the same address",
            "a different address for each listener",
        );
    }
    listeners
}

fn read_listener(section: &mut Section) -> Option<ListenerConfig> {
    let name = section.text("name");
    let address = section.address("address");
    let mode = section.choice(
        "mode",
        &[("message", Mode::Message), ("connection", Mode::Connection)],
    );
    // The only method; read so that a file that asks for another is refused.
    section.choice("balance", &[("round-robin", ())]);
    let tls = match section.choice("transport", &[("tcp", false), ("tls", true)]) {
        true => Some(read_tls(section)),
        false => None,
    };
    if address.is_some_and(|address| address.ip().is_unspecified()) {
        section.problem(
            "address",
            "is a wildcard address",
            "the VIP itself, because nodes show it to clients",
        );
    }
    let tls = match tls {
        Some(settings) => Some(settings?),
        None => None,
    };
    let host_name =
        section.optional_parsed::<HostName>("host_name", "a host name such as \"rcc.example.com\"");
    let access = read_access(section, address);
    let proxies = section.parsed_list("proxy_protocol_from", NETWORK);
    Some(ListenerConfig {
        name: name?,
        address: address?,
        host_name: host_name.map(String::from),
        mode,
        tls,
        access,
        proxies,
    })
}

fn read_tls(section: &mut Section) -> Option<SipTlsSettings> {
    let (authority, authorities) = match section.has("trust_directory") {
        true => ("trust_directory", Authorities::Directory),
        false => ("client_authority", Authorities::File),
    };
    let files = TlsFiles::read(section, authority);
    if authorities == Authorities::Directory && section.optional_path("client_authority").is_some() {
        section.problem(
            "client_authority",
            "cannot be combined with trust_directory",
            "one of the two; an authority may also be a file in the directory",
        );
    }
    let subjects = section.parsed_list("subjects", "a host name or \"*.\" followed by a domain");
    let cipher_suites = section.parsed_list(
        "cipher_suites",
        "a cipher suite such as \"TLS13_AES_256_GCM_SHA384\"",
    );
    Some(SipTlsSettings {
        files: files?,
        authorities,
        subjects,
        cipher_suites,
    })
}

/// Reads the access list; a listener beyond loopback must have one (RCC-8).
fn read_access(section: &mut Section, address: Option<SocketAddr>) -> Access {
    if section.is_word("allow", "any") {
        return Access::Any;
    }
    let mut sections = section.sections("allow");
    let count = sections.len();
    let sources: Vec<AllowedSource> = sections.iter_mut().filter_map(read_allowed).collect();
    let is_loopback = address.is_some_and(|address| address.ip().is_loopback());
    match count {
        0 if is_loopback => return Access::Any,
        0 => section.problem(
            "allow",
            "allows no client",
            "who may connect, such as [{ source = \"192.0.2.0/24\", description = \"the pool\" }], or \"any\"",
        ),
        1..=ALLOWED_SOURCES_MAX => {}
        _ => section.problem(
            "allow",
            format!("has {count} entries"),
            format!("up to {ALLOWED_SOURCES_MAX}"),
        ),
    }
    Access::Listed(sources)
}

fn read_allowed(section: &mut Section) -> Option<AllowedSource> {
    let source = section.parsed("source", "an address, a network or a host name");
    let description = section.text_or("description", "");
    Some(AllowedSource {
        source: source?,
        description,
    })
}

fn read_nodes(root: &mut Section) -> Vec<ConfiguredNode> {
    let mut sections = root.sections("node");
    let nodes: Vec<ConfiguredNode> = sections.iter_mut().filter_map(read_node).collect();
    if sections.is_empty() {
        root.problem("node", "is missing", "at least one [[node]]");
    }
    if sections.len() > NODES_MAX {
        root.problem(
            "node",
            format!("has {} entries", sections.len()),
            format!("up to {NODES_MAX}"),
        );
    }
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    if ids.len() < nodes.len() {
        root.problem(
            "node",
            "two nodes have the same id",
            "a different id for each node",
        );
    }
    let addresses: BTreeSet<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    if addresses.len() < nodes.len() {
        root.problem(
            "node",
            "two nodes have the same address",
            "a different address for each node",
        );
    }
    nodes
}

/// Sessions of a node that the cluster does not know could not be taken over by another.
fn check_membership(root: &Section, nodes: &[ConfiguredNode], cluster: &ClusterSection) {
    let is_member = |node: &&ConfiguredNode| {
        let mut members = cluster.members.iter();
        members.any(|member| (member.id, member.kind) == (node.id, MemberRole::Node))
    };
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| !is_member(node)) {
        root.problem(
            &format!("node[{index}].id"),
            format!("{} is no [[cluster.member]] of kind \"node\"", node.id.0),
            "nodes that are members of the cluster",
        );
    }
}

fn read_node(section: &mut Section) -> Option<ConfiguredNode> {
    let id = section.number("id", 1..=999_999_u64);
    let address = section.address("address");
    let weight = section.number_or("weight", 1, 1..=16_u32);
    Some(ConfiguredNode {
        id: NodeId(id?),
        address: address?,
        weight,
    })
}

/// The default check: OPTIONS in message mode, where a node must answer messages to be of use; otherwise a connection, since
/// connection mode knows nothing else about the traffic.
fn default_check(listeners: &[ListenerConfig]) -> CheckKind {
    match listeners.iter().any(|listener| listener.mode == Mode::Message) {
        true => CheckKind::Options,
        false => CheckKind::Connect,
    }
}

fn read_keepalive(section: &mut Section, listeners: &[ListenerConfig]) -> KeepaliveConfig {
    let health = HealthSettings {
        period: section.duration_or("period_ms", secs(5), PROBE_PERIODS),
        failures: section.number_or("failures", 3, 1..=100),
        retry_period: section.duration_or("retry_period_ms", secs(1), PROBE_PERIODS),
        successes: section.number_or("successes", 2, 1..=100),
        hold_down: section.duration_or("hold_down_ms", secs(5), Duration::ZERO..=secs(3_600)),
        hold_down_max: section.duration_or("hold_down_max_ms", secs(300), Duration::ZERO..=secs(3_600)),
        flap_window: section.duration_or("flap_window_ms", secs(300), Duration::ZERO..=secs(86_400)),
        slow_start: section.duration_or("slow_start_ms", Duration::ZERO, Duration::ZERO..=secs(3_600)),
    };
    let kind = section.choice(
        "check",
        &[
            ("by-mode", None),
            ("options", Some(CheckKind::Options)),
            ("connect", Some(CheckKind::Connect)),
        ],
    );
    let check = CheckSettings {
        kind: kind.unwrap_or_else(|| default_check(listeners)),
        connect_timeout: section.duration_or("connect_timeout_ms", secs(1), MILLISECOND..=secs(60)),
        answer_timeout: section.duration_or("answer_timeout_ms", secs(1), MILLISECOND..=secs(60)),
    };
    KeepaliveConfig { health, check }
}

fn read_outbound(section: &mut Section) -> Option<OutboundConfig> {
    let listen = section.address("listen");
    let allow: Vec<IpNet> = section.parsed_list("allow", NETWORK);
    let allow_ports = section.numbers_or("allow_ports", &SIP_PORTS, 1..=u16::MAX);
    let allow_from = section.parsed_list("allow_from", NETWORK);
    let source_address = section.parsed("source_address", "the VIP, such as \"192.0.2.1\"");
    if allow.is_empty() {
        section.problem(
            "allow",
            "allows no client",
            "the networks of clients that may be reached, such as [\"192.0.2.0/24\"]",
        );
    }
    Some(OutboundConfig {
        listen: listen?,
        allow,
        allow_ports,
        allow_from,
        source_address: source_address?,
    })
}

fn read_limits(section: &mut Section, balancer: &mut BalancerSettings) -> Limits {
    let framer = FramerLimits::default();
    balancer.pending_requests_max = section.number_or(
        "pending_requests_max",
        balancer.pending_requests_max,
        1..=1_000_000,
    );
    balancer.kept_bytes_max = section.number_or("kept_bytes_max", balancer.kept_bytes_max, 0..=BYTES_MAX);
    balancer.waiting_requests_max = section.number_or(
        "waiting_requests_max",
        balancer.waiting_requests_max,
        0..=1_000_000,
    );
    balancer.attempts_max = section.number_or("attempts_max", balancer.attempts_max, 1..=20);
    Limits {
        connections_max: section.number_or("connections_max", 10_000, 1..=1_000_000),
        connections_per_address_max: section.number_or("connections_per_address_max", 2_000, 1..=1_000_000),
        bytes_per_second_per_address: section.number_or(
            "bytes_per_second_per_address",
            64 << 20,
            0..=1_000_000_000_000,
        ),
        messages_per_second_per_address: section.number_or(
            "messages_per_second_per_address",
            20_000,
            0..=10_000_000,
        ),
        nodes_max: NODES_MAX,
        kept_bytes_in_all_max: section.number_or("kept_bytes_in_all_max", 256 << 20, 0..=BYTES_MAX),
        framer: FramerLimits {
            start_line_bytes_max: framer.start_line_bytes_max,
            header_line_bytes_max: section.number_or(
                "header_line_bytes_max",
                framer.header_line_bytes_max,
                256..=1 << 20,
            ),
            head_bytes_max: section.number_or("head_bytes_max", framer.head_bytes_max, 1_024..=1 << 20),
            header_count_max: section.number_or("header_count_max", framer.header_count_max, 16..=10_000),
            body_bytes_max: section.number_or("body_bytes_max", framer.body_bytes_max, 0..=64 << 20),
        },
        client_queue: read_queue(section, "client_queue_bytes_max"),
        node_queue: read_queue(section, "node_queue_bytes_max"),
    }
}

fn read_queue(section: &mut Section, key: &str) -> SendLimits {
    let default = SendLimits::default();
    let queued_bytes_max = section.number_or(key, 8 << 20, 64 << 10..=BYTES_MAX);
    SendLimits {
        queued_bytes_max,
        ..default
    }
}

fn read_timers(section: &mut Section, balancer: &mut BalancerSettings) -> (MessageDeadlines, Duration) {
    let deadlines = MessageDeadlines::default();
    let any = MILLISECOND..=secs(3_600);
    balancer.wait = section.duration_or("wait_ms", balancer.wait, any.clone());
    balancer.pair_retry = section.duration_or("pair_retry_ms", balancer.pair_retry, any.clone());
    balancer.unanswered = section.duration_or("unanswered_ms", balancer.unanswered, any.clone());
    let deadlines = MessageDeadlines {
        head: section.duration_or("head_ms", deadlines.head, any.clone()),
        body: section.duration_or("body_ms", deadlines.body, any),
        half_ping: deadlines.half_ping,
    };
    (
        deadlines,
        section.duration_or("idle_secs", secs(7_200), secs(60)..=secs(7 * 86_400)),
    )
}

fn read_drain(section: &mut Section) -> DrainTimings {
    let default = DrainTimings::default();
    DrainTimings {
        look_away: section.duration_or("look_away_ms", default.look_away, Duration::ZERO..=secs(600)),
        deadline: section.duration_or("deadline_secs", default.deadline, secs(1)..=secs(3_600)),
        close: default.close,
    }
}

fn read_cluster(section: &mut Section) -> Option<ClusterConfig> {
    let member_id = section.number("member_id", 1..=999_999_u64).map(NodeId);
    let data_directory = section.path("data_directory");
    let own = member_id.map(|id| (id, MemberRole::Witness));
    let common = ClusterSection::read(section, own);
    Some(ClusterConfig {
        member_id: member_id?,
        data_directory: data_directory?,
        section: common?,
    })
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const MILLISECOND: Duration = Duration::from_millis(1);
const PROBE_PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=secs(3_600);
const NETWORK: &str = "a network such as \"192.0.2.0/24\"";
/// The default address of the admin listener.
pub const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9_060);
/// LB-7.
const NODES_MAX: usize = 7;
/// RFC 3261 §19.1.2.
const SIP_PORTS: [u16; 2] = [5060, 5061];
const ALLOWED_SOURCES_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 36;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_runtime::config::{ConfigError, read_text};

    use super::*;

    const SMALLEST: &str = "[[listener]]\nname = \"ocs\"\naddress = \"192.0.2.1:5060\"\nallow = \"any\"\n\
        [[node]]\nid = 1\naddress = \"127.0.0.11:5060\"\n";

    fn read(text: &str) -> Result<Config, ConfigError> {
        read_text(Path::new("lb.toml"), text, Config::read)
    }

    #[test]
    fn the_smallest_configuration_has_the_required_defaults() {
        let config = read(SMALLEST).unwrap();
        assert_eq!(config.listeners[0].mode, Mode::Message);
        let health = &config.keepalive.health;
        assert_eq!((health.period, health.failures), (secs(5), 3));
        assert_eq!((health.retry_period, health.successes), (secs(1), 2));
        assert!(config.cluster.is_none() && config.outbound.is_none());
    }

    #[test]
    fn a_listener_beyond_loopback_needs_an_access_list() {
        let with = |address: &str, allow: &str| {
            let text = SMALLEST.replace("192.0.2.1:5060", address);
            let text = text.replace("allow = \"any\"", allow);
            read(&text).map(|config| config.listeners[0].access.clone())
        };
        assert_eq!(with("127.0.0.1:5060", "").unwrap(), Access::Any);
        assert_eq!(with("[::1]:5060", "").unwrap(), Access::Any);
        assert_eq!(with("192.0.2.1:5060", "allow = \"any\"").unwrap(), Access::Any);
        for nobody in [
            "",
            "allow = []",
            "allow = \"all\"",
            "allow = [{ source = \"1.2.3\" }]",
        ] {
            let error = with("192.0.2.1:5060", nobody).unwrap_err().to_string();
            assert!(error.contains("listener \"ocs\": allow"), "{error}");
        }
        let listed =
            "allow = [{ source = \"192.0.2.0/24\", description = \"pool\" }, { source = \"ocs.example\" }]";
        let access = with("192.0.2.1:5060", listed).unwrap();
        assert_eq!(access.hosts().collect::<Vec<_>>(), ["ocs.example"]);
    }

    #[test]
    fn authorities_come_from_a_file_or_a_directory() {
        let with = |authority: &str| {
            let tls = "transport = \"tls\"\ncertificate = \"vip.pem\"\nkey = \"vip.key\"\n";
            let text = SMALLEST.replace(
                "allow = \"any\"\n",
                &format!("allow = \"any\"\n{tls}{authority}\n"),
            );
            read(&text).map(|mut config| config.listeners.remove(0).tls.unwrap())
        };
        let (file, directory) = ("client_authority = \"ca.pem\"", "trust_directory = \"trusted\"");
        assert_eq!(with(file).unwrap().authorities, Authorities::File);
        let managed = with(directory).unwrap();
        assert_eq!(managed.authorities, Authorities::Directory);
        assert!(managed.files.authority.ends_with("trusted"));
        for (authority, says) in [
            ("", "listener \"ocs\": client_authority: is missing"),
            (
                &*format!("{file}\n{directory}"),
                "listener \"ocs\": client_authority: cannot be combined with trust_directory",
            ),
        ] {
            let error = with(authority).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let text = "[[listener]]\nname = \"ocs\"\naddress = \"0.0.0.0:5060\"\nbalance = \"dice\"\n\
            [[node]]\nid = 0\n[keepalive]\nperiods_ms = 1\n[outbound]\nlisten = \"192.0.2.1:5070\"\n";
        let error = read(text).unwrap_err().to_string();
        for key in [
            "line 3: listener \"ocs\": address",
            "line 1: listener \"ocs\": allow",
            "line 4: listener \"ocs\": balance",
            "line 6: node 0: id",
            "line 5: node 0: address",
            "keepalive.periods_ms",
            "outbound.allow",
            "outbound.source_address",
        ] {
            assert!(error.contains(key), "{key} is missing in:\n{error}");
        }
    }

    #[test]
    fn nodes_have_addresses_of_their_own_and_are_members() {
        let twice = format!("{SMALLEST}[[node]]\nid = 2\naddress = \"127.0.0.11:5060\"\n");
        let error = read(&twice).unwrap_err().to_string();
        assert!(error.contains("two nodes have the same address"), "{error}");
        let cluster = "[cluster]\nmember_id = 100\ndata_directory = \"data\"\nlisten = \"127.0.0.1:7100\"\n\
            plaintext_on_loopback = true\n\
            [[cluster.member]]\nid = 7\nkind = \"node\"\naddress = \"127.0.0.1:7001\"\n\
            [[cluster.member]]\nid = 100\nkind = \"witness\"\naddress = \"127.0.0.1:7100\"\n";
        let error = read(&format!("{SMALLEST}{cluster}")).unwrap_err().to_string();
        assert!(
            error.contains("node 1: id: 1 is no [[cluster.member]]"),
            "{error}"
        );
    }

    #[test]
    fn a_witness_is_one_of_the_members() {
        let cluster = "[cluster]\nmember_id = 100\ndata_directory = \"data\"\nlisten = \"127.0.0.1:7100\"\n\
            plaintext_on_loopback = true\n\
            [[cluster.member]]\nid = 1\nkind = \"node\"\naddress = \"127.0.0.1:7001\"\n\
            [[cluster.member]]\nid = 100\nkind = \"witness\"\naddress = \"127.0.0.1:7100\"\n";
        let config = read(&format!("{SMALLEST}{cluster}")).unwrap();
        assert_eq!(config.cluster.map(|cluster| cluster.member_id), Some(NodeId(100)));
        let other = cluster.replace("member_id = 100", "member_id = 9");
        assert!(read(&format!("{SMALLEST}{other}")).is_err());
    }
}
