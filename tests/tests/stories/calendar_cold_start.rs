//! Everybody's calendar, from nothing: shares are even, presence is right, and nobody asks twice.

use tandem_tests::cluster::{ExchangeOptions, mailbox};
use tandem_tests::peers::exchange::mail_store::{Appointment, Response, Status};
use tandem_tests::peers::exchange::now_secs;
use tandem_tests::peers::exchange::recurrence::{Recurrence, Zone};
use tandem_tests::peers::exchange::request::{OperationName, Version};
use tandem_tests::peers::exchange::server::Servers;
use tandem_tests::scenario::CalendarScene;

const USERS: usize = 62;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_subscribed_evenly_by_push_and_right_on_both_nodes() {
    cold_start("push_first").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_subscribed_evenly_by_streaming_and_right_on_both_nodes() {
    cold_start("streaming_first").await.unwrap();
}

/// Servers of three generations: each is spoken to in words that it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_servers_are_spoken_to_in_their_version() {
    let scene = CalendarScene::with_calendars(12, ExchangeOptions::default(), |servers| {
        servers.cas_mut(1).newest = Version::Exchange2010Sp2;
        servers.cas_mut(2).newest = Version::Exchange2010Sp1;
        servers.cas_mut(3).newest = Version::Exchange2007Sp1;
        for user in 0..12 {
            put(
                servers,
                user,
                Appointment::new(now_secs() - 60, now_secs() + HOUR, Status::Busy),
            );
        }
    })
    .await
    .unwrap();
    scene.everyone_is_heard_evenly(4).await.unwrap();
    scene.everyone_is_right().await.unwrap();
    scene.verdict().await.unwrap();
}

async fn cold_start(delivery: &'static str) -> anyhow::Result<()> {
    let options = ExchangeOptions {
        delivery,
        ..ExchangeOptions::default()
    };
    let scene = CalendarScene::with_calendars(USERS, options, fill).await?;
    let places = scene.everyone_is_heard_evenly(4).await?;
    // The node that registers first may have begun with users who are the other one's a moment later.
    let granted = places.granted;
    assert!((USERS..=2 * USERS).contains(&granted), "{granted} Subscribes");
    println!("{delivery}: {granted} Subscribes for {USERS} users");
    scene.everyone_is_right().await?;
    let records = scene
        .exchange()
        .ask(|servers| {
            servers
                .all()
                .iter()
                .map(|cas| cas.record().clone())
                .collect::<Vec<_>>()
        })
        .await;
    let bulk: usize = records
        .iter()
        .filter_map(|record| record.requests.get(&OperationName::GetUserAvailability))
        .sum();
    let concurrency = records
        .iter()
        .map(|record| record.concurrency_max)
        .max()
        .unwrap_or_default();
    println!("{delivery}: {bulk} bulk reads, at most {concurrency} requests at once at one server");
    // Two nodes, each at most its configured twenty.
    assert!(concurrency <= 40, "{records:?}");
    scene.verdict().await
}

/// One calendar of each kind, then all over again.
fn fill(servers: &mut Servers) {
    let now = now_secs();
    for user in 0..USERS {
        for appointment in calendar(user, now) {
            put(servers, user, appointment);
        }
    }
}

fn calendar(user: usize, now: i64) -> Vec<Appointment> {
    let around = |status| Appointment::new(now - 600, now + HOUR, status);
    let midnight = now - now.rem_euclid(DAY);
    match user % 12 {
        0 => Vec::new(),
        1 => vec![around(Status::Busy)],
        2 => vec![around(Status::Tentative)],
        3 => vec![around(Status::OutOfOffice)],
        4 => vec![around(Status::WorkingElsewhere)],
        5 => vec![around(Status::Free)],
        // A holiday that does not keep anybody away.
        6 => vec![Appointment {
            all_day: true,
            ..Appointment::new(midnight, midnight + DAY, Status::Free)
        }],
        7 => vec![Appointment {
            all_day: true,
            ..Appointment::new(midnight, midnight + DAY, Status::OutOfOffice)
        }],
        8 => vec![Appointment {
            cancelled: true,
            ..around(Status::Busy)
        }],
        9 => vec![Appointment {
            response: Response::Decline,
            ..around(Status::Busy)
        }],
        10 => vec![
            around(Status::Tentative),
            around(Status::Busy),
            around(Status::Free),
        ],
        // Every day at this time, since a week ago, in a zone whose clocks change.
        _ => vec![Appointment {
            recurrence: Some(Recurrence::every_days(1, 30, Zone::CentralEurope)),
            ..Appointment::new(now - 7 * DAY - 600, now - 7 * DAY + HOUR, Status::Busy)
        }],
    }
}

fn put(servers: &mut Servers, user: usize, appointment: Appointment) {
    let created = servers.create(
        &mailbox(user),
        appointment,
        std::time::Instant::now(),
        now_secs() * 1000,
    );
    assert!(created.is_some());
}
