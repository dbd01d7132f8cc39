//! The accept loop of one VIP and port, with its access control and limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::shutdown::Stage;
use tandem_runtime::io::sip_stream::read_proxy_header_alone;
use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::source::source_of;
use tandem_sip::proxy_protocol::ProxyHeader;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::access::Access;
use crate::config::Mode;

use super::accepted::Accepted;
use super::admission::Admission;
use super::listener_context::ListenerContext;
use super::resolved_hosts::ResolvedHosts;

/// A bound listener.
pub struct Listener {
    pub context: Arc<ListenerContext>,
    pub socket: TcpListener,
    pub mode: Mode,
    pub tls: Option<SipTls>,
    pub admission: Arc<Admission>,
    pub access_control: AccessControl,
}

/// Decides which connections a listener accepts.
#[derive(Debug)]
pub struct AccessControl {
    access: Access,
    /// Load balancers in front, whose PROXY protocol header names the client.
    proxies: Vec<IpNet>,
    hosts: ResolvedHosts,
    /// Limits the PROXY protocol headers being read at the same time.
    headers: Arc<Semaphore>,
    refusals: LogLimit<(IpAddr, &'static str)>,
}

impl AccessControl {
    #[must_use]
    pub fn new(access: Access, proxies: Vec<IpNet>, hosts: ResolvedHosts) -> Self {
        Self {
            access,
            proxies,
            hosts,
            headers: Arc::new(Semaphore::new(HEADERS_MAX)),
            refusals: LogLimit::once_a_minute(),
        }
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|network| network.contains(&address))
    }

    fn admits(&self, address: IpAddr) -> bool {
        self.access.admits(address, &self.hosts.addresses())
    }

    /// Counts a refused connection, and logs it once a minute for each address and reason.
    pub fn refuse(&self, context: &ListenerContext, address: SocketAddr, reason: &'static str, detail: &str) {
        context.metrics.connection_refused(&context.name, reason);
        if let Some(suppressed) = self.refusals.is_due((source_of(address.ip()), reason)) {
            warn!(listener = %context.name, %address, reason, suppressed, detail, "client connection refused");
        }
    }
}

impl Listener {
    /// Accepts connections until the process stops accepting, and serves each in a task of its own.
    pub async fn run(self: Arc<Self>) {
        let shutdown = self.context.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.reached(Stage::StopAccepting) => return,
            };
            match accepted {
                Ok((stream, address)) => self.connected(stream, address),
                Err(error) => {
                    // Out of descriptors, most likely: retrying at once would only waste CPU time.
                    self.context.metrics.limit_reached("accept");
                    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                    if let Some(suppressed) = self.access_control.refusals.is_due((unspecified, "accept")) {
                        warn!(
                            listener = %self.context.name, %error, suppressed,
                            "cannot accept client connections; retrying"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Admits a connection, or first reads the header of a load balancer in front. No byte is read from any other address that
    /// is not allowed.
    fn connected(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if !self.access_control.is_proxy(address.ip()) {
            return self.admit(stream, address);
        }
        let Ok(slot) = Arc::clone(&self.access_control.headers).try_acquire_owned() else {
            return self.context.metrics.limit_reached("proxy_headers");
        };
        let listener = Arc::clone(self);
        self.context.shutdown.spawn("proxy header", async move {
            listener.read_header(stream, address).await;
            drop(slot);
        });
    }

    async fn read_header(self: &Arc<Self>, mut stream: TcpStream, proxy: SocketAddr) {
        let refused = |detail: &str| {
            self.access_control
                .refuse(&self.context, proxy, "proxy_header", detail)
        };
        match read_proxy_header_alone(&mut stream, HEADER_TIMEOUT).await {
            // Load balancers send probes as well.
            Ok(None | Some(ProxyHeader::Local)) => {}
            Ok(Some(ProxyHeader::Proxied(proxied))) => self.admit(stream, proxied.source),
            Err(error) => refused(&error.to_string()),
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if !self.access_control.admits(address.ip()) {
            let detail = "the address is not in the listener's allow list";
            return self
                .access_control
                .refuse(&self.context, address, "not_allowed", detail);
        }
        match self.admission.admit(address.ip()) {
            Ok(admitted) => {
                let connection = Accepted {
                    listener: Arc::clone(self),
                    admitted,
                    address,
                };
                self.context
                    .shutdown
                    .spawn("client connection", connection.serve(stream));
            }
            Err(limit) => {
                self.context.metrics.limit_reached(limit);
                debug!(listener = %self.context.name, %address, limit, "client connection refused: connection limit reached");
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers of load balancers in front that are read at the same time.
const HEADERS_MAX: usize = 1_024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
