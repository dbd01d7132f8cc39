//! HTTP for operators: `/livez`, `/readyz`, `/metrics`, and the JSON routes of the binary behind them.
//!
//! Owns the listener and its connections ([`serve`]), what routes are given and answer ([`AdminRequest`],
//! [`AdminResponse`]), and why the process is not ready ([`Readiness`]). Does not own what a binary's routes do. What
//! always holds: requests, bodies and connections are bounded, and nothing that a web page sends changes anything.

mod answering;
mod connections;
mod guard;
mod http_body;
mod message;
mod readiness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::answering::answer;
use self::connections::{Connections, Place};
use self::http_body::to_http;
use super::shutdown::{Shutdown, Stage};
use crate::io::environment::net::{TcpListener, TcpStream};

pub use self::answering::BODY_BYTES_MAX;
pub use self::guard::HostNames;
pub use self::message::{AdminBody, AdminRequest, AdminResponse};
pub use self::readiness::Readiness;
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

const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONNECTIONS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

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
