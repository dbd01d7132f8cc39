//! One member is away, the other two acknowledge, one of these loses its disk and the other dies: the two that are left
//! would be a majority that knows nothing of what was acknowledged.

use tandem_tests::cluster::{ClusterOptions, Member};
use tandem_tests::scenario::{DiskScene, MEMBERS, every_case};

const USERS: usize = 12;
const WRITES: usize = 21;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_and_one_that_was_away_write_nothing_until_the_third_returns() {
    let options = ClusterOptions {
        users: USERS,
        cti_managers: 2,
        ..ClusterOptions::default()
    };
    let mut scene = DiskScene::start(options).await.unwrap();
    // In each role once; with the roles of the other two exchanged when there is time.
    for wiped in 0..3 {
        let others = [MEMBERS[(wiped + 1) % 3], MEMBERS[(wiped + 2) % 3]];
        without_the_one_who_knows(&mut scene, MEMBERS[wiped], others)
            .await
            .unwrap();
        if every_case() {
            let others = [others[1], others[0]];
            without_the_one_who_knows(&mut scene, MEMBERS[wiped], others)
                .await
                .unwrap();
        }
    }
    scene.end().await.unwrap();
}

async fn without_the_one_who_knows(
    scene: &mut DiskScene,
    wiped: Member,
    [away, third]: [Member; 2],
) -> anyhow::Result<()> {
    println!("{wiped} loses its disk, {away} was away, {third} knows");
    scene.cluster.kill(away).await?;
    let writes_at = if wiped == Member::Lb { third } else { wiped };
    scene.ledger.write(writes_at, WRITES).await?;
    scene.cluster.kill(third).await?;
    scene.restart_without_disk(wiped).await?;
    scene.cluster.launch(away)?;
    let left: Vec<Member> = [wiped, away]
        .into_iter()
        .filter(|member| *member != Member::Lb)
        .collect();
    scene.nothing_can_be_written(&left).await?;

    scene.cluster.launch(third)?;
    let whole: Vec<Member> = [third, away]
        .into_iter()
        .filter(|member| *member != Member::Lb)
        .collect();
    scene.cluster.wait_until_ready(&whole).await?;
    for node in &whole {
        scene.ledger.is_held_by(*node).await?;
        scene.ledger.write(*node, 3).await?;
    }
    scene.take_back(whole[0], wiped).await
}
