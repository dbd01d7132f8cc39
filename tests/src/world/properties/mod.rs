//! What must hold in a simulated world, whatever goes wrong: one property a file.
//!
//! Each is judged from outside, by what clients, the PBX, Exchange and watchers saw, or by what an administrator may read.
//! Each says of how many things it was judged; a property that is never judged of anything proves nothing.

pub(super) mod answered_once;
pub(super) mod bounded;
pub(super) mod calls_shown;
pub(super) mod cas_balanced;
pub(super) mod cas_sticky;
pub(super) mod changes_kept;
pub(super) mod commands_once;
pub(super) mod edges_in_time;
pub(super) mod events_in_order;
pub(super) mod one_holder;
pub(super) mod own_events;
pub(super) mod progress;
pub(super) mod replicas;
pub(super) mod sessions_kept;
pub(super) mod settings_in_force;
pub(super) mod subscriptions_kept;
pub(super) mod well_formed;

use anyhow::ensure;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// An acknowledged session is never lost.
    SessionsKept,
    /// Each request is answered, once.
    AnsweredOnce,
    /// The PBX is told no command twice.
    CommandsOnce,
    /// Each event reaches its client once and in order.
    EventsInOrder,
    /// No event reaches anybody else.
    OwnEvents,
    /// A call that is over is not shown, and one that stands is.
    CallsShown,
    /// Each message is as its reader wants it.
    WellFormed,
    /// A user keeps a Client Access Server until it fails them or an administrator moves them.
    CasSticky,
    /// Users are spread evenly over the servers when an administrator has asked for it.
    CasBalanced,
    /// A meeting that begins or ends is shown in time.
    EdgesInTime,
    /// One node acts for a user.
    OneHolder,
    /// When all is well again, what is shown is what the calendars say.
    ChangesKept,
    /// While all is well, no subscription by which a user is heard is ended.
    SubscriptionsKept,
    /// A setting that was changed is in force at every node.
    SettingsInForce,
    /// No table, queue or log is longer than it may be.
    Bounded,
    /// Work goes on soon after what was wrong is put right.
    Progress,
    /// Members that have applied the same entries hold the same state, byte for byte.
    ReplicasEqual,
}

impl Property {
    pub const ALL: [Self; 17] = [
        Self::SessionsKept,
        Self::AnsweredOnce,
        Self::CommandsOnce,
        Self::EventsInOrder,
        Self::OwnEvents,
        Self::CallsShown,
        Self::WellFormed,
        Self::CasSticky,
        Self::CasBalanced,
        Self::EdgesInTime,
        Self::OneHolder,
        Self::ChangesKept,
        Self::SubscriptionsKept,
        Self::SettingsInForce,
        Self::Bounded,
        Self::Progress,
        Self::ReplicasEqual,
    ];
}

/// Fails with the first few of what was found.
fn nothing_found(found: &[String]) -> anyhow::Result<()> {
    let some: Vec<_> = found.iter().take(5).cloned().collect();
    ensure!(found.is_empty(), "{} found: {}", found.len(), some.join("; "));
    Ok(())
}

/// As metrics tell it.
pub(super) fn number(things: u64) -> f64 {
    f64::from(u32::try_from(things).unwrap_or(u32::MAX))
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}
