//! The node's own HTTP routes: JSON in, JSON out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tandem_cluster::health::{Condition, Severity};
use tandem_cluster::{
    Applied, Assignment, CasEndpoint, CasId, Command, NodeId, NodeState, Refusal, SettingKind, SettingName,
};
use tandem_raft::{AdministrationError, Cluster, MembersView, StateMarkView};
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, Router, StatusCode};

use super::clock;
use super::exchange::routes::ExchangeRoutes;
use super::presence::PresenceRoutes;
use super::rebalancing::Rebalancing;
use crate::rebalancing::{RunState, Share};

/// What the routes answer from.
#[derive(Clone)]
pub struct Routes {
    pub id: NodeId,
    pub cluster: Cluster,
    pub rebalancing: Rebalancing,
    pub presence: PresenceRoutes,
    /// `None`: the node has nothing to do with calendars.
    pub exchange: Option<ExchangeRoutes>,
}

impl Routes {
    #[must_use]
    pub fn router(self) -> Router {
        Arc::new(move |request| {
            let routes = self.clone();
            Box::pin(async move { routes.answer(request).await })
        })
    }

    async fn answer(&self, request: AdminRequest) -> AdminResponse {
        if let Some(answer) = self.presence.answer(&request).await {
            return answer;
        }
        match (request.method.as_str(), request.path.as_str()) {
            (_, path) if path.starts_with("/exchange/") => match &self.exchange {
                Some(exchange) => exchange.answer(&request).await,
                None => AdminResponse::error(StatusCode::NOT_FOUND, WITHOUT_EXCHANGE),
            },
            ("GET", "/cluster") => ok(&self.cluster_view()),
            ("POST", "/cluster/form") => respond(self.form(&request).await),
            ("POST", "/cluster/replace") => respond(self.replace(&request).await),
            ("POST", "/cluster/finalize") => respond(self.finalise(&request).await),
            ("POST", "/cluster/check") => respond(self.check().await),
            ("GET", "/sessions") => ok(&self.sessions_view()),
            ("GET", "/settings") => ok(&self.settings_view()),
            ("GET", "/cas/assignments") => ok(&self.assignments_view()),
            ("GET", "/sessions/rebalance") => ok(&self.rebalancing.progress()),
            ("POST", "/sessions/rebalance") => respond(self.rebalance(&request).await),
            ("POST", "/settings") => respond(self.change_setting(&request).await),
            ("POST", "/cas/gateways") => respond(self.set_gateways(&request).await),
            ("POST", "/cas/assign") => respond(self.assign(&request).await),
            ("POST", "/cas/fail") => respond(self.fail(&request).await),
            (
                _,
                "/cluster"
                | "/cluster/form"
                | "/cluster/replace"
                | "/cluster/finalize"
                | "/cluster/check"
                | "/sessions"
                | "/sessions/rebalance"
                | "/settings"
                | "/cas/assignments"
                | "/cas/gateways"
                | "/cas/assign"
                | "/cas/fail",
            ) => AdminResponse::method_not_allowed(),
            _ => AdminResponse::not_found(),
        }
    }

    fn cluster_view(&self) -> ClusterView {
        let status = self.cluster.status().borrow().clone();
        let state = self.cluster.state();
        let nodes = state
            .nodes()
            .values()
            .map(|node| NodeView {
                id: node.id.to_string(),
                sip_address: node.sip_address.to_string(),
                state: match node.state {
                    NodeState::Live => "live",
                    NodeState::Draining => "draining",
                    NodeState::Lost => "lost",
                },
                sessions: state.session_count_of(node.id),
            })
            .collect();
        ClusterView {
            node: self.id.to_string(),
            role: status.role.label(),
            leader: status.leader.map(|leader| leader.to_string()),
            term: status.term,
            last_applied: self.cluster.last_applied(),
            authority: status.authority.label(),
            conditions: status.conditions.iter().map(ConditionView::of).collect(),
            nodes,
            membership: self.cluster.members(),
        }
    }

    async fn form(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let WithoutBody { without } = request.json()?;
        let without: Vec<NodeId> = without.into_iter().map(NodeId).collect();
        Ok(administered(self.cluster.form(&without).await))
    }

    async fn finalise(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let WithoutBody { without } = request.json()?;
        let without: Vec<NodeId> = without.into_iter().map(NodeId).collect();
        Ok(administered(
            self.cluster.finalise(without, FINALISE_TIMEOUT).await,
        ))
    }

    /// Compares what the members hold.
    async fn check(&self) -> Result<AdminResponse, AdminResponse> {
        let marked = self.cluster.mark_states(CHECK_TIMEOUT).await;
        let index = marked
            .map_err(|error| AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()))?;
        Ok(ok(&CheckView::of(index, self.cluster.members())))
    }

    async fn replace(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let ReplaceBody { id } = request.json()?;
        Ok(administered(
            self.cluster.replace(NodeId(id), REPLACE_TIMEOUT).await,
        ))
    }

    fn sessions_view(&self) -> Vec<SessionView> {
        let state = self.cluster.state();
        state
            .sessions()
            .map(|session| SessionView {
                key: session.key.to_string(),
                user: session.user.clone(),
                line: session.line.clone(),
                device: session.device.clone(),
                owner: session.owner.to_string(),
                epoch: session.epoch.0,
                cti_connection: session.cti_connection.clone(),
                monitor: session.monitor.active,
                calls: session.calls.len(),
                expires_at_ms: session.expires_at_ms,
            })
            .collect()
    }

    fn settings_view(&self) -> BTreeMap<&'static str, serde_json::Value> {
        let state = self.cluster.state();
        SettingName::ALL
            .into_iter()
            .map(|name| {
                let value = match name.kind() {
                    SettingKind::Number { .. } => state.setting_or_default(name).into(),
                    SettingKind::Word { .. } => state.setting_word_or_default(name).into(),
                };
                (name.as_str(), value)
            })
            .collect()
    }

    fn assignments_view(&self) -> BTreeMap<String, AssignmentView> {
        let state = self.cluster.state();
        let assignments = state.assignments().iter();
        assignments
            .map(|(user, assignment)| (user.to_string(), AssignmentView::of(assignment)))
            .collect()
    }

    async fn change_setting(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let body: SettingBody = request.json()?;
        let value = body.value.map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned)
        });
        let name = body.name;
        self.propose(Command::SettingChanged { name, value }).await?;
        Ok(done())
    }

    async fn set_gateways(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let body: GatewaysBody = request.json()?;
        let gateways = body.gateways.into_iter().map(CasId);
        let gateways = gateways.map(|id| (id.clone(), CasEndpoint::of(&id))).collect();
        let at_ms = clock::unix_ms();
        self.propose(Command::CasGatewaysConfigured { gateways, at_ms })
            .await?;
        Ok(done())
    }

    async fn assign(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let body: UsersBody = request.json()?;
        let at_ms = clock::unix_ms();
        let users = body.users;
        self.propose_assignments(users, |users| Command::CasAssign { users, at_ms })
            .await
    }

    async fn fail(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let body: UsersBody = request.json()?;
        let at_ms = clock::unix_ms();
        self.propose_assignments(body.users, |users| {
            let state = self.cluster.state();
            let epoch = |user: &String| state.assignment(user).map(|assignment| assignment.epoch);
            let with_epochs = users
                .into_iter()
                .filter_map(|user| epoch(&user).map(|epoch| (user, epoch)));
            Command::CasFailed {
                users: with_epochs.collect(),
                at_ms,
            }
        })
        .await
    }

    /// Begins to even out the nodes' shares, and answers how many sessions will move.
    async fn rebalance(&self, request: &AdminRequest) -> Result<AdminResponse, AdminResponse> {
        let RebalanceBody { per_second } = request.json()?;
        let most = Share::SessionsOfNodes.per_second_max();
        if !(1..=most).contains(&per_second) {
            let message = format!("per_second must be between 1 and {most}");
            return Err(AdminResponse::error(StatusCode::BAD_REQUEST, &message));
        }
        let progress = self.rebalancing.progress();
        if progress.state == RunState::Running {
            let message = "sessions are being evened out already";
            return Err(AdminResponse::error(StatusCode::CONFLICT, message));
        }
        let moves = self.cluster.state().rebalancing_moves().len();
        if moves > 0 {
            self.rebalancing.asked_here();
            self.propose(Command::Rebalance { per_second }).await?;
            self.rebalancing.begun_after(progress.run).await;
        }
        Ok(ok(&serde_json::json!({ "moves": moves })))
    }

    /// Many users at a time make an entry of the log too long for the others' patience.
    async fn propose_assignments(
        &self,
        users: Vec<String>,
        command: impl Fn(Vec<String>) -> Command,
    ) -> Result<AdminResponse, AdminResponse> {
        let mut assigned = BTreeMap::new();
        for some in users.chunks(USERS_PER_COMMAND) {
            if let Applied::Assignments(assignments) = self.propose(command(some.to_vec())).await? {
                for (user, assignment) in assignments {
                    assigned.insert(user, assignment.as_ref().map(AssignmentView::of));
                }
            }
        }
        Ok(ok(&assigned))
    }

    async fn propose(&self, command: Command) -> Result<Applied, AdminResponse> {
        match self.cluster.propose(command, PROPOSE_TIMEOUT).await {
            Ok(Applied::Refused(refusal)) => Err(refused(refusal)),
            Ok(applied) => Ok(applied),
            Err(error) => Err(AdminResponse::error(
                StatusCode::SERVICE_UNAVAILABLE,
                &error.to_string(),
            )),
        }
    }
}

pub(super) fn refused(refusal: Refusal) -> AdminResponse {
    let (code, message) = match refusal {
        Refusal::NoCas => (StatusCode::CONFLICT, "no gateway is eligible"),
        Refusal::LimitReached => (StatusCode::CONFLICT, "a limit is reached"),
        Refusal::UnknownCas => (StatusCode::NOT_FOUND, "there is no such gateway"),
        Refusal::UnknownSetting => (StatusCode::NOT_FOUND, "there is no such setting"),
        Refusal::ValueNotAccepted => (StatusCode::BAD_REQUEST, "the value is not accepted"),
        Refusal::UnknownSession => (StatusCode::NOT_FOUND, "there is no such session"),
        Refusal::UnknownNode => (StatusCode::NOT_FOUND, "there is no such node"),
        Refusal::StaleEpoch => (StatusCode::CONFLICT, "it has changed meanwhile"),
        Refusal::DiskNearlyFull => (
            StatusCode::INSUFFICIENT_STORAGE,
            "the leader's disk is nearly full",
        ),
        Refusal::NotSupported => (StatusCode::NOT_IMPLEMENTED, "this release does not support it"),
    };
    AdminResponse::error(code, message)
}

fn administered(result: Result<String, AdministrationError>) -> AdminResponse {
    match result {
        Ok(message) => ok(&serde_json::json!({ "message": message })),
        Err(error @ AdministrationError::Blocked(_)) => {
            AdminResponse::error(StatusCode::CONFLICT, &error.to_string())
        }
        Err(error @ AdministrationError::Unfinished(_)) => {
            AdminResponse::error(StatusCode::GATEWAY_TIMEOUT, &error.to_string())
        }
    }
}

fn respond(result: Result<AdminResponse, AdminResponse>) -> AdminResponse {
    result.unwrap_or_else(|refusal| refusal)
}

fn ok(value: &impl Serialize) -> AdminResponse {
    AdminResponse::json(StatusCode::OK, value)
}

fn done() -> AdminResponse {
    AdminResponse::json(StatusCode::OK, &serde_json::json!({}))
}

#[derive(Serialize)]
struct ClusterView {
    node: String,
    role: &'static str,
    leader: Option<String>,
    term: u64,
    last_applied: u64,
    authority: &'static str,
    /// All that is not as it should be with this member.
    conditions: Vec<ConditionView>,
    nodes: Vec<NodeView>,
    membership: MembersView,
}

/// What the members hold after one entry.
#[derive(Serialize)]
struct CheckView {
    index: u64,
    /// All members hold the same.
    agree: bool,
    members: Vec<CheckedMember>,
}

#[derive(Serialize)]
struct CheckedMember {
    id: String,
    answers: bool,
    /// Of its state after that entry; `None`: it has not said.
    hash: Option<String>,
}

impl CheckView {
    fn of(index: u64, members: MembersView) -> Self {
        let marked = |mark: StateMarkView| (mark.index == index).then_some(mark.hash);
        let members: Vec<CheckedMember> = members
            .members
            .into_iter()
            .map(|member| CheckedMember {
                id: member.id,
                answers: member.answers,
                hash: member.state_mark.and_then(marked),
            })
            .collect();
        let hashes: BTreeSet<&Option<String>> = members.iter().map(|member| &member.hash).collect();
        Self {
            index,
            agree: hashes.len() == 1 && !hashes.contains(&None),
            members,
        }
    }
}

#[derive(Serialize)]
struct ConditionView {
    subject: &'static str,
    /// It cannot do its work; otherwise somebody should look at it.
    not_ready: bool,
    text: String,
}

impl ConditionView {
    fn of(condition: &Condition) -> Self {
        Self {
            subject: condition.subject.label(),
            not_ready: condition.severity == Severity::NotReady,
            text: condition.text.clone(),
        }
    }
}

#[derive(Serialize)]
struct NodeView {
    id: String,
    sip_address: String,
    state: &'static str,
    sessions: usize,
}

#[derive(Serialize)]
struct SessionView {
    key: String,
    user: String,
    line: String,
    device: String,
    owner: String,
    epoch: u32,
    cti_connection: Option<String>,
    monitor: bool,
    calls: usize,
    expires_at_ms: u64,
}

#[derive(Serialize)]
struct AssignmentView {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithoutBody {
    /// Numbers of members whose answer is done without.
    #[serde(default)]
    without: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplaceBody {
    /// The member's number.
    id: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingBody {
    name: String,
    /// Absent or null: back to the default.
    #[serde(default)]
    value: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebalanceBody {
    #[serde(default = "default_per_second")]
    per_second: u32,
}

fn default_per_second() -> u32 {
    50
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewaysBody {
    gateways: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersBody {
    users: Vec<String>,
}

const WITHOUT_EXCHANGE: &str = "this node has no [exchange] in its configuration";
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// A member that was away for long gets the whole state first.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
const FINALISE_TIMEOUT: Duration = Duration::from_secs(10);
const USERS_PER_COMMAND: usize = 500;
