//! Checks each CAS on request ([`crate::calendar::probing`]): a connection, a handshake, and one request in the name of
//! the account.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tandem_certificate::Status;
use tandem_cluster::{CasEndpoint, CasId};
use tandem_runtime::io::environment;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::calendar::probing::{AccountStatus, Asked, Lockout, NOT_SHOWN, ProbedCas};
use crate::io::clock;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{Mailbox, Operation};

use super::certificate_probe::{self, ProbeOptions};
use super::client::{EwsClient, PerformRequest};
use super::trust::CasTrust;

/// Cheap to clone; clones share the results.
#[derive(Clone)]
pub struct Prober {
    client: EwsClient,
    trust: CasTrust,
    credential_changes: watch::Receiver<u64>,
    /// Held while CAS are checked: concurrent callers wait for the same answer.
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
    cas_list: Vec<ProbedCas>,
}

impl Prober {
    #[must_use]
    pub fn new(client: EwsClient, trust: CasTrust, credential_changes: watch::Receiver<u64>) -> Self {
        Self {
            client,
            trust,
            credential_changes,
            found: Arc::default(),
        }
    }

    /// Checks every CAS, in order, unless that was done a moment ago.
    pub async fn look(&self, asked: Asked) -> Vec<ProbedCas> {
        let mut found = self.found.lock().await;
        if let Some(last) = &found.last
            && last.asked == asked
            && last.at.elapsed() < FRESH
        {
            return last.cas_list.clone();
        }
        let cas_list = self.look_at_all(&asked, &mut found.lockout).await;
        found.last = Some(Last {
            at: environment::now(),
            asked,
            cas_list: cas_list.clone(),
        });
        cas_list
    }

    async fn look_at_all(&self, asked: &Asked, lockout: &mut Lockout) -> Vec<ProbedCas> {
        let slots = Semaphore::new(AT_ONCE_MAX);
        let looks = asked.cas_list.iter().map(|(name, endpoint)| async {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            self.look_below(name, endpoint).await
        });
        let mut cas_list = join_all(looks).await;
        self.show_account(asked, lockout, &mut cas_list).await;
        cas_list
    }

    /// The checks that need no account: connection and certificate.
    async fn look_below(&self, name: &CasId, endpoint: &CasEndpoint) -> ProbedCas {
        let mut cas = ProbedCas::of(name, clock::unix_ms());
        let report = certificate_probe::probe(&self.trust, endpoint, PROBE).await;
        let diagnosis = report.diagnosis;
        if diagnosis.status != Status::Verified || diagnosis.relies_on_legacy_algorithms {
            cas.explain(diagnosis.explanation);
        }
        cas.reachability = report.reachability;
        cas.ssl_status = diagnosis.status;
        cas
    }

    /// Tries one CAS first; the others only once the account was accepted.
    async fn show_account(&self, asked: &Asked, lockout: &mut Lockout, cas_list: &mut [ProbedCas]) {
        let changes = *self.credential_changes.borrow();
        let mut may_try = lockout.may_try(changes, environment::now()) && !asked.credential_refused;
        let mut accepted = false;
        let mut rest = Vec::new();
        for (cas, mailbox) in cas_list.iter_mut().zip(&asked.mailboxes) {
            if cas.ssl_status != Status::Verified {
                continue;
            }
            if !may_try {
                cas.explain(NOT_SHOWN);
            } else if accepted {
                rest.push((cas, mailbox));
            } else {
                self.show_account_to(cas, mailbox.as_ref()).await;
                accepted = cas.account == AccountStatus::Accepted;
                may_try = cas.account != AccountStatus::Refused;
                if !may_try {
                    lockout.refused(changes, environment::now());
                }
            }
        }
        let slots = Semaphore::new(AT_ONCE_MAX);
        join_all(rest.into_iter().map(|(cas, mailbox)| async {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            self.show_account_to(cas, mailbox.as_ref()).await;
        }))
        .await;
    }

    async fn show_account_to(&self, cas: &mut ProbedCas, mailbox: Option<&Mailbox>) {
        let performed = self
            .client
            .perform(PerformRequest {
                cas: CasId(cas.name.clone()),
                operation: Operation::GetChangeStamp,
                impersonate: mailbox.cloned(),
                affinity: AffinityKey::None,
                timeout: REQUEST_TIMEOUT,
            })
            .await;
        cas.latency_ms = u64::try_from(performed.latency.as_millis()).ok();
        cas.server_version = performed.server_version.map(|version| version.to_string());
        cas.judge(mailbox, performed.result.err().as_ref());
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
