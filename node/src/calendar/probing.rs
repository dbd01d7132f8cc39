//! What a check of each CAS found (CAL-7): reachable, certificate trusted, account accepted, impersonation works.
//!
//! Trying a wrong password at every CAS would lock the account. So one is tried first, and after a refusal none for a
//! minute, unless the password has changed.

use std::time::{Duration, Instant};

use serde::Serialize;
use tandem_certificate::Status;
use tandem_cluster::{CasEndpoint, CasId, ClusterState};

use super::enabled_users;
use crate::directory::Directory;
use tandem_exchange::certificate::Reachability;
use tandem_exchange::ews::{Failure, FailureClass, Mailbox};

/// What the result depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub cas_list: Vec<(CasId, CasEndpoint)>,
    /// The user to impersonate at each CAS: one of its users, or any enabled user.
    pub mailboxes: Vec<Option<Mailbox>>,
    /// The calendars have already stopped all traffic.
    pub credential_refused: bool,
}

impl Asked {
    /// About every CAS of `state`.
    #[must_use]
    pub fn of(state: &ClusterState, directory: &Directory, credential_refused: bool) -> Self {
        let users = enabled_users(state, directory);
        let reads_at = |user: &str, cas: &CasId| {
            let assignment = state.assignment(user);
            assignment.is_some_and(|assignment| assignment.cas == *cas)
        };
        let mailbox_at = |cas: &CasId| {
            let own = users.iter().find(|user| reads_at(&user.id, cas));
            own.or_else(|| users.first()).map(|user| user.mailbox.clone())
        };
        let cas_list = state.cas_gateways().iter();
        Self {
            cas_list: cas_list
                .clone()
                .map(|cas| (cas.id.clone(), cas.endpoint.clone()))
                .collect(),
            mailboxes: cas_list.map(|cas| mailbox_at(&cas.id)).collect(),
            credential_refused,
        }
    }
}

/// Whether the account may be tried, after what is known of earlier tries.
#[derive(Debug, Default)]
pub struct Lockout {
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    at: Instant,
    /// The count of credential changes at that time.
    changes: u64,
}

impl Lockout {
    /// `changes`: how often the credential has changed by now.
    #[must_use]
    pub fn may_try(&mut self, changes: u64, now: Instant) -> bool {
        self.refused
            .take_if(|refused| refused.changes != changes || now.duration_since(refused.at) > LOCK_OUT_PAUSE);
        self.refused.is_none()
    }

    pub fn refused(&mut self, changes: u64, now: Instant) {
        self.refused = Some(Refused { at: now, changes });
    }
}

/// The result for one CAS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbedCas {
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
    /// The CAS failed before checking it.
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

impl ProbedCas {
    /// Nothing needs to be fixed. A user without a mailbox does not count against the CAS.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.reachability == Reachability::Pingable
            && self.ssl_status == Status::Verified
            && self.account == AccountStatus::Accepted
            && self.impersonation != ImpersonationStatus::Denied
    }

    /// Nothing has been tried yet.
    #[must_use]
    pub fn of(name: &CasId, now_ms: u64) -> Self {
        Self {
            name: name.0.clone(),
            checked_at_ms: now_ms,
            reachability: Reachability::Unreachable,
            ssl_status: Status::NetworkError,
            account: AccountStatus::NotTried,
            impersonation: ImpersonationStatus::NotTried,
            latency_ms: None,
            server_version: None,
            explanations: Vec::new(),
        }
    }

    pub fn explain(&mut self, explanation: impl Into<String>) {
        self.explanations.push(explanation.into());
    }

    /// What the answer to a request for a user's calendar says about the account. `mailbox`: whom it impersonated.
    pub fn judge(&mut self, mailbox: Option<&Mailbox>, failure: Option<&Failure>) {
        use {AccountStatus as Account, ImpersonationStatus as Impersonation};
        let class = failure.map(Failure::class);
        let (account, impersonation) = match class {
            None => (Account::Accepted, Impersonation::Works),
            Some(FailureClass::Credential) => (Account::Refused, Impersonation::NotTried),
            Some(FailureClass::RightsOfServer | FailureClass::RightsOfUser) => {
                (Account::Accepted, Impersonation::Denied)
            }
            // The CAS looked at the mailbox, so it had accepted the account.
            Some(
                FailureClass::Gone
                | FailureClass::Identity
                | FailureClass::Moved
                | FailureClass::TooMuch
                | FailureClass::Lost
                | FailureClass::OtherOwner,
            ) => (Account::Accepted, Impersonation::Unknown),
            Some(
                FailureClass::Throttled
                | FailureClass::Transient
                | FailureClass::Version
                | FailureClass::Request,
            ) => (Account::Unknown, Impersonation::Unknown),
        };
        self.account = account;
        self.impersonation = match mailbox {
            Some(_) => impersonation,
            None => Impersonation::NotTried,
        };
        match (failure, mailbox) {
            (Some(failure), Some(mailbox)) => self.explain(format!("{mailbox}: {failure}.{}", remedy(class))),
            // The service account needs no mailbox of its own.
            (Some(failure), None) if account != Account::Accepted => {
                self.explain(format!("{failure}.{}", remedy(class)));
            }
            (Some(_) | None, None) => {
                self.explain("No user's calendar is enabled: impersonation was not tried.")
            }
            (None, Some(_)) => {}
        }
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

/// Why an account was not tried.
pub const NOT_SHOWN: &str = "The account was refused: it is not tried anywhere for a minute, so that it does not get locked. A changed password is tried at once.";
const LOCK_OUT_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_exchange::ews::ResponseCode;

    fn judged(code: Option<&str>, mailbox: Option<&str>) -> ProbedCas {
        let failure = code.map(|code| Failure::Response {
            code: ResponseCode(code.to_owned()),
            message: "as the server says".to_owned(),
            back_off: None,
            primary_address: None,
            inner: None,
        });
        let mut cas = ProbedCas {
            reachability: Reachability::Pingable,
            ssl_status: Status::Verified,
            ..ProbedCas::of(&CasId("cas-1".to_owned()), 0)
        };
        let mailbox = mailbox.map(|mailbox| Mailbox(mailbox.to_owned()));
        cas.judge(mailbox.as_ref(), failure.as_ref());
        cas
    }

    #[test]
    fn a_cas_that_answers_for_a_user_is_well() {
        let cas = judged(None, Some("ana@lab.test"));
        assert!(cas.is_well(), "{cas:?}");
        assert_eq!(cas.explanations, Vec::<String>::new());
    }

    #[test]
    fn an_account_without_the_right_to_impersonate_is_accepted_all_the_same() {
        let cas = judged(Some("ErrorImpersonateUserDenied"), Some("ana@lab.test"));
        assert_eq!(
            (cas.account, cas.impersonation),
            (AccountStatus::Accepted, ImpersonationStatus::Denied)
        );
        assert!(cas.explanations[0].contains("ApplicationImpersonation"));
    }

    #[test]
    fn a_mailbox_that_is_elsewhere_says_nothing_against_the_account() {
        let cas = judged(Some("ErrorNonExistentMailbox"), Some("ana@lab.test"));
        assert_eq!(
            (cas.account, cas.impersonation),
            (AccountStatus::Accepted, ImpersonationStatus::Unknown)
        );
    }

    #[test]
    fn where_nobody_is_enabled_nobody_is_impersonated() {
        for code in [None, Some("ErrorNonExistentMailbox")] {
            let cas = judged(code, None);
            assert_eq!(
                (cas.account, cas.impersonation),
                (AccountStatus::Accepted, ImpersonationStatus::NotTried)
            );
            assert_eq!(cas.explanations.len(), 1, "{cas:?}");
        }
        let mut cas = judged(None, None);
        cas.judge(None, Some(&Failure::Unauthorized("wrong".to_owned())));
        assert_eq!(cas.account, AccountStatus::Refused);
    }

    #[test]
    fn a_refused_account_is_left_alone_for_a_minute_or_until_it_changes() {
        let now = an_instant();
        let mut lockout = Lockout::default();
        assert!(lockout.may_try(1, now));
        lockout.refused(1, now);
        assert!(!lockout.may_try(1, now + Duration::from_secs(60)));
        assert!(lockout.may_try(1, now + Duration::from_secs(61)));
        lockout.refused(1, now);
        assert!(lockout.may_try(2, now), "the password has changed");
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
    fn an_instant() -> Instant {
        Instant::now()
    }
}
