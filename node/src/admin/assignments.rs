//! `/cas/…`: which user is read at which Client Access Server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tandem_cluster::{Applied, Assignment, CasEndpoint, CasId, ClusterState, Command};

/// A user's assignment; a value of `GET /cas/assignments`.
#[derive(Debug, Serialize)]
pub struct AssignmentView {
    cas: String,
    epoch: u32,
}

impl AssignmentView {
    fn of(assignment: &Assignment) -> Self {
        Self {
            cas: assignment.cas.to_string(),
            epoch: assignment.epoch,
        }
    }
}

/// Of every user who has one.
#[must_use]
pub fn assignments(state: &ClusterState) -> BTreeMap<String, AssignmentView> {
    let assignments = state.assignments().iter();
    assignments
        .map(|(user, assignment)| (user.to_string(), AssignmentView::of(assignment)))
        .collect()
}

/// Those that a command answers; `None` for a user who has none.
#[must_use]
pub fn assigned(applied: Applied) -> BTreeMap<String, Option<AssignmentView>> {
    let assignments = match applied {
        Applied::Assignments(assignments) => assignments,
        Applied::Done
        | Applied::AlreadyOpened { .. }
        | Applied::Session(_)
        | Applied::IntentKnown(_)
        | Applied::Batch(_)
        | Applied::Refused(_) => Vec::new(),
    };
    let assignments = assignments.into_iter();
    assignments
        .map(|(user, assignment)| (user, assignment.as_ref().map(AssignmentView::of)))
        .collect()
}

/// `POST /cas/gateways`: names that are host names as well.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesBody {
    gateways: Vec<String>,
}

impl NamesBody {
    /// `at_ms`: now, in Unix milliseconds.
    #[must_use]
    pub fn command(self, at_ms: u64) -> Command {
        let names = self.gateways.into_iter().map(CasId);
        let gateways = names.map(|id| (id.clone(), CasEndpoint::of(&id))).collect();
        Command::CasGatewaysConfigured { gateways, at_ms }
    }
}

/// `POST /cas/assign`, `POST /cas/fail`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsersBody {
    users: Vec<String>,
}

impl UsersBody {
    /// Many users at a time make an entry of the log too long for the others' patience.
    pub fn portions(&self) -> impl Iterator<Item = &[String]> {
        self.users.chunks(USERS_PER_COMMAND)
    }
}

/// Gives each of these users a CAS who has none.
#[must_use]
pub fn assign(users: &[String], at_ms: u64) -> Command {
    let users = users.to_vec();
    Command::CasAssign { users, at_ms }
}

/// Says that these users' subscriptions failed where they are now; users without an assignment are left out.
#[must_use]
pub fn fail(users: &[String], state: &ClusterState, at_ms: u64) -> Command {
    let epoch = |user: &String| state.assignment(user).map(|assignment| assignment.epoch);
    let users = users.iter();
    let users = users.filter_map(|user| Some((user.clone(), epoch(user)?)));
    Command::CasFailed {
        users: users.collect(),
        at_ms,
    }
}

const USERS_PER_COMMAND: usize = 500;

#[cfg(test)]
mod tests {
    use tandem_cluster::StateLimits;

    use super::*;

    #[test]
    fn a_failure_names_the_assignment_that_failed() {
        let mut state = ClusterState::new(StateLimits::default());
        let body = NamesBody {
            gateways: vec!["cas-1".to_owned()],
        };
        let _ = state.apply(body.command(1));
        let users = ["ana".to_owned(), "ben".to_owned()];
        let (applied, _) = state.apply(assign(&users[..1], 1));
        assert!(assigned(applied)["ana"].is_some());
        let expected = Command::CasFailed {
            users: vec![("ana".to_owned(), 0)],
            at_ms: 2,
        };
        assert_eq!(fail(&users, &state, 2), expected);
        assert_eq!(assignments(&state).len(), 1);
    }

    #[test]
    fn many_users_are_taken_in_portions() {
        let users = (0..1201).map(|number| number.to_string()).collect();
        let sizes: Vec<usize> = UsersBody { users }.portions().map(<[String]>::len).collect();
        assert_eq!(sizes, [500, 500, 201]);
    }
}
