//! One node acts for a user (ARCHITECTURE.md §4): while all is well, only the owner speaks to Exchange for a mailbox.

use std::time::Instant;

use anyhow::{Context, ensure};
use tandem_runtime::io::environment;

use super::count;
use crate::cluster::{Addresses, Member, get_from, mailbox};
use crate::peers::ocs::user_id;
use crate::world::calendars::Calendars;

/// A moment by the clock of the mail store.
pub(in crate::world) async fn since_now(calendars: &Calendars) -> Instant {
    calendars.backend.ask(|_| environment::now()).await
}

/// Of every user whose mailbox anybody has spoken for since then.
pub(in crate::world) async fn judge(
    calendars: &Calendars,
    addresses: Addresses,
    since: Instant,
) -> anyhow::Result<u64> {
    let acted = calendars
        .backend
        .ask(move |servers| servers.clients_since(since))
        .await;
    let admin = addresses.admin(Member::Node(1)).context("a node has one")?;
    let mut judged = 0;
    for user in calendars.people.clone() {
        let clients = acted.get(&mailbox(user)).cloned().unwrap_or_default();
        if clients.is_empty() {
            continue;
        }
        judged += 1;
        let explained = get_from(admin, &format!("/exchange/users/{}", user_id(user))).await?;
        let owner = explained["owner"].as_str().unwrap_or_default().to_owned();
        let id: u64 = owner
            .trim_start_matches('n')
            .parse()
            .with_context(|| format!("owner {owner:?}"))?;
        let address = addresses.node_sip(id).ip();
        ensure!(
            clients.iter().all(|client| *client == address),
            "user{user} belongs to {owner} at {address}, and {clients:?} act for them"
        );
    }
    Ok(count(judged))
}
