//! Who may speak with a member at its peer port, and what is said of the others: over real sockets, of both families.
#![expect(clippy::disallowed_methods, reason = "a wait has a deadline")]
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SerialNumber, date_time_ymd};
use tandem_cluster::{MemberRole, NodeId, StateLimits};
use tandem_raft::{Cluster, ClusterConfig, Member, RaftMetrics};
use tandem_runtime::config::TlsFiles;
use tandem_runtime::io::environment::files::RealFiles;
use tandem_runtime::io::transport::TlsTransport;
use tandem_tests::cluster::certificates::{Authority, Issued};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

const FAMILIES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const DEADLINE: Duration = Duration::from_secs(10);
const REVOKED: u64 = 4711;

/// A cluster's authority, and one member that runs: n1.
struct Lab {
    directory: tempfile::TempDir,
    authority: Authority,
    members: Vec<Member>,
}

/// A member in this process.
struct Running {
    cluster: Cluster,
    registry: Registry,
}

impl Lab {
    fn new(family: IpAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("main members").unwrap();
        std::fs::write(directory.path().join("authority.pem"), authority.pem()).unwrap();
        let revoked = authority.revocation_list(&[REVOKED]).unwrap();
        std::fs::write(directory.path().join("revoked.pem"), revoked).unwrap();
        let sockets: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind((family, 0)).unwrap()).collect();
        let members = (1..).zip(&sockets).map(|(id, socket)| Member {
            id: NodeId(id),
            role: MemberRole::Node,
            address: socket.local_addr().unwrap().into(),
        });
        let members = members.collect();
        Self {
            directory,
            authority,
            members,
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// The files of a member that has this certificate.
    fn files(&self, issued: &Issued, name: &str) -> TlsFiles {
        issued.write(self.directory.path(), name).unwrap();
        TlsFiles {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            authority: self.path("authority.pem"),
            revocation_list: Some(self.path("revoked.pem")),
        }
    }

    /// On a directory of its own.
    fn config(&self, cluster: &str, id: u64) -> ClusterConfig {
        let directory = self.path(&format!("data-{}", rand::random::<u64>()));
        ClusterConfig::new(
            cluster,
            NodeId(id),
            self.members.clone(),
            directory,
            StateLimits::default(),
        )
    }

    /// Starts a member that shows the certificate of member `holder` of `certified`.
    async fn start(&self, config: ClusterConfig, certified: &str, holder: u64) -> Running {
        let issued = self
            .authority
            .issue(&format!("n{holder}.{certified}.tandem"))
            .unwrap();
        self.start_with(config, &issued, certified, holder).await
    }

    async fn start_with(
        &self,
        config: ClusterConfig,
        issued: &Issued,
        certified: &str,
        holder: u64,
    ) -> Running {
        let files = self.files(issued, &format!("n{holder}.{certified}.tandem"));
        let transport = TlsTransport::new(&files, certified, NodeId(holder)).unwrap();
        let data = Arc::new(RealFiles::open(&config.data_directory).unwrap());
        let registry = Registry::new();
        let metrics = RaftMetrics::register(&registry).unwrap();
        let cluster = Cluster::start(config, transport, data, metrics).await.unwrap();
        Running { cluster, registry }
    }
}

impl Running {
    fn address(&self) -> SocketAddr {
        self.cluster.listen_address()
    }

    fn refused(&self, direction: &str, reason: &str) -> u64 {
        let families = self.registry.gather();
        let name = "tandem_raft_connections_refused_total";
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let has = |metric: &prometheus::proto::Metric, label: &str, value: &str| {
            let mut labels = metric.get_label().iter();
            labels.any(|pair| pair.name() == label && pair.value() == value)
        };
        let counted = metrics
            .iter()
            .filter(|metric| has(metric, "direction", direction) && has(metric, "reason", reason))
            .map(|metric| metric.get_counter().get_value());
        counted.sum::<f64>() as u64
    }

    async fn until_refused(&self, direction: &str, reason: &str, count: u64) {
        let what = format!("a refused connection {direction} because of {reason}");
        until(&what, || self.refused(direction, reason) >= count).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn answers(member: &Running, other: &str) -> bool {
    let members = member.cluster.members().members;
    members.iter().any(|member| member.id == other && member.answers)
}

/// Connects as a client with this certificate. Whether the member waits for a greeting then, or why it does not.
async fn visit(member: &Running, lab: &Lab, shown: Option<&Issued>) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(lab.authority.pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    let stream = TcpStream::connect(member.address()).await.unwrap();
    let name = ServerName::try_from("n1.main.tandem").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    // With TLS 1.3 a client hears of its refusal after its own side of the handshake.
    let mut byte = [0];
    match timeout(Duration::from_millis(500), stream.read(&mut byte)).await {
        Ok(Ok(0)) => Err("closed".to_owned()),
        Ok(Ok(_)) => Err("the member spoke first".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_peer_with_a_valid_certificate_is_listened_to() {
    for family in FAMILIES {
        let lab = Lab::new(family);
        let member = lab.start(lab.config("main", 1), "main", 1).await;
        let issue =
            |change: fn(&mut CertificateParams)| lab.authority.issue_with("n2.main.tandem", change).unwrap();
        visit(&member, &lab, Some(&issue(|_| {}))).await.unwrap();
        let other = Authority::new("main members").unwrap();
        let cases = [
            ("no certificate", None),
            (
                "of another authority",
                Some(other.issue("n2.main.tandem").unwrap()),
            ),
            (
                "expired",
                Some(issue(|params| params.not_after = date_time_ymd(2020, 1, 1))),
            ),
            (
                "not valid yet",
                Some(issue(|params| params.not_before = date_time_ymd(4000, 1, 1))),
            ),
            (
                "for servers alone",
                Some(issue(|params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                })),
            ),
            (
                "revoked",
                Some(issue(|params| {
                    params.serial_number = Some(SerialNumber::from(REVOKED))
                })),
            ),
        ];
        for (number, (what, shown)) in (1..).zip(cases) {
            let outcome = visit(&member, &lab, shown.as_ref()).await;
            println!("{family}, {what}: {outcome:?}");
            assert!(outcome.is_err(), "{family}: a certificate {what} was accepted");
            member.until_refused("in", "tls", number).await;
        }
        member.cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_other_than_the_one_wanted_is_refused_at_both_ends() {
    for family in FAMILIES {
        let lab = Lab::new(family);
        let member = lab.start(lab.config("main", 1), "main", 1).await;

        let other_cluster = lab.start(lab.config("other", 2), "main", 2).await;
        member.until_refused("in", "another_cluster", 1).await;
        other_cluster.until_refused("out", "another_cluster", 1).await;
        other_cluster.cluster.shutdown().await;

        let other_holder = lab.start(lab.config("main", 2), "main", 3).await;
        member.until_refused("in", "certificate", 1).await;
        other_holder.until_refused("out", "certificate", 1).await;
        other_holder.cluster.shutdown().await;

        let certified_elsewhere = lab.start(lab.config("main", 2), "other", 2).await;
        certified_elsewhere.until_refused("out", "tls", 1).await;
        certified_elsewhere.cluster.shutdown().await;

        // Its list says that n3 is where n1 is: n1's certificate is not n3's.
        let mut config = lab.config("main", 2);
        config.members[2].address = member.address().into();
        config.members.remove(0);
        let misled = lab.start(config, "main", 2).await;
        misled.until_refused("out", "tls", 1).await;
        misled.cluster.shutdown().await;
        member.cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_revoked_while_members_run_is_refused_from_then_on() {
    let lab = Lab::new(FAMILIES[0]);
    let member = lab.start(lab.config("main", 1), "main", 1).await;
    let numbered = |params: &mut CertificateParams| params.serial_number = Some(SerialNumber::from(42));
    let shown = lab.authority.issue_with("n2.main.tandem", numbered).unwrap();
    visit(&member, &lab, Some(&shown)).await.unwrap();
    let third = lab.start(lab.config("main", 3), "main", 3).await;
    let second = lab.start_with(lab.config("main", 2), &shown, "main", 2).await;
    let hear_each_other = || answers(&member, "n2") && answers(&member, "n3");
    until("the members hear each other", hear_each_other).await;
    let list = lab.authority.revocation_list(&[REVOKED, 42]).unwrap();
    std::fs::write(lab.path("revoked.pem"), list).unwrap();
    let started = Instant::now();
    while visit(&member, &lab, Some(&shown)).await.is_ok() {
        assert!(started.elapsed() < DEADLINE, "the list is not read again");
    }
    // So does a connection end that stands.
    until("n2 is listened to no more", || !answers(&member, "n2")).await;
    assert!(answers(&member, "n3"));
    third.cluster.shutdown().await;
    second.cluster.shutdown().await;
    member.cluster.shutdown().await;
}
