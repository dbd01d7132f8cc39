//! The node's own HTTP routes: JSON in, JSON out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::{Command, NodeId};
use tandem_raft::{AdministrationError, Cluster};
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, Router, StatusCode};

use super::answering::{Answer, denied, ok, propose};
use super::clock;
use super::exchange::routes::ExchangeRoutes;
use super::presence::PresenceRoutes;
use super::rebalancing::Rebalancing;
use crate::admin::assignments::{self, NamesBody, UsersBody};
use crate::admin::cluster::{CheckView, ClusterView, ReplaceBody, WithoutBody};
use crate::admin::sessions::{self, RebalanceBody};
use crate::admin::settings::{self, SettingBody};
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
            ("GET", "/sessions") => ok(&sessions::sessions(&self.cluster.state())),
            ("GET", "/settings") => ok(&settings::settings(&self.cluster.state())),
            ("GET", "/cas/assignments") => ok(&assignments::assignments(&self.cluster.state())),
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
        let (last_applied, members) = (self.cluster.last_applied(), self.cluster.members());
        ClusterView::of(self.id, &status, last_applied, &self.cluster.state(), members)
    }

    async fn form(&self, request: &AdminRequest) -> Answer {
        let without = request.json::<WithoutBody>()?.members();
        Ok(administered(self.cluster.form(&without).await))
    }

    async fn finalise(&self, request: &AdminRequest) -> Answer {
        let without = request.json::<WithoutBody>()?.members();
        Ok(administered(
            self.cluster.finalise(without, FINALISE_TIMEOUT).await,
        ))
    }

    /// Compares what the members hold.
    async fn check(&self) -> Answer {
        let marked = self.cluster.mark_states(CHECK_TIMEOUT).await;
        let index = marked
            .map_err(|error| AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()))?;
        Ok(ok(&CheckView::of(index, self.cluster.members())))
    }

    async fn replace(&self, request: &AdminRequest) -> Answer {
        let ReplaceBody { id } = request.json()?;
        Ok(administered(
            self.cluster.replace(NodeId(id), REPLACE_TIMEOUT).await,
        ))
    }

    async fn change_setting(&self, request: &AdminRequest) -> Answer {
        let body: SettingBody = request.json()?;
        propose(&self.cluster, body.command()).await?;
        Ok(done())
    }

    async fn set_gateways(&self, request: &AdminRequest) -> Answer {
        let body: NamesBody = request.json()?;
        propose(&self.cluster, body.command(clock::unix_ms())).await?;
        Ok(done())
    }

    async fn assign(&self, request: &AdminRequest) -> Answer {
        self.propose_assignments(request, |users| assignments::assign(users, clock::unix_ms()))
            .await
    }

    async fn fail(&self, request: &AdminRequest) -> Answer {
        self.propose_assignments(request, |users| {
            assignments::fail(users, &self.cluster.state(), clock::unix_ms())
        })
        .await
    }

    /// Begins to even out the nodes' shares, and answers how many sessions will move.
    async fn rebalance(&self, request: &AdminRequest) -> Answer {
        let body: RebalanceBody = request.json()?;
        let per_second = body.per_second(Share::SessionsOfNodes).map_err(denied)?;
        let progress = self.rebalancing.progress();
        if progress.state == RunState::Running {
            let message = "sessions are being evened out already";
            return Err(AdminResponse::error(StatusCode::CONFLICT, message));
        }
        let moves = self.cluster.state().rebalancing_moves().len();
        if moves > 0 {
            self.rebalancing.asked_here();
            propose(&self.cluster, Command::Rebalance { per_second }).await?;
            self.rebalancing.begun_after(progress.run).await;
        }
        Ok(ok(&serde_json::json!({ "moves": moves })))
    }

    async fn propose_assignments(
        &self,
        request: &AdminRequest,
        command: impl Fn(&[String]) -> Command,
    ) -> Answer {
        let body: UsersBody = request.json()?;
        let mut assigned = BTreeMap::new();
        for some in body.portions() {
            let applied = propose(&self.cluster, command(some)).await?;
            assigned.extend(assignments::assigned(applied));
        }
        Ok(ok(&assigned))
    }
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

fn respond(result: Answer) -> AdminResponse {
    result.unwrap_or_else(|refusal| refusal)
}

fn done() -> AdminResponse {
    AdminResponse::json(StatusCode::OK, &serde_json::json!({}))
}

const WITHOUT_EXCHANGE: &str = "this node has no [exchange] in its configuration";
/// A member that was away for long gets the whole state first.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
const FINALISE_TIMEOUT: Duration = Duration::from_secs(10);
