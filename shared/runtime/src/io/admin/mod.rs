//! HTTP for operators: `/livez`, `/readyz`, `/metrics`, and the JSON routes of the binary behind them.

mod connections;
mod guard;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Either, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::connections::{Connections, Place};
pub use self::guard::HostNames;
use super::shutdown::{Shutdown, Stage};
use crate::io::environment::net::{TcpListener, TcpStream};

pub use hyper::{Method, StatusCode};

/// What the built-in routes answer from.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub registry: Registry,
    pub readiness: Readiness,
    pub names: HostNames,
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

#[derive(Debug)]
pub struct AdminResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: AdminBody,
}

#[derive(Debug)]
pub enum AdminBody {
    Whole(Bytes),
    /// Piece by piece as they come; over when the sender is dropped. When the client goes, the receiver does.
    Pieces(mpsc::Receiver<Bytes>),
}

impl<T: Into<Bytes>> From<T> for AdminBody {
    fn from(bytes: T) -> Self {
        Self::Whole(bytes.into())
    }
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

    /// A body that is sent while it is made.
    #[must_use]
    pub fn pieces(content_type: &'static str, pieces: mpsc::Receiver<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: AdminBody::Pieces(pieces),
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
    let connections = Connections::new(CONNECTIONS_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.reached(Stage::Close) => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: trying again at once would only burn the processor.
                warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the cap, while none is idle, a connection is closed unanswered.
        let Some(place) = connections.admit(Instant::now()) else {
            continue;
        };
        let (state, router, shutdown) = (state.clone(), router.clone(), shutdown.clone());
        tokio::spawn(serve_connection(
            stream,
            from,
            Arc::new(place),
            state,
            router,
            shutdown,
        ));
    }
}

async fn serve_connection(
    stream: TcpStream,
    from: SocketAddr,
    place: Arc<Place>,
    state: AdminState,
    router: Router,
    shutdown: Shutdown,
) {
    let stage = shutdown.clone();
    let at_work = place.clone();
    let service = service_fn(move |request| {
        let (state, router, stage) = (state.clone(), router.clone(), stage.stage());
        let place = at_work.clone();
        async move {
            place.busy();
            let answer = answer(request, from, &state, &router, stage).await;
            // One that is told something piece by piece is at work for as long as it listens.
            if matches!(answer.body, AdminBody::Whole(_)) {
                place.idle(Instant::now());
            }
            Ok::<_, Infallible>(to_http(answer))
        }
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
        () = place.given_away() => {}
        () = shutdown.reached(Stage::Close) => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    state: &AdminState,
    router: &Router,
    stage: Stage,
) -> AdminResponse {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => AdminResponse::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") => readyz(&state.readiness, stage),
        (&Method::GET, "/metrics") => metrics(&state.registry),
        (_, "/livez" | "/readyz" | "/metrics") => AdminResponse::method_not_allowed(),
        _ => routed(request, from, &state.names, router).await,
    }
}

/// What may change something leaves a line, whatever comes of it.
async fn routed(
    request: Request<Incoming>,
    from: SocketAddr,
    names: &HostNames,
    router: &Router,
) -> AdminResponse {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = match guard::check(&method, request.headers(), names) {
        Ok(()) => match with_body(request).await {
            Ok(request) => router(request).await,
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    if !guard::is_safe(&method) {
        info!(target: "audit", %from, %method, path, status = answer.status.as_u16(), "asked for a change");
    }
    answer
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
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_long()),
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

fn too_long() -> AdminResponse {
    let message = format!("the body is longer than {BODY_BYTES_MAX} bytes");
    AdminResponse::error(StatusCode::PAYLOAD_TOO_LARGE, &message)
}

fn to_http(answer: AdminResponse) -> Response<HttpBody> {
    let mut response = Response::new(match answer.body {
        AdminBody::Whole(bytes) => Either::Left(Full::new(bytes)),
        AdminBody::Pieces(pieces) => Either::Right(StreamBody::new(Pieces(pieces))),
    });
    // What is seen here is true now and nothing to keep.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}

type HttpBody = Either<Full<Bytes>, StreamBody<Pieces>>;

/// Frames of a body out of a channel.
struct Pieces(mpsc::Receiver<Bytes>);

impl Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A list of every user's name fits.
pub const BODY_BYTES_MAX: usize = 4 << 20;
const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONNECTIONS_MAX: usize = 128;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::io::telemetry::Metrics;

    struct Server {
        address: SocketAddr,
        state: AdminState,
        shutdown: Shutdown,
    }

    async fn start(router: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = AdminState {
            registry: Registry::new(),
            readiness: Readiness::new(),
            names: HostNames::default(),
        };
        let shutdown = Shutdown::new();
        shutdown.spawn("admin", serve(listener, state.clone(), router, shutdown.clone()));
        Server {
            address,
            state,
            shutdown,
        }
    }

    impl Server {
        /// Status line and body of the answer.
        async fn send(&self, request: &str) -> (String, String) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.lines().next().unwrap().to_owned(), body.to_owned())
        }

        async fn get(&self, path: &str) -> (String, String) {
            self.send(&format!(
                "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            ))
            .await
        }
    }

    #[tokio::test]
    async fn readiness_names_every_cause_until_it_is_resolved() {
        let server = start(no_routes()).await;
        server.state.readiness.not_ready("cluster", "no leader is known");
        server.state.readiness.not_ready("listener", "sip is not bound");
        let (status, body) = server.get("/readyz").await;
        assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(body, "cluster: no leader is known\nlistener: sip is not bound\n");
        assert_eq!(
            server.get("/livez").await.0,
            "HTTP/1.1 200 OK",
            "not ready is not dead"
        );
        server.state.readiness.resolved("cluster");
        server.state.readiness.resolved("listener");
        server.state.readiness.ready().await;
        assert_eq!(
            server.get("/readyz").await,
            ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned())
        );
    }

    #[tokio::test]
    async fn a_process_on_its_way_out_is_not_ready_but_still_answers() {
        let server = start(no_routes()).await;
        server.shutdown.advance(Stage::LookAway);
        assert_eq!(server.get("/readyz").await.0, "HTTP/1.1 503 Service Unavailable");
        server.shutdown.advance(Stage::Drain);
        assert_eq!(server.get("/livez").await.0, "HTTP/1.1 200 OK");
        server.shutdown.advance(Stage::Close);
        server.shutdown.all_finished().await;
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn metrics_stand_in_the_text_format() {
        let server = start(no_routes()).await;
        let metrics = Metrics::new(&server.state.registry);
        metrics
            .counters("tandem_test_total", "What happened.", &["kind"])
            .with_label_values(&["a"])
            .inc();
        let (status, body) = server.get("/metrics").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(
            body.contains("# TYPE tandem_test_total counter\ntandem_test_total{kind=\"a\"} 1"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn other_paths_are_the_routers_with_their_bodies() {
        let echo: Router = Arc::new(|request: AdminRequest| {
            Box::pin(async move {
                match request.json::<Vec<u32>>() {
                    Ok(numbers) => {
                        AdminResponse::json(StatusCode::OK, &(request.path, request.query, numbers))
                    }
                    Err(refusal) => refusal,
                }
            })
        });
        let server = start(echo).await;
        let post = |body: &str| {
            let length = body.len();
            format!(
                "POST /a?b=c HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
        };
        let (status, body) = server.send(&post("[1,2]")).await;
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 200 OK", "[\"/a\",\"b=c\",[1,2]]")
        );
        let (status, body) = server.send(&post("no json")).await;
        assert_eq!(status, "HTTP/1.1 400 Bad Request");
        assert!(body.starts_with("{\"error\":"), "{body}");
    }

    #[tokio::test]
    async fn a_body_of_pieces_is_sent_while_it_is_made_and_ends_with_its_sender() {
        let (sender, receiver) = mpsc::channel(1);
        let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
        let router: Router = Arc::new(move |_| {
            let pieces = receiver.lock().unwrap().take().unwrap();
            Box::pin(async move { AdminResponse::pieces("text/event-stream", pieces) })
        });
        let server = start(router).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /stream HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        sender.send(Bytes::from_static(b"first")).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"5\r\nfirst\r\n") {
            assert_ne!(
                stream.read_buf(&mut answer).await.unwrap(),
                0,
                "{}",
                answer.escape_ascii()
            );
        }
        let head = String::from_utf8(answer.clone()).unwrap();
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        sender.send(Bytes::from_static(b"last")).await.unwrap();
        drop(sender);
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(
            answer.ends_with(b"4\r\nlast\r\n0\r\n\r\n"),
            "{}",
            answer.escape_ascii()
        );
    }

    #[tokio::test]
    async fn a_web_page_changes_nothing() {
        let changed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let noted = changed.clone();
        let router: Router = Arc::new(move |_| {
            noted.store(true, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async { AdminResponse::text(StatusCode::OK, "changed") })
        });
        let server = start(router).await;
        for (headers, status) in [
            (
                "host: rebound.example.com\r\ncontent-type: application/json\r\n",
                "421 Misdirected Request",
            ),
            (
                "host: localhost\r\norigin: http://evil.example.com\r\ncontent-type: text/plain\r\n",
                "403 Forbidden",
            ),
            (
                "host: localhost\r\ncontent-type: text/plain\r\n",
                "415 Unsupported Media Type",
            ),
        ] {
            let request = format!(
                "POST /settings HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: 2\r\n\r\n{{}}"
            );
            assert_eq!(server.send(&request).await.0, format!("HTTP/1.1 {status}"));
        }
        assert!(!changed.load(std::sync::atomic::Ordering::Relaxed));
    }

    #[tokio::test]
    async fn idle_connections_keep_nobody_from_asking() {
        let server = start(no_routes()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 2 {
            idle.push(TcpStream::connect(server.address).await.unwrap());
        }
        let asked = tokio::time::timeout(HEADER_TIMEOUT / 2, server.get("/livez"));
        assert_eq!(asked.await.unwrap().0, "HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn what_is_too_long_unknown_or_not_allowed_is_refused() {
        let server = start(no_routes()).await;
        assert_eq!(server.get("/nothing").await.0, "HTTP/1.1 404 Not Found");
        let wrong =
            "POST /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(server.send(wrong).await.0, "HTTP/1.1 405 Method Not Allowed");
        let length = BODY_BYTES_MAX + 1;
        let long = format!(
            "POST /a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        assert_eq!(server.send(&long).await.0, "HTTP/1.1 413 Payload Too Large");
        let head = format!(
            "GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
            "x".repeat(HEADER_BYTES_MAX)
        );
        assert_eq!(
            server.send(&head).await.0,
            "HTTP/1.1 431 Request Header Fields Too Large"
        );
    }
}
