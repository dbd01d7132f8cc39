//! Links that are slow, late and lossy.

use std::time::Duration;

use tandem_tests::cluster::{Hub, Needs, SlowLink, in_a_network_of_its_own};
use tandem_tests::scenario::{DiskScene, Fault, Load, Who};

use super::{befall_with_short_pauses, end, options};

#[test]
fn everybody_goes_on_while_the_link_of_one_member_is_slow_and_loses_packets() {
    in_a_network_of_its_own(Needs::Nothing, slow_down_each);
}

async fn slow_down_each(hub: Hub) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    for who in Who::ALL {
        let fault = Fault::Slow { who, link: LINK };
        befall_with_short_pauses(&mut scene, &load, &fault, LASTS, PAUSE_MAX).await?;
    }
    end(scene, load).await
}

/// A poor connection between two sites.
const LINK: SlowLink = SlowLink {
    kilobits_per_second: 1_000,
    delay_ms: 30,
    lost_percent: 2,
};
const LASTS: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(3);
