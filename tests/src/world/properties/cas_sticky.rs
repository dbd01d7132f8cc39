//! A user keeps a Client Access Server until the subscription fails there (CAL-2), or an administrator moves them.

use std::collections::BTreeMap;

use tandem_runtime::io::environment;

use super::{count, nothing_found};
use crate::peers::exchange::now_ms;
use crate::world::administrator::{Deed, Done};
use crate::world::calendars::Calendars;
use crate::world::disturbances::Disturbances;

/// A subscription that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Granted {
    at_ms: i64,
    cas: usize,
}

/// Of every subscription so far: each is at the user's former server, unless that failed shortly before.
pub(in crate::world) async fn judge(
    calendars: &Calendars,
    disturbances: &Disturbances,
    deeds: &[Done],
) -> anyhow::Result<u64> {
    let granted = granted(calendars).await;
    let judged = granted.values().map(Vec::len).sum();
    let found: Vec<_> = granted
        .iter()
        .flat_map(|(mailbox, granted)| {
            let moves = granted.windows(2).filter(|pair| pair[0].cas != pair[1].cas);
            let unprovoked = moves.filter(|pair| !is_provoked(&pair[0], &pair[1], disturbances, deeds));
            unprovoked.map(move |pair| format!("{mailbox} moved without need: {pair:?}"))
        })
        .collect();
    nothing_found(&found)?;
    Ok(count(judged))
}

fn is_provoked(before: &Granted, after: &Granted, disturbances: &Disturbances, deeds: &[Done]) -> bool {
    let since = before.at_ms.max(after.at_ms - MOVED_WITHIN_MS);
    let planned = deeds.iter().any(|done| {
        done.deed == Deed::CasRebalanced
            && done.from_ms <= after.at_ms
            && done.until_ms >= after.at_ms - MOVED_WITHIN_MS
    });
    planned || disturbances.failed(before.cas, since, after.at_ms)
}

async fn granted(calendars: &Calendars) -> BTreeMap<String, Vec<Granted>> {
    calendars
        .backend
        .ask(|servers| {
            let (now, unix_ms) = (environment::now(), now_ms());
            let mut by_mailbox: BTreeMap<String, Vec<Granted>> = BTreeMap::new();
            for granted in servers.granted() {
                let ago = now.saturating_duration_since(granted.at).as_millis();
                let at_ms = unix_ms - i64::try_from(ago).unwrap_or(i64::MAX);
                let granted_then = Granted {
                    at_ms,
                    cas: granted.cas,
                };
                by_mailbox
                    .entry(granted.mailbox.clone())
                    .or_default()
                    .push(granted_then);
            }
            by_mailbox
        })
        .await
}

/// A server that failed is left at a bounded rate, and a move waits for those that went before it.
const MOVED_WITHIN_MS: i64 = 30_000;
