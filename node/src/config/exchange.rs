//! `[exchange]`: the account, the callbacks, and how Exchange is treated (CAL-1, CAL-3, CAL-5, CAL-10).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tandem_cluster::{CasEndpoint, CasId};
use tandem_runtime::config::Section;

use super::secret::{self, SecretError};
use super::{calendar, millis, secs};
use crate::calendar::CalendarSettings;

/// `[exchange]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeConfig {
    /// CAL-1: one for all CAS.
    pub account: ServiceAccount,
    /// The certificates that are trusted, and what was made or imported beside them. The node writes here.
    pub trust_directory: PathBuf,
    /// `None`: nothing listens for callbacks, so changes are streamed.
    pub push: Option<PushConfig>,
    /// The CAS of a cluster that has none yet, in order.
    pub cas_list: Vec<(CasId, CasEndpoint)>,
    /// What holds while the cluster's settings say nothing else.
    pub settings: CalendarSettings,
    pub connections: ConnectionLimits,
}

/// How the node makes itself known to Exchange (CAL-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAccount {
    Password {
        /// UPN or `DOMAIN\user`.
        account: String,
        password: PasswordSource,
        methods: PasswordMethods,
    },
    OAuth(OAuthConfig),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// Read again when it changes.
    File(PathBuf),
    /// The name of an environment variable.
    Environment(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordMethods {
    /// The best that the server offers: NTLM, then Basic.
    Negotiate {
        ntlm_v1: bool,
    },
    Ntlm {
        ntlm_v1: bool,
    },
    Basic,
}

/// `[exchange.oauth]`: client credentials (RFC 6749 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthConfig {
    pub tenant: String,
    pub client_id: String,
    pub client_secret_file: PathBuf,
    pub token_url: String,
    pub scope: String,
}

/// `[exchange.push]`: where the CAS post their callbacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushConfig {
    pub listen: SocketAddr,
    /// `https://host:port`, as the CAS reach the listener; `http` on loopback alone.
    pub advertise: String,
    /// `None`: plain HTTP.
    pub certificate: Option<PushCertificate>,
    /// The same 32 or more random bytes on every node: whoever does not know them cannot make a callback URL.
    pub callback_key_file: PathBuf,
    pub limits: PushLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushCertificate {
    /// Our certificate first, then its intermediates.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushLimits {
    pub connections_max: usize,
    pub body_bytes_max: usize,
    /// Callbacks that wait for the calendars; beyond, they are answered without them.
    pub waiting_max: usize,
}

/// Bounds of the connections to each CAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub connect_timeout: Duration,
    /// Authenticated connections that are kept for later requests.
    pub idle_max: usize,
    pub idle_timeout: Duration,
    pub response_bytes_max: usize,
    /// Streaming connections that are open at the same time.
    pub streams_max: usize,
    /// All of one stream: it is then ended and opened again.
    pub stream_bytes_max: u64,
}

impl ExchangeConfig {
    /// The account's password, or the secret of an OAuth client.
    ///
    /// # Errors
    /// When the file or the variable cannot be used.
    pub fn read_secret(&self) -> Result<String, SecretError> {
        match &self.account {
            ServiceAccount::Password { password, .. } => match password {
                PasswordSource::File(path) => secret::read_text(path),
                PasswordSource::Environment(name) => secret::read_variable(name),
            },
            ServiceAccount::OAuth(oauth) => secret::read_text(&oauth.client_secret_file),
        }
    }

    /// By key, what keeps this node from using its secrets.
    pub(super) fn unusable_secrets(&self) -> Vec<(&'static str, SecretError)> {
        let account = self.read_secret().err().map(|error| (self.secret_key(), error));
        let push = self.push.as_ref().map(PushConfig::read_key);
        let callback_key = push.and_then(Result::err).map(|error| (CALLBACK_KEY, error));
        account.into_iter().chain(callback_key).collect()
    }

    fn secret_key(&self) -> &'static str {
        match &self.account {
            ServiceAccount::Password { password, .. } => match password {
                PasswordSource::File(_) => "exchange.password_file",
                PasswordSource::Environment(_) => "exchange.password_env",
            },
            ServiceAccount::OAuth(_) => "exchange.oauth.client_secret_file",
        }
    }
}

impl PushConfig {
    /// # Errors
    /// When the file cannot be used.
    pub fn read_key(&self) -> Result<Vec<u8>, SecretError> {
        secret::read_key(&self.callback_key_file, CALLBACK_KEY_BYTES_MIN)
    }
}

/// `[exchange]`, and `[calendar]` with it.
pub(super) fn read(section: &mut Section, calendar: &mut Section) -> Option<ExchangeConfig> {
    let account = read_account(section);
    let trust_directory = section.path("trust_directory");
    let callback_key_file = section.optional_path("callback_key_file");
    let has_push = section.has("push");
    let push = section
        .optional_section("push")
        .and_then(|mut push| read_push(&mut push, callback_key_file.clone()));
    if has_push && callback_key_file.is_none() {
        section.problem(
            "callback_key_file",
            "is missing",
            "a file with at least 32 random bytes, the same on every node",
        );
    }
    let mut settings = calendar::read(calendar, has_push);
    calendar::read_patience(section, &mut settings);
    let connections = read_connection_limits(section);
    let cas_list = read_cas_list(section);
    if has_push && push.is_none() {
        return None;
    }
    Some(ExchangeConfig {
        account: account?,
        trust_directory: trust_directory?,
        push,
        cas_list,
        settings,
        connections,
    })
}

#[derive(Clone, Copy)]
enum Authentication {
    Negotiate,
    Ntlm,
    Basic,
    OAuth,
}

fn read_account(section: &mut Section) -> Option<ServiceAccount> {
    let authentication = section.choice(
        "authentication",
        &[
            ("negotiate", Authentication::Negotiate),
            ("ntlm", Authentication::Ntlm),
            ("basic", Authentication::Basic),
            ("oauth", Authentication::OAuth),
        ],
    );
    let ntlm_v1 = section.flag_or("ntlm_v1", false);
    let methods = match authentication {
        Authentication::Negotiate => PasswordMethods::Negotiate { ntlm_v1 },
        Authentication::Ntlm => PasswordMethods::Ntlm { ntlm_v1 },
        Authentication::Basic => PasswordMethods::Basic,
        Authentication::OAuth => return read_oauth(&mut section.section("oauth")).map(ServiceAccount::OAuth),
    };
    if ntlm_v1 && methods == PasswordMethods::Basic {
        section.problem(
            "ntlm_v1",
            "has no meaning with Basic",
            "false, or \"ntlm\" as authentication",
        );
    }
    let account = section.text("account");
    let password = read_password_source(section);
    Some(ServiceAccount::Password {
        account: account?,
        password: password?,
        methods,
    })
}

fn read_password_source(section: &mut Section) -> Option<PasswordSource> {
    let file = section.optional_path("password_file");
    let variable = section.optional_text("password_env");
    match (file, variable) {
        (Some(path), None) => Some(PasswordSource::File(path)),
        (None, Some(name)) => Some(PasswordSource::Environment(name)),
        (Some(_), Some(_)) => {
            section.problem("password_env", "contradicts password_file", "one of the two");
            None
        }
        (None, None) => {
            section.problem(
                "password_file",
                "is missing",
                "a file that holds the password, or password_env",
            );
            None
        }
    }
}

fn read_oauth(section: &mut Section) -> Option<OAuthConfig> {
    let tenant = section.text("tenant");
    let client_id = section.text("client_id");
    let client_secret_file = section.path("client_secret_file");
    let scope = section.text_or("scope", OAUTH_SCOPE);
    let token_url = section.optional_text("token_url").or_else(|| {
        tenant
            .as_ref()
            .map(|tenant| format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"))
    });
    if let Some(url) = &token_url
        && !is_safe_url(url)
    {
        section.problem(
            "token_url",
            format!("{url:?} would carry the secret in clear"),
            "an https URL",
        );
    }
    Some(OAuthConfig {
        tenant: tenant?,
        client_id: client_id?,
        client_secret_file: client_secret_file?,
        token_url: token_url?,
        scope,
    })
}

fn read_push(section: &mut Section, callback_key_file: Option<PathBuf>) -> Option<PushConfig> {
    let listen = section.address("listen");
    let advertise = section
        .text("advertise")
        .map(|url| url.trim_end_matches('/').to_owned());
    let certificate = section.optional_path("certificate");
    let key = section.optional_path("key");
    let limits = PushLimits {
        connections_max: section.number_or("connections_max", 1024, 1..=100_000),
        body_bytes_max: section.number_or("body_bytes_max", 256 << 10, 4096..=16 << 20),
        waiting_max: section.number_or("callbacks_waiting", 4096, 16..=1_000_000),
    };
    if certificate.is_some() != key.is_some() {
        section.problem(
            "certificate",
            "and key belong together",
            "both, or neither on loopback",
        );
    }
    let certificate = certificate
        .zip(key)
        .map(|(certificate, key)| PushCertificate { certificate, key });
    check_push(section, listen?, advertise.as_deref()?, certificate.is_some());
    Some(PushConfig {
        listen: listen?,
        advertise: advertise?,
        certificate,
        callback_key_file: callback_key_file?,
        limits,
    })
}

/// What is in a callback is not secret, but its URL is: in clear, whoever sees it can end the subscription.
fn check_push(section: &Section, listen: SocketAddr, advertise: &str, has_certificate: bool) {
    if !has_certificate && !listen.ip().is_loopback() {
        section.problem(
            "certificate",
            format!("is missing, while {listen} can be reached from elsewhere"),
            "certificate and key, or a loopback address to listen on",
        );
    }
    if !is_origin(advertise) {
        section.problem(
            "advertise",
            format!("{advertise:?} is not accepted"),
            "https://host:port",
        );
    } else if !is_safe_url(advertise) {
        section.problem(
            "advertise",
            format!("{advertise:?} is not https"),
            "https://host:port, or http with a loopback address",
        );
    } else if has_certificate && !advertise.starts_with("https://") {
        section.problem(
            "advertise",
            format!("{advertise:?} is not https, which the listener speaks"),
            "https://host:port",
        );
    }
}

/// Scheme, host and port, and nothing else: the path is ours.
fn is_origin(url: &str) -> bool {
    let origin = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let Some((host, port)) = origin.and_then(|origin| origin.rsplit_once(':')) else {
        return false;
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    is_host(host) && port.parse().is_ok_and(|port: u16| port != 0)
}

fn is_safe_url(url: &str) -> bool {
    let host = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split(['/', '?']).next());
    match host {
        None => url.starts_with("https://"),
        Some(host) => host
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip().is_loopback()),
    }
}

fn read_connection_limits(section: &mut Section) -> ConnectionLimits {
    ConnectionLimits {
        connect_timeout: section.duration_or(
            "connect_timeout_ms",
            Duration::from_secs(5),
            millis(50, 60_000),
        ),
        idle_max: section.number_or("idle_connections", 8, 0..=1000),
        idle_timeout: section.duration_or("idle_timeout_secs", Duration::from_secs(60), secs(1, 3600)),
        response_bytes_max: section.number_or("response_bytes_max", 16 << 20, 65_536..=256 << 20),
        streams_max: section.number_or("streams", 256, 1..=100_000),
        stream_bytes_max: section.number_or("stream_bytes_max", 256 << 20, 1 << 20..=1 << 40),
    }
}

fn read_cas_list(section: &mut Section) -> Vec<(CasId, CasEndpoint)> {
    let cas_list: Vec<(CasId, CasEndpoint)> = section
        .sections("gateway")
        .iter_mut()
        .filter_map(read_cas)
        .collect();
    for (position, (id, _)) in cas_list.iter().enumerate() {
        if cas_list[..position].iter().any(|(earlier, _)| earlier == id) {
            section.problem(
                "gateway",
                format!("{:?} is there twice", id.0),
                "a name per gateway",
            );
        }
    }
    cas_list
}

fn read_cas(section: &mut Section) -> Option<(CasId, CasEndpoint)> {
    let name = section.text("name");
    let host = section.optional_text("host").or_else(|| name.clone());
    if let Some(host) = &host
        && !is_host(host)
    {
        section.problem(
            "host",
            format!("{host:?} is not accepted"),
            "a host name or an IP address, without a port",
        );
    }
    let id = CasId(name?);
    let endpoint = CasEndpoint {
        host: host?,
        port: section.number_or("port", 443, 1..=65_535),
        description: section.optional_text("description").unwrap_or_default(),
        channel_binding: section.flag_or("channel_binding", true),
        legacy_algorithms: section.flag_or("legacy_algorithms", false),
    };
    Some((id, endpoint))
}

/// A name of DNS, or an address without brackets.
pub(crate) fn is_host(host: &str) -> bool {
    let is_name = host.len() <= 253
        && !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        });
    is_name || host.parse::<std::net::IpAddr>().is_ok()
}

const OAUTH_SCOPE: &str = "https://outlook.office365.com/.default";
const CALLBACK_KEY: &str = "exchange.callback_key_file";
const CALLBACK_KEY_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_runtime::config::{ConfigError, read_text};

    use super::*;
    use crate::calendar::Delivery;

    const STREAMING: &str = r#"
        account = "LAB\\svc-presence"
        password_file = "password"
        trust_directory = "trust"
    "#;

    const PUSH: &str = r#"
        account = "svc-presence@lab.test"
        password_env = "EXCHANGE_PASSWORD"
        trust_directory = "trust"
        callback_key_file = "callback.key"
        [push]
        listen = "192.0.2.21:8643"
        advertise = "https://n1.lab.test:8643"
        certificate = "push.pem"
        key = "push.key"
        [[gateway]]
        name = "cas-1"
        host = "cas1.lab.test"
        [[gateway]]
        name = "cas-2"
        host = "2001:db8::2"
        port = 8443
        description = "the second"
        channel_binding = false
        legacy_algorithms = true
    "#;

    fn parse(text: &str) -> Result<ExchangeConfig, Vec<String>> {
        let read = |root: &mut Section| {
            let mut calendar = root.section("calendar");
            read(root, &mut calendar)
        };
        match read_text(Path::new("/etc/tandem/node.toml"), text, read) {
            Ok(config) => Ok(config),
            Err(ConfigError::Invalid { problems, .. }) => {
                Err(problems.into_iter().map(|problem| problem.key).collect())
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn refused(text: &str) -> Vec<String> {
        parse(text).unwrap_err()
    }

    #[test]
    fn without_a_listener_changes_are_streamed() {
        let config = parse(STREAMING).unwrap();
        assert_eq!(config.settings.delivery, Delivery::StreamingOnly);
        assert_eq!(config.push, None);
        assert_eq!(
            config.account,
            ServiceAccount::Password {
                account: "LAB\\svc-presence".to_owned(),
                password: PasswordSource::File("/etc/tandem/password".into()),
                methods: PasswordMethods::Negotiate { ntlm_v1: false },
            }
        );
        assert_eq!(
            refused(&format!("{STREAMING}\n[calendar]\ndelivery = \"push_first\"")),
            ["calendar.delivery"]
        );
    }

    #[test]
    fn with_a_listener_push_is_tried_first_and_the_required_numbers_hold() {
        let config = parse(PUSH).unwrap();
        assert_eq!(config.settings, CalendarSettings::default());
        let push = config.push.unwrap();
        assert_eq!(push.advertise, "https://n1.lab.test:8643");
        assert_eq!(push.callback_key_file, Path::new("/etc/tandem/callback.key"));
        let [(first, near), (second, far)] = &config.cas_list[..] else {
            panic!("{:?}", config.cas_list);
        };
        assert_eq!(
            (first.0.as_str(), near.port, near.channel_binding),
            ("cas-1", 443, true)
        );
        assert_eq!(
            (second.0.as_str(), far.host.as_str(), far.port),
            ("cas-2", "2001:db8::2", 8443)
        );
        assert!(far.legacy_algorithms && !far.channel_binding);
    }

    #[test]
    fn callbacks_in_clear_stay_on_loopback() {
        let plain = PUSH.replace("certificate = \"push.pem\"\n        key = \"push.key\"", "");
        assert_eq!(refused(&plain), ["push.certificate"]);
        let local = plain.replace("192.0.2.21", "127.0.0.1");
        assert!(parse(&local).is_ok(), "behind a balancer that ends TLS");
        let loopback = local.replace("https://n1.lab.test", "http://127.0.0.1");
        assert!(parse(&loopback).is_ok());
        assert_eq!(refused(&local.replace("https:", "http:")), ["push.advertise"]);
        assert_eq!(
            refused(&PUSH.replace("https://n1.lab.test", "http://127.0.0.1")),
            ["push.advertise"]
        );
    }

    #[test]
    fn an_address_for_callbacks_is_scheme_host_and_port() {
        for advertised in [
            "n1.lab.test:8643",
            "https://n1.lab.test",
            "https://n1:0",
            "https://n 1:1",
            "https://n1:8643/a",
        ] {
            let text = PUSH.replace("https://n1.lab.test:8643", advertised);
            assert_eq!(refused(&text), ["push.advertise"], "{advertised}");
        }
        for advertised in [
            "https://[2001:db8::1]:8643",
            "https://192.0.2.1:443",
            "https://n1.lab.test:8643/",
        ] {
            assert!(
                parse(&PUSH.replace("https://n1.lab.test:8643", advertised)).is_ok(),
                "{advertised}"
            );
        }
    }

    #[test]
    fn a_listener_needs_the_key_that_makes_its_urls() {
        let text = PUSH.replace("callback_key_file = \"callback.key\"", "");
        assert_eq!(refused(&text), ["callback_key_file"]);
    }

    #[test]
    fn the_password_comes_from_one_place() {
        assert_eq!(
            refused(&format!("password_env = \"A\"\n{STREAMING}")),
            ["password_env"]
        );
        assert_eq!(
            refused(&STREAMING.replace("password_file = \"password\"", "")),
            ["password_file"]
        );
        assert_eq!(
            refused(&STREAMING.replace("password_file", "password")),
            ["password_file", "password"]
        );
    }

    #[test]
    fn an_oauth_client_has_no_account_and_tells_its_secret_to_nobody_in_clear() {
        let text = |url: &str| {
            format!(
                "authentication = \"oauth\"\ntrust_directory = \"trust\"\n[oauth]\ntenant = \"lab\"\n\
                 client_id = \"me\"\nclient_secret_file = \"secret\"\n{url}"
            )
        };
        let ServiceAccount::OAuth(oauth) = parse(&text("")).unwrap().account else {
            panic!("not an OAuth client");
        };
        assert_eq!(
            oauth.token_url,
            "https://login.microsoftonline.com/lab/oauth2/v2.0/token"
        );
        assert_eq!(oauth.scope, OAUTH_SCOPE);
        assert_eq!(
            refused(&text("token_url = \"http://192.0.2.1:80/token\"")),
            ["oauth.token_url"]
        );
        assert!(parse(&text("token_url = \"http://127.0.0.1:80/token\"")).is_ok());
    }

    #[test]
    fn a_cas_is_named_once_and_its_host_has_no_port() {
        let text = PUSH
            .replace("name = \"cas-2\"", "name = \"cas-1\"")
            .replace("cas1.lab.test", "cas1.lab.test:443");
        assert_eq!(refused(&text), ["gateway", "gateway[0].host"]);
    }

    #[test]
    fn the_required_ranges_are_kept() {
        let text = format!("{STREAMING}\n[calendar]\nstatus_frequency_minutes = 1441\nspread_secs = 60\n");
        assert_eq!(
            refused(&text),
            ["calendar.status_frequency_minutes", "calendar.spread_secs"]
        );
        assert_eq!(
            refused(&format!("threads = 9\nthreads_max = 8\n{STREAMING}")),
            ["threads"]
        );
    }

    #[test]
    fn secrets_that_cannot_be_used_are_named_by_their_keys() {
        let config = parse(STREAMING).unwrap();
        let unusable: Vec<_> = config
            .unusable_secrets()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(unusable, ["exchange.password_file"]);
        let unusable = parse(PUSH).unwrap().unusable_secrets();
        let keys: Vec<_> = unusable.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["exchange.password_env", CALLBACK_KEY]);
    }
}
