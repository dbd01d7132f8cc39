//! Certificates of a TLS listener, changed while the front end runs (RCC-9): by command line, by the admin listener, and by a
//! new revocation list.
#![allow(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tandem_lb::app::FrontEnd;
use tandem_lb::config::Config;
use tandem_runtime::config::read_text;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_trusted_and_forgotten_while_its_clients_are_served() {
    let ours = Authority::new("ours");
    let lab = Lab::new();
    lab.write_pair(&ours.issue(VIP, 1));
    let front_end = lab.start("trust_directory = \"trusted\"\n").await;
    let theirs = Authority::new("theirs");
    let ocs = theirs.issue("ocs.example", 7);
    assert!(
        !is_served(&front_end, &ours, &ocs).await,
        "its authority is not trusted"
    );

    lab.write("theirs.pem", &theirs.pem);
    lab.openssl("crl2pkcs7 -nocrl -certfile theirs.pem -outform DER -out theirs.p7b");
    let uploaded = lab.ask(&front_end, &["upload", "tls", "theirs.p7b"]);
    assert!(uploaded.status.success(), "{uploaded:?}");
    let mut standing = connect(&front_end, &ours, &ocs).await.unwrap();
    assert!(pings(&mut standing).await);

    let listed = json(&lab.ask(&front_end, &["list", "tls", "--json"]));
    let fingerprint = listed["trusted"][0]["sha256_fingerprint"].as_str().unwrap();
    assert_eq!(listed["trusted"][0]["subject"], "CN=theirs");
    let removed = lab.ask(&front_end, &["remove", "tls", fingerprint]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(!is_served(&front_end, &ours, &ocs).await, "its authority is gone");
    assert!(pings(&mut standing).await, "what stood goes on");
    let again = lab.ask(&front_end, &["remove", "tls", fingerprint]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains(fingerprint), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_authority_or_one_uploaded_by_a_web_page_is_not_trusted() {
    let ours = Authority::new("ours");
    let lab = Lab::new();
    lab.write_pair(&ours.issue(VIP, 1));
    let front_end = lab.start("trust_directory = \"trusted\"\n").await;
    let theirs = Authority::new("theirs");
    lab.write("leaf.pem", &theirs.issue("ocs.example", 7).certificate);
    std::fs::write(lab.path("garbage.cer"), [0x30, 0x82, 0xff, 0xff, 0x00]).unwrap();
    for (file, says) in [
        ("leaf.pem", "is no certificate of an authority"),
        ("garbage.cer", "not an X.509 certificate"),
    ] {
        let refused = lab.ask(&front_end, &["upload", "tls", file]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(says), "{refused:?}");
    }
    let body = format!("{{\"pem\":{:?}}}", theirs.pem);
    for (content_type, path, status) in [("text/plain", "tls", "415"), ("application/json", "other", "404")] {
        let request = format!(
            "POST /listeners/{path}/certificates/upload HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = http(&front_end, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let listed = json(&lab.ask(&front_end, &["list", "tls", "--json"]));
    assert_eq!(listed["trusted"], Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_requested_signed_and_shown_without_a_restart() {
    let authority = Authority::new("authority");
    let ocs = authority.issue("ocs.example", 7);
    let lab = Lab::new();
    std::fs::create_dir(lab.path("trusted")).unwrap();
    lab.write("trusted/authority.pem", &authority.pem);
    lab.write("authority.pem", &authority.pem);
    lab.write("authority.key", &authority.issuer.key().serialize_pem());
    let front_end = lab.start("trust_directory = \"trusted\"\n").await;
    assert!(
        connect(&front_end, &authority, &ocs).await.is_err(),
        "nothing to show yet"
    );
    let listed = lab.ask(&front_end, &["list", "tls"]);
    assert_eq!(listed.status.code(), Some(1));

    let first = lab.requested_and_signed(&front_end);
    let stranger = Authority::new("stranger").issue(VIP, 9).certificate;
    lab.write("stranger.pem", &stranger);
    let refused = lab.ask(&front_end, &["signed", "tls", "stranger.pem"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("none of the certificates is for the key"),
        "{refused:?}"
    );
    let body = format!("{{\"pem\":{stranger:?}}}");
    let request = format!(
        "POST /listeners/tls/certificates/signed HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = http(&front_end, &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 409") && answer.contains("\"status\":\"Bad Certificates\""),
        "{answer}"
    );
    assert!(
        connect(&front_end, &authority, &ocs).await.is_err(),
        "still nothing"
    );

    lab.openssl("crl2pkcs7 -nocrl -certfile signed.pem -certfile authority.pem -out signed.p7b");
    let installed = lab.ask(&front_end, &["signed", "tls", "signed.p7b"]);
    assert!(installed.status.success(), "{installed:?}");
    let mut standing = connect(&front_end, &authority, &ocs).await.unwrap();
    assert_eq!(shown(&standing), first);

    let second = lab.requested_and_signed(&front_end);
    let meanwhile = connect(&front_end, &authority, &ocs).await.unwrap();
    assert_eq!(
        shown(&meanwhile),
        first,
        "the old pair serves until the answer is here"
    );
    let installed = json(&lab.ask(&front_end, &["signed", "tls", "signed.pem", "--json"]));
    assert_eq!(installed["status"], "Verified", "{installed}");
    let renewed = connect(&front_end, &authority, &ocs).await.unwrap();
    assert_eq!(shown(&renewed), second);
    assert!(pings(&mut standing).await, "what stood goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_a_certificate_is_installed_is_repaired_at_the_next_start() {
    let authority = Authority::new("authority");
    let lab = Lab::new();
    lab.write_pair(&authority.issue(VIP, 1));
    lab.write("authority.pem", &authority.pem);
    lab.write("authority.key", &authority.issuer.key().serialize_pem());
    let front_end = lab.start("trust_directory = \"trusted\"\n").await;
    drop(lab.requested_and_signed(&front_end));
    let check = || {
        let mut command = lab.command();
        command
            .args(["--config", "lb.toml", "--check-config"])
            .output()
            .unwrap()
    };
    assert!(check().status.success(), "a request that waits changes nothing");
    // The certificate is in place, its key is not.
    std::fs::copy(lab.path("signed.pem"), lab.path("vip.pem")).unwrap();
    let mended = check();
    assert!(mended.status.success(), "{mended:?}");
    assert!(!lab.path("vip.key.requested").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_certificate_is_revoked_is_cut_off_and_others_stay() {
    let authority = Authority::new("authority");
    let lab = Lab::new();
    lab.write_pair(&authority.issue(VIP, 1));
    lab.write("authority.pem", &authority.pem);
    lab.write("crl.pem", &authority.revoked(&[]));
    for mode in ["message", "connection"] {
        let keys = format!(
            "mode = \"{mode}\"\nclient_authority = \"authority.pem\"\nrevocation_list = \"crl.pem\"\n"
        );
        lab.write("crl.pem", &authority.revoked(&[]));
        let front_end = lab.start(&keys).await;
        let (lost, kept) = (
            authority.issue("lost.example", 0xf7),
            authority.issue("kept.example", 8),
        );
        let mut of_lost = connect(&front_end, &authority, &lost).await.unwrap();
        let mut of_kept = connect(&front_end, &authority, &kept).await.unwrap();
        assert!(pings(&mut of_lost).await && pings(&mut of_kept).await);

        lab.write("crl.pem", &authority.revoked(&[0xf7]));
        let ended = async { of_lost.read(&mut [0; 16]).await };
        assert!(!matches!(within(ended).await, Ok(1..)), "{mode}");
        assert!(pings(&mut of_kept).await, "{mode}");
        assert!(!is_served(&front_end, &authority, &lost).await, "{mode}");
        let metrics = http(
            &front_end,
            "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )
        .await;
        let counted = "tandem_lb_client_connections_ended_total{listener=\"tls\",reason=\"revoked\"} 1";
        assert!(metrics.contains(counted), "{metrics}");
    }
}

/// A directory with the files of one front end.
struct Lab {
    directory: TempDir,
}

impl Lab {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let partial = self.path("partial");
        std::fs::write(&partial, text).unwrap();
        std::fs::rename(partial, self.path(name)).unwrap();
    }

    fn write_pair(&self, pair: &Pair) {
        use std::os::unix::fs::PermissionsExt;

        self.write("vip.pem", &pair.certificate);
        self.write("vip.key", &pair.key);
        std::fs::set_permissions(self.path("vip.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A front end with these keys of its listener besides certificate and key.
    async fn start(&self, keys: &str) -> FrontEnd {
        let node = Node::start().await;
        let text = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\ntransport = \"tls\"\n\
             certificate = \"vip.pem\"\nkey = \"vip.key\"\n{keys}\
             [[node]]\nid = 1\naddress = \"{}\"\n[keepalive]\ncheck = \"connect\"\n",
            node.address
        );
        self.write("lb.toml", &text);
        let config = read_text(&self.path("lb.toml"), &text, Config::read).unwrap();
        let front_end = FrontEnd::start(config).await.unwrap();
        within(async {
            while front_end.nodes_in_service() < 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        front_end
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem-lb"));
        command.current_dir(self.directory.path());
        command
    }

    fn ask(&self, front_end: &FrontEnd, words: &[&str]) -> Output {
        let admin = front_end.admin_address().to_string();
        let mut command = self.command();
        command.arg("certificate").args(words).args(["--admin", &admin]);
        command.output().unwrap()
    }

    fn openssl(&self, arguments: &str) -> String {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has the authority sign a new request, into `signed.pem`.
    fn requested_and_signed(&self, front_end: &FrontEnd) -> CertificateDer<'static> {
        use std::os::unix::fs::PermissionsExt;

        let requested = self.ask(front_end, &["csr", "tls", VIP, "n1.example", "192.0.2.10"]);
        assert!(requested.status.success(), "{requested:?}");
        std::fs::write(self.path("request.csr"), &requested.stdout).unwrap();
        let text = self.openssl("req -in request.csr -verify -noout -text");
        for says in [
            "DNS:vip.example",
            "DNS:n1.example",
            "IP Address:192.0.2.10",
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ] {
            assert!(text.contains(says), "{text}");
        }
        let pending = std::fs::metadata(self.path("vip.key.requested")).unwrap();
        assert_eq!(pending.permissions().mode() & 0o777, 0o600);
        self.openssl(
            "x509 -req -in request.csr -copy_extensions copy -CA authority.pem -CAkey authority.key -CAcreateserial \
             -days 30 -out signed.pem",
        );
        CertificateDer::from_pem_file(self.path("signed.pem")).unwrap()
    }
}

/// A node that accepts connections and keeps them.
struct Node {
    address: std::net::SocketAddr,
}

impl Node {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        Self { address }
    }
}

/// Whether a ping gets as far as the node, as it does in connection mode.
async fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        if bytes[..read].ends_with(PING) && stream.write_all(b"\r\n").await.is_err() {
            return;
        }
    }
}

struct Pair {
    certificate: String,
    key: String,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str, serial_number: u64) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial_number));
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn revoked(&self, serial_numbers: &[u64]) -> String {
        let now = time::OffsetDateTime::now_utc();
        let revoked_certs = serial_numbers.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: now - time::Duration::MINUTE,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - time::Duration::MINUTE,
            next_update: now + time::Duration::HOUR,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A client with this certificate, which trusts `authority` for the listener.
async fn connect(
    front_end: &FrontEnd,
    authority: &Authority,
    own: &Pair,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
        .unwrap();
    let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    let stream = TcpStream::connect(front_end.addresses()[0]).await?;
    let name = ServerName::try_from(VIP).unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// With TLS 1.3 a client learns only after its handshake that it is refused.
async fn is_served(front_end: &FrontEnd, authority: &Authority, own: &Pair) -> bool {
    match connect(front_end, authority, own).await {
        Ok(mut stream) => pings(&mut stream).await,
        Err(_) => false,
    }
}

async fn pings(stream: &mut TlsStream<TcpStream>) -> bool {
    if stream.write_all(PING).await.is_err() {
        return false;
    }
    let mut answer = [0; 2];
    within(stream.read_exact(&mut answer)).await.is_ok() && &answer == b"\r\n"
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].clone().into_owned()
}

async fn http(front_end: &FrontEnd, request: &str) -> String {
    let mut stream = TcpStream::connect(front_end.admin_address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

const VIP: &str = "vip.example";
const PING: &[u8] = b"\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);
