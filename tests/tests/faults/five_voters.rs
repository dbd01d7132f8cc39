//! Five voters: a follower that is cut off together with its leader is in a minority, however well it hears the leader.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use tandem_tests::cluster::{Block, ClusterOptions, Cut, Hub, Member, Needs, in_a_network_of_its_own};
use tandem_tests::scenario::DiskScene;

use super::options;

#[test]
fn a_follower_in_the_minority_of_five_has_no_quorum_and_the_majority_goes_on() {
    in_a_network_of_its_own(Needs::Nothing, cut_two_of_five_off);
}

async fn cut_two_of_five_off(hub: Hub) -> anyhow::Result<()> {
    let options = ClusterOptions {
        nodes: 4,
        cti_managers: 1,
        ..options(hub)
    };
    let mut scene = DiskScene::start(options).await?;
    let leader = scene.leading_node().await?;
    let mut majority: Vec<Member> = scene.cluster.nodes();
    majority.retain(|node| *node != leader);
    let follower = majority.remove(0);
    scene.ledger.write(leader, 10).await?;

    let others = [&majority[..], &[Member::Lb]].concat();
    let cut = Cut::between(&[leader, follower], &others, Block::Drop);
    scene.cluster.cut(&cut)?;
    let since = Instant::now();
    for node in [leader, follower] {
        wait_until_without_quorum(&scene, node, since).await?;
        println!("{node} knows after {:?}", since.elapsed());
    }
    let refused = [leader, follower].map(|node| scene.ledger.ensure_refused(node, REFUSED_FOR));
    try_join_all(refused).await?;
    write_when_possible(&scene, majority[0], since).await?;
    scene.everyone_gets_a_snapshot().await?;

    scene.cluster.heal_network()?;
    scene.end().await
}

async fn wait_until_without_quorum(scene: &DiskScene, node: Member, since: Instant) -> anyhow::Result<()> {
    loop {
        let cluster = scene.cluster.get(node, "/cluster").await?;
        let ready = scene.cluster.http(node, "GET", "/readyz", "").await?;
        if cluster["authority"] != "quorum" && ready.status == 503 {
            return Ok(());
        }
        ensure!(
            since.elapsed() < KNOWN_WITHIN,
            "{node} is in a minority, and says {} and {}",
            cluster["authority"],
            ready.body
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn write_when_possible(scene: &DiskScene, node: Member, since: Instant) -> anyhow::Result<()> {
    while scene.ledger.write_one(scene.cluster.admin(node)?).await.is_err() {
        ensure!(since.elapsed() < WRITTEN_WITHIN, "{node} writes nothing");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

const POLL: Duration = Duration::from_millis(50);
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
const REFUSED_FOR: Duration = Duration::from_secs(2);
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
