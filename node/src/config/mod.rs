//! `node.toml`: what an operator wrote, and what the node makes of it.
//!
//! Owns the sections that only a node has; those that both binaries have are in `tandem_runtime::config`. Does not own
//! the secrets: the configuration knows in which files or variables they are, and [`read_with_files`] looks whether
//! they can be used. What always holds: a [`Config`] that exists is valid, and no secret is part of it.

mod calendar;
mod cti;
mod exchange;
mod presence;
mod secret;
mod sip;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tandem_cluster::{MemberRole, NodeId};
use tandem_runtime::config::{AdminConfig, ClusterSection, LogConfig, Section};

use crate::cti::CtiSettings;
use crate::gateway::{AdoptionPolicy, GatewayConfig};

pub(crate) use exchange::is_host;
pub use exchange::{
    ConnectionLimits, ExchangeConfig, OAuthConfig, PasswordMethods, PasswordSource, PushCertificate,
    PushConfig, PushLimits, ServiceAccount,
};
pub use secret::SecretError;
pub use sip::SipConfig;

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
    /// `None`: this node has nothing to do with calendars.
    pub exchange: Option<ExchangeConfig>,
    pub drain_deadline: Duration,
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
    let limits = sip::read_limits(&mut sip_section);
    let sip = sip::read(&mut sip_section);
    drop(sip_section);
    let mut directory = root.section("directory");
    let directory_file = directory.path("file");
    drop(directory);
    let (watchers, publish) = presence::read(&mut root.section("presence"));
    let (cti, cti_connect_timeout) = cti::read(&mut root.section("cti"), id);
    let mut cluster_section = root.section("cluster");
    let cluster = ClusterSection::read(&mut cluster_section, id.map(|id| (id, MemberRole::Node)));
    let fast_take_over = cluster_section.flag_or("fast_take_over", true);
    drop(cluster_section);
    if let Some(sip) = &sip {
        sip.pairs.check(root, "sip.pairs", cluster.as_ref());
    }
    let mut fault_injection = root.section("fault_injection");
    let adoption = if fault_injection.flag_or("adoption_disabled", false) {
        AdoptionPolicy::Disabled
    } else {
        AdoptionPolicy::Enabled
    };
    drop(fault_injection);
    let wants_exchange = root.has("exchange");
    let has_calendar = root.has("calendar");
    let mut calendar = root.section("calendar");
    let exchange = root
        .optional_section("exchange")
        .and_then(|mut section| exchange::read(&mut section, &mut calendar));
    if has_calendar && !wants_exchange {
        calendar::read(&mut calendar, false);
        root.problem(
            "calendar",
            "has no meaning alone",
            "[exchange] beside it, or neither",
        );
    }
    drop(calendar);
    if wants_exchange && exchange.is_none() {
        return None;
    }
    let id = id?;
    Some(Config {
        id,
        data_directory: data_directory?,
        log,
        admin,
        sip: sip?,
        directory_file: directory_file?,
        gateway: GatewayConfig {
            watchers,
            publish,
            ..limits.into_gateway(id, &cti, adoption)
        },
        cti,
        cti_connect_timeout,
        cluster: cluster?,
        fast_take_over,
        exchange,
        drain_deadline,
    })
}

/// As [`read`], and looks whether the files of secrets can be used: for the machine that the file is meant for.
pub fn read_with_files(root: &mut Section) -> Option<Config> {
    let config = read(root)?;
    if let Some(exchange) = &config.exchange {
        for (key, error) in exchange.unusable_secrets() {
            root.problem(key, error.to_string(), error.remedy());
        }
    }
    Some(config)
}

fn secs(least: u64, greatest: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(greatest)
}

fn millis(least: u64, greatest: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(least)..=Duration::from_millis(greatest)
}

const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8081);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_runtime::config::{ConfigError, read_text};

    use super::*;
    use crate::gateway::WithoutQuorum;

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
        assert_eq!(problems(&text), vec!["sip.pairs", "sip.trusted_front_ends"]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = MINIMAL
            .replace("id = 1\n        data", "id = 0\n        data")
            .replace("127.0.0.1:8000", "nowhere")
            .replace("[directory]", "[directory]\n        fiel = 1");
        assert_eq!(
            problems(&text),
            vec!["node.id", "directory.fiel", "cti.connection[0].address"]
        );
    }
}
