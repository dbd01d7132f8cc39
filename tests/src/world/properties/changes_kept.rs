//! When all is well again, no change is lost: what watchers were told, and what every node says, is what the calendars say;
//! and each user is heard at exactly one Client Access Server: one that was left has called back and was told to end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::count;
use crate::cluster::{Addresses, Member, get_from, mailbox};
use crate::peers::exchange::now_secs;
use crate::peers::ocs::user_id;
use crate::scenario::state_in;
use crate::world::calendars::Calendars;

/// Of every calendar, at the latest within that time.
pub(in crate::world) async fn judge(
    calendars: &Calendars,
    addresses: Addresses,
    nodes: u64,
    within: Duration,
) -> anyhow::Result<u64> {
    let end = environment::now() + within;
    loop {
        let wrong = look(calendars, addresses, nodes).await;
        match wrong {
            Ok(wrong) if wrong.is_empty() => return Ok(count(calendars.people.len())),
            Ok(wrong) if environment::now() >= end => {
                bail!("after {within:?} {} are wrong: {}", wrong.len(), wrong.join("; "));
            }
            Err(error) if environment::now() >= end => return Err(error),
            Ok(_) | Err(_) => sleep(LOOKED_AT_EVERY).await,
        }
    }
}

async fn look(calendars: &Calendars, addresses: Addresses, nodes: u64) -> anyhow::Result<Vec<String>> {
    let mut wrong = heard_wrongly(calendars).await;
    for user in calendars.people.clone() {
        let shown = calendars.shown_now(user);
        let told = calendars.told(user).await;
        let last = told.last().map(|told| &told.document);
        if !last.is_some_and(|document| shown.is_told_by(document)) {
            wrong.push(format!(
                "user{user} is {shown:?}, and a watcher was told {last:?}"
            ));
        }
    }
    if wrong.is_empty() {
        for id in 1..=nodes {
            wrong.extend(wrong_at(calendars, addresses, Member::Node(id)).await?);
        }
    }
    Ok(wrong)
}

/// Who is heard at no server, or at more than one.
async fn heard_wrongly(calendars: &Calendars) -> Vec<String> {
    let heard = calendars.backend.ask(|servers| servers.heard()).await;
    let people = calendars.people.clone();
    let places = people.map(|user| (user, heard.get(&mailbox(user)).cloned().unwrap_or_default()));
    places
        .filter(|(_, places)| places.len() != 1)
        .map(|(user, places)| format!("user{user} is heard at {places:?}"))
        .collect()
}

/// What that node tells programs.
async fn wrong_at(calendars: &Calendars, addresses: Addresses, node: Member) -> anyhow::Result<Vec<String>> {
    let admin = addresses.admin(node).context("a node has one")?;
    let page = get_from(admin, "/presence?limit=1000").await?;
    let views = page["users"].as_array().cloned().unwrap_or_default();
    let told: BTreeMap<_, _> = views
        .iter()
        .filter_map(|view| Some((view["user"].as_str()?, view["calendar"]["state"].as_str()?)))
        .collect();
    let people = calendars.people.clone();
    let truth: Vec<(usize, &'static str)> = calendars
        .backend
        .ask(move |servers| {
            let now = now_secs();
            people
                .map(|user| (user, state_in(servers.store(), user, now)))
                .collect()
        })
        .await;
    let wrong = truth
        .into_iter()
        .map(|(user, state)| (user, state, told.get(user_id(user).as_str()).copied()))
        .filter(|(_, state, told)| *told != Some(*state));
    Ok(wrong
        .map(|(user, state, told)| format!("{node} says of user{user} {told:?} and not {state}"))
        .collect())
}

const LOOKED_AT_EVERY: Duration = Duration::from_millis(250);
