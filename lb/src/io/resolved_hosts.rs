//! Resolves the host names of access lists, periodically.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::join_all;
use tandem_runtime::io::environment::net::lookup_host;
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tracing::{info, warn};

use crate::access::HostAddresses;

/// Host names and their last known addresses, shared by all clones.
#[derive(Debug, Clone)]
pub struct ResolvedHosts {
    names: Arc<[String]>,
    addresses: Arc<ArcSwap<HostAddresses>>,
    failures: Arc<LogLimit<String>>,
}

impl ResolvedHosts {
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        names.dedup();
        Self {
            names: names.into(),
            addresses: Arc::default(),
            failures: Arc::new(LogLimit::once_a_minute()),
        }
    }

    #[must_use]
    pub fn addresses(&self) -> Arc<HostAddresses> {
        self.addresses.load_full()
    }

    /// Resolves the names periodically until the process stops accepting; more often while one of them has no address.
    pub async fn keep_up_to_date(self, shutdown: Shutdown) {
        loop {
            let known = self.addresses();
            let pause = match self.names.iter().all(|name| known.is_known(name)) {
                true => LOOKED_UP_EVERY,
                false => TRIED_AGAIN_AFTER,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => self.look_up().await,
                () = shutdown.reached(Stage::StopAccepting) => return,
            }
        }
    }

    /// Resolves all names once.
    pub async fn look_up(&self) {
        let answers = join_all(self.names.iter().map(|name| async move {
            let answer = tokio::time::timeout(LOOKUP_TIMEOUT, lookup_host(name, 0)).await;
            (
                name,
                answer.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
            )
        }));
        let mut addresses = (*self.addresses()).clone();
        for (name, answer) in answers.await {
            match answer {
                Ok(found) => {
                    if addresses.note(name, found.into_iter().map(|address| address.ip())) {
                        info!(name, "host name of an access list resolves to new addresses");
                    }
                }
                Err(error) if self.failures.is_due(name.clone()).is_some() => {
                    let known = addresses.is_known(name);
                    warn!(
                        name, %error, known,
                        "cannot resolve a host name of an access list; its last known addresses, if any, stay allowed"
                    );
                }
                Err(_) => {}
            }
        }
        self.addresses.store(Arc::new(addresses));
    }
}

const LOOKED_UP_EVERY: Duration = Duration::from_secs(60);
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(5);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::access::{Access, AllowedSource};

    #[tokio::test]
    async fn a_name_is_looked_up_and_one_that_does_not_exist_lets_nobody_in() {
        let access = Access::Listed(vec![AllowedSource {
            source: "localhost".parse().unwrap(),
            description: String::new(),
        }]);
        let names = ResolvedHosts::new(["localhost".to_owned(), "nowhere.invalid".to_owned()]);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(!access.admits(loopback, &names.addresses()));
        names.look_up().await;
        assert!(access.admits(loopback, &names.addresses()));
        assert!(!names.addresses().is_known("nowhere.invalid"));
    }
}
