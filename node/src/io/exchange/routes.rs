//! `/exchange/…` of the admin listener: CAS, their health, and explanations of users' assignments.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tandem_cluster::NodeId;
use tandem_raft::Cluster;
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::admin::exchange::{self, AccountView, CasListBody, EligibleBody, StatusView, UserView};
use crate::admin::sessions::RebalanceBody;
use crate::calendar::Explanation;
use crate::calendar::probing::Asked;
use crate::directory::Directory;
use crate::io::answering::{Answer, decoded, denied, ok, propose};
use crate::io::clock;
use crate::io::rebalancing::Rebalancing;
use crate::rebalancing::Share;

use super::certificate_routes::{CertificateRoutes, RouteError};
use super::driver::{CasAnswer, Question};
use super::probe::Prober;

/// What the routes need to answer. Cheap to clone.
#[derive(Clone)]
pub struct ExchangeRoutes {
    pub id: NodeId,
    pub cluster: Cluster,
    pub directory: watch::Receiver<Arc<Directory>>,
    pub questions: mpsc::Sender<Question>,
    pub prober: Prober,
    /// Of users between CAS.
    pub rebalancing: Rebalancing,
    pub certificates: CertificateRoutes,
    /// For the status page; without the password.
    pub account: AccountView,
}

impl ExchangeRoutes {
    /// Everything below `/exchange/`.
    pub async fn answer(&self, request: &AdminRequest) -> AdminResponse {
        let path = request.path.trim_start_matches("/exchange/");
        let answer = match (request.method.as_str(), path) {
            (method, path) if path.starts_with("certificates") => {
                let path = path.trim_start_matches("certificates").trim_start_matches('/');
                self.certificate(method, path, request).await
            }
            ("GET", "status") => self.status().await,
            ("GET", "gateways") => Ok(ok(&exchange::cas_list(&self.cluster.state()))),
            ("POST", "gateways") => self.configure(request).await,
            ("POST", "gateways/eligible") => self.set_eligible(request).await,
            ("GET", "rebalance") => Ok(ok(&self.rebalancing.progress())),
            ("POST", "rebalance") => self.rebalance(request),
            (_, "status" | "gateways" | "gateways/eligible" | "rebalance") => {
                Ok(AdminResponse::method_not_allowed())
            }
            (method, other) => match other.strip_prefix("users/") {
                Some(user) if method == "GET" => self.explain(user).await,
                Some(_) => Ok(AdminResponse::method_not_allowed()),
                None => Ok(AdminResponse::not_found()),
            },
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    async fn status(&self) -> Answer {
        let known = self.known().await?;
        let directory = self.directory.borrow().clone();
        let asked = Asked::of(&self.cluster.state(), &directory, known.credential_refused);
        let probed = self.prober.look(asked).await;
        let state = self.cluster.state();
        let view = StatusView {
            node: self.id.to_string(),
            account: self.account.clone(),
            credential_refused: known.credential_refused,
            gateways: exchange::cas_with_status(&state, &known.cas_list, probed),
        };
        Ok(ok(&view))
    }

    async fn configure(&self, request: &AdminRequest) -> Answer {
        let body: CasListBody = request.json()?;
        let count = body.count();
        let command = body.command(clock::unix_ms()).map_err(denied)?;
        propose(&self.cluster, command).await?;
        Ok(ok(&json!({ "gateways": count })))
    }

    async fn set_eligible(&self, request: &AdminRequest) -> Answer {
        let body: EligibleBody = request.json()?;
        propose(&self.cluster, body.command()).await?;
        Ok(ok(&json!({})))
    }

    fn rebalance(&self, request: &AdminRequest) -> Answer {
        let body: RebalanceBody = request.json()?;
        let per_second = body.per_second(Share::UsersOfCas).map_err(denied)?;
        match self.rebalancing.start(&self.cluster, None, per_second) {
            Some(moves) => Ok(ok(&json!({ "moves": moves }))),
            None => Err(AdminResponse::error(
                StatusCode::CONFLICT,
                "a rebalance of CAS users is already running",
            )),
        }
    }

    async fn explain(&self, user: &str) -> Answer {
        let user = decoded(user)?;
        // In the directory's spelling.
        let user = self
            .directory
            .borrow()
            .user(&user)
            .map_or(user, |known| known.id.clone());
        let here = self.explained_here(&user).await?;
        let directory = self.directory.borrow().clone();
        let state = self.cluster.state();
        let view = UserView::of(&state, &directory, self.id, &user, here);
        match view {
            Some(view) => Ok(ok(&view)),
            None => Err(AdminResponse::error(
                StatusCode::NOT_FOUND,
                &format!("{user} is neither in the directory nor assigned to a gateway"),
            )),
        }
    }

    async fn explained_here(&self, user: &str) -> Result<Option<Explanation>, AdminResponse> {
        let user = user.to_owned();
        self.ask(|answer| Question::Explain { user, answer }).await
    }

    async fn known(&self) -> Result<CasAnswer, AdminResponse> {
        self.ask(|answer| Question::CasList { answer }).await
    }

    async fn certificate(&self, method: &str, path: &str, request: &AdminRequest) -> Answer {
        let routes = &self.certificates;
        let failed = |error: RouteError| error.response();
        Ok(match (method, path) {
            ("GET", "") => ok(&routes.list()),
            ("POST", "diagnose") => ok(&routes.diagnose(request.json()?).await.map_err(failed)?),
            ("POST", "import") => ok(&routes.import(request.json()?).await.map_err(failed)?),
            ("POST", "upload") => ok(&routes.upload(&request.json()?).map_err(failed)?),
            ("POST", "remove") => ok(&routes.remove(&request.json()?).map_err(failed)?),
            ("POST", "csr") => ok(&routes.csr(&request.json()?).map_err(failed)?),
            ("POST", "signed") => ok(&routes.signed(&request.json()?).map_err(failed)?),
            (_, "" | "diagnose" | "import" | "upload" | "remove" | "csr" | "signed") => {
                AdminResponse::method_not_allowed()
            }
            _ => AdminResponse::not_found(),
        })
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, AdminResponse> {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.questions.send(question(sender)).await.ok()?;
            answer.await.ok()
        };
        let answer = timeout(ANSWER_WAIT, asked).await.ok().flatten();
        answer.ok_or_else(|| {
            AdminResponse::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the calendars did not answer in time",
            )
        })
    }
}

const ANSWER_WAIT: Duration = Duration::from_secs(5);
