//! The sections that both binaries have: `[log]`, `[admin]`, and tables that name certificate files.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Section;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Directives of `tracing`'s filter: `info,openraft=error`, or `info,tandem_lb=debug`. The environment's `TANDEM_LOG` wins.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// An object per line, for collectors.
    Json,
}

impl LogConfig {
    pub fn read(root: &mut Section) -> Self {
        let mut log = root.section("log");
        let format = log.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        let filter = log.text_or("filter", FILTER_DEFAULT);
        if filter.parse::<tracing_subscriber::EnvFilter>().is_err() {
            log.problem(
                "filter",
                format!("{filter:?} is not accepted"),
                "directives such as \"info,tandem_lb=debug\"",
            );
        }
        Self { format, filter }
    }
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Loopback only (OPS-7): there is no authentication on it.
    pub listen: SocketAddr,
    /// Names under which it is asked for besides those of loopback, by a proxy on the same machine.
    pub names: Vec<String>,
}

impl AdminConfig {
    pub fn read(root: &mut Section, default: SocketAddr) -> Self {
        let mut admin = root.section("admin");
        let listen = admin.address_or("listen", default);
        if !listen.ip().is_loopback() {
            admin.problem(
                "listen",
                format!("{listen} can be reached from elsewhere"),
                "a loopback address",
            );
        }
        let names = admin.parsed_list("names", "host names");
        Self { listen, names }
    }
}

/// Where a certificate chain, its key and the authorities of its peers lie, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate first, then its intermediates.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Peers whose certificates they signed may connect; one or more of them.
    pub authority: PathBuf,
    /// Lists of what they have revoked since, one of each authority; `None`: nothing is taken for revoked.
    pub revocation_list: Option<PathBuf>,
}

impl TlsFiles {
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let always = [&self.certificate, &self.key, &self.authority];
        always.into_iter().chain(&self.revocation_list)
    }

    /// Takes `certificate`, `key`, `revocation_list` and `authority_key` out of `section`. `None` when one is missing, which is noted.
    pub fn read(section: &mut Section, authority_key: &str) -> Option<Self> {
        let certificate = section.path("certificate");
        let key = section.path("key");
        let authority = section.path(authority_key);
        let revocation_list = section.optional_path("revocation_list");
        Some(Self {
            certificate: certificate?,
            key: key?,
            authority: authority?,
            revocation_list,
        })
    }
}

/// openraft tells of every vote at `info`, and at `warn` of every heartbeat that is not answered; what an operator wants to
/// know of elections and of members that are away, Tandem tells itself.
const FILTER_DEFAULT: &str = "info,openraft=error";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::read_text;
    use super::*;

    #[test]
    fn names_of_the_admin_listener_and_the_revocation_list_are_read_and_may_be_left_out() {
        let read = |text: &str| {
            let path = Path::new("/etc/tandem/lb.toml");
            read_text(path, text, |root| {
                let admin = AdminConfig::read(root, ([127, 0, 0, 1], 9060).into());
                Some((admin, TlsFiles::read(&mut root.section("tls"), "authority")?))
            })
            .unwrap()
        };
        let tls = "[tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\nauthority = \"ca.pem\"\n";
        let (admin, files) = read(tls);
        assert_eq!((admin.names, files.revocation_list), (Vec::new(), None));
        let (admin, files) = read(&format!(
            "[admin]\nnames = [\"tandem-1.example.com\"]\n{tls}revocation_list = \"crl.pem\"\n"
        ));
        assert_eq!(admin.names, ["tandem-1.example.com"]);
        assert_eq!(
            files.revocation_list.as_deref(),
            Some(Path::new("/etc/tandem/crl.pem"))
        );
    }
}
