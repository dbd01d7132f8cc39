//! The front end on loopback, between a client and nodes played by the test.
#![allow(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tandem_lb::app::FrontEnd;
use tandem_lb::config::Config;
use tandem_runtime::config::read_text;
use tandem_runtime::io::sip_stream::read_proxy_header;
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn bytes_pass_unchanged_both_ways_and_the_node_learns_who_the_client_is() {
    let world = World::start("message").await;
    let mut client = world.client().await;
    let invite = request("INVITE", "a", "");
    client.write_all(invite.as_bytes()).await.unwrap();
    let (header, mut first) = world.first.accept().await;
    assert_eq!(header.source, client.local_addr().unwrap());
    assert_eq!(header.destination, world.front_end.addresses()[0]);
    assert_eq!(
        (header.purpose, header.transport),
        (Purpose::Pair, Transport::Tcp)
    );
    assert_eq!(read(&mut first, invite.len()).await, invite);
    let (second_header, _second) = world.second.accept().await;
    assert_eq!(second_header.connection_id, header.connection_id);
    let answer = answer("INVITE", "a", 200, "n1-a");
    first.write_all(answer.as_bytes()).await.unwrap();
    assert_eq!(read(&mut client, answer.len()).await, answer);
}

#[tokio::test]
async fn an_invite_of_a_node_that_dies_is_answered_by_the_other() {
    let mut world = World::start("message").await;
    let mut client = world.client().await;
    let invite = request("INVITE", "a", "");
    client.write_all(invite.as_bytes()).await.unwrap();
    let (_, mut first) = world.first.accept().await;
    assert_eq!(read(&mut first, invite.len()).await, invite);
    let (_, mut ordinary) = world.second.accept().await;
    let trying = answer("INVITE", "a", 100, "");
    first.write_all(trying.as_bytes()).await.unwrap();
    world.first.die(first);
    let (header, mut resent) = world.second.accept().await;
    assert_eq!(header.purpose, Purpose::Resent);
    assert_eq!(read(&mut resent, invite.len()).await, invite);
    let ok = answer("INVITE", "a", 200, "n2-a");
    resent.write_all(ok.as_bytes()).await.unwrap();
    let both = format!("{trying}{ok}");
    assert_eq!(read(&mut client, both.len()).await, both);
    let info = request("INFO", "b", ";tag=n2-a");
    client.write_all(info.as_bytes()).await.unwrap();
    assert_eq!(read(&mut ordinary, info.len()).await, info);
}

#[tokio::test]
async fn garbage_closes_its_own_connection_and_a_ping_is_answered() {
    let world = World::start("message").await;
    let mut garbage = world.client().await;
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(garbage.read(&mut [0; 16]).await.unwrap(), 0);
    let mut client = world.client().await;
    client.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut client, 2).await, "\r\n");
}

/// Nothing is sent to a client that is not allowed, and nothing is read from it.
#[tokio::test]
async fn a_client_that_is_not_in_the_access_list_is_refused() {
    let allow = "allow = [{ source = \"127.0.0.2\", description = \"the pool\" }]";
    let world = World::start_with("message", allow).await;
    let mut stranger = world.client().await;
    stranger.write_all(b"\r\n\r\n").await.unwrap();
    assert!(!matches!(within(stranger.read(&mut [0; 16])).await, Ok(1..)));
    let mut client = world.client_from("127.0.0.2:0").await;
    client.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut client, 2).await, "\r\n");
}

#[tokio::test]
async fn behind_a_balancer_the_access_list_applies_to_the_address_in_its_header() {
    let keys = "proxy_protocol_from = [\"127.0.0.0/8\"]\nallow = [{ source = \"192.0.2.9\" }]";
    let world = World::start_with("message", keys).await;
    let header = |source: &str| {
        ProxyHeader::Proxied(ProxiedConnection {
            source: source.parse().unwrap(),
            destination: "192.0.2.1:5060".parse().unwrap(),
            transport: Transport::Tcp,
            connection_id: None,
            peer: None,
            purpose: Purpose::Pair,
            host_name: None,
        })
        .write()
    };
    let invite = request("INVITE", "a", "");
    for refused in [header("192.0.2.8:5060"), invite.clone().into_bytes()] {
        let mut stranger = world.client().await;
        stranger.write_all(&refused).await.unwrap();
        assert!(!matches!(within(stranger.read(&mut [0; 16])).await, Ok(1..)));
    }
    let mut client = world.client().await;
    client.write_all(&header("192.0.2.9:40000")).await.unwrap();
    client.write_all(invite.as_bytes()).await.unwrap();
    let (told, mut node) = world.first.accept().await;
    assert_eq!(told.source, "192.0.2.9:40000".parse().unwrap());
    assert_eq!(read(&mut node, invite.len()).await, invite);
}

/// Lync over TLS talks only to names that it trusts: nodes show this one.
#[tokio::test]
async fn nodes_are_told_a_listeners_host_name() {
    for mode in ["message", "connection"] {
        let world = World::start_with(mode, "host_name = \"rcc.example.com\"").await;
        let mut client = world.client().await;
        client
            .write_all(request("INVITE", "a", "").as_bytes())
            .await
            .unwrap();
        let (header, _node) = world.first.accept().await;
        assert_eq!(header.host_name.as_deref(), Some("rcc.example.com"), "{mode}");
    }
}

/// A client that has closed its direction still receives (RFC 793 §3.5).
#[tokio::test]
async fn in_connection_mode_a_client_that_closed_its_side_gets_its_answers() {
    let world = World::start("connection").await;
    let mut client = world.client().await;
    client.write_all(b"anything").await.unwrap();
    client.shutdown().await.unwrap();
    let (_, mut first) = world.first.accept().await;
    let mut asked = String::new();
    within(first.read_to_string(&mut asked)).await.unwrap();
    assert_eq!(asked, "anything");
    first.write_all(b"an answer").await.unwrap();
    drop(first);
    let mut answered = String::new();
    within(client.read_to_string(&mut answered)).await.unwrap();
    assert_eq!(answered, "an answer");
}

#[tokio::test]
async fn in_connection_mode_a_connection_goes_to_one_node_whole() {
    let world = World::start("connection").await;
    let mut client = world.client().await;
    client.write_all(b"anything").await.unwrap();
    let (_, mut first) = world.first.accept().await;
    assert_eq!(read(&mut first, 8).await, "anything");
    let mut next = world.client().await;
    next.write_all(b"else").await.unwrap();
    let (_, mut second) = world.second.accept().await;
    assert_eq!(read(&mut second, 4).await, "else");
}

#[tokio::test]
async fn a_node_reaches_a_client_through_the_outbound_listener() {
    let world = World::start("message").await;
    let target = &world.target;
    let mut node = TcpStream::connect(world.front_end.outbound_address().unwrap())
        .await
        .unwrap();
    let header = ProxyHeader::Proxied(ProxiedConnection {
        source: node.local_addr().unwrap(),
        destination: target.local_addr().unwrap(),
        transport: Transport::Tcp,
        connection_id: Some([7; 16]),
        peer: None,
        purpose: Purpose::Outbound { server_name: None },
        host_name: None,
    });
    node.write_all(&header.write()).await.unwrap();
    let event = "INFO sip:user@ocs SIP/2.0\r\nVia: SIP/2.0/TCP vip;branch=z9hG4bKn2-e\r\n\
        From: <sip:4711@vip>;tag=n2-x\r\nTo: <sip:user@ocs>;tag=client\r\nCall-ID: e\r\n\
        CSeq: 7 INFO\r\nContent-Length: 0\r\n\r\n";
    node.write_all(event.as_bytes()).await.unwrap();
    let (mut client, _) = target.accept().await.unwrap();
    assert_eq!(read(&mut client, event.len()).await, event);
    let ok = event
        .replace("INFO sip:user@ocs SIP/2.0", "SIP/2.0 200 OK")
        .replace(";tag=n2-x", ";tag=n2-x;a=b");
    client.write_all(ok.as_bytes()).await.unwrap();
    assert_eq!(read(&mut node, ok.len()).await, ok);
}

/// A front end with two nodes in service.
struct World {
    front_end: FrontEnd,
    first: Node,
    second: Node,
    /// A client that listens.
    target: TcpListener,
}

impl World {
    async fn start(mode: &str) -> Self {
        Self::start_with(mode, "").await
    }

    /// A front end with further keys of the listener.
    async fn start_with(mode: &str, keys: &str) -> Self {
        let (first, second) = (Node::start().await, Node::start().await);
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = target.local_addr().unwrap().port();
        let text = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"ocs\"\naddress = \"127.0.0.1:0\"\nmode = \"{mode}\"\n{keys}\n\
             [[node]]\nid = 1\naddress = \"{}\"\n[[node]]\nid = 2\naddress = \"{}\"\n\
             [keepalive]\ncheck = \"connect\"\n\
             [outbound]\nlisten = \"127.0.0.1:0\"\nallow = [\"127.0.0.0/8\"]\nallow_ports = [{port}]\nsource_address = \"127.0.0.1\"\n",
            first.address, second.address
        );
        let config = read_text(Path::new("lb.toml"), &text, Config::read).unwrap();
        let front_end = FrontEnd::start(config).await.unwrap();
        let in_service = async {
            while front_end.nodes_in_service() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(in_service).await;
        Self {
            front_end,
            first,
            second,
            target,
        }
    }

    async fn client_from(&self, source: &str) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(source.parse().unwrap()).unwrap();
        socket.connect(self.front_end.addresses()[0]).await.unwrap()
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.front_end.addresses()[0]).await.unwrap()
    }
}

/// A node's SIP listener, without its probes.
struct Node {
    listener: Option<TcpListener>,
    address: SocketAddr,
}

impl Node {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            listener: Some(listener),
            address,
        }
    }

    async fn accept(&self) -> (ProxiedConnection, TcpStream) {
        let listener = self.listener.as_ref().unwrap();
        within(async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let header = read_proxy_header(&mut stream, PATIENCE).await.unwrap();
                if let Some((ProxyHeader::Proxied(connection), rest)) = header {
                    return (connection, Self::unread(stream, &rest).await);
                }
            }
        })
        .await
    }

    /// The stream, with the bytes that were read too far put back in front.
    async fn unread(stream: TcpStream, rest: &[u8]) -> TcpStream {
        if rest.is_empty() {
            return stream;
        }
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(relay.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = relay.accept().await.unwrap();
        far.write_all(rest).await.unwrap();
        let mut stream = stream;
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut far).await });
        near
    }

    fn die(&mut self, connection: TcpStream) {
        self.listener = None;
        drop(connection);
    }
}

async fn read(stream: &mut TcpStream, bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    within(stream.read_exact(&mut buffer)).await.unwrap();
    String::from_utf8(buffer).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

fn request(method: &str, name: &str, to_tag: &str) -> String {
    format!(
        "{method} sip:4711@vip SIP/2.0\r\nv: SIP/2.0/TCP  ocs ;branch=z9hG4bK{name}\r\n\
         From: <sip:user@ocs>;tag=client\r\nTo: <sip:4711@vip>{to_tag}\r\nCall-ID: {name}\r\n\
         X-Odd:   kept  as it is\t\r\nCSeq: 1 {method}\r\nContent-Length: 4\r\n\r\nbody"
    )
}

fn answer(method: &str, name: &str, status: u16, to_tag: &str) -> String {
    let to_tag = if to_tag.is_empty() {
        String::new()
    } else {
        format!(";tag={to_tag}")
    };
    format!(
        "SIP/2.0 {status} Reason\r\nv: SIP/2.0/TCP  ocs ;branch=z9hG4bK{name}\r\n\
         From: <sip:user@ocs>;tag=client\r\nTo: <sip:4711@vip>{to_tag}\r\nCall-ID: {name}\r\n\
         CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

const PATIENCE: Duration = Duration::from_secs(10);
