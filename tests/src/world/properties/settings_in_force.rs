//! A setting that was changed is in force at every node (RCC-15).

use anyhow::{Context, ensure};

use super::count;
use crate::cluster::{Addresses, Member, get_from};
use crate::world::administrator::Administrator;

/// Of every setting that was ever changed, at every node. A change of which nobody knows what came of it may be in force.
pub(in crate::world) async fn judge(
    administrator: &Administrator,
    addresses: Addresses,
    nodes: u64,
) -> anyhow::Result<u64> {
    let mut told = Vec::new();
    for id in 1..=nodes {
        let admin = addresses.admin(Member::Node(id)).context("a node has one")?;
        told.push(get_from(admin, "/settings").await?);
    }
    for (name, possible) in administrator.settings() {
        let values: Vec<_> = told.iter().map(|settings| &settings[*name]).collect();
        ensure!(
            values.windows(2).all(|pair| pair[0] == pair[1]),
            "{name} is {values:?}"
        );
        let is_possible = possible.values.iter().any(|value| value == values[0]);
        ensure!(
            is_possible || !possible.is_certain,
            "{name} is {}, and not one of {possible:?}",
            values[0]
        );
    }
    Ok(count(administrator.settings().len() * told.len()))
}
