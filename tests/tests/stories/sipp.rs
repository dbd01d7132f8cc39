//! SIPp, a client that others wrote: what it sends is answered to the last request, over TCP and over OpenSSL's TLS.

use tandem_tests::cluster::{Cluster, ClusterOptions, Member, Metrics};
use tandem_tests::peers::openssl::{OpensslTunnel, openssl_is_installed};
use tandem_tests::peers::sipp::{Sipp, SippTally, Sockets, sipp_is_installed};

const USERS: usize = 40;
/// INVITE, ACK, two INFO and BYE.
const REQUESTS_OF_A_CALL: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sipp_signs_hundreds_in_and_off_over_one_connection_and_over_one_each() {
    if !sipp_is_installed() {
        return;
    }
    let cluster = cluster().await;
    for (sockets, count, connections) in [(Sockets::One, 150, 1), (Sockets::OnePerCall, 50, 50)] {
        let sipp = Sipp {
            sockets,
            ..calls(&cluster, count)
        };
        every_call_goes_well(&cluster, &sipp, "ocs", connections).await;
    }
    cluster.dismiss();
}

/// Debian's SIPp has no TLS of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sipp_signs_users_in_and_off_through_mutual_tls_of_openssl() {
    if !sipp_is_installed() || !openssl_is_installed() {
        return;
    }
    let cluster = cluster().await;
    let identity = ["-cert", "n1.pem", "-key", "n1.key", "-CAfile", "authority.pem"];
    let strict = ["-verify_return_error", "-verify_hostname", "n100.story.tandem"];
    let tunnel = OpensslTunnel::open(
        cluster.addresses().ocs(2),
        cluster.directory(),
        cluster.addresses().vip_tls(),
        &[identity.as_slice(), strict.as_slice()].concat(),
    )
    .await;
    for (sockets, count, connections) in [(Sockets::One, 60, 1), (Sockets::OnePerCall, 30, 30)] {
        let sipp = Sipp {
            target: tunnel.address,
            sockets,
            ..calls(&cluster, count)
        };
        every_call_goes_well(&cluster, &sipp, "ocs-tls", connections).await;
    }
    cluster.dismiss();
}

async fn cluster() -> Cluster {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    Cluster::start(options).await.unwrap()
}

fn calls(cluster: &Cluster, calls: u32) -> Sipp {
    Sipp {
        target: cluster.addresses().vip(),
        source: cluster.addresses().ocs(1),
        sockets: Sockets::One,
        calls,
        calls_at_once: 20,
        users: 0..USERS,
    }
}

/// Plays the calls; SIPp and the front end have counted the same.
async fn every_call_goes_well(cluster: &Cluster, sipp: &Sipp, listener: &str, connections: u32) {
    let before = Counts::of(cluster, listener).await;
    let tally = sipp.play().await.unwrap();
    let all_well = SippTally {
        created: sipp.calls,
        successful: sipp.calls,
        failed: 0,
    };
    assert_eq!(tally, all_well, "{sipp:?}");
    let after = Counts::of(cluster, listener).await;
    assert_eq!(
        after.requests - before.requests,
        f64::from(sipp.calls * REQUESTS_OF_A_CALL)
    );
    assert_eq!(after.sessions - before.sessions, f64::from(sipp.calls));
    assert_eq!(after.connections - before.connections, f64::from(connections));
    assert_eq!(after.refusals, 0.0, "something was refused");
}

/// What the front end has counted so far.
struct Counts {
    requests: f64,
    sessions: f64,
    connections: f64,
    refusals: f64,
}

impl Counts {
    async fn of(cluster: &Cluster, listener: &str) -> Self {
        let metrics = cluster.metrics(Member::Lb).await.unwrap();
        let requests = [("direction", "received"), ("kind", "request")];
        let of_listener = [("listener", listener)];
        Self {
            requests: metrics.sum("tandem_lb_client_messages_total", &requests),
            sessions: metrics.sum("tandem_lb_sessions_assigned_total", &of_listener),
            connections: metrics.sum("tandem_lb_client_connections_accepted_total", &of_listener),
            refusals: refusals(&metrics),
        }
    }
}

fn refusals(metrics: &Metrics) -> f64 {
    let counters = [
        "tandem_lb_client_connections_refused_total",
        "tandem_lb_answers_generated_total",
        "tandem_lb_framing_errors_total",
        "tandem_lb_limits_reached_total",
        "tandem_lb_dropped_messages_total",
        "tandem_lb_redispatches_total",
    ];
    counters.iter().map(|counter| metrics.sum(counter, &[])).sum()
}
