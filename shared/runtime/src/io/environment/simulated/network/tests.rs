//! The network beside what a kernel shows.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Latency, Network};
use crate::io::environment::net::{Keepalive, TcpListener, TcpOptions, TcpStream};
use crate::io::environment::simulated::Host;

struct Bench {
    network: Network,
    hosts: Vec<Host>,
}

impl Bench {
    /// Three machines, one millisecond apart from each other.
    fn new() -> Self {
        let latency = Duration::from_millis(1);
        let network = Network::new(
            1,
            Latency {
                least: latency,
                most: latency,
            },
        );
        let host = |number| Host::new(&network, &[address(number, 0).ip()], number, Duration::ZERO);
        let hosts = (0..3).map(host).collect();
        Self { network, hosts }
    }

    fn pass(&self, time: Duration) {
        let end = self.network.now() + time;
        while self.network.now() < end {
            let next = self.network.now() + Duration::from_millis(1);
            self.network.advance(next);
        }
    }

    /// What comes of something that one host does within a second.
    fn on<R>(&self, host: usize, deed: impl Future<Output = R>) -> Option<R> {
        let mut deed = pin!(deed);
        for _ in 0..1_000 {
            let outcome = self.hosts[host].enter(|| deed.as_mut().now_or_never());
            if outcome.is_some() {
                return outcome;
            }
            self.pass(Duration::from_millis(1));
        }
        None
    }

    fn listen(&self, host: usize) -> TcpListener {
        let listening = TcpListener::bind(address(u64::try_from(host).unwrap(), 5060));
        self.on(host, listening).unwrap().unwrap()
    }

    /// A connection from the first host to the second.
    fn connected(&self) -> (TcpStream, TcpStream) {
        let listener = self.listen(1);
        let dialled = self.on(0, TcpStream::connect(address(1, 5060))).unwrap().unwrap();
        let (accepted, from) = self.on(1, listener.accept()).unwrap().unwrap();
        assert_eq!(from, dialled.local_addr().unwrap());
        (dialled, accepted)
    }

    fn write(&self, host: usize, stream: &mut TcpStream, text: &str) -> Option<io::Result<()>> {
        self.on(host, stream.write_all(text.as_bytes()))
    }

    fn read(&self, host: usize, stream: &mut TcpStream) -> Option<io::Result<String>> {
        let mut buffer = [0; 64];
        let read = self.on(host, stream.read(&mut buffer))?;
        Some(read.map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned()))
    }

    fn cut(&self, from: usize, to: usize) {
        self.network
            .cut(self.hosts[from].machine(), self.hosts[to].machine());
    }

    fn heal(&self, from: usize, to: usize) {
        self.network
            .heal(self.hosts[from].machine(), self.hosts[to].machine());
    }
}

fn address(host: u64, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 1, 1, u8::try_from(host + 1).unwrap()]), port)
}

fn kind<T>(result: Option<io::Result<T>>) -> Option<ErrorKind> {
    result.and_then(Result::err).map(|error| error.kind())
}

#[test]
fn bytes_arrive_in_order_and_an_end_is_an_end() {
    let bench = Bench::new();
    let (mut one, mut other) = bench.connected();
    bench.write(0, &mut one, "first ").unwrap().unwrap();
    bench.write(0, &mut one, "second").unwrap().unwrap();
    bench.pass(Duration::from_millis(5));
    assert_eq!(bench.read(1, &mut other).unwrap().unwrap(), "first second");
    drop(one);
    assert_eq!(bench.read(1, &mut other).unwrap().unwrap(), "");
}

#[test]
fn a_port_where_nobody_listens_refuses_and_a_machine_without_power_says_nothing() {
    let bench = Bench::new();
    let refused = bench.on(0, TcpStream::connect(address(1, 5060)));
    assert_eq!(kind(refused), Some(ErrorKind::ConnectionRefused));
    bench.network.switch_off(bench.hosts[1].machine());
    assert!(bench.on(0, TcpStream::connect(address(1, 5060))).is_none());
}

#[test]
fn a_listener_takes_connections_while_its_process_does_nothing_until_its_queue_is_full() {
    let bench = Bench::new();
    let host = &bench.hosts[1];
    let listener = host.enter(|| TcpListener::listen(address(1, 5060), 1, false).unwrap());
    assert!(bench.on(0, TcpStream::connect(address(1, 5060))).unwrap().is_ok());
    assert!(bench.on(0, TcpStream::connect(address(1, 5060))).is_none());
    drop(listener);
}

#[test]
fn what_a_cut_holds_up_comes_later_and_in_order() {
    let bench = Bench::new();
    let (mut one, mut other) = bench.connected();
    bench.cut(0, 1);
    bench.write(0, &mut one, "held ").unwrap().unwrap();
    assert!(bench.read(1, &mut other).is_none());
    bench.write(1, &mut other, "the other way").unwrap().unwrap();
    assert_eq!(bench.read(0, &mut one).unwrap().unwrap(), "the other way");
    bench.heal(0, 1);
    bench.write(0, &mut one, "late").unwrap().unwrap();
    bench.pass(Duration::from_millis(300));
    assert_eq!(bench.read(1, &mut other).unwrap().unwrap(), "held late");
    assert_eq!(bench.network.tally().held, 1);
}

#[test]
fn what_a_cut_holds_up_is_lost_with_the_power_of_its_sender() {
    let bench = Bench::new();
    let (mut one, mut other) = bench.connected();
    bench.cut(0, 1);
    bench.write(0, &mut one, "never").unwrap().unwrap();
    bench.pass(Duration::from_millis(5));
    bench.network.switch_off(bench.hosts[0].machine());
    bench.heal(0, 1);
    bench.pass(Duration::from_millis(300));
    assert!(bench.read(1, &mut other).is_none());
}

#[test]
fn a_process_that_ends_resets_what_it_has_not_read() {
    let bench = Bench::new();
    let (mut one, other) = bench.connected();
    bench.write(0, &mut one, "unread").unwrap().unwrap();
    bench.pass(Duration::from_millis(5));
    drop(other);
    assert_eq!(kind(bench.read(0, &mut one)), Some(ErrorKind::ConnectionReset));
}

#[test]
fn what_is_not_acknowledged_breaks_the_connection_in_time() {
    let bench = Bench::new();
    let (mut one, _other) = bench.connected();
    let options = TcpOptions {
        unacknowledged_max: Some(Duration::from_secs(2)),
        ..TcpOptions::default()
    };
    one.tune(&options).unwrap();
    bench.cut(0, 1);
    bench.write(0, &mut one, "lost").unwrap().unwrap();
    bench.pass(Duration::from_millis(1_900));
    assert!(bench.write(0, &mut one, "still open").unwrap().is_ok());
    bench.pass(Duration::from_millis(300));
    assert_eq!(
        kind(bench.write(0, &mut one, "broken")),
        Some(ErrorKind::TimedOut)
    );
}

#[test]
fn an_idle_connection_to_a_machine_that_is_gone_is_found_broken_by_its_probes() {
    let bench = Bench::new();
    let (mut one, _other) = bench.connected();
    let keepalive = Keepalive {
        idle: Duration::from_secs(5),
        interval: Duration::from_secs(1),
        retries: Some(3),
    };
    let options = TcpOptions {
        keepalive: Some(keepalive),
        ..TcpOptions::default()
    };
    one.tune(&options).unwrap();
    bench.network.switch_off(bench.hosts[1].machine());
    bench.pass(Duration::from_millis(7_900));
    assert!(bench.write(0, &mut one, "").unwrap().is_ok());
    bench.pass(Duration::from_millis(300));
    assert_eq!(kind(bench.read(0, &mut one)), Some(ErrorKind::TimedOut));
}

#[test]
fn a_machine_that_comes_back_knows_nothing_of_its_connections() {
    let bench = Bench::new();
    let (mut one, other) = bench.connected();
    bench.network.switch_off(bench.hosts[1].machine());
    drop(other);
    assert!(bench.read(0, &mut one).is_none());
    bench.write(0, &mut one, "are you there").unwrap().unwrap();
    bench.network.switch_on(bench.hosts[1].machine());
    assert_eq!(kind(bench.read(0, &mut one)), Some(ErrorKind::ConnectionReset));
}

#[test]
fn whoever_reads_nothing_is_sent_no_more_than_the_buffers_hold() {
    let bench = Bench::new();
    let (mut one, mut other) = bench.connected();
    let much = "x".repeat(300 << 10);
    assert!(bench.write(0, &mut one, &much).is_none());
    let mut whole = vec![0; 256 << 10];
    bench.on(1, other.read_exact(&mut whole)).unwrap().unwrap();
    assert!(bench.write(0, &mut one, "there is room again").unwrap().is_ok());
}
