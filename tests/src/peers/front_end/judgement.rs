//! What a story asks a front end: how many, how long, what went wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tandem_runtime::io::environment;

use super::{ConnectionNumber, FrontEnd};
use crate::peers::books::{Answer, SentRequest};
use crate::peers::communicator::{Communicator, Presence};
use crate::peers::violation::{Promise, Violation};

impl FrontEnd {
    /// All violations, with the user's name where they concern one.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations_that(|_| true)
    }

    /// How that promise was broken, as [`Self::violations`].
    #[must_use]
    pub fn violations_of(&self, promise: Promise) -> Vec<String> {
        self.violations_that(|violation| violation.promise == promise)
    }

    fn violations_that(&self, fits: impl Fn(&Violation) -> bool) -> Vec<String> {
        let own = self.violations.iter().filter(|violation| fits(violation));
        let of_users = self.users.iter().flat_map(|user| {
            let violations = user.violations().iter();
            violations.map(move |violation| (&user.identity.user, violation))
        });
        let of_users = of_users.filter(|(_, violation)| fits(violation));
        own.map(Violation::to_string)
            .chain(of_users.map(|(name, violation)| format!("{name}: {violation}")))
            .collect()
    }

    /// How many events came once more, or too early, and were allowed to.
    #[must_use]
    pub fn tolerated(&self) -> usize {
        self.users.iter().map(Communicator::tolerated).sum()
    }

    #[must_use]
    pub fn signed_in(&self) -> usize {
        self.users
            .iter()
            .filter(|user| user.presence() == Presence::SignedIn)
            .count()
    }

    /// Users whose dialog a node opened, by the node in the To-tag (`n1`).
    #[must_use]
    pub fn dialogs_by_node(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for user in &self.users {
            if let Some(dialog) = user.dialog() {
                let node = dialog.to_tag.split('-').next().unwrap_or_default();
                *counts.entry(node.to_owned()).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Requests without a final answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.all_requests()
            .filter(|(_, request)| request.is_pending())
            .count()
    }

    /// Requests without a final answer, in words.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let now = environment::now();
        self.all_requests()
            .filter(|(_, request)| request.is_pending())
            .map(|(user, request)| {
                let (name, waited) = (&user.identity.user, request.latency(now));
                format!("{name}, {:?}: {request:?} for {waited:?}", user.presence())
            })
            .collect()
    }

    /// Requests whose connection broke before their answer.
    #[must_use]
    pub fn lost_with_connection(&self) -> usize {
        self.all_requests()
            .filter(|(_, request)| !request.is_pending() && request.answer().is_none())
            .count()
    }

    /// Every request with its user.
    pub fn all_requests(&self) -> impl Iterator<Item = (&Communicator, &SentRequest)> {
        self.users
            .iter()
            .flat_map(|user| user.requests().iter().map(move |request| (user, request)))
    }

    /// Final answers other than a good 200, in words.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.all_requests()
            .filter(|(_, request)| request.answer().is_some() && !request.succeeded())
            .map(|(user, request)| failure(user, request))
            .collect()
    }

    /// The longest that anybody had to wait after `since`: what was sent before counts from `since` on.
    #[must_use]
    pub fn longest_wait(&self, since: Instant) -> Duration {
        let now = environment::now();
        self.all_requests()
            .filter(|(_, request)| request.is_pending() || request.answer().is_some())
            .map(|(_, request)| {
                let end = request.answer().map_or(now, |answer| answer.at);
                end.saturating_duration_since(request.sent_at.max(since))
            })
            .max()
            .unwrap_or_default()
    }

    /// Messages that came over connections which lb opened towards us.
    #[must_use]
    pub fn messages_on_accepted(&self) -> u64 {
        self.accepted.values().sum()
    }

    /// The numbers of the connections towards the VIP that stand.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionNumber> {
        self.slots.iter().filter_map(|slot| slot.connection).collect()
    }

    /// Whether every connection to the VIP stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.slots.iter().all(|slot| slot.connection.is_some())
    }
}

fn failure(user: &Communicator, request: &SentRequest) -> String {
    let answer = request.answer();
    let status = answer.map(|answer| answer.status).unwrap_or_default();
    let error = answer.and_then(Answer::csta_error).unwrap_or_default();
    format!(
        "{}: {} {} → {status} {error}",
        user.identity.user, request.method, request.service
    )
}
