//! The whole way: a cluster of one member, the routes behind a real listener, and a real client before it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use serde_json::{Value, json};
use tandem_cluster::MemberRole;
use tandem_cluster::{
    Applied, CalendarPresence, CalendarState, CallRecord, CallState, CasId, Command, Epoch, NodeId,
    SessionKey, StateLimits, command::SessionUpdate,
};
use tandem_raft::{Cluster, ClusterConfig, Member, RaftMetrics};
use tandem_runtime::io::admin::{self, AdminBody, AdminResponse, AdminState, HostNames, Readiness};
use tandem_runtime::io::environment::simulated::SimulatedFiles;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::transport::TcpTransport;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::stream::Streams;
use super::{PresenceMetrics, PresenceOut, PresenceRoutes, PresenceView};
use crate::io::clock;
use crate::io::directory_watch::DirectoryFile;
use crate::presence::{Availability, Composed, PresenceChanged};
use crate::session_sample;

const NODE: NodeId = NodeId(1);
const PATIENCE: Duration = Duration::from_secs(30);

const USERS: &str = r#"
    user = [
        { id = "Ana", mail = "ana@lab.test", calendar = true },
        { id = "ben", mail = "ben@lab.test" },
        { id = "cy", display_name = "Without a mailbox" },
    ]
"#;

/// One node with users Ana, ben and cy; Ana and ben have a gateway.
struct Node {
    cluster: Cluster,
    view: PresenceView,
    out: PresenceOut,
    address: SocketAddr,
    directory: tempfile::NamedTempFile,
    shutdown: Shutdown,
}

impl Node {
    async fn start() -> Self {
        let cluster = start_cluster().await;
        let directory = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(directory.path(), USERS).unwrap();
        let metrics = PresenceMetrics::register(&Registry::new());
        let view = PresenceView::new(cluster.clone(), metrics.clone());
        let out = PresenceOut::new(metrics);
        let file = DirectoryFile::open(directory.path()).unwrap();
        let routes = PresenceRoutes::new(cluster.clone(), file, view.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Self {
            address: listener.local_addr().unwrap(),
            shutdown: Shutdown::new(),
            cluster,
            view,
            out,
            directory,
        };
        node.serve(listener, routes);
        node.propose(registered()).await;
        let gateways = vec![CasId("cas-1".to_owned())];
        node.propose(Command::CasGatewaysSet { gateways, at_ms: 1 }).await;
        let users = vec!["Ana".to_owned(), "ben".to_owned()];
        node.propose(Command::CasAssign { users, at_ms: 1 }).await;
        node
    }

    fn serve(&self, listener: TcpListener, routes: PresenceRoutes) {
        let router: admin::Router = Arc::new(move |request| {
            let routes = routes.clone();
            Box::pin(async move {
                let answer = routes.answer(&request).await;
                answer.unwrap_or_else(AdminResponse::not_found)
            })
        });
        let state = AdminState {
            registry: Registry::new(),
            readiness: Readiness::new(),
            names: HostNames::default(),
        };
        tokio::spawn(admin::serve(
            listener.into(),
            state,
            router,
            self.shutdown.clone(),
        ));
        tokio::spawn(self.view.clone().run(self.shutdown.clone()));
        tokio::spawn(self.out.clone().run(NODE, self.cluster.clone()));
    }

    async fn propose(&self, command: Command) {
        let applied = self.cluster.propose(command, PATIENCE).await.unwrap();
        assert!(!matches!(applied, Applied::Refused(_)), "{applied:?}");
    }

    async fn open(&self, method: &str, path: &str, body: &str) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap()
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.open(method, path, &body.to_string()).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.ask("POST", path, body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }
}

async fn start_cluster() -> Cluster {
    let member = Member {
        id: NODE,
        role: MemberRole::Node,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
    };
    let config = ClusterConfig::new("lab", NODE, vec![member], "unused", StateLimits::default());
    let files = Arc::new(SimulatedFiles::new(1, Duration::ZERO));
    let metrics = RaftMetrics::register(&Registry::new()).unwrap();
    Cluster::start(config, TcpTransport, files, metrics)
        .await
        .unwrap()
}

fn registered() -> Command {
    Command::NodeRegistered {
        id: NODE,
        sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
        incarnation: 1,
    }
}

fn meeting() -> CalendarPresence {
    CalendarPresence {
        state: CalendarState::Busy,
        from_ms: 1_795_338_000_000,
        until_ms: Some(1_795_341_600_000),
    }
}

fn session_of(user: &str) -> (SessionKey, Command) {
    let record = session_sample::session(&format!("{NODE}-{user}"), NODE, user);
    (record.key.clone(), session_sample::opened(record))
}

fn call(key: &SessionKey, state: CallState) -> Command {
    let record = CallRecord {
        pbx_call_id: "9".to_owned(),
        state,
        calling: "4711".to_owned(),
        called: "4712".to_owned(),
    };
    Command::SessionUpdated {
        key: key.clone(),
        epoch: Epoch::FIRST,
        update: SessionUpdate {
            calls: vec![("1".to_owned(), Some(record))],
            ..SessionUpdate::default()
        },
    }
}

/// Server-sent events as a client reads them.
struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    async fn open(node: &Node, path: &str) -> Self {
        let response = node.open("GET", path, "").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The next event that is no comment: its name and its data.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some((name, data)) = event.split_once("\ndata: ") {
                    let name = name.strip_prefix("event: ").unwrap().to_owned();
                    return Some((name, serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.body.frame())
                .await
                .expect("no event came")?;
            let data = frame.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next change: the user, and their presence now.
    async fn next_change(&mut self) -> (String, String) {
        let (name, data) = self.next().await.unwrap();
        assert_eq!(name, "presence");
        let text = |key: &str| data[key].as_str().unwrap().to_owned();
        (text("user"), text("availability"))
    }

    async fn until_complete(&mut self) -> Vec<(String, String)> {
        let mut told = Vec::new();
        loop {
            let (name, data) = self.next().await.unwrap();
            if name == "complete" {
                return told;
            }
            let text = |key: &str| data[key].as_str().unwrap().to_owned();
            told.push((text("user"), text("availability")));
        }
    }
}

fn pair(user: &str, availability: &str) -> (String, String) {
    (user.to_owned(), availability.to_owned())
}

#[tokio::test]
async fn what_a_calendar_says_reaches_the_api_with_its_times() {
    let node = Node::start().await;
    let before = node.get("/presence/ana").await;
    assert_eq!(
        (&before["user"], &before["availability"], &before["calendar"]),
        (&json!("Ana"), &json!("unknown"), &Value::Null)
    );
    assert_eq!(before["calendar_enabled"], true);
    let mut changes = node.view.subscribe();
    node.out.publish("Ana".to_owned(), meeting());
    let changed = timeout(PATIENCE, changes.recv()).await.unwrap().unwrap();
    assert_eq!(
        (&*changed.user, changed.composed.availability),
        ("Ana", Availability::InAMeeting)
    );
    let after = node.get("/presence/Ana").await;
    assert_eq!(after["availability"], "in_a_meeting");
    assert_eq!(after["activities"], json!(["meeting", "busy"]));
    assert_eq!(after["until_ms"], 1_795_341_600_000_u64);
    assert_eq!(
        after["calendar"],
        json!({ "state": "busy", "from_ms": 1_795_338_000_000_u64, "until_ms": 1_795_341_600_000_u64 })
    );
}

#[tokio::test]
async fn his_own_word_is_set_ends_at_its_time_and_is_taken_back() {
    let node = Node::start().await;
    let mut changes = node.view.subscribe();
    let mut next = async || {
        let changed: PresenceChanged = timeout(PATIENCE, changes.recv()).await.unwrap().unwrap();
        changed.composed
    };
    let set = node
        .post("/presence/cy", json!({ "manual": "do_not_disturb" }))
        .await;
    assert_eq!(set["manual"]["state"], "do_not_disturb");
    assert_eq!(next().await.availability, Availability::DoNotDisturb);
    node.post("/presence/cy", json!({ "manual": null })).await;
    assert_eq!(next().await, Composed::UNKNOWN);
    let soon = clock::unix_ms() + 300;
    node.post("/presence/cy", json!({ "manual": "away", "until_ms": soon }))
        .await;
    assert_eq!(next().await.availability, Availability::Away);
    assert_eq!(next().await, Composed::UNKNOWN);
    assert!(clock::unix_ms() >= soon);
    for refused in [
        json!({ "manual": "busy", "until_ms": 5 }),
        json!({ "manual": "asleep" }),
        json!({}),
    ] {
        let (status, body) = node.ask("POST", "/presence/cy", refused).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn a_call_of_any_session_puts_its_user_on_the_phone() {
    let node = Node::start().await;
    let mut events = Events::open(&node, "/presence/stream").await;
    assert_eq!(events.until_complete().await, []);
    let (key, opened) = session_of("ben");
    node.propose(opened).await;
    node.propose(call(&key, CallState::Alerting)).await;
    node.propose(call(&key, CallState::Connected)).await;
    assert_eq!(
        events.next_change().await,
        pair("ben", "on_the_phone"),
        "a phone that rings is not in use"
    );
    assert_eq!(node.get("/presence/ben").await["on_the_phone"], true);
    let page = node.get("/presence").await;
    assert_eq!(page["users"][0]["user"], "ben", "known by his call alone: {page}");
    let epoch = Epoch::FIRST;
    node.propose(Command::SessionClosed { key, epoch }).await;
    assert_eq!(events.next_change().await, pair("ben", "unknown"));
}

#[tokio::test]
async fn the_stream_begins_with_those_who_were_asked_for_and_goes_on_with_their_changes() {
    let node = Node::start().await;
    node.post("/presence/ana", json!({ "manual": "busy" })).await;
    node.post("/presence/ben", json!({ "manual": "away" })).await;
    let mut some = Events::open(&node, "/presence/stream?user=ANA&user=cy").await;
    let mut all = Events::open(&node, "/presence/stream").await;
    assert_eq!(
        some.until_complete().await,
        [pair("Ana", "busy"), pair("cy", "unknown")]
    );
    assert_eq!(
        all.until_complete().await,
        [pair("Ana", "busy"), pair("ben", "away")]
    );
    node.post("/presence/ben", json!({ "manual": null })).await;
    node.post("/presence/ana", json!({ "manual": "do_not_disturb" }))
        .await;
    assert_eq!(some.next_change().await, pair("Ana", "do_not_disturb"));
    assert_eq!(all.next_change().await, pair("ben", "unknown"));
    assert_eq!(all.next_change().await, pair("Ana", "do_not_disturb"));
    let (status, _) = node.ask("GET", "/presence/stream?user=nobody", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    node.shutdown.advance(Stage::Close);
}

#[tokio::test]
async fn a_setting_that_changes_how_busy_shows_is_told_at_once() {
    let node = Node::start().await;
    let mut changes = node.view.subscribe();
    node.out.publish("Ana".to_owned(), meeting());
    let mut next = async || timeout(PATIENCE, changes.recv()).await.unwrap().unwrap().composed;
    assert_eq!(next().await.availability, Availability::InAMeeting);
    node.propose(Command::SettingChanged {
        name: "calendar_busy_shows_as".to_owned(),
        value: Some("busy".to_owned()),
    })
    .await;
    assert_eq!(next().await.availability, Availability::Busy);
}

#[tokio::test]
async fn a_calendar_that_is_switched_off_says_nothing_more() {
    let node = Node::start().await;
    let mut changes = node.view.subscribe();
    let mut next = async || timeout(PATIENCE, changes.recv()).await.unwrap().unwrap().composed;
    node.out.publish("Ana".to_owned(), meeting());
    assert_eq!(next().await.availability, Availability::InAMeeting);
    let names = json!(["ana", "cy", "nobody"]);
    let off = node
        .post("/calendar/enable", json!({ "users": names, "enabled": false }))
        .await;
    assert_eq!(
        off,
        json!({ "accepted": ["Ana", "cy"], "unknown": ["nobody"], "without_mail": [] })
    );
    assert_eq!(next().await, Composed::UNKNOWN);
    assert_eq!(node.get("/presence/ana").await["calendar_enabled"], false);
    let on = node
        .post("/calendar/enable", json!({ "users": names, "enabled": true }))
        .await;
    assert_eq!(
        on,
        json!({ "accepted": ["Ana"], "unknown": ["nobody"], "without_mail": ["cy"] })
    );
    let (status, _) = node
        .ask(
            "POST",
            "/calendar/enable",
            json!({ "users": ["nobody"], "enabled": null }),
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_directory_is_read_anew_on_request_and_one_with_errors_is_refused() {
    let node = Node::start().await;
    let text = "[[user]]\nid = \"dora\"\nmail = \"dora@lab.test\"\ncalendar = true\n";
    std::fs::write(node.directory.path(), text).unwrap();
    let loaded = node.post("/directory/reload", Value::Null).await;
    assert_eq!(loaded, json!({ "users": 1, "lines": 0, "calendars": 1 }));
    assert_eq!(node.get("/presence/dora").await["calendar_enabled"], true);
    std::fs::write(node.directory.path(), "[[user]]\nid = \"eve\"\ncalendar = true\n").unwrap();
    let (status, body) = node.ask("POST", "/directory/reload", Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let error = body["error"].as_str().unwrap();
    assert!(error.contains("user[0].calendar"), "{error}");
    assert_eq!(node.get("/presence/dora").await["user"], "dora");
}

#[tokio::test]
async fn pages_follow_one_another_in_order() {
    let node = Node::start().await;
    for user in ["cy", "ben", "ana"] {
        node.post(&format!("/presence/{user}"), json!({ "manual": "away" }))
            .await;
    }
    let users = |page: &Value| -> Vec<String> {
        let users = page["users"].as_array().unwrap();
        users
            .iter()
            .map(|user| user["user"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = node.get("/presence?limit=2").await;
    assert_eq!(
        (users(&first), &first["next"]),
        (vec!["Ana".to_owned(), "ben".to_owned()], &json!("ben"))
    );
    let last = node.get("/presence?limit=2&after=ben").await;
    assert_eq!(
        (users(&last), &last["next"]),
        (vec!["cy".to_owned()], &Value::Null)
    );
    for wrong in ["/presence?limit=0", "/presence?limit=x", "/presence?limit=1001"] {
        let (status, _) = node.ask("GET", wrong, Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    for (method, path, expected) in [
        ("DELETE", "/presence/ana", StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/presence", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/presence/nobody", StatusCode::NOT_FOUND),
        ("GET", "/presence/%ff", StatusCode::BAD_REQUEST),
        ("GET", "/elsewhere", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(
            node.ask(method, path, Value::Null).await.0,
            expected,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_what_he_lost_and_the_stream_ends() {
    let node = Node::start().await;
    let streams = Streams::new(node.view.clone());
    let AdminBody::Pieces(mut pieces) = streams.open(None).unwrap().body else {
        panic!("a stream comes in pieces");
    };
    let first = timeout(PATIENCE, pieces.recv()).await.unwrap().unwrap();
    assert!(first.starts_with(b"event: complete"));
    for _ in 0..10_000 {
        node.view.tell(PresenceChanged {
            user: "Ana".into(),
            composed: Composed::UNKNOWN,
        });
    }
    let mut last = Bytes::new();
    while let Some(piece) = timeout(PATIENCE, pieces.recv()).await.unwrap() {
        last = piece;
    }
    assert!(last.starts_with(b"event: lost"), "{last:?}");
}

#[tokio::test]
async fn streams_are_so_many_and_a_place_is_free_again_when_a_reader_goes() {
    let node = Node::start().await;
    let streams = Streams::new(node.view.clone());
    let mut open: Vec<AdminResponse> = std::iter::from_fn(|| streams.open(None).ok()).collect();
    assert!(open.len() > 1);
    let refused = streams.open(None).unwrap_err();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(open.pop());
    let again = async {
        while streams.open(None).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}
