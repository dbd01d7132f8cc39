//! Watchers of presence: told of what a user says himself and of his phone, whichever node speaks.

use serde_json::json;
use tandem_tests::cluster::{Cluster, ClusterOptions, DEADLINE, Member};
use tandem_tests::peers::ocs::user_id;
use tandem_tests::peers::presence_server::{PresenceServer, Publications};
use tandem_tests::peers::watcher::document::Document;
use tandem_tests::peers::watcher::subscription::{Subscription, SubscriptionState};
use tandem_tests::peers::watcher::{Crowd, Watchers};
use tandem_tests::scenario::Scene;

const USERS: usize = 8;
/// So many watch the first user, half of them at each node.
const AUDIENCE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_told_of_availability_and_phone_and_are_refused_with_a_reason() {
    let mut scene = Scene::start(few_users(), 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    let watchers = start(&scene.cluster).await;
    set(&scene.cluster, Member::Node(1), 0, json!("available")).await;
    let number = watch(&watchers, 1, 0).await;
    told(&watchers, number, "he is available", |told| {
        told.is_open && told.activities.is_empty()
    })
    .await;
    set(&scene.cluster, Member::Node(2), 0, json!("busy")).await;
    told(&watchers, number, "he is busy", |told| told.says("busy")).await;
    let calls = scene.put_incoming_calls_up(&[0]).await.unwrap();
    told(&watchers, number, "he is on the phone", |told| {
        told.says("on-the-phone")
    })
    .await;
    set(&scene.cluster, Member::Node(1), 0, json!("available")).await;
    scene.far_ends_hang_up(&calls).await.unwrap();
    told(&watchers, number, "he is available again", |told| {
        told.is_open && told.activities.is_empty()
    })
    .await;
    unsubscribe(&watchers, number).await;
    refusals(&watchers).await;
    nothing_is_wrong(&watchers).await;
    scene.verdict_without_failures().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_node_dies_its_successor_goes_on_notifying_and_takes_refreshes() {
    let mut cluster = Cluster::start(few_users()).await.unwrap();
    let watchers = start(&cluster).await;
    set(&cluster, Member::Node(1), 0, json!("available")).await;
    let mut audience = Vec::new();
    for _ in 0..AUDIENCE {
        audience.push(watch(&watchers, 1, 0).await);
    }
    for &number in &audience {
        told(&watchers, number, "he is available", |told| told.is_open).await;
    }
    all_are_replicated(&cluster).await;
    let victim = first_issuer(&watchers, &audience).await;
    cluster.kill(victim).await.unwrap();
    let survivor = other(victim);
    set(&cluster, survivor, 0, json!("busy")).await;
    for &number in &audience {
        told(&watchers, number, "he is busy", |told| told.says("busy")).await;
        refresh(&watchers, number).await;
    }
    cluster.restart(victim).await.unwrap();
    cluster.kill(survivor).await.unwrap();
    set(&cluster, victim, 0, json!("away")).await;
    for &number in &audience {
        told(&watchers, number, "he is away", |told| told.says("away")).await;
        refresh(&watchers, number).await;
    }
    for &number in &audience {
        unsubscribe(&watchers, number).await;
    }
    nothing_is_wrong(&watchers).await;
    cluster.dismiss();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_is_published_by_one_node_and_by_its_successor() {
    let options = ClusterOptions {
        publishes_presence: true,
        secure_pairs: true,
        ..few_users()
    };
    let mut cluster = Cluster::start(options).await.unwrap();
    let server = PresenceServer::start(cluster.addresses().presence_server())
        .await
        .unwrap();
    for user in 0..USERS {
        set(&cluster, Member::Node(1), user, json!("busy")).await;
    }
    published(&server, "everybody is busy", |document| document.says("busy")).await;
    let counts = server.ask(|known| publications(known)).await;
    assert_eq!(counts, vec![1; USERS], "one node speaks for a user");
    server.ask(|known| known.forget_all()).await;
    for user in 0..USERS {
        set(&cluster, Member::Node(2), user, json!("away")).await;
    }
    published(&server, "what the server forgot is published anew", |document| {
        document.says("away")
    })
    .await;
    cluster.kill(Member::Node(1)).await.unwrap();
    for user in 0..USERS {
        set(&cluster, Member::Node(2), user, json!("available")).await;
    }
    published(&server, "the successor publishes for everybody", |document| {
        document.is_open && document.activities.is_empty()
    })
    .await;
    let violations = server.ask(|known| known.violations().to_vec()).await;
    assert_eq!(violations, Vec::<String>::new());
    cluster.dismiss();
}

fn publications(known: &Publications) -> Vec<usize> {
    (0..USERS).map(|user| known.of(&uri(user)).len()).collect()
}

/// Of every user; what a dead node has published stands beside it until it expires.
async fn published(server: &PresenceServer, what: &str, is_told: fn(&Document) -> bool) {
    let condition =
        move |known: &Publications| (0..USERS).all(|user| known.of(&uri(user)).into_iter().any(is_told));
    server.wait_until(what, DEADLINE, condition).await.unwrap();
}

fn few_users() -> ClusterOptions {
    ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    }
}

async fn start(cluster: &Cluster) -> Watchers {
    let addresses = cluster.addresses();
    Watchers::start(addresses.ocs(9), addresses.vip()).await.unwrap()
}

async fn set(cluster: &Cluster, node: Member, user: usize, manual: serde_json::Value) {
    let path = format!("/presence/{}", user_id(user));
    cluster
        .post(node, &path, &json!({ "manual": manual }))
        .await
        .unwrap();
}

fn uri(user: usize) -> String {
    format!("sip:{}@mail.example.com", user_id(user))
}

async fn watch(watchers: &Watchers, watcher: usize, presentity: usize) -> usize {
    let number = watchers
        .ask(move |crowd| crowd.watch(&user_id(watcher), &uri(presentity), "presence", None))
        .await;
    answered(watchers, number, 1).await;
    let answer = watchers
        .ask(move |crowd| crowd.subscription(number).answers()[0].clone())
        .await;
    assert_eq!((answer.status, answer.expires_secs), (200, Some(3600)));
    number
}

async fn answered(watchers: &Watchers, number: usize, times: usize) {
    let condition = move |crowd: &Crowd| crowd.subscription(number).answers().len() >= times;
    watchers
        .wait_until("the SUBSCRIBE is answered", DEADLINE, condition)
        .await
        .unwrap();
}

async fn told(watchers: &Watchers, number: usize, what: &str, is_told: fn(&Document) -> bool) {
    let condition = move |crowd: &Crowd| crowd.subscription(number).document().is_some_and(is_told);
    watchers.wait_until(what, DEADLINE, condition).await.unwrap();
}

async fn refresh(watchers: &Watchers, number: usize) {
    let (answers, notifies) = watchers
        .ask(move |crowd| {
            crowd.subscribe(number, Some(600));
            let subscription = crowd.subscription(number);
            (subscription.answers().len(), subscription.notifies().len())
        })
        .await;
    let is_refreshed = move |subscription: &Subscription| {
        let answer = subscription.answers().get(answers);
        let notified = subscription.notifies().get(notifies..).into_iter().flatten();
        let mut states = notified.map(|notify| &notify.state);
        answer.is_some_and(|answer| (answer.status, answer.expires_secs) == (200, Some(600)))
            && states.any(|state| {
                matches!(
                    state,
                    SubscriptionState::Active {
                        expires_secs: 590..=600
                    }
                )
            })
    };
    let condition = move |crowd: &Crowd| is_refreshed(crowd.subscription(number));
    watchers
        .wait_until(
            "the refresh is answered and followed by a NOTIFY",
            DEADLINE,
            condition,
        )
        .await
        .unwrap();
}

async fn unsubscribe(watchers: &Watchers, number: usize) {
    watchers.ask(move |crowd| crowd.subscribe(number, Some(0))).await;
    let condition = move |crowd: &Crowd| crowd.subscription(number).is_terminated();
    watchers
        .wait_until("the subscription has ended", DEADLINE, condition)
        .await
        .unwrap();
}

/// Each with its status, and with what the refused one is told to do.
async fn refusals(watchers: &Watchers) {
    let cases = [
        ("sip:nobody@mail.example.com", "presence", None, 404, None),
        (
            "sip:user0@mail.example.com",
            "dialog",
            None,
            489,
            Some("presence"),
        ),
        ("sip:user0@mail.example.com", "presence", Some(5), 423, Some("60")),
    ];
    for (presentity, event, expires_secs, status, hint) in cases {
        let number = watchers
            .ask(move |crowd| crowd.watch("user1", presentity, event, expires_secs))
            .await;
        answered(watchers, number, 1).await;
        let answer = watchers
            .ask(move |crowd| crowd.subscription(number).answers()[0].clone())
            .await;
        assert_eq!((answer.status, answer.hint.as_deref()), (status, hint), "{event}");
    }
}

/// What is written is not waited for, so a story that kills waits instead.
async fn all_are_replicated(cluster: &Cluster) {
    for node in [Member::Node(1), Member::Node(2)] {
        cluster
            .wait_for_metrics(node, "every watcher is replicated", |metrics| {
                metrics.sum("tandem_node_watchers_replicated", &[]) >= AUDIENCE as f64
            })
            .await
            .unwrap();
    }
}

async fn first_issuer(watchers: &Watchers, audience: &[usize]) -> Member {
    let first = audience[0];
    let issuer = watchers
        .ask(move |crowd| crowd.subscription(first).issuer().map(str::to_owned))
        .await;
    match issuer.as_deref() {
        Some("n1") => Member::Node(1),
        Some("n2") => Member::Node(2),
        other => panic!("{other:?} is no node"),
    }
}

fn other(node: Member) -> Member {
    if node == Member::Node(1) {
        Member::Node(2)
    } else {
        Member::Node(1)
    }
}

async fn nothing_is_wrong(watchers: &Watchers) {
    let violations = watchers.ask(|crowd| crowd.violations()).await;
    assert_eq!(violations, Vec::<String>::new());
}
