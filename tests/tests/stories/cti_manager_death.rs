//! A CTI manager is killed, and comes back.

use std::time::Instant;

use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member};
use tandem_tests::peers::switch::Switch;
use tandem_tests::scenario::Scene;

const USERS: usize = 200;
const NEWCOMERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_when_their_cti_manager_dies_and_it_is_used_again_when_it_returns() {
    let options = ClusterOptions {
        users: USERS + NEWCOMERS,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    let calls = scene
        .put_incoming_calls_up(&(0..40).collect::<Vec<_>>())
        .await
        .unwrap();
    let killed_at = Instant::now();
    scene.cluster.kill(Member::CtiManager(2)).await.unwrap();
    commands_meanwhile_are_answered(&mut scene).await;
    heartbeat_shows(&scene, 0.0).await;
    println!("both nodes show cm2 down after {:?}", killed_at.elapsed());
    let moved = |switch: &Switch| {
        let monitors = switch.monitors();
        monitors.values().sum::<usize>() == USERS && !monitors.contains_key("cm2")
    };
    scene
        .pbx()
        .wait_until("every monitor is on another manager", DEADLINE, moved)
        .await
        .unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.far_ends_hang_up(&calls).await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();

    scene.cluster.restart(Member::CtiManager(2)).await.unwrap();
    heartbeat_shows(&scene, 1.0).await;
    scene.sign_in(USERS..USERS + NEWCOMERS).await.unwrap();
    let used = |switch: &Switch| switch.monitors().get("cm2").is_some_and(|count| *count > 0);
    scene
        .pbx()
        .wait_until("cm2 has sessions again", DEADLINE, used)
        .await
        .unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.verdict().await.unwrap();
}

/// Each is carried out or refused with a CSTA error; none is lost, none is carried out twice.
async fn commands_meanwhile_are_answered(scene: &mut Scene) {
    let dialled: Vec<_> = (40..80).map(|user| (user, scene.unused_number())).collect();
    let requests = scene
        .ocs
        .ask(move |front_end| {
            let made = dialled
                .into_iter()
                .map(|(user, number)| (user, front_end.make_call(user, &number)));
            made.collect::<Vec<_>>()
        })
        .await;
    scene.wait_until_answered().await.unwrap();
    let unclear = scene
        .ocs
        .ask(move |front_end| {
            let unclear = requests.into_iter().filter_map(|(user, request)| {
                let sent = &front_end.user(user).requests()[request];
                let refused = sent.answer().and_then(|answer| answer.csta_error());
                let clear = sent.succeeded()
                    || refused.is_some_and(|error| error.starts_with("systemResourceAvailibility/"));
                (!clear).then(|| format!("{:?}", sent.outcome))
            });
            unclear.collect::<Vec<_>>()
        })
        .await;
    assert_eq!(unclear, Vec::<String>::new());
    // What was carried out ends here, so that books and PBX can be compared later.
    let made: Vec<_> = scene.pbx().ask(|switch| made_by_clients(switch)).await;
    for (call, phone) in made {
        scene.pbx().far_end_hangs_up(&call, &phone).await;
    }
}

fn made_by_clients(switch: &Switch) -> Vec<(String, String)> {
    let made = switch
        .calls()
        .iter()
        .filter(|(_, call)| !call.calling.number.starts_with('+'));
    made.map(|(id, call)| (id.clone(), call.calling.number.clone()))
        .collect()
}

async fn heartbeat_shows(scene: &Scene, up: f64) {
    for node in [Member::Node(1), Member::Node(2)] {
        scene
            .cluster
            .wait_for_metrics(node, "the heartbeat shows it", |metrics| {
                metrics.contains("tandem_node_cti_up")
                    && metrics.sum("tandem_node_cti_up", &[("connection", "cm2")]) == up
            })
            .await
            .unwrap();
    }
}
