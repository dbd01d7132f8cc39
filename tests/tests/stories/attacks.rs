//! What somebody who means harm writes to the open ports: he gets his answer, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose, Transport};
use tandem_tests::cluster::{Cluster, ClusterOptions, DEADLINE, Member};
use tandem_tests::peers::ocs::phone_number;
use tandem_tests::peers::stranger::{Letter, Reply, Stranger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_that_comes_again_in_other_words_is_answered_once() {
    let cluster = start("").await;
    let vip = cluster.addresses().vip();
    let letter = invite(0);
    let text = String::from_utf8(letter.write().to_vec()).unwrap();
    let copies =
        (0..24).map(|copy| text.replacen("Supported:", &format!("Subject: {copy}\r\nSupported:"), 1));
    let mut attacker = Stranger::connect(vip).await.unwrap();
    attacker
        .send(copies.collect::<String>().as_bytes())
        .await
        .unwrap();
    is_served(vip, 1).await;
    // Whatever there is to say to the copies is said before the answer to another user's INVITE.
    let last = invite(2);
    attacker.send(&last.write()).await.unwrap();
    let mut answered = Vec::new();
    while answered.last() != Some(&last.call_id) {
        let answer = attacker
            .answer(DEADLINE)
            .await
            .unwrap()
            .expect("the connection stays");
        assert_eq!(answer.status(), Some(200));
        answered.push(String::from_utf8_lossy(answer.call_id()).into_owned());
    }
    assert_eq!(answered, [letter.call_id, last.call_id]);
    assert_eq!(sessions(&cluster).await, 3);
    let metrics = cluster.metrics(Member::Lb).await.unwrap();
    let repeated = [("reason", "repeated")];
    assert_ne!(metrics.sum("tandem_lb_dropped_messages_total", &repeated), 0.0);
    every_node_has_stayed(&cluster).await;
    cluster.dismiss();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_and_never_reads_is_held_back_and_holds_up_nobody() {
    let cluster = start(&format!("[limits]\npending_requests_max = {PENDING_MAX}\n")).await;
    let vip = cluster.addresses().vip();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut attacker = socket.connect(vip).await.unwrap();
    let (mut sent, mut requests) = (0, options_requests());
    // Once nobody takes a byte for so long, lb has had enough.
    while let Ok(Ok(())) = timeout(PATIENCE_WITH_WRITING, attacker.write_all(&requests)).await {
        sent += requests.len();
        requests = options_requests();
        assert!(
            sent < SENT_MAX,
            "{sent} bytes of requests are taken, and no answer is read"
        );
    }
    // The kernel has room for more of them; lb holds as many as it may, and says nothing to the others yet.
    let held = cluster.wait_for_metrics(Member::Lb, "lb holds as many as it may", |metrics| {
        metrics.sum("tandem_lb_pending_requests", &[]) == f64::from(PENDING_MAX)
    });
    let metrics = held.await.unwrap();
    assert_eq!(metrics.sum("tandem_lb_limits_reached_total", &[]), 0.0);
    let received = metrics.sum("tandem_lb_client_bytes_total", &[("direction", "received")]);
    println!("a client that reads nothing has sent {sent} bytes, and lb has read {received}");
    // He was not thrown out for anything else: his answers wait for him.
    let mut first = [0; 12];
    timeout(DEADLINE, attacker.read_exact(&mut first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first, b"SIP/2.0 200 ");
    for user in 0..4 {
        is_served(vip, user).await;
    }
    every_node_has_stayed(&cluster).await;
    cluster.dismiss();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_before_garbage_is_answered_before_the_connection_is_closed() {
    let cluster = start("").await;
    let vip = cluster.addresses().vip();
    let with_length = |length: &str| Letter {
        content_length: Some(length.to_owned()),
        ..invite(1)
    };
    let cases = [
        (with_length("-5").write().to_vec(), Some(400)),
        (with_length("").write().to_vec(), Some(400)),
        (with_length("99999999999").write().to_vec(), Some(513)),
        (b"\x01\x02 what is this\r\n\r\n".to_vec(), None),
    ];
    for (garbage, status) in cases {
        let mut attacker = Stranger::connect(vip).await.unwrap();
        attacker
            .send(&[invite(0).write().to_vec(), garbage].concat())
            .await
            .unwrap();
        let expected = [Some(200), status].into_iter().flatten().map(Reply::Status);
        for reply in expected.chain([Reply::Closed]) {
            assert_eq!(attacker.reply(DEADLINE).await.unwrap(), reply);
        }
    }
    is_served(vip, 2).await;
    every_node_has_stayed(&cluster).await;
    cluster.dismiss();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_pages_of_others_change_nothing_and_strangers_are_shut_out() {
    let narrow = format!(
        "[[listener]]\nname = \"narrow\"\naddress = \"{{vip}}:{NARROW_PORT}\"\nallow = [{{ source = \"127.0.0.9\" }}]\n"
    );
    let cluster = start(&narrow).await;
    changes_asked_for_by_web_pages_are_refused(&cluster).await;
    whoever_is_not_allowed_is_not_heard(&cluster).await;
    nodes_reach_listed_ports_only(&cluster).await;
    cluster.dismiss();
}

async fn changes_asked_for_by_web_pages_are_refused(cluster: &Cluster) {
    let settings = cluster.get(Member::Node(1), "/settings").await.unwrap();
    for member in [Member::Lb, Member::Node(1)] {
        let address = cluster.addresses().admin(member).unwrap();
        let own_host = format!("Host: {address}");
        let json = "Content-Type: application/json";
        let cases = [
            (vec![&*own_host, json, "Origin: http://evil.example.com"], 403),
            (vec![&*own_host, json, "Sec-Fetch-Site: cross-site"], 403),
            (vec!["Host: rebound.example.com", json], 421),
            (vec![&*own_host, "Content-Type: text/plain"], 415),
        ];
        for (headers, refused) in cases {
            assert_eq!(
                post_setting(address, &headers).await,
                refused,
                "{member}: {headers:?}"
            );
            assert_eq!(cluster.get(Member::Node(1), "/settings").await.unwrap(), settings);
        }
        // The same without what was wrong; lb has no settings.
        let expected = if member == Member::Lb { 404 } else { 200 };
        assert_eq!(
            post_setting(address, &[&own_host, json]).await,
            expected,
            "{member}"
        );
    }
    let changed = cluster.get(Member::Node(1), "/settings").await.unwrap();
    assert_eq!(changed["session_timer_secs"], 900);
    assert_ne!(changed, settings);
}

/// The status of the answer.
async fn post_setting(address: SocketAddr, headers: &[&str]) -> u16 {
    let body = "{\"name\":\"session_timer_secs\",\"value\":900}";
    let request = format!(
        "POST /settings HTTP/1.1\r\n{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        headers.join("\r\n"),
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
    read.expect("an answer in time").unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no HTTP: {answer}"))
}

async fn whoever_is_not_allowed_is_not_heard(cluster: &Cluster) {
    let narrow = SocketAddr::new(cluster.addresses().vip().ip(), NARROW_PORT);
    let before = cluster.metrics(Member::Lb).await.unwrap();
    let mut stranger = connect_from("127.0.0.10:0".parse().unwrap(), narrow).await;
    let _ = stranger.write_all(&invite(0).write()).await;
    assert!(is_closed(&mut stranger).await);
    let refused = [("listener", "narrow"), ("reason", "not_allowed")];
    let counted = cluster.wait_for_metrics(Member::Lb, "the refusal is counted", |metrics| {
        metrics.sum("tandem_lb_client_connections_refused_total", &refused) == 1.0
    });
    let after = counted.await.unwrap();
    for counter in [
        "tandem_lb_client_bytes_total",
        "tandem_lb_client_connections_accepted_total",
    ] {
        assert_eq!(after.sum(counter, &[]), before.sum(counter, &[]), "{counter}");
    }
    let mut guest = connect_from("127.0.0.9:0".parse().unwrap(), narrow).await;
    guest.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    timeout(DEADLINE, guest.read_exact(&mut pong))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&pong, b"\r\n");
}

async fn nodes_reach_listed_ports_only(cluster: &Cluster) {
    let addresses = cluster.addresses();
    let client = |port| TcpListener::bind(SocketAddr::new(addresses.ocs(3).ip(), port));
    let (listed, unlisted) = (client(5060).await.unwrap(), client(5099).await.unwrap());
    let outcome = |label: &'static str| {
        move |metrics: &tandem_tests::cluster::Metrics| {
            metrics.sum("tandem_lb_outbound_connections_total", &[("outcome", label)]) == 1.0
        }
    };
    let mut refused = dial_out(cluster, unlisted.local_addr().unwrap()).await;
    assert!(is_closed(&mut refused).await);
    let counted = cluster.wait_for_metrics(Member::Lb, "the refusal is counted", outcome("target_forbidden"));
    counted.await.unwrap();
    let granted = dial_out(cluster, listed.local_addr().unwrap()).await;
    let (_, from) = timeout(DEADLINE, listed.accept()).await.unwrap().unwrap();
    assert_eq!(from.ip(), addresses.vip().ip());
    assert!(
        unlisted.accept().now_or_never().is_none(),
        "nobody was to be reached there"
    );
    drop(granted);
}

/// As node 1 asks for a connection to a client.
async fn dial_out(cluster: &Cluster, target: SocketAddr) -> TcpStream {
    let addresses = cluster.addresses();
    let node = addresses.node_sip(1);
    let header = ProxyHeader::Proxied(ProxiedConnection {
        source: node,
        destination: target,
        transport: Transport::Tcp,
        connection_id: Some(rand::random()),
        peer: None,
        purpose: Purpose::Outbound { server_name: None },
        host_name: None,
    });
    let mut stream = connect_from(SocketAddr::new(node.ip(), 0), addresses.outbound()).await;
    stream.write_all(&header.write()).await.unwrap();
    stream
}

async fn connect_from(source: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source).unwrap();
    socket.connect(to).await.unwrap()
}

/// Nothing is said before the end.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(DEADLINE, stream.read(&mut [0; 16])).await;
    !matches!(read.expect("the connection ends"), Ok(1..))
}

async fn start(lb_sections: &str) -> Cluster {
    let options = ClusterOptions {
        users: 4,
        cti_managers: 1,
        peer_tls: false,
        lb_sections: lb_sections.to_owned(),
        ..ClusterOptions::default()
    };
    Cluster::start(options).await.unwrap()
}

/// A good INVITE of a user, in a dialog of its own.
fn invite(user: usize) -> Letter {
    let line = format!("tel:{};phone-context=dialstring", phone_number(user));
    Letter::invite(&format!("user{user}"), &line)
}

/// A hundred good requests, each in a transaction of its own.
fn options_requests() -> Vec<u8> {
    let requests = (0..100).map(|_| {
        let call_id = rand::random::<u64>();
        format!(
            "OPTIONS sip:8000@gateway.example.com SIP/2.0\r\n\
             Via: SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK{call_id:x}\r\nMax-Forwards: 70\r\n\
             From: <sip:attacker@example.com>;tag={call_id:x}\r\nTo: <sip:8000@gateway.example.com>\r\n\
             Call-ID: {call_id:x}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )
    });
    requests.collect::<String>().into_bytes()
}

/// Another client, over a connection of its own.
async fn is_served(vip: SocketAddr, user: usize) {
    let mut client = Stranger::connect(vip).await.unwrap();
    client.send(&invite(user).write()).await.unwrap();
    assert_eq!(client.reply(DEADLINE).await.unwrap(), Reply::Status(200));
}

/// How many there are in the cluster.
async fn sessions(cluster: &Cluster) -> u64 {
    let view = cluster.get(Member::Node(1), "/cluster").await.unwrap();
    let nodes = view["nodes"].as_array().unwrap();
    nodes.iter().filter_map(|node| node["sessions"].as_u64()).sum()
}

/// No node has been anything but alive since it came, and each of them still answers.
async fn every_node_has_stayed(cluster: &Cluster) {
    let metrics = cluster.metrics(Member::Lb).await.unwrap();
    let states = metrics.by_label("tandem_lb_keepalive_transitions_total", "state");
    assert!(
        states
            .iter()
            .all(|(state, times)| state == "alive" || *times == 0.0),
        "{states:?}"
    );
    assert_eq!(metrics.sum("tandem_lb_node_state", &[("state", "alive")]), 2.0);
    for node in cluster.nodes() {
        assert_eq!(cluster.http(node, "GET", "/livez", "").await.unwrap().status, 200);
    }
}

const PATIENCE_WITH_WRITING: Duration = Duration::from_millis(500);
const PENDING_MAX: u32 = 2_000;
const NARROW_PORT: u16 = 5064;
/// More than any queue between a client and its node holds.
const SENT_MAX: usize = 32 << 20;
