//! What the replicated state and the directory say of calendars: looked at again whenever something may have changed.
//!
//! Owns whether this node is registered, and what is looked at after which change. What always holds: a change only says
//! where to look, and what counts is the state at that moment, however far it is ahead of the changes. Until the state
//! shows the node live under its incarnation, it owns no user.

use tandem_cluster::{Assignment, Authority, CalendarChange, CallbackNote, Change, ClusterState, Command};

use super::input::{CalendarUser, View};
use super::output::{Output, Report};
use super::proposals::Purpose;
use super::{Calendars, Now};
use crate::directory::Directory;
use crate::following::Standing;
use crate::settings;
use tandem_exchange::ews::Mailbox;

/// The node's standing, as it was seen last.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The incarnation under which the state shows the node live.
    registered: Option<u64>,
    /// Users whose calendar is enabled, in the whole cluster.
    users_enabled: usize,
}

/// What is to be looked at again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Looks<'a> {
    settings: bool,
    cas_list: bool,
    users: bool,
    /// All assignments; otherwise those of `assigned`.
    assignments: bool,
    assigned: Vec<&'a str>,
    /// The calendar states in the log: a node that owned users of this one meanwhile may have reported something else, and
    /// what this node reported then was ignored.
    recorded: bool,
    callbacks: Vec<&'a CallbackNote>,
}

impl<'a> Looks<'a> {
    const EVERYTHING: Self = Self {
        settings: true,
        cas_list: true,
        users: true,
        assignments: true,
        assigned: Vec::new(),
        recorded: true,
        callbacks: Vec::new(),
    };

    fn of(changes: &'a [Change]) -> Self {
        let mut looks = Self::default();
        for change in changes {
            match change {
                Change::Node(_) => {
                    // The spread may depend on the number of nodes.
                    looks.settings = true;
                    looks.recorded = true;
                }
                Change::Setting { .. } => looks.settings = true,
                Change::Calendar(change) => looks.add(change),
                Change::Replaced => looks.widen(),
                // These concern the gateway, the watchers and the rebalancing.
                Change::Session(_)
                | Change::Watcher(_)
                | Change::Presence { .. }
                | Change::RebalanceRequested { .. } => {}
            }
        }
        looks
    }

    fn add(&mut self, change: &'a CalendarChange) {
        match change {
            CalendarChange::Gateways => self.cas_list = true,
            CalendarChange::Enabled { .. } => self.users = true,
            CalendarChange::Assigned { user } => self.assigned.push(user),
            CalendarChange::CallbacksReceived { callbacks } => self.callbacks.extend(callbacks),
        }
    }

    /// To everything; what came with the changes themselves stays.
    fn widen(&mut self) {
        let former = std::mem::replace(self, Self::EVERYTHING);
        self.assigned = former.assigned;
        self.callbacks = former.callbacks;
    }
}

impl Calendars {
    pub(super) fn changes_told(&mut self, changes: &[Change], view: View<'_>, now: Now) {
        let mut looks = Looks::of(changes);
        if self.look_at_standing(view, now) {
            looks.widen();
        }
        self.look(&looks, view, now);
    }

    /// The node's registration or its authority may have changed.
    pub(super) fn standing_changed(&mut self, view: View<'_>, now: Now) {
        if self.look_at_standing(view, now) {
            self.look(&Looks::EVERYTHING, view, now);
        }
    }

    pub(super) fn directory_changed(&mut self, view: View<'_>, now: Now) {
        self.look_at_users(view, now);
    }

    /// `true`: the node has been taken in since the last look, so that nothing it knows counts any more.
    fn look_at_standing(&mut self, view: View<'_>, now: Now) -> bool {
        let standing = Standing::of(view.state, self.config.node, view.incarnation);
        let registered = (standing == Standing::Live).then_some(view.incarnation);
        let begins = registered.is_some() && registered != self.following.registered;
        if begins {
            // After a loss between two looks other nodes have owned this node's users meanwhile.
            self.live_nodes_changed(Vec::new(), now);
        }
        self.following.registered = registered;
        if !begins {
            self.look_at_live_nodes(view, now);
        }
        self.may_start = registered.is_some() && view.authority != Authority::Isolated;
        begins
    }

    fn look(&mut self, looks: &Looks<'_>, view: View<'_>, now: Now) {
        if looks.settings {
            self.look_at_settings(view, now);
        }
        if looks.cas_list {
            self.look_at_cas(view, now);
        }
        self.look_at_live_nodes(view, now);
        if looks.users {
            self.look_at_users(view, now);
        }
        self.look_at_assignments(looks, view, now);
        if looks.recorded {
            self.publish_again(view.state);
        }
        for note in &looks.callbacks {
            self.passed_on(note, view, now);
        }
    }

    fn look_at_live_nodes(&mut self, view: View<'_>, now: Now) {
        let nodes = match self.following.registered {
            Some(_) => view.state.live_nodes().collect(),
            None => Vec::new(),
        };
        self.live_nodes_changed(nodes, now);
    }

    fn look_at_settings(&mut self, view: View<'_>, now: Now) {
        let (users, has_push) = (self.following.users_enabled, self.config.has_push);
        let settings = settings::calendars(view.state, users, &self.file, has_push);
        if has_push {
            self.outputs.push(Output::ListenForCallbacks {
                port: settings::push_port(view.state),
                status_frequency: settings.status_frequency,
            });
        }
        self.settings_changed(settings, now);
    }

    fn look_at_cas(&mut self, view: View<'_>, now: Now) {
        let cas_list = view.state.cas_gateways().to_vec();
        self.outputs.push(Output::UseCas(cas_list.clone()));
        self.cas_changed(cas_list, now);
    }

    fn look_at_users(&mut self, view: View<'_>, now: Now) {
        let users = enabled_users(view.state, view.directory);
        let count = std::mem::replace(&mut self.following.users_enabled, users.len());
        if count != users.len() {
            // The spread may depend on their number.
            self.look_at_settings(view, now);
        }
        self.users_listed(users, now);
    }

    fn look_at_assignments(&mut self, looks: &Looks<'_>, view: View<'_>, now: Now) {
        for user in &looks.assigned {
            if let Some(assignment) = view.state.assignment(user)
                && self.owns(user, view.state)
            {
                let (cas, reason) = (assignment.cas.clone(), assignment.reason);
                self.report(Report::Assigned { cas, reason });
            }
        }
        if looks.assignments {
            self.assignments_changed(all_assignments(view.state, view.directory), now);
        } else if !looks.assigned.is_empty() {
            let assigned = looks.assigned.iter().map(|user| {
                let assignment = view.state.assignment(user).cloned();
                ((*user).to_owned(), assignment)
            });
            self.assignments_changed(assigned.collect(), now);
        }
    }

    /// Whether this node is the one that follows the user's calendar.
    pub(super) fn owns(&self, user: &str, state: &ClusterState) -> bool {
        self.following.registered.is_some() && state.calendar_owner(user) == Some(self.config.node)
    }

    /// Those of the configuration file are offered to a cluster that has none, until it has some.
    pub(super) fn cas_to_offer(&mut self, view: View<'_>, now: Now) -> Option<(Purpose, Command)> {
        if !view.state.cas_gateways().is_empty() {
            self.config.initial_cas.clear();
        }
        let gateways = self.config.initial_cas.clone();
        let at_ms = now.unix_ms;
        (!gateways.is_empty()).then_some((Purpose::Offer, Command::CasGatewaysConfigured { gateways, at_ms }))
    }

    /// `is_taken`: the cluster has them now; otherwise it refused them.
    pub(super) fn cas_offered(&mut self, is_taken: bool) {
        let count = std::mem::take(&mut self.config.initial_cas).len();
        self.report(Report::CasOffered { count, is_taken });
    }
}

/// Users with a mailbox whose calendar the directory or an administrator has enabled; the administrator's switch takes
/// precedence.
#[must_use]
pub fn enabled_users(state: &ClusterState, directory: &Directory) -> Vec<CalendarUser> {
    let users = directory.users().iter();
    users
        .filter_map(|user| {
            let enabled = state.calendar_enabled(&user.id).unwrap_or(user.calendar);
            let mailbox = user.mail.clone().filter(|_| enabled)?;
            Some(CalendarUser {
                id: user.id.clone(),
                mailbox: Mailbox(mailbox),
            })
        })
        .collect()
}

/// Of all users who have one, and of all in the directory: users without one may have had one.
fn all_assignments(state: &ClusterState, directory: &Directory) -> Vec<(String, Option<Assignment>)> {
    let assigned = state.assignments().iter();
    let assigned = assigned.map(|(user, assignment)| (user.to_string(), Some(Assignment::clone(assignment))));
    let known = directory.users().iter();
    let without = known.filter(|user| state.assignment(&user.id).is_none());
    assigned
        .chain(without.map(|user| (user.id.clone(), None)))
        .collect()
}
