//! Callbacks over loopback, from the HTTP client that a server would use.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::{Registry, TextEncoder};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::push_listener::{CallbackArrived, PushListener, PushListenerOptions, PushMetrics};
use tandem_exchange::callback::CallbackKey;
use tandem_exchange::ews::{self, SubscriptionId, SubscriptionStatus};

const PATIENCE: Duration = Duration::from_secs(20);
const BODY: &str = "<s:Envelope xmlns:s='s'><s:Body><m:SendNotification><m:ResponseMessages>\
    <m:SendNotificationResponseMessage ResponseClass='Success'><m:ResponseCode>NoError</m:ResponseCode>\
    <m:Notification><t:SubscriptionId>GgB1</t:SubscriptionId><t:StatusEvent/></m:Notification>\
    </m:SendNotificationResponseMessage></m:ResponseMessages></m:SendNotification></s:Body></s:Envelope>";

struct World {
    listener: PushListener,
    key: CallbackKey,
    registry: Registry,
    shutdown: Shutdown,
    arrived: mpsc::Receiver<CallbackArrived>,
}

fn key() -> CallbackKey {
    let bytes: Vec<u8> = (0..32).collect();
    CallbackKey::new(&bytes).unwrap()
}

fn world(options: PushListenerOptions, tls: Option<Arc<ArcSwap<ServerConfig>>>) -> World {
    let registry = Registry::new();
    let metrics = PushMetrics::register(&Metrics::new(&registry));
    let shutdown = Shutdown::new();
    let (sender, arrived) = mpsc::channel(1);
    let listener = PushListener::new(options, key(), tls, sender, metrics, shutdown.clone());
    World {
        listener,
        key: key(),
        registry,
        shutdown,
        arrived,
    }
}

/// Times that a test never reaches unless it wants to.
fn patient() -> PushListenerOptions {
    PushListenerOptions {
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        verdict_timeout: PATIENCE,
        ..PushListenerOptions::default()
    }
}

impl World {
    async fn open(&mut self) -> SocketAddr {
        self.listener.open("127.0.0.1:0".parse().unwrap()).await.unwrap()
    }

    fn path(&self, user: &str, attempt: u64) -> String {
        self.key.path(user, attempt).unwrap()
    }

    /// Answers the next callback, and says what it told.
    async fn decide(&mut self, status: SubscriptionStatus) -> (String, u64, usize) {
        let arrived = timeout(PATIENCE, self.arrived.recv()).await.unwrap().unwrap();
        let first = arrived.notifications.first().unwrap().as_ref().unwrap();
        assert_eq!(first.subscription, SubscriptionId("GgB1".to_owned()));
        arrived.verdict.send(status).unwrap();
        (arrived.user, arrived.attempt, arrived.notifications.len())
    }

    fn metrics(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap()
    }

    fn has_counted(&self, line: &str) -> bool {
        self.metrics().lines().any(|counted| counted == line)
    }

    fn answers(&self, answer: &str) -> bool {
        self.has_counted(&format!(
            "tandem_node_exchange_callbacks_total{{answer=\"{answer}\"}} 1"
        ))
    }
}

type Client = SendRequest<Full<Bytes>>;

async fn client_over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Client {
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

async fn connect(address: SocketAddr) -> Client {
    client_over(TcpStream::connect(address).await.unwrap()).await
}

async fn send(client: &mut Client, method: Method, path: &str, body: &str) -> (StatusCode, String, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "gateway")
        .header("content-type", "text/xml; charset=utf-8")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    client.ready().await.unwrap();
    let response = timeout(PATIENCE, client.send_request(request))
        .await
        .unwrap()
        .unwrap();
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).cloned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let content_type = content_type.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    (status, content_type, String::from_utf8(body.to_vec()).unwrap())
}

async fn post(address: SocketAddr, path: &str, body: &str) -> (StatusCode, String) {
    let (status, _, body) = send(&mut connect(address).await, Method::POST, path, body).await;
    (status, body)
}

async fn refuses_connections(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
}

#[tokio::test]
async fn a_genuine_callback_is_answered_with_the_verdict() {
    let mut world = world(patient(), None);
    let address = world.open().await;
    let mut client = connect(address).await;
    for (attempt, status, word) in [
        (1, SubscriptionStatus::Ok, ">OK<"),
        (2, SubscriptionStatus::Unsubscribe, ">Unsubscribe<"),
    ] {
        let path = world.path("ana", attempt);
        let (answer, told) = tokio::join!(send(&mut client, Method::POST, &path, BODY), world.decide(status));
        assert_eq!(told, ("ana".to_owned(), attempt, 1));
        assert_eq!((answer.0, answer.1.as_str()), (StatusCode::OK, ews::CONTENT_TYPE));
        assert!(answer.2.contains(word), "{}", answer.2);
    }
    assert!(
        world.answers("ok") && world.answers("unsubscribe"),
        "{}",
        world.metrics()
    );
    assert!(world.has_counted("tandem_node_exchange_callback_connections 1"));
}

#[tokio::test]
async fn a_token_that_is_not_genuine_is_not_found_and_its_body_not_read() {
    let mut world = world(patient(), None);
    let address = world.open().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /ews/AAAA/1/YW5h HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(world.answers("not_genuine"));
    assert!(world.arrived.try_recv().is_err());
}

#[tokio::test]
async fn what_is_no_callback_is_refused_and_says_nothing_of_why() {
    let mut options = patient();
    options.body_bytes_max = 2000;
    let mut world = world(options, None);
    let address = world.open().await;
    let path = world.path("ana", 1);
    let long = "x".repeat(2001);
    for (method, body, status, label) in [
        (Method::GET, "", StatusCode::METHOD_NOT_ALLOWED, "not_post"),
        (Method::POST, "hello", StatusCode::BAD_REQUEST, "malformed"),
        (Method::POST, &long, StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
    ] {
        let mut client = connect(address).await;
        let (answered, _, body) = send(&mut client, method, &path, body).await;
        assert_eq!((answered, body.as_str()), (status, ""), "{label}");
        assert!(world.answers(label), "{label}");
    }
    assert!(world.arrived.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_asks_before_it_sends_is_told_to_go_on() {
    let mut world = world(patient(), None);
    let address = world.open().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (path, length) = (world.path("ana", 1), BODY.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut go_on))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(go_on, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(BODY.as_bytes()).await.unwrap();
    world.decide(SubscriptionStatus::Ok).await;
    let mut status = [0; 15];
    timeout(PATIENCE, stream.read_exact(&mut status))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status, *b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn without_a_verdict_the_subscription_goes_on() {
    let mut options = patient();
    options.verdict_timeout = Duration::from_millis(10);
    let mut world = world(options, None);
    let address = world.open().await;
    let (status, body) = post(address, &world.path("ana", 1), BODY).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(">OK<"), "{body}");
    assert!(world.answers("ok_without_verdict"));
    let (status, _) = post(address, &world.path("ana", 2), BODY).await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the queue holds one, which nobody took"
    );
    assert!(world.answers("overloaded"));
    let first = world.arrived.recv().await.unwrap();
    assert_eq!(first.attempt, 1);
    assert!(first.verdict.is_closed(), "nobody waits for it any more");
}

#[tokio::test]
async fn slow_heads_and_bodies_are_not_waited_for() {
    let mut options = patient();
    options.header_timeout = Duration::from_millis(20);
    options.body_timeout = Duration::from_millis(20);
    let mut world = world(options, None);
    let address = world.open().await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nx",
        world.path("ana", 1)
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, slow.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(world.answers("body_late"));
}

#[tokio::test]
async fn connections_are_bounded_over_all_ports() {
    let mut options = patient();
    options.connections_max = 1;
    let mut world = world(options, None);
    let first = world.open().await;
    let second = world.listener.open(free_port()).await.unwrap();
    assert_eq!(world.open().await, first, "open already");
    let path = world.path("ana", 1);
    let mut held = connect(first).await;
    let (answer, _) = tokio::join!(
        send(&mut held, Method::POST, &path, BODY),
        world.decide(SubscriptionStatus::Ok)
    );
    assert_eq!(answer.0, StatusCode::OK);
    let mut refused = TcpStream::connect(second).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, refused.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.is_empty());
    let line = "tandem_node_exchange_callback_connections_refused_total{reason=\"too_many\"} 1";
    assert!(world.has_counted(line), "{}", world.metrics());
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    spare.local_addr().unwrap()
}

#[tokio::test]
async fn the_old_port_is_kept_until_subscriptions_have_been_renewed() {
    let mut world = world(patient(), None);
    let old = world.open().await;
    let new = free_port();
    assert_eq!(world.listener.replace(new, PATIENCE * 100).await.unwrap(), new);
    assert_eq!(world.listener.addresses(), [old, new]);
    for address in [old, new] {
        let path = world.path("ana", 1);
        let (answer, _) = tokio::join!(post(address, &path, BODY), world.decide(SubscriptionStatus::Ok));
        assert_eq!(answer.0, StatusCode::OK);
    }
    let newest = free_port();
    world.listener.replace(newest, Duration::ZERO).await.unwrap();
    refuses_connections(new).await;
    assert_eq!(world.listener.addresses(), [old, newest]);
}

#[tokio::test]
async fn a_port_that_is_wanted_again_stays_open() {
    let mut world = world(patient(), None);
    let old = world.open().await;
    let new = free_port();
    world.listener.replace(new, PATIENCE * 100).await.unwrap();
    assert_eq!(world.listener.replace(old, Duration::ZERO).await.unwrap(), old);
    refuses_connections(new).await;
    assert_eq!(world.listener.addresses(), [old]);
    assert!(TcpStream::connect(old).await.is_ok());
}

#[tokio::test]
async fn a_port_that_is_taken_changes_nothing() {
    let mut world = world(patient(), None);
    let old = world.open().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = taken.local_addr().unwrap();
    let refused = world.listener.replace(occupied, Duration::ZERO).await;
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(world.listener.addresses(), [old]);
}

#[tokio::test]
async fn a_drain_ends_every_task_and_answers_what_has_begun() {
    let mut world = world(patient(), None);
    let address = world.open().await;
    let path = world.path("ana", 1);
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut client = connect(address).await;
    let shutdown = world.shutdown.clone();
    let arrived = async {
        let arrived = timeout(PATIENCE, world.arrived.recv()).await.unwrap().unwrap();
        shutdown.advance(Stage::StopAccepting);
        arrived.verdict.send(SubscriptionStatus::Ok).unwrap();
    };
    let (answer, ()) = tokio::join!(send(&mut client, Method::POST, &path, BODY), arrived);
    assert_eq!(answer.0, StatusCode::OK);
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    timeout(PATIENCE, world.shutdown.all_finished()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

struct Certified {
    server: ServerConfig,
    client: TlsConnector,
}

fn certified(name: &str) -> Certified {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Certified {
        server,
        client: TlsConnector::from(Arc::new(client)),
    }
}

#[tokio::test]
async fn over_tls_a_renewed_certificate_counts_from_the_next_connection_on() {
    let (first, second) = (certified("gateway"), certified("gateway"));
    let tls = Arc::new(ArcSwap::from_pointee(first.server));
    let mut world = world(patient(), Some(tls.clone()));
    let address = world.open().await;
    let path = world.path("ana", 1);
    let name = || ServerName::try_from("gateway").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut client = client_over(first.client.connect(name(), stream).await.unwrap()).await;
    let (answer, _) = tokio::join!(
        send(&mut client, Method::POST, &path, BODY),
        world.decide(SubscriptionStatus::Ok)
    );
    assert_eq!(answer.0, StatusCode::OK);
    tls.store(Arc::new(second.server));
    let stream = TcpStream::connect(address).await.unwrap();
    assert!(first.client.connect(name(), stream).await.is_err());
    let stream = TcpStream::connect(address).await.unwrap();
    assert!(second.client.connect(name(), stream).await.is_ok());
}

#[tokio::test]
async fn a_callback_in_the_clear_is_not_taken_over_tls() {
    let certified = certified("gateway");
    let mut world = world(patient(), Some(Arc::new(ArcSwap::from_pointee(certified.server))));
    let address = world.open().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("POST {} HTTP/1.1\r\nhost: a\r\n\r\n", world.path("ana", 1));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || !rest.starts_with(b"HTTP"), "{rest:?}");
    assert!(world.arrived.try_recv().is_err());
}
