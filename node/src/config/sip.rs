//! `[sip]`: the listener of the front ends, and what bounds the gateway.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tandem_cluster::NodeId;
use tandem_runtime::config::{PairTransport, Section};
use tandem_runtime::listed_subjects::SubjectPattern;

use super::{millis, secs};
use crate::cti::CtiSettings;
use crate::gateway::{AdoptionPolicy, GatewayConfig, WatcherSettings, WithoutQuorum};

/// `[sip]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipConfig {
    pub listen: SocketAddr,
    /// Where the front ends reach the listener; the listener's own address unless it is given.
    pub advertise: SocketAddr,
    /// LB-5: whose PROXY protocol headers are believed. Nobody else is served.
    pub trusted_front_ends: Vec<IpNet>,
    /// RCC-9: of the clients that came to a front end over TLS, who is served: by the names that it has verified. Empty: all.
    pub subjects: Vec<SubjectPattern>,
    /// Their outbound listeners, to be tried in turn.
    pub outbound_front_ends: Vec<SocketAddr>,
    /// How connections with the front ends are secured.
    pub pairs: PairTransport,
    pub connections_max: usize,
    pub proxy_header_timeout: Duration,
    pub send_queue_bytes_max: usize,
}

pub(super) fn read(section: &mut Section) -> Option<SipConfig> {
    let listen = section.address("listen");
    let advertise = section.optional_address("advertise");
    let trusted_front_ends: Vec<IpNet> =
        section.parsed_list("trusted_front_ends", "an address range, as \"192.0.2.0/24\"");
    let subjects = section.parsed_list("subjects", "a name, or \"*.\" and a domain");
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
    let pairs = PairTransport::read(section, &[advertise]);
    Some(SipConfig {
        pairs,
        listen,
        advertise,
        trusted_front_ends: if trusted_front_ends.is_empty() {
            loopback_networks()
        } else {
            trusted_front_ends
        },
        subjects,
        outbound_front_ends,
        connections_max,
        proxy_header_timeout,
        send_queue_bytes_max,
    })
}

/// The keys of `[sip]` that bound the gateway.
pub(super) struct Limits {
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
    sessions_without_quorum_max: usize,
    without_quorum_max: Duration,
}

pub(super) fn read_limits(section: &mut Section) -> Limits {
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
        sessions_without_quorum_max: section.number_or("sessions_without_quorum", 1000, 1..=1_000_000),
        without_quorum_max: section.duration_or(
            "without_quorum_max_secs",
            Duration::from_secs(300),
            secs(1, 86_400),
        ),
    }
}

impl Limits {
    pub(super) fn into_gateway(
        self,
        node: NodeId,
        cti: &CtiSettings,
        adoption: AdoptionPolicy,
    ) -> GatewayConfig {
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
            sessions_without_quorum_max: self.sessions_without_quorum_max,
            without_quorum_max: self.without_quorum_max,
            adoption,
            cti_connections: cti
                .connections
                .iter()
                .map(|connection| connection.address.clone())
                .collect(),
            watchers: WatcherSettings::default(),
            publish: None,
        }
    }
}

fn loopback_networks() -> Vec<IpNet> {
    let networks = [
        IpNet::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        IpNet::new(Ipv6Addr::LOCALHOST.into(), 128),
    ];
    networks.into_iter().flatten().collect()
}
