//! Each way between two members is cut in turn, in each manner. Members that can go on do so; nothing acknowledged is lost.

use std::time::Duration;

use tandem_tests::cluster::{Block, Hub, Needs, in_a_network_of_its_own};
use tandem_tests::scenario::{DiskScene, Fault, Load, Way, Who, every_case};

use super::{befall_with_short_pauses, end, options};

#[test]
fn a_way_on_which_everything_vanishes_is_no_loss() {
    in_a_network_of_its_own(Needs::Nothing, |hub| cut_every_way(hub, Block::Drop));
}

#[test]
fn a_way_on_which_everything_is_reset_is_no_loss() {
    in_a_network_of_its_own(Needs::Nothing, |hub| cut_every_way(hub, Block::Reset));
}

#[test]
fn a_way_on_which_everything_is_refused_is_no_loss() {
    in_a_network_of_its_own(Needs::Nothing, |hub| cut_every_way(hub, Block::Refuse));
}

async fn cut_every_way(hub: Hub, by: Block) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    for fault in cuts(by) {
        befall_with_short_pauses(&mut scene, &load, &fault, LASTS, PAUSE_MAX).await?;
    }
    end(scene, load).await
}

/// One way each, and both, between all pairs; in short runs each pair and each way is cut by one manner or another.
fn cuts(by: Block) -> Vec<Fault> {
    let pairs = [
        (Who::Leader, Who::Follower),
        (Who::Leader, Who::FrontEnd),
        (Who::Follower, Who::FrontEnd),
    ];
    let all = pairs.into_iter().flat_map(|(one, other)| {
        let ways = Way::ALL.into_iter();
        ways.map(move |way| Fault::Cut { one, other, way, by })
    });
    let mine = match by {
        Block::Drop => 0,
        Block::Refuse => 1,
        Block::Reset => 2,
    };
    let in_short_runs = |number: usize| number % 4 == mine;
    let numbered = all.enumerate();
    let wanted = numbered.filter(|(number, _)| every_case() || in_short_runs(*number));
    wanted.map(|(_, fault)| fault).collect()
}

/// Longer than a lease, and than the silence after which a node is lost.
const LASTS: Duration = Duration::from_millis(2500);
/// The witness campaigns after two seconds.
const PAUSE_MAX: Duration = Duration::from_secs(3);
