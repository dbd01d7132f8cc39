//! Each message is as its reader wants it: clients, CTI managers, Client Access Servers and watchers object to none.

use super::{count, nothing_found};
use crate::peers::violation::Promise;
use crate::scenario::Office;
use crate::world::calendars::Calendars;

/// Of everything that came so far.
pub(in crate::world) async fn judge(office: &Office, calendars: &Calendars) -> anyhow::Result<u64> {
    let (mut found, requests) = office
        .ocs
        .ask(|front_end| {
            let requests = front_end.all_requests().count();
            (front_end.violations_of(Promise::Form), requests)
        })
        .await;
    found.extend(office.pbx().ask(|switch| switch.violations().to_vec()).await);
    let (at_exchange, operations) = calendars
        .backend
        .ask(|servers| {
            let records = servers
                .all()
                .iter()
                .map(|cas| cas.record().requests.values().sum::<usize>());
            (servers.violations().to_vec(), records.sum::<usize>())
        })
        .await;
    found.extend(at_exchange);
    found.extend(calendars.watchers.ask(|crowd| crowd.violations()).await);
    nothing_found(&found)?;
    Ok(count(requests + operations))
}
