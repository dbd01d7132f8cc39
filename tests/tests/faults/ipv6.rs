//! Members, clients and PBX have IPv6 addresses alone.

use std::time::Duration;

use tandem_tests::cluster::{Block, Hub, Needs, in_a_network_of_its_own};
use tandem_tests::scenario::{DiskScene, Fault, Load, Way, Who};

use super::{befall_and_judge, end, options};

#[test]
fn over_ipv6_a_cut_and_a_death_are_no_loss() {
    in_a_network_of_its_own(Needs::Nothing, over_ipv6);
}

async fn over_ipv6(hub: Hub) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub.over_ipv6())).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    let cut = Fault::Cut {
        one: Who::Leader,
        other: Who::Follower,
        way: Way::Both,
        by: Block::Drop,
    };
    for fault in [cut, Fault::Killed { who: Who::Leader }] {
        let pause = befall_and_judge(&mut scene, &load, &fault, LASTS).await?;
        println!("{fault}: longest pause {pause:?}");
    }
    end(scene, load).await
}

const LASTS: Duration = Duration::from_millis(2500);
