//! HTTP for operators: `/livez`, `/readyz`, `/metrics`, and the JSON routes of the binary behind them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use super::shutdown::{Shutdown, Stage};

pub use hyper::{Method, StatusCode};

/// What the built-in routes answer from.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub registry: Registry,
    pub readiness: Readiness,
}

/// Answers what the built-in routes do not; [`no_routes`] when a binary has none.
pub type Router = Arc<dyn Fn(AdminRequest) -> BoxFuture<'static, AdminResponse> + Send + Sync>;

/// A request with its body, which is whole and within [`BODY_BYTES_MAX`].
#[derive(Debug, Clone)]
pub struct AdminRequest {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub body: Bytes,
}

impl AdminRequest {
    /// The body as JSON, or the answer that says what is wrong with it.
    ///
    /// # Errors
    /// A 400 when the body is not the JSON that `T` wants.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, AdminResponse> {
        serde_json::from_slice(&self.body)
            .map_err(|error| AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string()))
    }
}

#[derive(Debug, Clone)]
pub struct AdminResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl AdminResponse {
    #[must_use]
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status,
                content_type: JSON,
                body: body.into(),
            },
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    #[must_use]
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            content_type: TEXT,
            body: text.into().into(),
        }
    }

    /// `{"error": message}`.
    #[must_use]
    pub fn error(status: StatusCode, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        Self {
            status,
            content_type: JSON,
            body: body.into(),
        }
    }

    #[must_use]
    pub fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "there is no such resource")
    }

    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "the resource does not take this method",
        )
    }
}

/// Why the process is not ready, by cause; ready when there is no cause left.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    reasons: Arc<watch::Sender<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Ready at once, until a cause is named.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a cause, or tells its latest detail.
    pub fn not_ready(&self, cause: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        self.reasons
            .send_if_modified(|reasons| reasons.insert(cause, detail.clone()) != Some(detail));
    }

    /// The cause is gone.
    pub fn resolved(&self, cause: &'static str) {
        self.reasons
            .send_if_modified(|reasons| reasons.remove(cause).is_some());
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.borrow().is_empty()
    }

    /// Cause and detail.
    #[must_use]
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        self.reasons
            .borrow()
            .iter()
            .map(|(&cause, detail)| (cause, detail.clone()))
            .collect()
    }

    /// Returns once no cause is left.
    pub async fn ready(&self) {
        let mut reasons = self.reasons.subscribe();
        // The sender lives in `self`, so it cannot have gone.
        let _ = reasons.wait_for(BTreeMap::is_empty).await;
    }
}

/// A router for a binary without routes of its own.
#[must_use]
pub fn no_routes() -> Router {
    Arc::new(|_| Box::pin(async { AdminResponse::not_found() }))
}

/// Serves until the drain is over: operators want to see a drain. Not ready from `LookAway` on.
pub async fn serve(listener: TcpListener, state: AdminState, router: Router, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.reached(Stage::Close) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: trying again at once would only burn the processor.
                warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the cap a connection is closed unanswered.
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let (state, router, shutdown) = (state.clone(), router.clone(), shutdown.clone());
        tokio::spawn(async move {
            serve_connection(stream, state, router, shutdown).await;
            drop(slot);
        });
    }
}

async fn serve_connection(stream: TcpStream, state: AdminState, router: Router, shutdown: Shutdown) {
    let stage = shutdown.clone();
    let service = service_fn(move |request| {
        let (state, router, stage) = (state.clone(), router.clone(), stage.stage());
        async move { Ok::<_, Infallible>(to_http(answer(request, &state, &router, stage).await)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => if let Err(error) = served {
            debug!(%error, "an admin connection ended early");
        },
        () = shutdown.reached(Stage::Close) => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &AdminState,
    router: &Router,
    stage: Stage,
) -> AdminResponse {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => AdminResponse::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") => readyz(&state.readiness, stage),
        (&Method::GET, "/metrics") => metrics(&state.registry),
        (_, "/livez" | "/readyz" | "/metrics") => AdminResponse::method_not_allowed(),
        _ => match with_body(request).await {
            Ok(request) => router(request).await,
            Err(refusal) => refusal,
        },
    }
}

fn readyz(readiness: &Readiness, stage: Stage) -> AdminResponse {
    let mut reasons = readiness.reasons();
    if stage != Stage::Serving {
        reasons.push(("draining", "the process is on its way out".to_owned()));
    }
    if reasons.is_empty() {
        return AdminResponse::text(StatusCode::OK, "ok\n");
    }
    let lines: String = reasons
        .iter()
        .map(|(cause, detail)| format!("{cause}: {detail}\n"))
        .collect();
    AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, lines)
}

fn metrics(registry: &Registry) -> AdminResponse {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(body) => AdminResponse {
            status: StatusCode::OK,
            content_type: METRICS,
            body: body.into(),
        },
        Err(error) => AdminResponse::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn with_body(request: Request<Incoming>) -> Result<AdminRequest, AdminResponse> {
    let (head, body) = request.into_parts();
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            return Err(AdminResponse::error(StatusCode::PAYLOAD_TOO_LARGE, &message));
        }
        Ok(Err(error)) => return Err(AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string())),
        Err(_) => {
            return Err(AdminResponse::error(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive",
            ));
        }
    };
    let path = head.uri.path().to_owned();
    let query = head.uri.query().map(str::to_owned);
    Ok(AdminRequest {
        method: head.method,
        path,
        query,
        body,
    })
}

fn to_http(answer: AdminResponse) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}

/// A list of every user's name fits.
pub const BODY_BYTES_MAX: usize = 4 << 20;
const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONNECTIONS_MAX: usize = 64;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
