//! The certificate that callbacks meet: requested, signed by an authority of OpenSSL, installed (CAL-6, RCC-9).
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::net::SocketAddr;

use rcgen::KeyPair;
use tandem_certificate::{Status, read_bundle};
use tandem_cluster::{CasEndpoint, CasId};
use tandem_node::io::exchange::certificate_probe::{ProbeOptions, ProbeReport, probe};
use tandem_node::io::exchange::signing::ServingIdentity;
use tandem_node::io::exchange::trust::CasTrust;
use tandem_runtime::io::certificates::{Completeness, IdentityFiles};
use tandem_tests::peers::authority::Chain;
use tandem_tests::peers::openssl::openssl;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn our_own_certificate_is_requested_signed_and_shown_without_a_restart() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let files = IdentityFiles {
        certificate: path("push.pem"),
        key: path("push.key"),
    };
    let identity = ServingIdentity::open(files.clone()).unwrap();
    assert!(identity.server_config().is_none());
    let wanted =
        r#"{"common_name":"presence.contoso.com","names":["n1.contoso.com","10.0.0.7"],"country":"DE"}"#;
    let request = identity
        .create_request(&serde_json::from_str(wanted).unwrap())
        .unwrap();
    assert!(identity.has_request() && !request.contains("PRIVATE"));
    let pending = std::fs::metadata(path("push.key.requested")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&pending.permissions()) & 0o777,
        0o600
    );

    let chain = Chain::new();
    let address = serve(&identity).await;
    let report = look(&chain, address).await;
    assert_eq!(report.diagnosis.status, Status::Failed, "nothing to show yet");
    std::fs::write(path("request.csr"), &request).unwrap();
    let text = openssl(directory.path(), "req -in request.csr -verify -noout -text");
    for name in [
        "DNS:presence.contoso.com",
        "DNS:n1.contoso.com",
        "IP Address:10.0.0.7",
    ] {
        assert!(text.contains(name), "{text}");
    }
    std::fs::write(path("issuing.pem"), &chain.issuing.pem).unwrap();
    std::fs::write(path("issuing.key"), chain.issuing.issuer.key().serialize_pem()).unwrap();
    let sign = "x509 -req -in request.csr -copy_extensions copy -CA issuing.pem -CAkey issuing.key -CAcreateserial \
                -days 30 -out signed.pem";
    openssl(directory.path(), sign);
    let signed = std::fs::read_to_string(path("signed.pem")).unwrap();

    let stranger = chain.issue("presence.contoso.com", &[]).pem();
    let error = identity.install(stranger.as_bytes()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("none of the certificates is for the key")
    );
    assert!(identity.server_config().is_none());
    let alone = identity.install(signed.as_bytes()).unwrap();
    assert_eq!(alone.completeness, Completeness::LeafOnly);
    let whole = format!("{}{}{signed}", chain.root.pem, chain.issuing.pem);
    let installed = identity.install(whole.as_bytes()).unwrap();
    assert_eq!(installed.completeness, Completeness::Chain);
    assert_eq!(installed.chain.len(), 2, "ours first, without the root");
    assert!(!identity.has_request());

    let report = look(&chain, address).await;
    assert_eq!(report.diagnosis.status, Status::Verified);
    assert!(
        ServingIdentity::open(files).unwrap().server_config().is_some(),
        "after a restart too"
    );
}

#[tokio::test]
async fn a_key_made_elsewhere_can_be_certified_and_a_crash_between_the_files_is_mended() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    openssl(
        directory.path(),
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=presence -days 30 -keyout push.key -out push.pem",
    );
    let files = IdentityFiles {
        certificate: path("push.pem"),
        key: path("push.key"),
    };
    let identity = ServingIdentity::open(files.clone()).unwrap();
    let wanted = r#"{"common_name":"presence.contoso.com","key":"existing"}"#;
    let request = identity
        .create_request(&serde_json::from_str(wanted).unwrap())
        .unwrap();
    std::fs::write(path("request.csr"), request).unwrap();
    assert!(openssl(directory.path(), "req -in request.csr -noout -text").contains("rsaEncryption"));

    std::fs::rename(path("push.key"), path("push.key.requested")).unwrap();
    let other = KeyPair::generate().unwrap();
    std::fs::write(path("push.key"), other.serialize_pem()).unwrap();
    let identity = ServingIdentity::open(files).unwrap();
    assert!(identity.server_config().is_some());
    assert!(!identity.has_request());
}

/// As the listener of callbacks: what is in force is loaded for every connection.
async fn serve(identity: &ServingIdentity) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let configs = identity.server_configs();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(TlsAcceptor::from(configs.load_full()).accept(stream));
        }
    });
    address
}

async fn look(chain: &Chain, address: SocketAddr) -> ProbeReport {
    let directory = TempDir::new().unwrap();
    let store = CasTrust::open(directory.path()).unwrap();
    store
        .add(&read_bundle(chain.root.pem.as_bytes()).unwrap())
        .unwrap();
    let options = ProbeOptions {
        via: Some(address),
        ..ProbeOptions::default()
    };
    let endpoint = CasEndpoint::of(&CasId("n1.contoso.com".to_owned()));
    probe(&store, &endpoint, options).await
}
