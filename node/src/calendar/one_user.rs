//! One user of this node, the lane of the CAS where they are read, and all that work on them may touch.
//!
//! Owns nothing: it borrows from the calendars for as long as one thing happens to one user. What always holds: the user is
//! there and this node's; their deadlines are indexed again afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tandem_cluster::CasId;

use super::explain::Tally;
use super::lane::{Lane, LaneId};
use super::output::{Output, Report};
use super::proposals::Proposals;
use super::settings::CalendarSettings;
use super::streams::Streams;
use super::user::{Care, Placement, User, UserKey, mailbox_of};
use super::{Calendars, Now};
use tandem_exchange::ews::Mailbox;

pub(super) struct OneUser<'a> {
    pub key: UserKey,
    pub now: Now,
    pub id: &'a Arc<str>,
    configured_address: &'a str,
    pub primary_address: &'a mut Option<Box<str>>,
    pub placement: Option<Placement>,
    pub care: &'a mut Care,
    /// `None`: the user has no CAS.
    pub lane: Option<&'a mut Lane>,
    /// Another CAS could take the user.
    pub another_takes_users: bool,
    pub settings: &'a CalendarSettings,
    /// `MaxEntriesReturned` of a CalendarView.
    pub entries_max: u16,
    pub streams: &'a mut Streams,
    pub proposals: &'a mut Proposals,
    pub edges: &'a mut BTreeSet<(u64, UserKey)>,
    pub tally: &'a mut Tally,
    pub outputs: &'a mut Vec<Output>,
    rng: &'a mut StdRng,
}

impl Calendars {
    /// `None`: the user is gone, or another node's by now.
    pub(super) fn one_user(&mut self, key: UserKey, now: Now) -> Option<OneUser<'_>> {
        let User {
            id,
            configured_address,
            primary_address,
            placement,
            care,
        } = self.users.get_mut(key)?;
        let care = care.as_deref_mut()?;
        if self.touched.last() != Some(&key) {
            self.touched.push(key);
        }
        let own = placement.map(|placement| usize::from(placement.lane.0));
        let mut lanes = self.lanes.iter().enumerate();
        let another_takes_users = lanes.any(|(index, lane)| Some(index) != own && lane.takes_users());
        Some(OneUser {
            key,
            now,
            id,
            configured_address,
            primary_address,
            placement: *placement,
            care,
            lane: own.and_then(|index| self.lanes.get_mut(index)),
            another_takes_users,
            settings: &self.settings,
            entries_max: self.config.entries_max,
            streams: &mut self.streams,
            proposals: &mut self.proposals,
            edges: &mut self.edges,
            tally: &mut self.tally,
            outputs: &mut self.outputs,
            rng: &mut self.rng,
        })
    }
}

impl OneUser<'_> {
    pub(super) fn name(&self) -> String {
        self.id.to_string()
    }

    pub(super) fn mailbox(&self) -> Mailbox {
        mailbox_of(self.primary_address.as_deref(), self.configured_address)
    }

    /// Whether the user is read there.
    pub(super) fn is_at(&self, lane: LaneId) -> bool {
        self.placement.is_some_and(|placement| placement.lane == lane)
    }

    /// The CAS where the user is read. Whoever has a subscription, a request or a move under way has one.
    pub(super) fn cas(&self) -> CasId {
        debug_assert!(self.lane.is_some(), "{} has a CAS", self.id);
        let lane = self.lane.as_deref();
        lane.map_or_else(|| CasId(String::new()), |lane| lane.id.clone())
    }

    pub(super) fn report(&mut self, report: Report) {
        self.outputs.push(Output::Report(report));
    }

    /// Somewhere in the second half of the given time.
    pub(super) fn jittered(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.rng.random_range(0.5..1.0))
    }

    pub(super) fn jitter(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random_range(0.0..1.0))
    }
}
