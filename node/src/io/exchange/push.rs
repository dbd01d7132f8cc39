//! The port for callbacks (the Exchange Notification Port of CAL-3), and the URLs that lead there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCertUsingSni;
use tandem_runtime::io::certificates::IdentityFiles;
use tandem_runtime::io::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::PushConfig;
use tandem_exchange::callback::CallbackKey;

use super::push_listener::{CallbackArrived, PushListener, PushListenerOptions, PushMetrics};
use super::signing::ServingIdentity;

/// Makes callback URLs, and requests another port.
#[derive(Debug)]
pub struct CallbackUrls {
    key: CallbackKey,
    /// Without the port.
    advertised_host: String,
    advertised_port: u16,
    wanted: watch::Sender<Wanted>,
    /// The port for callbacks, if it differs from the file's.
    current: watch::Receiver<Option<u16>>,
}

/// `None`: the port of the file. The former one stays open for the given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    port: Option<u16>,
    keep_old_for: Duration,
}

impl CallbackUrls {
    /// `None` if the user's id is too long for a URL.
    #[must_use]
    pub fn url(&self, user: &str, attempt: u64) -> Option<String> {
        let path = self.key.path(user, attempt)?;
        let port = self.current.borrow().unwrap_or(self.advertised_port);
        Some(format!("{}:{port}{path}", self.advertised_host))
    }

    /// Returns when the URLs have changed; `false`: they never will again.
    pub(super) async fn changed(&mut self) -> bool {
        self.current.changed().await.is_ok()
    }

    /// From now on callbacks shall come on this port; earlier subscriptions use the former one until they are renewed.
    pub fn move_to(&self, port: Option<u16>, keep_old_for: Duration) {
        let wanted = Wanted { port, keep_old_for };
        self.wanted.send_if_modified(|former| {
            let changed = former.port != port;
            *former = wanted;
            changed
        });
    }
}

/// Keeps ports and certificate as configured.
pub struct PushKeeper {
    listener: PushListener,
    listen: SocketAddr,
    identity: Option<ServingIdentity>,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    wanted: watch::Receiver<Wanted>,
    current: watch::Sender<Option<u16>>,
}

/// The listener of `[exchange.push]`.
pub struct Push {
    pub urls: CallbackUrls,
    pub keeper: PushKeeper,
    pub arrived: mpsc::Receiver<CallbackArrived>,
    pub identity: Option<ServingIdentity>,
}

impl Push {
    /// Listens on the port of the file.
    ///
    /// # Errors
    /// If the key or the certificate cannot be used, or the port cannot be bound.
    pub async fn open(config: &PushConfig, metrics: PushMetrics, shutdown: Shutdown) -> anyhow::Result<Self> {
        let key = config.read_key().context("reading exchange.callback_key_file")?;
        let key = CallbackKey::new(&key).context("using exchange.callback_key_file")?;
        let identity = open_identity(config)?;
        let tls = identity
            .as_ref()
            .map(|identity| Arc::new(ArcSwap::new(identity.server_config().unwrap_or_else(nobody))));
        let (sender, arrived) = mpsc::channel(config.limits.waiting_max);
        let options = PushListenerOptions {
            connections_max: config.limits.connections_max,
            body_bytes_max: config.limits.body_bytes_max,
            ..PushListenerOptions::default()
        };
        let mut listener = PushListener::new(options, key.clone(), tls.clone(), sender, metrics, shutdown);
        let bound = listener.open(config.listen).await;
        bound.with_context(|| format!("binding exchange.push.listen on {}", config.listen))?;
        let (wanted_sender, wanted) = watch::channel(Wanted {
            port: None,
            keep_old_for: Duration::ZERO,
        });
        let (current_sender, current) = watch::channel(None);
        let (advertised_host, advertised_port) = split_port(&config.advertise);
        Ok(Self {
            urls: CallbackUrls {
                key,
                advertised_host,
                advertised_port,
                wanted: wanted_sender,
                current,
            },
            keeper: PushKeeper {
                listener,
                listen: config.listen,
                identity: identity.clone(),
                tls,
                wanted,
                current: current_sender,
            },
            arrived,
            identity,
        })
    }
}

impl PushKeeper {
    /// Runs until no URL maker is left.
    pub async fn run(mut self) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.move_port().await,
                    Err(_) => return,
                },
                _ = looks.tick() => self.look_at_certificate(),
            }
        }
    }

    async fn move_port(&mut self) {
        let Wanted { port, keep_old_for } = *self.wanted.borrow_and_update();
        let mut address = self.listen;
        address.set_port(port.unwrap_or_else(|| address.port()));
        match self.listener.replace(address, keep_old_for).await {
            Ok(bound) => {
                self.current.send_replace(port);
                info!(%bound, ?keep_old_for, "callback port changed; the former port stays open meanwhile");
            }
            Err(error) => {
                warn!(%address, %error, "cannot listen on the new callback port; the former one stays in use: set it again once it is free")
            }
        }
    }

    /// The files may have been replaced, or a signed certificate installed.
    fn look_at_certificate(&self) {
        let (Some(identity), Some(tls)) = (&self.identity, &self.tls) else {
            return;
        };
        if let Err(error) = identity.refresh() {
            warn!(%error, "the changed callback certificate cannot be used");
        }
        if let Some(config) = identity.server_config()
            && !Arc::ptr_eq(&config, &tls.load())
        {
            tls.store(config);
        }
    }
}

fn open_identity(config: &PushConfig) -> anyhow::Result<Option<ServingIdentity>> {
    let Some(files) = &config.certificate else {
        return Ok(None);
    };
    let identity = ServingIdentity::open(IdentityFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
    })
    .context("using exchange.push.certificate and key")?;
    if identity.server_config().is_none() {
        warn!("no certificate for callbacks is installed yet: Exchange cannot call back until there is one");
    }
    Ok(Some(identity))
}

/// Refuses every handshake, because there is no certificate.
fn nobody() -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    Arc::new(config)
}

/// The configuration guarantees a port.
fn split_port(origin: &str) -> (String, u16) {
    let (host, port) = origin.rsplit_once(':').unwrap_or((origin, "443"));
    (host.to_owned(), port.parse().unwrap_or(443))
}

const LOOK_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use prometheus::Registry;
    use tandem_runtime::io::telemetry::Metrics;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::PushLimits;

    fn config(folder: &std::path::Path, listen: SocketAddr) -> PushConfig {
        use std::io::Write;
        let callback_key_file = folder.join("callback.key");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&callback_key_file)
            .unwrap();
        file.write_all(b"0123456789abcdef0123456789abcdef").unwrap();
        PushConfig {
            listen,
            advertise: format!("http://{listen}"),
            certificate: None,
            callback_key_file,
            limits: PushLimits {
                connections_max: 8,
                body_bytes_max: 65_536,
                waiting_max: 8,
            },
        }
    }

    async fn unused() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_port_that_is_set_is_called_from_now_on_and_the_former_one_still_answers() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (unused().await, unused().await);
        let metrics = PushMetrics::register(&Metrics::new(&Registry::new()));
        let push = Push::open(&config(folder.path(), first), metrics, Shutdown::new())
            .await
            .unwrap();
        let mut urls = push.urls;
        let keeping = tokio::spawn(push.keeper.run());
        let leads_to = |urls: &CallbackUrls, address: SocketAddr| {
            let url = urls.url("ana", 1).unwrap();
            assert!(url.starts_with(&format!("http://{address}/ews/")), "{url}");
        };
        leads_to(&urls, first);
        urls.move_to(Some(second.port()), Duration::from_secs(3600));
        assert!(urls.changed().await);
        leads_to(&urls, second);
        for address in [first, second] {
            TcpStream::connect(address).await.unwrap();
        }
        urls.move_to(None, Duration::from_secs(3600));
        assert!(urls.changed().await);
        leads_to(&urls, first);
        keeping.abort();
    }

    #[tokio::test]
    async fn a_port_that_cannot_be_bound_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = unused().await;
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = PushMetrics::register(&Metrics::new(&Registry::new()));
        let mut push = Push::open(&config(folder.path(), first), metrics, Shutdown::new())
            .await
            .unwrap();
        let port = taken.local_addr().unwrap().port();
        push.urls.move_to(Some(port), Duration::ZERO);
        push.keeper.move_port().await;
        let url = push.urls.url("ana", 1).unwrap();
        assert!(url.starts_with(&format!("http://{first}/")), "{url}");
    }
}
