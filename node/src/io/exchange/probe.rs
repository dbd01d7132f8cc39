//! Checks each gateway on request (CAL-7): reachable, certificate trusted, account accepted, impersonation works.
//!
//! Trying a wrong password at every gateway would lock the account. So one gateway is tried first, and after a refusal none
//! for a minute, unless the password has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::Serialize;
use tandem_certificate::Status;
use tandem_cluster::{CasEndpoint, CasId};
use tandem_runtime::io::environment;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::io::clock;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{Failure, FailureClass, Mailbox, Operation};

use super::certificate_probe::{self, ProbeOptions, Reachability};
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
    refused: Option<Refused>,
}

struct Last {
    at: Instant,
    asked: Asked,
    gateways: Vec<ProbedGateway>,
}

/// What the result depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub gateways: Vec<(CasId, CasEndpoint)>,
    /// The user to impersonate at each gateway: one of its users, or any enabled user.
    pub mailboxes: Vec<Option<Mailbox>>,
    /// The calendars have already stopped all traffic.
    pub credential_refused: bool,
}

/// The account was refused.
struct Refused {
    at: Instant,
    /// The count of credential changes at that time.
    changes: u64,
}

/// The result for one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbedGateway {
    pub name: String,
    /// Unix milliseconds.
    pub checked_at_ms: u64,
    /// Whether a TCP connection could be made.
    pub reachability: Reachability,
    /// The statuses of CAL-6: `Verified`, `Certificate Missing From Chain` and so on.
    pub ssl_status: Status,
    pub account: AccountStatus,
    pub impersonation: ImpersonationStatus,
    /// Latency of the request with the account.
    pub latency_ms: Option<u64>,
    pub server_version: Option<String>,
    /// What is wrong and how to fix it, step by step.
    pub explanations: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    Accepted,
    Refused,
    /// An earlier step failed, or the account was refused elsewhere.
    NotTried,
    /// The gateway failed before checking it.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImpersonationStatus {
    Works,
    Denied,
    /// An earlier step failed, or there is no enabled user to impersonate.
    NotTried,
    Unknown,
}

impl ProbedGateway {
    /// Nothing needs to be fixed. A user without a mailbox does not count against the gateway.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.reachability == Reachability::Pingable
            && self.ssl_status == Status::Verified
            && self.account == AccountStatus::Accepted
            && self.impersonation != ImpersonationStatus::Denied
    }

    fn of(name: &CasId) -> Self {
        Self {
            name: name.0.clone(),
            checked_at_ms: clock::unix_ms(),
            reachability: Reachability::Unreachable,
            ssl_status: Status::NetworkError,
            account: AccountStatus::NotTried,
            impersonation: ImpersonationStatus::NotTried,
            latency_ms: None,
            server_version: None,
            explanations: Vec::new(),
        }
    }

    fn explain(&mut self, explanation: impl Into<String>) {
        self.explanations.push(explanation.into());
    }
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
        let gateways = self.look_at_all(&asked, &mut found.refused).await;
        found.last = Some(Last {
            at: environment::now(),
            asked,
            gateways: gateways.clone(),
        });
        gateways
    }

    async fn look_at_all(&self, asked: &Asked, refused: &mut Option<Refused>) -> Vec<ProbedGateway> {
        let slots = Semaphore::new(AT_ONCE_MAX);
        let looks = asked.gateways.iter().map(|(name, endpoint)| async {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            self.look_below(name, endpoint).await
        });
        let mut gateways = join_all(looks).await;
        self.show_account(asked, refused, &mut gateways).await;
        gateways
    }

    /// The checks that need no account: connection and certificate.
    async fn look_below(&self, name: &CasId, endpoint: &CasEndpoint) -> ProbedGateway {
        let mut gateway = ProbedGateway::of(name);
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
    async fn show_account(
        &self,
        asked: &Asked,
        refused: &mut Option<Refused>,
        gateways: &mut [ProbedGateway],
    ) {
        let changes = *self.credential_changes.borrow();
        refused.take_if(|refused| refused.changes != changes || refused.at.elapsed() > LOCK_OUT_PAUSE);
        let mut may_try = refused.is_none() && !asked.credential_refused;
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
                    let at = environment::now();
                    *refused = Some(Refused { at, changes });
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
        gateway.latency_ms = Some(millis(performed.latency));
        gateway.server_version = performed.server_version.map(|version| version.to_string());
        judge(gateway, mailbox, performed.result.err().as_ref());
    }
}

/// What the answer to a request for a user's calendar says about the account.
fn judge(gateway: &mut ProbedGateway, mailbox: Option<&Mailbox>, failure: Option<&Failure>) {
    use {AccountStatus as Account, ImpersonationStatus as Impersonation};
    let class = failure.map(Failure::class);
    let (account, impersonation) = match class {
        None => (Account::Accepted, Impersonation::Works),
        Some(FailureClass::Credential) => (Account::Refused, Impersonation::NotTried),
        Some(FailureClass::RightsOfServer | FailureClass::RightsOfUser) => {
            (Account::Accepted, Impersonation::Denied)
        }
        // The gateway looked at the mailbox, so it had accepted the account.
        Some(
            FailureClass::Gone
            | FailureClass::Identity
            | FailureClass::Moved
            | FailureClass::TooMuch
            | FailureClass::Lost
            | FailureClass::OtherOwner,
        ) => (Account::Accepted, Impersonation::Unknown),
        Some(
            FailureClass::Throttled | FailureClass::Transient | FailureClass::Version | FailureClass::Request,
        ) => (Account::Unknown, Impersonation::Unknown),
    };
    gateway.account = account;
    gateway.impersonation = match mailbox {
        Some(_) => impersonation,
        None => Impersonation::NotTried,
    };
    match (failure, mailbox) {
        (Some(failure), Some(mailbox)) => gateway.explain(format!("{mailbox}: {failure}.{}", remedy(class))),
        // The service account needs no mailbox of its own.
        (Some(failure), None) if account != Account::Accepted => {
            gateway.explain(format!("{failure}.{}", remedy(class)));
        }
        (Some(_) | None, None) => {
            gateway.explain("No user's calendar is enabled: impersonation was not tried.")
        }
        (None, Some(_)) => {}
    }
}

fn remedy(class: Option<FailureClass>) -> &'static str {
    match class {
        Some(FailureClass::Credential) => {
            " Check exchange.account and its password, and that the virtual directory EWS offers the authentication."
        }
        Some(FailureClass::RightsOfServer | FailureClass::RightsOfUser) => {
            " Give the account the role ApplicationImpersonation (Exchange 2007: the right ms-Exch-EPI-Impersonation)."
        }
        Some(FailureClass::Gone) => " This user has no mailbox here; the gateway is not at fault.",
        Some(FailureClass::Throttled) => " The gateway is busy; a throttling policy for the account helps.",
        Some(
            FailureClass::Lost
            | FailureClass::OtherOwner
            | FailureClass::Moved
            | FailureClass::Identity
            | FailureClass::Transient
            | FailureClass::Version
            | FailureClass::TooMuch
            | FailureClass::Request,
        )
        | None => "",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const NOT_SHOWN: &str = "The account was refused: it is not tried anywhere for a minute, so that it does not get locked. A changed password is tried at once.";
/// Status pages are loaded repeatedly.
const FRESH: Duration = Duration::from_secs(2);
const LOCK_OUT_PAUSE: Duration = Duration::from_secs(60);
const PROBE: ProbeOptions = ProbeOptions {
    connect_timeout: Duration::from_secs(3),
    handshake_timeout: Duration::from_secs(5),
    via: None,
};
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const AT_ONCE_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_exchange::ews::ResponseCode;

    fn judged(code: Option<&str>, mailbox: Option<&str>) -> ProbedGateway {
        let failure = code.map(|code| Failure::Response {
            code: ResponseCode(code.to_owned()),
            message: "as the server says".to_owned(),
            back_off: None,
            primary_address: None,
            inner: None,
        });
        let mut gateway = ProbedGateway {
            reachability: Reachability::Pingable,
            ssl_status: Status::Verified,
            ..ProbedGateway::of(&CasId("cas-1".to_owned()))
        };
        let mailbox = mailbox.map(|mailbox| Mailbox(mailbox.to_owned()));
        judge(&mut gateway, mailbox.as_ref(), failure.as_ref());
        gateway
    }

    #[test]
    fn a_gateway_that_answers_for_a_user_is_well() {
        let gateway = judged(None, Some("ana@lab.test"));
        assert!(gateway.is_well(), "{gateway:?}");
        assert_eq!(gateway.explanations, Vec::<String>::new());
    }

    #[test]
    fn an_account_without_the_right_to_impersonate_is_accepted_all_the_same() {
        let gateway = judged(Some("ErrorImpersonateUserDenied"), Some("ana@lab.test"));
        assert_eq!(
            (gateway.account, gateway.impersonation),
            (AccountStatus::Accepted, ImpersonationStatus::Denied)
        );
        assert!(gateway.explanations[0].contains("ApplicationImpersonation"));
    }

    #[test]
    fn a_mailbox_that_is_elsewhere_says_nothing_against_the_account() {
        let gateway = judged(Some("ErrorNonExistentMailbox"), Some("ana@lab.test"));
        assert_eq!(
            (gateway.account, gateway.impersonation),
            (AccountStatus::Accepted, ImpersonationStatus::Unknown)
        );
    }

    #[test]
    fn where_nobody_is_enabled_nobody_is_impersonated() {
        for code in [None, Some("ErrorNonExistentMailbox")] {
            let gateway = judged(code, None);
            assert_eq!(
                (gateway.account, gateway.impersonation),
                (AccountStatus::Accepted, ImpersonationStatus::NotTried)
            );
            assert_eq!(gateway.explanations.len(), 1, "{gateway:?}");
        }
        let mut gateway = judged(None, None);
        judge(
            &mut gateway,
            None,
            Some(&Failure::Unauthorized("wrong".to_owned())),
        );
        assert_eq!(gateway.account, AccountStatus::Refused);
    }
}
