//! What a cluster's calendars do on good days and on bad ones.

use std::time::Duration;

use super::exchange::GatewayState;
use super::world::World;
use crate::calendar::CalendarSettings;

const EIGHT: [&str; 8] = [
    "cas-1", "cas-2", "cas-3", "cas-4", "cas-5", "cas-6", "cas-7", "cas-8",
];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn after_a_cold_start_everybody_is_subscribed_and_right_within_a_minute() {
    let mut world = World::new(2, &EIGHT, 2000, CalendarSettings::default());
    world.start();
    world.run(seconds(8));
    assert!(
        world.wrong_users().is_empty(),
        "presence comes before subscriptions"
    );
    world.run(seconds(52));
    assert_eq!(world.unsubscribed_users(), Vec::<usize>::new());
    assert!(
        world.spread().values().all(|count| *count == 250),
        "{:?}",
        world.spread()
    );
    assert_eq!(world.moves(), 0);
}

#[test]
fn when_a_gateway_dies_its_users_go_to_the_others_evenly_and_nobody_else_moves() {
    let mut world = World::new(2, &EIGHT, 2000, CalendarSettings::default());
    world.start();
    world.run(seconds(60));
    let before: Vec<String> = (0..2000).map(|number| world.cas_of(number)).collect();
    world.exchange.gateway("cas-3").state = GatewayState::Dead;
    world.exchange.forget_subscriptions("cas-3");
    world.run(seconds(60));
    for (number, cas) in before.iter().enumerate() {
        assert_eq!(world.cas_of(number) == *cas, cas != "cas-3");
    }
    let spread = world.spread();
    assert!(
        spread.values().all(|count| (270..=300).contains(count)),
        "{spread:?}"
    );
    assert_eq!(world.unsubscribed_users(), Vec::<usize>::new());
    assert!(world.wrong_users().is_empty());
}
