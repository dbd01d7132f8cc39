//! Checks each gateway on request ([`crate::calendar::probing`]): a connection, a handshake, and one request in the name of
//! the account.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tandem_certificate::Status;
use tandem_cluster::{CasEndpoint, CasId};
use tandem_runtime::io::environment;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::calendar::probing::{AccountStatus, Asked, Lockout, NOT_SHOWN, ProbedGateway};
use crate::io::clock;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{Mailbox, Operation};

use super::certificate_probe::{self, ProbeOptions};
use super::client::{EwsClient, PerformRequest};
use super::trust::GatewayTrust;

/// Cheap to clone; clones share the results.
#[derive(Clone)]
pub struct Prober {
    client: EwsClient,
    trust: GatewayTrust,
    credential_changes: watch::Receiver<u64>,
    /// Held while gateways are checked: concurrent callers wait for the same answer.
    found: Arc<Mutex<Found>>,
}

#[derive(Default)]
struct Found {
    last: Option<Last>,
    lockout: Lockout,
}

struct Last {
    at: Instant,
    asked: Asked,
    gateways: Vec<ProbedGateway>,
}

impl Prober {
    #[must_use]
    pub fn new(client: EwsClient, trust: GatewayTrust, credential_changes: watch::Receiver<u64>) -> Self {
        Self {
            client,
            trust,
            credential_changes,
            found: Arc::default(),
        }
    }

    /// Checks every gateway, in order, unless that was done a moment ago.
    pub async fn look(&self, asked: Asked) -> Vec<ProbedGateway> {
        let mut found = self.found.lock().await;
        if let Some(last) = &found.last
            && last.asked == asked
            && last.at.elapsed() < FRESH
        {
            return last.gateways.clone();
        }
        let gateways = self.look_at_all(&asked, &mut found.lockout).await;
        found.last = Some(Last {
            at: environment::now(),
            asked,
            gateways: gateways.clone(),
        });
        gateways
    }

    async fn look_at_all(&self, asked: &Asked, lockout: &mut Lockout) -> Vec<ProbedGateway> {
        let slots = Semaphore::new(AT_ONCE_MAX);
        let looks = asked.gateways.iter().map(|(name, endpoint)| async {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            self.look_below(name, endpoint).await
        });
        let mut gateways = join_all(looks).await;
        self.show_account(asked, lockout, &mut gateways).await;
        gateways
    }

    /// The checks that need no account: connection and certificate.
    async fn look_below(&self, name: &CasId, endpoint: &CasEndpoint) -> ProbedGateway {
        let mut gateway = ProbedGateway::of(name, clock::unix_ms());
        let report = certificate_probe::probe(&self.trust, endpoint, PROBE).await;
        let diagnosis = report.diagnosis;
        if diagnosis.status != Status::Verified || diagnosis.relies_on_legacy_algorithms {
            gateway.explain(diagnosis.explanation);
        }
        gateway.reachability = report.reachability;
        gateway.ssl_status = diagnosis.status;
        gateway
    }

    /// Tries one gateway first; the others only once the account was accepted.
    async fn show_account(&self, asked: &Asked, lockout: &mut Lockout, gateways: &mut [ProbedGateway]) {
        let changes = *self.credential_changes.borrow();
        let mut may_try = lockout.may_try(changes, environment::now()) && !asked.credential_refused;
        let mut accepted = false;
        let mut rest = Vec::new();
        for (gateway, mailbox) in gateways.iter_mut().zip(&asked.mailboxes) {
            if gateway.ssl_status != Status::Verified {
                continue;
            }
            if !may_try {
                gateway.explain(NOT_SHOWN);
            } else if accepted {
                rest.push((gateway, mailbox));
            } else {
                self.show_account_to(gateway, mailbox.as_ref()).await;
                accepted = gateway.account == AccountStatus::Accepted;
                may_try = gateway.account != AccountStatus::Refused;
                if !may_try {
                    lockout.refused(changes, environment::now());
                }
            }
        }
        let slots = Semaphore::new(AT_ONCE_MAX);
        join_all(rest.into_iter().map(|(gateway, mailbox)| async {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            self.show_account_to(gateway, mailbox.as_ref()).await;
        }))
        .await;
    }

    async fn show_account_to(&self, gateway: &mut ProbedGateway, mailbox: Option<&Mailbox>) {
        let performed = self
            .client
            .perform(PerformRequest {
                gateway: CasId(gateway.name.clone()),
                operation: Operation::GetChangeStamp,
                impersonate: mailbox.cloned(),
                affinity: AffinityKey::None,
                timeout: REQUEST_TIMEOUT,
            })
            .await;
        gateway.latency_ms = u64::try_from(performed.latency.as_millis()).ok();
        gateway.server_version = performed.server_version.map(|version| version.to_string());
        gateway.judge(mailbox, performed.result.err().as_ref());
    }
}

/// Status pages are loaded repeatedly.
const FRESH: Duration = Duration::from_secs(2);
const PROBE: ProbeOptions = ProbeOptions {
    connect_timeout: Duration::from_secs(3),
    handshake_timeout: Duration::from_secs(5),
    via: None,
};
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const AT_ONCE_MAX: usize = 16;
