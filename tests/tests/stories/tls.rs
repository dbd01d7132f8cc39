//! A client that comes by mutual TLS, and one without a certificate.

use std::path::Path;
use std::sync::Arc;

use tandem_runtime::config::TlsFiles;
use tandem_runtime::io::tls::{peer_client_config, sip_client_config};
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose, Transport};
use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member, Metrics};
use tandem_tests::peers::ocs::phone_number;
use tandem_tests::peers::stranger::{Letter, Stranger};
use tandem_tests::scenario::Scene;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_signs_in_by_mutual_tls_and_a_client_without_certificate_is_refused() {
    let options = ClusterOptions {
        users: 4,
        ..ClusterOptions::default()
    };
    let scene = Scene::start(options, 1).await.unwrap();
    let addresses = scene.cluster.addresses();
    let name = ServerName::try_from("n100.story.tandem").unwrap();
    let directory = scene.cluster.directory();

    let config = sip_client_config(&TlsFiles {
        certificate: directory.join("n1.pem"),
        key: directory.join("n1.key"),
        authority: directory.join("authority.pem"),
        revocation_list: None,
    })
    .unwrap();
    let mut client = Stranger::connect_tls(addresses.vip_tls(), name.clone(), config)
        .await
        .unwrap();
    let line = format!("tel:{};phone-context=dialstring", phone_number(0));
    client
        .send(&Letter::invite("user0", &line).write())
        .await
        .unwrap();
    let answer = client.answer(DEADLINE).await.unwrap().unwrap();
    assert_eq!(answer.status(), Some(200));
    // The node shows the listener that the client came through.
    let contact = answer
        .headers()
        .find(|(header, _)| header.eq_ignore_ascii_case(b"contact"));
    let contact = String::from_utf8_lossy(contact.unwrap().1).into_owned();
    let shown = addresses.vip_tls().to_string();
    assert!(
        contact.contains(&shown) && contact.contains("transport=tls"),
        "{contact}"
    );

    // TLS 1.3 tells a client of its refusal only after the handshake.
    let nobody = without_certificate(&directory.join("authority.pem"));
    let refused = match Stranger::connect_tls(addresses.vip_tls(), name, nobody).await {
        Ok(mut stranger) => {
            stranger
                .send_as_much_as_possible(&Letter::invite("user1", &line).write())
                .await;
            stranger.answer(DEADLINE).await.unwrap().is_none()
        }
        Err(_) => true,
    };
    assert!(refused);
    let sessions = scene.cluster.get(Member::Node(1), "/cluster").await.unwrap();
    let owned: u64 = sessions["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|node| node["sessions"].as_u64())
        .sum();
    assert_eq!(owned, 1);
    scene.cluster.dismiss();
}

/// CL-7's certificates between lb and nodes: neither plain connections nor other members pass for a front end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_front_ends_of_the_cluster_are_served_where_pairs_are_secured() {
    let options = ClusterOptions {
        users: 4,
        secure_pairs: true,
        ..ClusterOptions::default()
    };
    let scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..4).await.unwrap();
    let addresses = scene.cluster.addresses();
    let node = addresses.node_sip(2);
    let name = ServerName::try_from("n2.story.tandem").unwrap();
    let directory = scene.cluster.directory();
    let config = |member: &str| {
        peer_client_config(&TlsFiles {
            certificate: directory.join(format!("{member}.pem")),
            key: directory.join(format!("{member}.key")),
            authority: directory.join("authority.pem"),
            revocation_list: None,
        })
        .unwrap()
    };
    let header = ProxyHeader::Proxied(ProxiedConnection {
        source: addresses.vip(),
        destination: addresses.vip(),
        transport: Transport::Tcp,
        connection_id: None,
        peer: None,
        purpose: Purpose::Pair,
        host_name: None,
    });
    let line = format!("tel:{};phone-context=dialstring", phone_number(0));
    let asked = [header.write(), Letter::invite("user0", &line).write().to_vec()].concat();

    let mut plain = Stranger::connect(node).await.unwrap();
    plain.send_as_much_as_possible(&asked).await;
    // What it gets is an alert of TLS.
    assert!(!matches!(plain.answer(DEADLINE).await, Ok(Some(_))));

    let mut another_node = Stranger::connect_tls(node, name.clone(), config("n1"))
        .await
        .unwrap();
    another_node.send_as_much_as_possible(&asked).await;
    assert!(!matches!(another_node.answer(DEADLINE).await, Ok(Some(_))));

    let mut front_end = Stranger::connect_tls(node, name, config("n100")).await.unwrap();
    front_end.send(&asked).await.unwrap();
    let answer = front_end.answer(DEADLINE).await.unwrap().unwrap();
    assert_eq!(answer.status(), Some(200));

    let refused = |metrics: &Metrics| {
        metrics.sum(
            "tandem_node_connections_refused_total",
            &[("reason", "not_secured")],
        ) >= 2.0
    };
    scene
        .cluster
        .wait_for_metrics(Member::Node(2), "both refusals are counted", refused)
        .await
        .unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.cluster.dismiss();
}

fn without_certificate(authority: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}
