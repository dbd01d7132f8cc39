//! What an administrator sees of Exchange (CAL-7): each gateway in the words of CAL-6, each user explained, and what
//! Prometheus reads. A wrong password is shown to Exchange once, however often he looks.

use std::process::Output;
use std::time::{Duration, Instant};

use tandem_tests::cluster::{ExchangeOptions, Member, ask_node};
use tandem_tests::scenario::CalendarScene;

use super::metrics::promtool_accepts;

const USERS: usize = 12;
const GATEWAYS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_sees_how_every_gateway_and_every_user_stands() {
    let exchange = ExchangeOptions {
        cas: GATEWAYS,
        ..ExchangeOptions::default()
    };
    let mut scene = CalendarScene::start(USERS, exchange).await.unwrap();
    let places = scene.everyone_is_heard_evenly(GATEWAYS).await.unwrap();
    scene.everyone_is_right().await.unwrap();

    let all_well = asked(&scene, &["status"]).await;
    assert_said(&all_well, 0, &["Verified", "accepted", "works", "closed"]);
    for cas in 1..=GATEWAYS {
        assert_said(&all_well, 0, &[&format!("cas{cas}")]);
    }
    let user = asked(&scene, &["user", &tandem_tests::peers::ocs::user_id(0)]).await;
    assert_said(
        &user,
        0,
        &["gateway           cas", "it was this gateway's turn", "owned by"],
    );
    assert_said(
        &asked(
            &scene,
            &[
                "certificate",
                "diagnose",
                &scene.exchange().address(0).to_string(),
            ],
        )
        .await,
        0,
        &["pingable", "Verified"],
    );
    metrics_are_told(&scene).await;

    scene.exchange_mut().kill(0).await;
    // What was found a moment ago is told again.
    let started = Instant::now();
    while asked(&scene, &["status"]).await.status.code() == Some(0) {
        assert!(
            started.elapsed() < scene.patience,
            "nobody notices that cas1 is gone"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_said(&asked(&scene, &["status"]).await, 1, &["cas1 (!)", "unreachable"]);
    let removed = asked(&scene, &["gateways", "remove", "cas1"]).await;
    assert_said(&removed, 0, &["cas2", "cas3"]);
    let moved = places.at(0);
    let after = scene.everyone_is_heard().await.unwrap();
    after.ensure_nobody_moved_but(&places, &moved).unwrap();
    assert_said(&asked(&scene, &["status"]).await, 0, &["cas2", "cas3"]);
    scene.verdict().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_often_does_not_lock_the_account() {
    let scene = CalendarScene::start(USERS, ExchangeOptions::default())
        .await
        .unwrap();
    scene.everyone_is_heard().await.unwrap();
    scene
        .exchange()
        .ask(|servers| servers.account.set_password("changed"))
        .await;
    for _ in 0..5 {
        let refused = asked(&scene, &["status"]).await;
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    }
    assert_said(&asked(&scene, &["status"]).await, 1, &["refused"]);
    let attempts = scene
        .exchange()
        .ask(|servers| servers.account.wrong_attempts())
        .await;
    assert!(
        attempts <= 4,
        "{attempts} attempts by two nodes and an administrator"
    );
    scene.verdict().await.unwrap();
}

/// What is counted by going through all users is shown every other second.
async fn metrics_are_told(scene: &CalendarScene) {
    for node in [Member::Node(1), Member::Node(2)] {
        let started = Instant::now();
        loop {
            let exposed = scene.cluster.http(node, "GET", "/metrics", "").await.unwrap();
            promtool_accepts(node, &exposed.body);
            let missing = METRICS.iter().filter(|name| !exposed.body.contains(**name));
            let missing: Vec<_> = missing.collect();
            if missing.is_empty() {
                break;
            }
            assert!(
                started.elapsed() < scene.patience,
                "{node} lacks {missing:?}:\n{}",
                exposed.body
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn asked(scene: &CalendarScene, words: &[&str]) -> Output {
    let admin = scene
        .cluster
        .addresses()
        .admin(Member::Node(1))
        .unwrap()
        .to_string();
    let arguments = [&["exchange"], words, &["--admin", &admin]].concat();
    ask_node(&arguments).await.unwrap()
}

#[track_caller]
fn assert_said(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in\n{said}");
    }
}

fn text(output: &Output) -> String {
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    String::from_utf8_lossy(&said).into_owned()
}

const METRICS: [&str; 12] = [
    "tandem_node_calendar_users{state=\"live\"}",
    "tandem_node_cas_assignments{cas=\"cas1\"}",
    "tandem_node_cas_assigned_total{cas=\"cas1\"}",
    "tandem_node_cas_moves_total{reason=\"failed\"} 0",
    "tandem_node_exchange_request_seconds_count{cas=\"cas1\",operation=\"subscribe_push\"}",
    "tandem_node_exchange_throttled_total{cas=\"cas1\"}",
    "tandem_node_exchange_in_flight{cas=\"cas1\"}",
    "tandem_node_exchange_breaker_open{cas=\"cas1\"} 0",
    "tandem_node_exchange_credential_refused 0",
    "tandem_node_calendar_edges_total{timeliness=\"late\"}",
    "tandem_node_calendar_edge_lateness_seconds_count",
    "tandem_node_presence_published_total",
];
