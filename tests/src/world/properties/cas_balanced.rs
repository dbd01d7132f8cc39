//! Users are spread evenly over the Client Access Servers (CAL-2) after an administrator has asked for it, and each is heard
//! where the cluster says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::count;
use crate::cluster::{Addresses, Member, get_from, mailbox};
use crate::peers::ocs::user_id;
use crate::scenario::ensure_even;
use crate::world::calendars::Calendars;
use crate::world::faults::cas_name;

/// Of every user with a calendar, once they have had the time to move.
pub(in crate::world) async fn judge(
    calendars: &Calendars,
    addresses: Addresses,
    cas: usize,
    within: Duration,
) -> anyhow::Result<u64> {
    let end = environment::now() + within;
    loop {
        let looked = look(calendars, addresses, cas).await;
        if looked.is_ok() || environment::now() >= end {
            return looked.with_context(|| format!("for {within:?}"));
        }
        sleep(LOOKED_AT_EVERY).await;
    }
}

async fn look(calendars: &Calendars, addresses: Addresses, cas: usize) -> anyhow::Result<u64> {
    let address = addresses.admin(Member::Node(1)).context("a node has one")?;
    let assignments = get_from(address, "/cas/assignments").await?;
    let assignments = assignments.as_object().context("no object")?;
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for assignment in assignments.values() {
        *users
            .entry(assignment["cas"].as_str().unwrap_or_default())
            .or_default() += 1;
    }
    let counts: Vec<_> = users.values().copied().collect();
    ensure_even("users by server", &counts, cas)?;
    let heard = calendars.backend.ask(|servers| servers.heard()).await;
    for user in calendars.people.clone() {
        let assigned = assignments[&user_id(user)]["cas"].as_str().unwrap_or_default();
        let at = heard.get(&mailbox(user));
        let names: Vec<_> = at.into_iter().flatten().map(|number| cas_name(*number)).collect();
        anyhow::ensure!(
            names.iter().any(|name| name == assigned),
            "user{user} is heard at {names:?}, not at {assigned}"
        );
    }
    Ok(count(assignments.len()))
}

const LOOKED_AT_EVERY: Duration = Duration::from_millis(200);
