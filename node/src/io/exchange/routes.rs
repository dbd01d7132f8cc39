//! `/exchange/…` of the admin listener: gateways, their health, and explanations of users' assignments.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tandem_cluster::{Applied, CasEndpoint, CasId, Command, NodeId};
use tandem_raft::Cluster;
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::calendar::Explanation;
use crate::calendar::probing::Asked;
use crate::config::is_host;
use crate::directory::Directory;
use crate::io::admin_routes::refused;
use crate::io::clock;
use crate::io::rebalancing::Rebalancing;
use crate::rebalancing::Share;

use super::certificate_routes::{CertificateRoutes, RouteError};
use super::driver::{GatewaysAnswer, Question};
use super::probe::Prober;
use super::views::{self, AccountView, GatewayView, StatusView, UserView};

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

type Answer = Result<AdminResponse, AdminResponse>;

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
            ("GET", "gateways") => Ok(self.gateways()),
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
            gateways: views::gateways_with_status(&state, &known.gateways, probed),
        };
        Ok(ok(&view))
    }

    fn gateways(&self) -> AdminResponse {
        let views: Vec<GatewayView> = views::gateways(&self.cluster.state());
        ok(&views)
    }

    async fn configure(&self, request: &AdminRequest) -> Answer {
        let body: GatewaysBody = request.json()?;
        let gateways: Vec<_> = body
            .gateways
            .into_iter()
            .map(GatewayBody::checked)
            .collect::<Result<_, _>>()?;
        let (count, at_ms) = (gateways.len(), clock::unix_ms());
        self.propose(Command::CasGatewaysConfigured { gateways, at_ms })
            .await?;
        Ok(ok(&json!({ "gateways": count })))
    }

    async fn set_eligible(&self, request: &AdminRequest) -> Answer {
        let EligibleBody { name, eligible } = request.json()?;
        let cas = CasId(name);
        self.propose(Command::CasEligible { cas, eligible }).await?;
        Ok(ok(&json!({})))
    }

    fn rebalance(&self, request: &AdminRequest) -> Answer {
        let RebalanceBody { per_second } = request.json()?;
        let most = Share::UsersOfCas.per_second_max();
        if !(1..=most).contains(&per_second) {
            return Err(bad(&format!("per_second must be between 1 and {most}")));
        }
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

    async fn known(&self) -> Result<GatewaysAnswer, AdminResponse> {
        self.ask(|answer| Question::Gateways { answer }).await
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

    async fn propose(&self, command: Command) -> Result<(), AdminResponse> {
        match self.cluster.propose(command, PROPOSE_TIMEOUT).await {
            Ok(Applied::Refused(refusal)) => Err(refused(refusal)),
            Ok(_) => Ok(()),
            Err(error) => Err(AdminResponse::error(
                StatusCode::SERVICE_UNAVAILABLE,
                &error.to_string(),
            )),
        }
    }
}

fn ok(value: &impl serde::Serialize) -> AdminResponse {
    AdminResponse::json(StatusCode::OK, value)
}

fn bad(message: &str) -> AdminResponse {
    AdminResponse::error(StatusCode::BAD_REQUEST, message)
}

fn decoded(segment: &str) -> Result<String, AdminResponse> {
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8();
    let decoded = decoded.map_err(|_| bad("the user's name is not UTF-8"))?;
    Ok(decoded.into_owned())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewaysBody {
    gateways: Vec<GatewayBody>,
}

/// As `[[exchange.gateway]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayBody {
    name: String,
    host: Option<String>,
    #[serde(default = "default_port")]
    port: u16,
    #[serde(default)]
    description: String,
    #[serde(default = "default_channel_binding")]
    channel_binding: bool,
    #[serde(default)]
    legacy_algorithms: bool,
}

impl GatewayBody {
    fn checked(self) -> Result<(CasId, CasEndpoint), AdminResponse> {
        let host = self.host.unwrap_or_else(|| self.name.clone());
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(bad(&format!(
                "a gateway's name must have 1 to {NAME_BYTES_MAX} bytes"
            )));
        }
        if !is_host(&host) || self.port == 0 {
            let wanted = "a host name or an IP address without brackets, and a port from 1";
            return Err(bad(&format!(
                "{}: {host:?} port {} is not {wanted}",
                self.name, self.port
            )));
        }
        let endpoint = CasEndpoint {
            host,
            port: self.port,
            description: self.description,
            channel_binding: self.channel_binding,
            legacy_algorithms: self.legacy_algorithms,
        };
        Ok((CasId(self.name), endpoint))
    }
}

fn default_port() -> u16 {
    443
}

fn default_channel_binding() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EligibleBody {
    name: String,
    eligible: bool,
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

const ANSWER_WAIT: Duration = Duration::from_secs(5);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
const NAME_BYTES_MAX: usize = 253;
