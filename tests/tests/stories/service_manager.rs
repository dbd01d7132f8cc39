//! What systemd is told, by way of the socket that it gives to a service.

use std::time::{Duration, Instant};

use tandem_tests::cluster::{Cluster, ClusterOptions, DEADLINE, Member, Signal};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// The watchdog wants to hear something twice as often.
const WATCHDOG: Duration = Duration::from_millis(800);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_that_it_serves_that_it_is_well_and_that_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    for member in [Member::Node(1), Member::Lb] {
        let path = directory.path().join(member.to_string());
        let manager = UnixDatagram::bind(&path).unwrap();
        let options = ClusterOptions {
            users: 2,
            cti_managers: 1,
            environment: vec![
                (member, "NOTIFY_SOCKET", path.display().to_string()),
                (member, "WATCHDOG_USEC", WATCHDOG.as_micros().to_string()),
            ],
            ..ClusterOptions::default()
        };
        let mut cluster = Cluster::start(options).await.unwrap();
        assert_eq!(next(&manager).await, "READY=1");
        for _ in 0..8 {
            assert_eq!(next(&manager).await, "WATCHDOG=1");
        }
        // A process that stands still does not say that it is well.
        cluster.signal(member, Signal::Stop).unwrap();
        while timeout(WATCHDOG, receive(&manager)).await.is_ok() {}
        cluster.signal(member, Signal::Continue).unwrap();
        assert_eq!(next(&manager).await, "WATCHDOG=1");
        assert_eq!(cluster.stop(member).await.unwrap(), 0);
        let started = Instant::now();
        while next(&manager).await != "STOPPING=1" {
            assert!(
                started.elapsed() < DEADLINE,
                "{member} does not say that it stops"
            );
        }
        cluster.dismiss();
    }
}

async fn next(manager: &UnixDatagram) -> String {
    timeout(DEADLINE, receive(manager)).await.unwrap()
}

async fn receive(manager: &UnixDatagram) -> String {
    let mut datagram = [0; 256];
    let length = manager.recv(&mut datagram).await.unwrap();
    String::from_utf8_lossy(&datagram[..length]).trim().to_owned()
}
