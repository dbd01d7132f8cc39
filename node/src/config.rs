//! `node.toml`: what an operator wrote, and what the node makes of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tandem_shared::cluster::NodeId;
use tandem_shared::config::{AdminConfig, ClusterSection, LogConfig, MemberKind, Section};

use crate::cti::{ApplicationSessionSettings, CtiConnectionSettings, CtiSettings, OUTSTANDING_MAX};
use crate::gateway::{AdoptionPolicy, GatewayConfig, WithoutQuorum};

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub id: NodeId,
    pub data_directory: PathBuf,
    pub log: LogConfig,
    pub admin: AdminConfig,
    pub sip: SipConfig,
    pub directory_file: PathBuf,
    pub cti: CtiSettings,
    pub cti_connect_timeout: Duration,
    pub cluster: ClusterSection,
    pub fast_take_over: bool,
    pub gateway: GatewayConfig,
    pub drain_deadline: Duration,
}

/// `[sip]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipConfig {
    pub listen: SocketAddr,
    /// Where the front ends reach the listener; the listener's own address unless it is given.
    pub advertise: SocketAddr,
    /// LB-5: whose PROXY protocol headers are believed. Nobody else is served.
    pub trusted_front_ends: Vec<IpNet>,
    /// Their outbound listeners, to be tried in turn.
    pub outbound_front_ends: Vec<SocketAddr>,
    pub connections_max: usize,
    pub proxy_header_timeout: Duration,
    pub send_queue_bytes_max: usize,
}

/// Takes the configuration out of the document's root; what is wrong is noted there.
pub fn read(root: &mut Section) -> Option<Config> {
    let log = LogConfig::read(root);
    let admin = AdminConfig::read(root, ADMIN_LISTEN);
    let mut node = root.section("node");
    let id = node.number("id", 1..=999_999).map(NodeId);
    let data_directory = node.path("data_directory");
    let drain_deadline = node.duration_or("drain_timeout_secs", Duration::from_secs(20), secs(1, 600));
    drop(node);
    let mut sip_section = root.section("sip");
    let limits = read_limits(&mut sip_section);
    let sip = read_sip(&mut sip_section);
    drop(sip_section);
    let mut directory = root.section("directory");
    let directory_file = directory.path("file");
    drop(directory);
    let (cti, cti_connect_timeout) = read_cti(&mut root.section("cti"), id);
    let mut cluster_section = root.section("cluster");
    let cluster = ClusterSection::read(&mut cluster_section, id.map(|id| (id, MemberKind::Node)));
    let fast_take_over = cluster_section.flag_or("fast_take_over", true);
    drop(cluster_section);
    let mut fault_injection = root.section("fault_injection");
    let adoption = if fault_injection.flag_or("adoption_disabled", false) {
        AdoptionPolicy::Disabled
    } else {
        AdoptionPolicy::Enabled
    };
    drop(fault_injection);
    let id = id?;
    Some(Config {
        id,
        data_directory: data_directory?,
        log,
        admin,
        sip: sip?,
        directory_file: directory_file?,
        gateway: limits.into_gateway(id, &cti, adoption),
        cti,
        cti_connect_timeout,
        cluster: cluster?,
        fast_take_over,
        drain_deadline,
    })
}

fn read_sip(section: &mut Section) -> Option<SipConfig> {
    let listen = section.address("listen");
    let advertise = section.optional_address("advertise");
    let trusted_front_ends: Vec<IpNet> =
        section.parsed_list("trusted_front_ends", "an address range, as \"192.0.2.0/24\"");
    let outbound_front_ends = section.parsed_list("outbound_front_ends", "an IP address and port");
    let connections_max = section.number_or("connections_max", 20_000, 1..=1_000_000);
    let proxy_header_timeout = section.duration_or(
        "proxy_header_timeout_ms",
        Duration::from_secs(5),
        millis(100, 60_000),
    );
    let send_queue_bytes_max = section.number_or("send_queue_bytes_max", 4 << 20, 65_536..=1 << 30);
    let listen = listen?;
    if trusted_front_ends.is_empty() && !listen.ip().is_loopback() {
        section.problem(
            "trusted_front_ends",
            format!("is empty, while {listen} can be reached from elsewhere"),
            "the addresses of the front ends, or a loopback address to listen on",
        );
    }
    let advertise = advertise.unwrap_or(listen);
    if advertise.ip().is_unspecified() {
        section.problem(
            "advertise",
            format!("{advertise} is no address to connect to"),
            "the node's own address",
        );
    }
    Some(SipConfig {
        listen,
        advertise,
        trusted_front_ends: if trusted_front_ends.is_empty() {
            loopback_networks()
        } else {
            trusted_front_ends
        },
        outbound_front_ends,
        connections_max,
        proxy_header_timeout,
        send_queue_bytes_max,
    })
}

/// The keys of `[sip]` that bound the gateway.
struct Limits {
    session_timer_secs: u32,
    sessions_max: usize,
    sessions_per_line_max: usize,
    requests_per_session_max: usize,
    events_per_session_max: usize,
    commit_timeout: Duration,
    event_wait: Duration,
    resumptions_in_flight_max: usize,
    retry_after_secs_max: u32,
    new_sessions_without_quorum: WithoutQuorum,
}

fn read_limits(section: &mut Section) -> Limits {
    Limits {
        session_timer_secs: section.number_or("session_timer_secs", 1800, 120..=86_400),
        sessions_max: section.number_or("session_limit", 20_000, 1..=1_000_000),
        sessions_per_line_max: section.number_or("sessions_per_line", 5, 1..=1000),
        requests_per_session_max: section.number_or("requests_per_session", 32, 2..=10_000),
        events_per_session_max: section.number_or("events_per_session", 256, 16..=100_000),
        commit_timeout: section.duration_or("commit_timeout_ms", Duration::from_secs(5), millis(500, 30_000)),
        event_wait: section.duration_or("event_wait_ms", Duration::from_millis(300), millis(10, 32_000)),
        resumptions_in_flight_max: section.number_or("resumptions_in_flight", 256, 1..=10_000),
        retry_after_secs_max: section.number_or("retry_after_secs_max", 10, 1..=3600),
        new_sessions_without_quorum: section.choice(
            "new_sessions_without_quorum",
            &[("refuse", WithoutQuorum::Refuse), ("serve", WithoutQuorum::Serve)],
        ),
    }
}

impl Limits {
    fn into_gateway(self, node: NodeId, cti: &CtiSettings, adoption: AdoptionPolicy) -> GatewayConfig {
        GatewayConfig {
            node,
            session_timer_secs: self.session_timer_secs,
            sessions_max: self.sessions_max,
            sessions_per_line_max: self.sessions_per_line_max,
            requests_per_session_max: self.requests_per_session_max,
            events_per_session_max: self.events_per_session_max,
            requests_held_max: self.sessions_max.saturating_mul(2),
            proposals_max: self.sessions_max.saturating_mul(4),
            commit_timeout: self.commit_timeout,
            event_wait: self.event_wait,
            resumptions_in_flight_max: self.resumptions_in_flight_max,
            retry_after_secs_max: self.retry_after_secs_max,
            new_sessions_without_quorum: self.new_sessions_without_quorum,
            adoption,
            cti_connections: cti
                .connections
                .iter()
                .map(|connection| connection.address.clone())
                .collect(),
        }
    }
}

fn read_cti(section: &mut Section, id: Option<NodeId>) -> (CtiSettings, Duration) {
    let connections: Vec<CtiConnectionSettings> = section
        .sections("connection")
        .iter_mut()
        .filter_map(read_cti_connection)
        .collect();
    if connections.is_empty() {
        section.problem("connection", "there is none", "at least one [[cti.connection]]");
    }
    let mut settings = CtiSettings::new(connections);
    settings.heartbeat_interval = section.duration_or(
        "heartbeat_interval_ms",
        settings.heartbeat_interval,
        millis(50, 3_600_000),
    );
    settings.heartbeat_timeout = section.duration_or(
        "heartbeat_timeout_ms",
        settings.heartbeat_timeout,
        millis(50, 3_600_000),
    );
    settings.request_timeout = section.duration_or(
        "request_timeout_ms",
        Duration::from_secs(4),
        millis(50, 3_600_000),
    );
    settings.reconnect_interval = section.duration_or(
        "reconnect_interval_ms",
        settings.reconnect_interval,
        millis(50, 3_600_000),
    );
    settings.outstanding_max = section.number_or(
        "outstanding_requests",
        settings.outstanding_max,
        1..=OUTSTANDING_MAX,
    );
    settings.waiting_max = section.number_or("waiting_requests", settings.waiting_max, 0..=1_000_000);
    let connect_timeout =
        section.duration_or("connect_timeout_ms", Duration::from_secs(3), millis(50, 60_000));
    if section.flag_or("application_session", true) {
        settings.application_session = Some(ApplicationSessionSettings {
            application_id: format!("tandem-{}", id.unwrap_or(NodeId(0))),
            duration_secs: section.number_or("application_session_secs", 60, 10..=86_400),
        });
    }
    (settings, connect_timeout)
}

fn read_cti_connection(section: &mut Section) -> Option<CtiConnectionSettings> {
    let name = section.text("name");
    let address = section.text("address");
    if let Some(address) = &address
        && address
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_err())
    {
        section.problem("address", format!("{address:?} is not accepted"), "host:port");
    }
    Some(CtiConnectionSettings {
        name: name?,
        address: address?,
    })
}

fn loopback_networks() -> Vec<IpNet> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let networks = [
        IpNet::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        IpNet::new(Ipv6Addr::LOCALHOST.into(), 128),
    ];
    networks.into_iter().flatten().collect()
}

fn secs(least: u64, greatest: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(greatest)
}

fn millis(least: u64, greatest: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(least)..=Duration::from_millis(greatest)
}

const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8081);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_shared::config::{ConfigError, read_text};

    use super::*;

    const MINIMAL: &str = r#"
        [node]
        id = 1
        data_directory = "data"
        [sip]
        listen = "127.0.0.1:5070"
        [directory]
        file = "directory.toml"
        [[cti.connection]]
        name = "one"
        address = "127.0.0.1:8000"
        [cluster]
        listen = "127.0.0.1:7001"
        plaintext_on_loopback = true
        [[cluster.member]]
        id = 1
        kind = "node"
        address = "127.0.0.1:7001"
    "#;

    fn problems(text: &str) -> Vec<String> {
        match read_text(Path::new("/etc/tandem/node.toml"), text, read) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid { problems, .. }) => {
                problems.into_iter().map(|problem| problem.key).collect()
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_short_file_gets_the_defaults() {
        let config = read_text(Path::new("/etc/tandem/node.toml"), MINIMAL, read).unwrap();
        assert_eq!(config.gateway.session_timer_secs, 1800);
        assert_eq!(config.data_directory, Path::new("/etc/tandem/data"));
        assert_eq!(config.gateway.cti_connections, vec!["127.0.0.1:8000".to_owned()]);
        assert_eq!(config.gateway.new_sessions_without_quorum, WithoutQuorum::Refuse);
        assert_eq!(config.sip.advertise, config.sip.listen);
    }

    #[test]
    fn a_listener_beyond_loopback_needs_trusted_front_ends() {
        let text = MINIMAL.replace("127.0.0.1:5070", "192.0.2.10:5070");
        assert_eq!(problems(&text), vec!["sip.trusted_front_ends"]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = MINIMAL
            .replace("id = 1\n        data", "id = 0\n        data")
            .replace("127.0.0.1:8000", "nowhere")
            .replace("[directory]", "[directory]\n        fiel = 1");
        assert_eq!(
            problems(&text),
            vec!["cti.connection[0].address", "directory.fiel", "node.id"]
        );
    }
}
