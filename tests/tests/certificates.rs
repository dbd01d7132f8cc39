//! Certificates of Exchange as OpenSSL shows them (CAL-6): one test for every defect that has a status of its own. The
//! diagnosis is held against the handshake that a gateway would make: they must agree.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use tandem_certificate::{Certificate, Status, read_bundle};
use tandem_cluster::{CasEndpoint, CasId};
use tandem_exchange::certificate::ElementStatus;
use tandem_node::io::exchange::certificate_import::{FetchFrom, ImportOptions, accept, show};
use tandem_node::io::exchange::certificate_probe::{ProbeOptions, ProbeReport, Reachability, probe};
use tandem_node::io::exchange::certificate_routes::{
    CertificateRoutes, EndpointBody, ImportBody, ImportView,
};
use tandem_node::io::exchange::trust::{CasTrust, connection_failure, server_name};
use tandem_runtime::io::certificates::{RemoveBody, UploadedFile};
use tandem_tests::peers::authority::{Chain, issuer_at, self_signed, serve_http};
use tandem_tests::peers::openssl::{OpensslServer, openssl};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn a_full_chain_is_verified_by_name_by_address_and_by_wildcard() {
    let chain = Chain::new();
    let leaf = chain.issue("", &["cas1.contoso.com", "127.0.0.1", "*.a.com"]);
    let server = leaf.serve(&[]).await;
    let store = trusting(&chain);
    for host in ["cas1.contoso.com", "CAS1.contoso.com", "127.0.0.1", "foo.a.com"] {
        let report = look(&store, host, server.address).await;
        assert_eq!(report.diagnosis.status, Status::Verified, "{host}");
        assert_eq!(report.reachability, Reachability::Pingable);
        assert_eq!(report.tls_version.as_deref(), Some("TLSv1_3"));
        assert_eq!(statuses(&report), [ElementStatus::Verified; 3]);
    }
}

#[tokio::test]
async fn a_certificate_with_a_common_name_alone_is_verified_by_it() {
    let chain = Chain::new();
    let server = chain.issue("*.contoso.com", &[]).serve(&[]).await;
    let store = trusting(&chain);
    let report = look(&store, "cas1.contoso.com", server.address).await;
    assert_eq!(report.diagnosis.status, Status::Verified);
    let report = look(&store, "cas1.site.contoso.com", server.address).await;
    assert_eq!(report.diagnosis.status, Status::SubjectCnMismatch);
    assert!(report.diagnosis.explanation.contains("CN *.contoso.com"));
}

#[tokio::test]
async fn a_certificate_with_other_alternative_names_is_a_san_mismatch() {
    let chain = Chain::new();
    let server = chain.issue("cas1.contoso.com", &["*.a.com"]).serve(&[]).await;
    let store = trusting(&chain);
    for host in ["cas2.contoso.com", "bar.foo.a.com", "127.0.0.1"] {
        let report = look(&store, host, server.address).await;
        assert_eq!(report.diagnosis.status, Status::SanMismatch, "{host}");
        assert!(report.diagnosis.explanation.contains("SAN *.a.com"));
    }
    let report = look(&store, "cas1.contoso.com", server.address).await;
    assert_eq!(report.diagnosis.status, Status::Verified, "the CN matches");
}

#[tokio::test]
async fn an_intermediate_that_is_not_sent_is_named_as_missing() {
    let chain = Chain::new();
    let server = chain.issue("cas", &[HOST]).without_chain().serve(&[]).await;
    let store = trusting(&chain);
    let report = look(&store, HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::CertificateMissingFromChain);
    assert_eq!(
        statuses(&report),
        [ElementStatus::Unchecked, ElementStatus::Missing]
    );
    let missing = report.diagnosis.chain.last().unwrap();
    assert!(missing.subject.contains("Contoso Issuing"), "{missing:?}");
    assert!(missing.wanted_key_identifier.is_some());
    assert!(report.diagnosis.explanation.contains("Contoso Issuing"));
    store.add(&read(&chain.issuing.pem)).unwrap();
    let report = look(&store, HOST, server.address).await;
    assert_eq!(
        report.diagnosis.status,
        Status::Verified,
        "an intermediate is an anchor as good as a root"
    );
}

#[tokio::test]
async fn a_root_that_nobody_trusts_is_missing() {
    let chain = Chain::new();
    let server = chain.issue("cas", &[HOST]).serve(&[]).await;
    let report = look(&empty_store(), HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::CertificateMissingFromChain);
    assert_eq!(
        statuses(&report),
        [
            ElementStatus::Verified,
            ElementStatus::Unchecked,
            ElementStatus::Missing
        ]
    );
    let stranger = Chain::named("Fabrikam");
    let report = look(&trusting(&stranger), HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::CertificateMissingFromChain);
}

#[tokio::test]
async fn an_authority_with_a_new_key_under_its_old_name_makes_bad_certificates() {
    let (outdated, renewed) = (Chain::new(), Chain::new());
    let store = trusting(&outdated);
    for leaf in [
        renewed.issue("cas", &[HOST]),
        renewed.issue("cas", &[HOST]).with_root(&renewed),
    ] {
        let server = leaf.serve(&[]).await;
        let report = look(&store, HOST, server.address).await;
        assert_eq!(report.diagnosis.status, Status::BadCertificates);
        assert!(statuses(&report).contains(&ElementStatus::BadSignature));
        assert!(report.diagnosis.explanation.contains("outdated"));
    }
}

#[tokio::test]
async fn exchanges_own_certificate_is_trusted_once_it_is_in_the_store() {
    let (leaf, renewed) = (self_signed("cas", HOST), self_signed("cas", HOST));
    let store = empty_store();
    let server = leaf.serve(&[]).await;
    let report = look(&store, HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::CertificateMissingFromChain);
    store.add(&read(&leaf.pem())).unwrap();
    let report = look(&store, HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::Verified);
    let report = look(&store, "other.contoso.com", server.address).await;
    assert_eq!(report.diagnosis.status, Status::SanMismatch);
    let server = renewed.serve(&[]).await;
    let report = look(&store, HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::BadCertificates);
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_bad_and_says_since_when() {
    let chain = Chain::new();
    for (from, until, status, says) in [
        (2001, 2002, ElementStatus::Expired, "expired on 2002-01-01"),
        (
            2098,
            2099,
            ElementStatus::NotYetValid,
            "not valid before 2098-01-01",
        ),
    ] {
        let server = chain
            .issue_with("cas", &[HOST], |params| {
                params.not_before = rcgen::date_time_ymd(from, 1, 1);
                params.not_after = rcgen::date_time_ymd(until, 1, 1);
            })
            .serve(&[])
            .await;
        let report = look(&trusting(&chain), HOST, server.address).await;
        assert_eq!(report.diagnosis.status, Status::BadCertificates);
        assert_eq!(statuses(&report).first(), Some(&status));
        assert!(
            report.diagnosis.explanation.contains(says),
            "{}",
            report.diagnosis.explanation
        );
    }
}

#[tokio::test]
async fn rsa_of_1024_bits_and_sha_1_are_bad_unless_legacy_algorithms_are_on() {
    let directory = TempDir::new().unwrap();
    let make = |arguments: &str| openssl(directory.path(), arguments);
    make(
        "req -x509 -newkey rsa:2048 -nodes -sha1 -days 30 -subj /CN=Old-Root -keyout root.key -out root.pem \
         -addext basicConstraints=critical,CA:TRUE",
    );
    for (name, bits, digest) in [("small", 1024, "sha256"), ("sha1", 2048, "sha1")] {
        make(&format!(
            "req -newkey rsa:{bits} -nodes -subj /CN={HOST} -addext subjectAltName=DNS:{HOST} -keyout {name}.key \
             -out {name}.csr"
        ));
        make(&format!(
            "x509 -req -in {name}.csr -copy_extensions copy -CA root.pem -CAkey root.key -CAcreateserial -days 30 \
             -{digest} -out {name}.pem"
        ));
    }
    let store = empty_store();
    store
        .add(&read(
            &std::fs::read_to_string(directory.path().join("root.pem")).unwrap(),
        ))
        .unwrap();
    for (name, says) in [("small", "1024 bits"), ("sha1", "sha1WithRSAEncryption")] {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let options = [
            "-cert",
            &certificate,
            "-key",
            &key,
            "-cipher",
            "DEFAULT@SECLEVEL=0",
        ];
        let server = OpensslServer::start(directory.path(), &options).await;
        let report = look(&store, HOST, server.address).await;
        assert_eq!(report.diagnosis.status, Status::BadCertificates, "{name}");
        assert_eq!(
            statuses(&report),
            [ElementStatus::Unsupported, ElementStatus::Verified]
        );
        let explanation = &report.diagnosis.explanation;
        assert!(
            explanation.contains(says) && explanation.contains("legacy_algorithms"),
            "{explanation}"
        );

        let report = look_at(&store, &legacy(HOST), server.address).await;
        assert_eq!(report.diagnosis.status, Status::Verified, "{name}");
        assert!(report.diagnosis.relies_on_legacy_algorithms);
        assert_eq!(report.tls_version.as_deref(), Some("TLSv1_2"));
    }
}

#[tokio::test]
async fn a_server_without_tls_1_2_or_a_common_suite_says_so() {
    let chain = Chain::new();
    let leaf = chain.issue("cas", &[HOST]);
    for (options, says) in [
        (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "below 1.2"),
        (
            ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
            "no cipher suite in common",
        ),
    ] {
        let server = leaf.serve(&options).await;
        let report = look(&trusting(&chain), HOST, server.address).await;
        assert_eq!(report.diagnosis.status, Status::Failed);
        assert!(
            report.diagnosis.explanation.contains(says),
            "{}",
            report.diagnosis.explanation
        );
        assert_eq!(report.reachability, Reachability::Pingable);
    }
}

#[tokio::test]
async fn nobody_silence_and_plain_http_are_told_apart() {
    let store = empty_store();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let report = look(&store, HOST, nobody).await;
    assert_eq!(report.diagnosis.status, Status::NetworkError);
    assert_eq!(report.reachability, Reachability::Unreachable);
    assert!(report.diagnosis.explanation.contains("refuses connections"));

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ProbeOptions {
        handshake_timeout: Duration::from_millis(50),
        via: Some(silent.local_addr().unwrap()),
        ..ProbeOptions::default()
    };
    let report = probe(&store, &endpoint(HOST), options).await;
    assert_eq!(report.diagnosis.status, Status::NetworkError);
    assert_eq!(report.reachability, Reachability::Pingable);
    assert!(report.diagnosis.explanation.contains("says nothing"));

    let http = serve_http("/", b"hello".to_vec()).await;
    let report = look(&store, HOST, http).await;
    assert_eq!(report.diagnosis.status, Status::Failed);
    assert!(report.diagnosis.explanation.contains("plain HTTP"));

    let report = probe(&store, &endpoint("mail contoso"), ProbeOptions::default()).await;
    assert_eq!(report.diagnosis.status, Status::Failed);
    assert!(report.diagnosis.explanation.contains("neither an address"));
}

#[tokio::test]
async fn trust_changes_in_a_running_store_by_its_own_hand_and_by_others() {
    let chain = Chain::new();
    let server = chain.issue("cas", &[HOST]).serve(&[]).await;
    let directory = TempDir::new().unwrap();
    let store = CasTrust::open(directory.path()).unwrap();
    let status = async || look(&store, HOST, server.address).await.diagnosis.status;
    assert_eq!(status().await, Status::CertificateMissingFromChain);

    let generation = store.generation();
    let root = read(&chain.root.pem);
    assert_eq!(store.add(&root).unwrap(), root);
    assert!(store.add(&root).unwrap().is_empty(), "it is there already");
    assert!(generation.has_changed().unwrap());
    assert_eq!(status().await, Status::Verified);
    assert!(
        !store.refresh().unwrap(),
        "nobody has changed anything behind its back"
    );

    store.remove(root[0].fingerprint).unwrap();
    assert_eq!(status().await, Status::CertificateMissingFromChain);
    assert!(store.remove(root[0].fingerprint).is_err());

    let bundle = format!("{}{}", Chain::named("Fabrikam").root.pem, chain.root.pem);
    std::fs::write(directory.path().join("company.crt"), bundle).unwrap();
    std::fs::write(directory.path().join("broken.pem"), "not a certificate").unwrap();
    std::fs::write(directory.path().join("notes.txt"), "ignored").unwrap();
    assert!(store.refresh().unwrap());
    assert_eq!(status().await, Status::Verified);
    assert_eq!(store.problems().len(), 1);

    store.remove(root[0].fingerprint).unwrap();
    assert_eq!(status().await, Status::CertificateMissingFromChain);
    assert_eq!(
        store.list().len(),
        1,
        "the other certificate of the file is still trusted"
    );
}

#[tokio::test]
async fn what_a_live_host_sends_is_shown_and_installed_when_it_is_accepted() {
    let chain = Chain::new();
    let server = chain.issue("cas", &[HOST]).with_root(&chain).serve(&[]).await;
    let store = empty_store();
    let options = import_options(server.address, FetchFrom::Internet);
    let offer = show(&store, &endpoint(HOST), options).await;
    let recommended: Vec<_> = offer
        .certificates
        .iter()
        .filter(|offered| offered.recommended)
        .collect();
    assert_eq!(offer.certificates.len(), 3);
    assert_eq!(recommended.len(), 1);
    assert_eq!(recommended[0].certificate, read(&chain.root.pem)[0]);
    assert!(store.list().is_empty(), "nothing is installed by showing");

    let fingerprint = recommended[0].certificate.fingerprint;
    accept(&store, &endpoint(HOST), &[fingerprint], options)
        .await
        .unwrap();
    let report = look(&store, HOST, server.address).await;
    assert_eq!(report.diagnosis.status, Status::Verified);
    let other = read(&Chain::new().root.pem)[0].fingerprint;
    let error = accept(&store, &endpoint(HOST), &[other], options)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not offer"));
}

#[tokio::test]
async fn an_issuer_that_is_not_sent_is_fetched_from_where_its_holder_says() {
    let chain = Chain::new();
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("issuing.pem"), &chain.issuing.pem).unwrap();
    openssl(
        directory.path(),
        "crl2pkcs7 -nocrl -certfile issuing.pem -outform DER -out issuing.p7b",
    );
    let pkcs7 = std::fs::read(directory.path().join("issuing.p7b")).unwrap();
    let der = read(&chain.issuing.pem)[0].der.to_vec();
    for content in [der, pkcs7] {
        let publisher = serve_http("/issuing", content).await;
        let url = format!("http://{publisher}/issuing");
        let leaf = chain.issue_with("cas", &[HOST], |params| {
            params.custom_extensions.push(issuer_at(&url));
        });
        let server = leaf.without_chain().serve(&[]).await;
        let store = trusting(&chain);

        let refused = show(
            &store,
            &endpoint(HOST),
            import_options(server.address, FetchFrom::Internet),
        )
        .await;
        assert_eq!(refused.certificates.len(), 1);
        assert!(
            refused.notes[0].contains("not fetched from 127.0.0.1"),
            "{:?}",
            refused.notes
        );

        let options = import_options(server.address, FetchFrom::Loopback);
        let offer = show(&store, &endpoint(HOST), options).await;
        assert_eq!(offer.report.diagnosis.status, Status::CertificateMissingFromChain);
        assert!(offer.report.diagnosis.explanation.contains("does not send"));
        assert_eq!(statuses(&offer.report), [ElementStatus::Verified; 3]);
        let fetched = offer
            .certificates
            .iter()
            .find(|offered| offered.recommended)
            .unwrap();
        accept(
            &store,
            &endpoint(HOST),
            &[fetched.certificate.fingerprint],
            options,
        )
        .await
        .unwrap();
        let report = look(&store, HOST, server.address).await;
        assert_eq!(report.diagnosis.status, Status::Verified);
    }
}

#[tokio::test]
async fn what_is_fetched_must_have_issued_the_certificate_and_be_small() {
    let chain = Chain::new();
    let stranger = read(&Chain::new().issuing.pem)[0].der.to_vec();
    for (content, says) in [
        (stranger, "did not issue"),
        (vec![b'x'; 100 << 10], "larger than 64 KiB"),
        (b"<html>".to_vec(), "X.509"),
    ] {
        let publisher = serve_http("/issuing", content).await;
        let url = format!("http://{publisher}/issuing");
        let leaf = chain.issue_with("cas", &[HOST], |params| {
            params.custom_extensions.push(issuer_at(&url));
        });
        let server = leaf.without_chain().serve(&[]).await;
        let options = import_options(server.address, FetchFrom::Loopback);
        let offer = show(&trusting(&chain), &endpoint(HOST), options).await;
        assert_eq!(offer.certificates.len(), 1);
        assert!(offer.notes[0].contains(says), "{:?}", offer.notes);
    }
}

#[tokio::test]
async fn an_administrator_finds_every_step_under_one_roof() {
    let chain = Chain::new();
    let server = chain
        .issue("cas", &["127.0.0.1"])
        .with_root(&chain)
        .serve(&[])
        .await;
    let store = empty_store();
    let routes = CertificateRoutes {
        store: store.clone(),
        identity: None,
        options: ImportOptions::default(),
    };
    let place = EndpointBody {
        host: "127.0.0.1".to_owned(),
        port: Some(server.address.port()),
        legacy_algorithms: false,
    };
    let report = routes.diagnose(place.clone()).await.unwrap();
    let shown = serde_json::to_value(&report).unwrap();
    assert_eq!(shown["status"], "Certificate Missing From Chain");
    assert_eq!(shown["reachability"], "pingable");
    assert_eq!(shown["chain"][2]["status"], "Missing");

    let import = |accept| ImportBody {
        endpoint: place.clone(),
        accept,
        private_addresses: false,
    };
    let ImportView::Offer { offered, .. } = routes.import(import(None)).await.unwrap() else {
        panic!("nothing was accepted yet");
    };
    let wanted = offered.iter().find(|offered| offered.recommended).unwrap();
    let fingerprint = wanted.certificate.certificate.sha256_fingerprint.clone();
    let accepted = routes
        .import(import(Some(vec![fingerprint.clone()])))
        .await
        .unwrap();
    let shown = serde_json::to_value(&accepted).unwrap();
    assert_eq!(shown["report"]["status"], "Verified");
    assert_eq!(routes.list().trusted.len(), 1);

    let sha256_fingerprint = fingerprint;
    routes.remove(&RemoveBody { sha256_fingerprint }).unwrap();
    let pem = chain.root.pem.clone();
    assert_eq!(routes.upload(&UploadedFile::Pem(pem)).unwrap().len(), 1);
    let report = routes.diagnose(place.clone()).await.unwrap();
    assert_eq!(report.diagnosis.status, Status::Verified);
    let error = routes.upload(&UploadedFile::Pem(String::new())).unwrap_err();
    assert_eq!(error.status_code().as_u16(), 400);
    let error = routes
        .import(import(Some(vec!["12".to_owned()])))
        .await
        .unwrap_err();
    assert_eq!(error.status_code().as_u16(), 400);
}

/// Diagnoses, connects as a gateway would, and sees that both say the same.
async fn look(store: &CasTrust, host: &str, address: SocketAddr) -> ProbeReport {
    look_at(store, &endpoint(host), address).await
}

async fn look_at(store: &CasTrust, endpoint: &CasEndpoint, address: SocketAddr) -> ProbeReport {
    let options = ProbeOptions {
        via: Some(address),
        ..ProbeOptions::default()
    };
    let report = probe(store, endpoint, options).await;
    let verified = report.diagnosis.status == Status::Verified;
    match connect(store, endpoint, address).await {
        Ok(()) => assert!(verified, "the handshake succeeds: {report:?}"),
        Err(error) => {
            assert!(!verified, "the handshake fails: {error}");
            let failure = connection_failure(endpoint, &error).to_string();
            assert!(failure.contains(&report.diagnosis.explanation), "{failure}");
        }
    }
    report
}

async fn connect(store: &CasTrust, endpoint: &CasEndpoint, address: SocketAddr) -> std::io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(store.client_config(endpoint));
    let name = server_name(endpoint).unwrap();
    connector.connect(name, stream).await.map(drop)
}

fn statuses(report: &ProbeReport) -> Vec<ElementStatus> {
    report
        .diagnosis
        .chain
        .iter()
        .map(|element| element.status)
        .collect()
}

fn endpoint(host: &str) -> CasEndpoint {
    CasEndpoint::of(&CasId(host.to_owned()))
}

fn legacy(host: &str) -> CasEndpoint {
    CasEndpoint {
        legacy_algorithms: true,
        ..endpoint(host)
    }
}

fn import_options(via: SocketAddr, from: FetchFrom) -> ImportOptions {
    let mut options = ImportOptions {
        from,
        ..ImportOptions::default()
    };
    options.probe.via = Some(via);
    options
}

/// A store whose directory lasts as long as it.
struct Store {
    store: CasTrust,
    _directory: TempDir,
}

impl Deref for Store {
    type Target = CasTrust;

    fn deref(&self) -> &CasTrust {
        &self.store
    }
}

fn empty_store() -> Store {
    let directory = TempDir::new().unwrap();
    Store {
        store: CasTrust::open(directory.path()).unwrap(),
        _directory: directory,
    }
}

fn trusting(chain: &Chain) -> Store {
    let store = empty_store();
    store.add(&read(&chain.root.pem)).unwrap();
    store
}

fn read(pem: &str) -> Vec<Certificate> {
    read_bundle(pem.as_bytes()).unwrap()
}

const HOST: &str = "cas1.contoso.com";
