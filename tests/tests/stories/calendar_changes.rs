//! Presence follows the calendar: what is created, changed, cancelled or deleted, and what time brings.

use std::time::Instant;

use tandem_tests::cluster::{ExchangeOptions, Member, mailbox};
use tandem_tests::peers::exchange::mail_store::{Appointment, Status};
use tandem_tests::peers::exchange::recurrence::{Recurrence, Zone};
use tandem_tests::peers::exchange::{now_ms, now_secs};
use tandem_tests::scenario::CalendarScene;

const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_follows_the_calendar_by_push() {
    follow("push_only").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_follows_the_calendar_by_streaming() {
    follow("streaming_only").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_follows_the_calendar_by_asking() {
    follow("pull").await.unwrap();
}

async fn follow(delivery: &'static str) -> anyhow::Result<()> {
    let options = ExchangeOptions {
        delivery,
        cas: 2,
        ..ExchangeOptions::default()
    };
    let scene = CalendarScene::start(4, options).await?;
    scene.everyone_is_heard_evenly(2).await?;
    scene.everyone_is_right().await?;
    comes_and_goes(&scene, 0).await?;
    scene.everyone_is_right().await?;
    scene.verdict().await
}

/// All that can be done to meetings; how changes are told does not matter for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_and_every_edge_shows() {
    let scene = CalendarScene::start(4, ExchangeOptions::default()).await.unwrap();
    scene.everyone_is_heard_evenly(4).await.unwrap();
    // At the same time, on four calendars.
    let (meeting, occurrence, edge, neighbours) = tokio::join!(
        one_meeting(&scene, 0),
        one_occurrence(&scene, 1),
        an_edge(&scene, 2),
        back_to_back(&scene, 3)
    );
    for result in [meeting, occurrence, edge, neighbours] {
        result.unwrap();
    }
    scene.everyone_is_right().await.unwrap();
    scene.verdict().await.unwrap();
}

async fn comes_and_goes(scene: &CalendarScene, user: usize) -> anyhow::Result<()> {
    let meeting = scene.exchange().meet_now(&mailbox(user), Status::Busy).await?;
    scene.is(user, "in_a_meeting").await?;
    scene.exchange().delete(&mailbox(user), meeting).await?;
    scene.is(user, "available").await
}

async fn one_meeting(scene: &CalendarScene, user: usize) -> anyhow::Result<()> {
    let (exchange, owner) = (scene.exchange(), mailbox(user));
    scene.is(user, "available").await?;
    let meeting = exchange.meet_now(&owner, Status::Busy).await?;
    scene.is(user, "in_a_meeting").await?;
    exchange
        .modify(&owner, meeting, |meeting| meeting.status = Status::OutOfOffice)
        .await?;
    scene.is(user, "away").await?;
    exchange
        .modify(&owner, meeting, |meeting| meeting.cancelled = true)
        .await?;
    scene.is(user, "available").await
}

/// A series of which today's meeting is taken out.
async fn one_occurrence(scene: &CalendarScene, user: usize) -> anyhow::Result<()> {
    let now = now_secs();
    let today = now - 600;
    let series = Appointment {
        recurrence: Some(Recurrence::every_days(1, 30, Zone::Utc)),
        ..Appointment::new(today - 7 * DAY, today - 7 * DAY + HOUR, Status::Busy)
    };
    let series = scene.exchange().create(&mailbox(user), series).await?;
    scene.is(user, "in_a_meeting").await?;
    scene
        .exchange()
        .modify(&mailbox(user), series, move |series| {
            if let Some(recurrence) = &mut series.recurrence {
                recurrence.removed.insert(today);
            }
        })
        .await?;
    scene.is(user, "available").await
}

/// A meeting begins and ends by the clock alone; Exchange says nothing about it.
async fn an_edge(scene: &CalendarScene, user: usize) -> anyhow::Result<()> {
    let start = now_secs() + 4;
    let meeting = Appointment::new(start, start + 3, Status::Busy);
    scene.exchange().create(&mailbox(user), meeting).await?;
    scene.is(user, "in_a_meeting").await?;
    println!("published {} ms after it began", now_ms() - start * 1000);
    anyhow::ensure!(now_secs() >= start, "published before it began");
    scene.is(user, "available").await?;
    println!("published {} ms after it ended", now_ms() - (start + 3) * 1000);
    anyhow::ensure!(now_secs() >= start + 3, "published before it ended");
    Ok(())
}

/// Nobody is available for a blink between two meetings.
async fn back_to_back(scene: &CalendarScene, user: usize) -> anyhow::Result<()> {
    let border = now_secs() + 4;
    for (start, end) in [(border - HOUR, border), (border, border + HOUR)] {
        let meeting = Appointment::new(start, end, Status::Busy);
        scene.exchange().create(&mailbox(user), meeting).await?;
    }
    scene.is(user, "in_a_meeting").await?;
    let started = Instant::now();
    let path = format!("/presence/{}", tandem_tests::peers::ocs::user_id(user));
    while now_secs() < border + 2 {
        let presence = scene.cluster.get(Member::Node(1), &path).await?;
        anyhow::ensure!(presence["availability"] == "in_a_meeting", "{presence}");
        anyhow::ensure!(started.elapsed() < scene.patience, "the clock stands still");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}
