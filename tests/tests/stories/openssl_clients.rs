//! OpenSSL's client with every kind of certificate, before a listener that is strict (RCC-9).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use tandem_tests::cluster::certificates::{Authority, Issued};
use tandem_tests::cluster::{Cluster, ClusterOptions, DEADLINE, Member};
use tandem_tests::peers::openssl::{OpensslClient, openssl, openssl_is_installed};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_certificates_are_served_and_every_other_one_is_refused_by_name() {
    if !openssl_is_installed() {
        return;
    }
    let files = Files::new();
    let cases = certificates(&files).into_iter().chain(protocols());
    let cluster = start(&files).await;
    let listener = SocketAddr::new(cluster.addresses().vip().ip(), PORT);
    let mut counted: BTreeMap<String, f64> = BTreeMap::new();
    let runs = cases.flat_map(|case| case.versions.iter().map(move |version| (case.clone(), *version)));
    for (number, (case, version)) in (100..).zip(runs) {
        // From an address of its own: an address is named in the log once a minute.
        let source = cluster.addresses().at(number, 0);
        let name = format!("{} {version}", case.name);
        let answer = ask(&files, listener, source, &case, version).await;
        match case.refused {
            None => {
                let head = answer.unwrap_or_else(|said| panic!("{name}: {said}"));
                assert!(head.starts_with("SIP/2.0 200 "), "{name}: {head}");
            }
            Some((status, says)) => {
                assert!(answer.is_err(), "{name}: {answer:?}");
                *counted.entry(status.to_owned()).or_default() += 1.0;
                let line = line_about(&cluster, source).await;
                let missing: Vec<_> = says.iter().filter(|text| !line.contains(**text)).collect();
                assert!(
                    line.contains(&format!("reason=\"{status}\"")) && missing.is_empty(),
                    "{name}: {missing:?} in {line}"
                );
            }
        }
        let metrics = cluster.metrics(Member::Lb).await.unwrap();
        let refusals = metrics.by_label("tandem_lb_client_connections_refused_total", "reason");
        assert_eq!(refusals, counted, "{name}");
    }
    cluster.dismiss();
}

/// How a client comes, and what becomes of it.
#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    /// Which files it shows.
    certificate: Option<&'static str>,
    options: &'static [&'static str],
    versions: &'static [&'static str],
    /// The status, and what the log says besides.
    refused: Option<(&'static str, &'static [&'static str])>,
}

/// Everything that a certificate of a client can be.
fn certificates(files: &Files) -> Vec<Case> {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let now = OffsetDateTime::now_utc();
    let usage = |usages: &'static [ExtendedKeyUsagePurpose]| {
        move |params: &mut CertificateParams| params.extended_key_usages = usages.to_vec()
    };
    let ours = |file: &str, name: &str, change: &dyn Fn(&mut CertificateParams)| {
        files.write(file, &files.ours.issue_with(name, change).unwrap());
    };
    ours("server", POOL, &usage(&[ServerAuth]));
    ours("client", POOL, &usage(&[ClientAuth]));
    ours("both", POOL, &usage(&[ServerAuth, ClientAuth]));
    ours("any", "edge.example", &usage(&[]));
    ours("signer", POOL, &usage(&[CodeSigning]));
    ours("expired", POOL, &|params| params.not_after = now - Duration::DAY);
    ours("early", POOL, &|params| params.not_before = now + Duration::DAY);
    ours("deep", "a.ocs.pool.example", &usage(&[ServerAuth]));
    ours("unlisted", "ocs.other.example", &usage(&[ServerAuth]));
    ours("unnamed", "old.example", &without_alternative_names);
    ours("revoked", POOL, &|params| {
        params.serial_number = Some(REVOKED.into())
    });
    files.write_with_long_key("long");
    files.write("stranger", &files.theirs.issue(POOL).unwrap());
    let good = |name, file| Case {
        name,
        certificate: Some(file),
        options: &[],
        versions: BOTH,
        refused: None,
    };
    let bad = |name, file, status, says| Case {
        refused: Some((status, says)),
        ..good(name, file)
    };
    vec![
        good("a certificate for servers", "server"),
        good("a certificate for clients", "client"),
        good("a certificate for both", "both"),
        good("a certificate that says nothing of its use", "any"),
        good("a key of 4096 bits", "long"),
        bad("for code", "signer", "bad_certificates", &[POOL]),
        bad("expired", "expired", "bad_certificates", &["expired", POOL]),
        bad(
            "not yet valid",
            "early",
            "bad_certificates",
            &["not valid yet", POOL],
        ),
        bad("revoked", "revoked", "bad_certificates", &["Revoked", POOL]),
        bad(
            "of another authority",
            "stranger",
            "certificate_missing_from_chain",
            &[POOL, "theirs", "ours"],
        ),
        bad(
            "not listed",
            "unlisted",
            "san_mismatch",
            &["ocs.other.example", "*.pool.example", "edge.example"],
        ),
        bad(
            "below what the star stands for",
            "deep",
            "san_mismatch",
            &["a.ocs.pool.example", "*.pool.example"],
        ),
        bad(
            "not listed by its common name",
            "unnamed",
            "subject_cn_mismatch",
            &["old.example", "*.pool.example"],
        ),
        Case {
            certificate: None,
            ..bad(
                "no certificate",
                "",
                "bad_certificates",
                &["shows no certificate"],
            )
        },
    ]
}

/// A good certificate, and a handshake that the listener does not want.
fn protocols() -> Vec<Case> {
    let case = |name, options, version, refused| Case {
        name,
        certificate: Some("server"),
        options,
        versions: version,
        refused,
    };
    let old = Some(("tls_version", ["1.2", "1.3"].as_slice()));
    let suite = Some(("failed", ["NoCipherSuitesInCommon"].as_slice()));
    let lax = &["-cipher", "DEFAULT@SECLEVEL=0"];
    vec![
        case("too old", lax, &["-tls1", "-tls1_1"], old),
        case(
            "a suite that is selected",
            &["-ciphersuites", "TLS_AES_256_GCM_SHA384"],
            &["-tls1_3"],
            None,
        ),
        case(
            "another suite",
            &["-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
            &["-tls1_3"],
            suite,
        ),
        case(
            "another suite",
            &["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            &["-tls1_2"],
            suite,
        ),
    ]
}

fn without_alternative_names(params: &mut CertificateParams) {
    let names = std::mem::take(&mut params.subject_alt_names);
    for name in names {
        if let SanType::DnsName(name) = name {
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name.as_str());
        }
    }
}

async fn ask(
    files: &Files,
    listener: SocketAddr,
    source: SocketAddr,
    case: &Case,
    version: &str,
) -> Result<String, String> {
    let bind = source.to_string();
    let mut options = vec!["-bind", &bind, version];
    options.extend([
        "-CAfile",
        "ours.pem",
        "-verify_return_error",
        "-verify_hostname",
        VIP,
    ]);
    options.extend(case.options);
    let shown = case
        .certificate
        .map(|file| (format!("{file}.pem"), format!("{file}.key")));
    if let Some((certificate, key)) = &shown {
        options.extend(["-cert", certificate, "-key", key]);
    }
    let request = format!(
        "OPTIONS sip:gateway.example.com SIP/2.0\r\nVia: SIP/2.0/TLS {source};branch=z9hG4bKopenssl{source}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{POOL}>;tag=openssl\r\nTo: <sip:gateway.example.com>\r\nCall-ID: {bind}\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    OpensslClient::connect(files.path(), listener, &options)
        .ask(&request)
        .await
}

/// The one line of lb's log that names the address. It is written after the metric has counted, and after the client
/// was told.
async fn line_about(cluster: &Cluster, source: SocketAddr) -> String {
    let named = format!("address={}:", source.ip());
    let started = Instant::now();
    loop {
        let log = cluster.log(Member::Lb);
        let whole = log.rsplit_once('\n').unwrap_or_default().0;
        let lines: Vec<_> = whole.lines().filter(|line| line.contains(&named)).collect();
        if let [line] = lines[..] {
            return line.to_owned();
        }
        assert!(
            lines.is_empty() && started.elapsed() < DEADLINE,
            "{source}: {lines:?}"
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn start(files: &Files) -> Cluster {
    let at = |file: &str| files.path().join(file).display().to_string();
    let options = ClusterOptions {
        users: 1,
        nodes: 1,
        cti_managers: 1,
        peer_tls: false,
        lb_sections: format!(
            "[[listener]]\nname = \"strict\"\naddress = \"{{vip}}:{PORT}\"\ntransport = \"tls\"\n\
             certificate = \"{}\"\nkey = \"{}\"\nclient_authority = \"{}\"\nrevocation_list = \"{}\"\n\
             subjects = [\"*.pool.example\", \"edge.example\"]\n\
             cipher_suites = [\"TLS13_AES_256_GCM_SHA384\", \"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"]\n",
            at("vip.pem"),
            at("vip.key"),
            at("ours.pem"),
            at("revoked-by-us.pem"),
        ),
        ..ClusterOptions::default()
    };
    Cluster::start(options).await.unwrap()
}

/// Two authorities, and what they have issued.
struct Files {
    directory: TempDir,
    ours: Authority,
    theirs: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            directory: TempDir::new().unwrap(),
            ours: Authority::new("ours").unwrap(),
            theirs: Authority::new("theirs").unwrap(),
        };
        files.write("vip", &files.ours.issue(VIP).unwrap());
        let write = |name: &str, text: String| std::fs::write(files.path().join(name), text).unwrap();
        write("ours.pem", files.ours.pem());
        write(
            "revoked-by-us.pem",
            files.ours.revocation_list(&[REVOKED]).unwrap(),
        );
        files
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, issued: &Issued) {
        issued.write(self.path(), name).unwrap();
    }

    /// Of RSA, as authorities of Windows issue them.
    fn write_with_long_key(&self, name: &str) {
        let key = openssl(
            self.path(),
            "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096",
        );
        let key = KeyPair::from_pem(&key).unwrap();
        self.write(name, &self.ours.issue_to(&key, POOL, |_| {}).unwrap());
    }
}

const POLL: std::time::Duration = std::time::Duration::from_millis(10);
const BOTH: &[&str] = &["-tls1_3", "-tls1_2"];
const PORT: u16 = 5063;
const VIP: &str = "vip.example";
const POOL: &str = "ocs1.pool.example";
const REVOKED: u64 = 4_711;
