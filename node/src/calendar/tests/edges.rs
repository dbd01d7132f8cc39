//! Presence changes when meetings begin and end, for each user at a second of their own.

use std::time::Duration;

use tandem_cluster::CalendarState;

use super::life::{minutes, seconds, settled};
use super::world::{START_MS, meeting, minute};
use crate::calendar::CalendarSettings;
use tandem_exchange::ews::FreeBusyStatus;

#[test]
fn every_edge_is_published_within_the_spread_and_the_spread_is_used() {
    let mut world = settled(1, &["cas-1", "cas-2"], 400, CalendarSettings::default());
    world.run(minutes(30) - seconds(60));
    world.published.clear();
    world.run(minutes(2));
    let edge_ms = START_MS + 30 * 60_000;
    let mut by_second = [0; 60];
    for (user, published) in &world.published {
        let [(at, presence)] = published[..] else {
            panic!("{user} changed {} times", published.len());
        };
        assert!((edge_ms..edge_ms + 51_000).contains(&at));
        assert_eq!((at, presence.from_ms), (at, edge_ms));
        by_second[usize::try_from((at - edge_ms) / 1000).unwrap()] += 1;
    }
    assert_eq!(world.published.len(), 400);
    assert!(by_second[..50].iter().all(|count| *count > 0), "{by_second:?}");
    assert!(world.wrong_users().is_empty());
    assert_eq!(world.census().edges_late, 0);
}

#[test]
fn what_an_event_tells_is_published_at_once() {
    let mut world = settled(1, &["cas-1"], 1, CalendarSettings::default());
    world.published.clear();
    world.change(
        0,
        vec![meeting(minute(-5), minute(200), FreeBusyStatus::OutOfOffice)],
    );
    let changed_at = world.unix_ms;
    world.run(seconds(30));
    let published = world.published.values().next().unwrap();
    assert_eq!(published.len(), 1);
    assert!(published[0].0 - changed_at < 5000);
}

#[test]
fn a_read_that_finds_nothing_new_publishes_nothing_and_hurries_no_edge() {
    let settings = CalendarSettings {
        refresh_interval: minutes(1),
        ..CalendarSettings::default()
    };
    let mut world = settled(1, &["cas-1"], 60, settings);
    world.run(minutes(20));
    world.published.clear();
    world.run(minutes(8));
    assert!(world.published.is_empty());
    world.run(minutes(4));
    for published in world.published.values() {
        assert_eq!(published.len(), 1);
    }
}

#[test]
fn beyond_the_window_nothing_is_known() {
    let mut world = settled(1, &["cas-1"], 2, CalendarSettings::default());
    world.exchange.cas("cas-1").state = super::exchange::CasState::Dead;
    world.run(Duration::from_secs(35 * 3600));
    assert_eq!(world.shown(0), Some(CalendarState::Free));
    world.run(Duration::from_secs(2 * 3600));
    assert_eq!(world.shown(0), Some(CalendarState::Unknown));
}

#[test]
fn a_clock_that_is_set_forward_or_back_is_believed() {
    let mut world = settled(1, &["cas-1"], 30, CalendarSettings::default());
    world.set_clock(31 * 60_000);
    world.run(minutes(2));
    assert!(world.wrong_users().is_empty(), "an edge was leapt over");
    world.set_clock(-31 * 60_000);
    world.run(seconds(10));
    assert!(world.wrong_users().is_empty());
}
