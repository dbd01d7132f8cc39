//! What machines and administrators do to a member's disk, and the way back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_raft::{Cluster, RaftRole};
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::environment::simulated::Interruption;

use super::{Events, MEMBERS, World, elapsed};

/// A copy of a data directory, and when it was made.
pub(crate) struct Copy {
    files: BTreeMap<String, Vec<u8>>,
    made: Duration,
}

impl World {
    /// The power fails in the middle of an operation of the disk, after so many others. The member is down then.
    pub(crate) fn fail_power_after(&mut self, member: u64, operations: u64) {
        self.files(member)
            .interrupt_after(operations, Interruption::PowerFails);
        self.run_until_stopped_or(member, Duration::from_secs(1));
        self.crash(member);
    }

    /// The disk has room for so many bytes only. The member is down then, and has room again.
    pub(crate) fn fill_disk(&mut self, member: u64, free_bytes: u64) {
        self.note(format!("fill {member}"));
        self.files(member).set_free_bytes(free_bytes);
        self.run_until_stopped_or(member, Duration::from_secs(2));
        self.crash(member);
        self.files(member).set_free_bytes(PLENTY);
    }

    fn run_until_stopped_or(&mut self, member: u64, patience: Duration) {
        let end = self.sim.elapsed() + patience;
        let has_stopped = |world: &Self| world.cluster(member).status().borrow().role == RaftRole::Stopped;
        while !has_stopped(self) && self.sim.elapsed() < end {
            self.step();
        }
    }

    /// The member is down, and its disk is empty: somebody has to give it its seat back.
    pub(crate) fn wipe(&mut self, member: u64) {
        self.note(format!("wipe {member}"));
        self.crash(member);
        self.empty(member);
        *self.wanted.lock().unwrap() = Some(member);
    }

    pub(crate) fn copy_disk(&mut self, member: u64) {
        let files = self.files(member);
        let names = files.list().unwrap().into_iter();
        let copied = names.map(|name| {
            let bytes = files.read(&name).unwrap().unwrap_or_default();
            (name, bytes)
        });
        let copy = Copy {
            files: copied.collect(),
            made: self.sim.elapsed(),
        };
        self.copies.insert(member, copy);
    }

    /// Whether a copy is so old that what was acknowledged since then has been heard of.
    pub(crate) fn has_old_copy(&self, member: u64) -> bool {
        let copy = self.copies.get(&member);
        copy.is_some_and(|copy| self.sim.elapsed() > copy.made + Duration::from_secs(2))
    }

    /// The member starts with the disk that it had when the copy was made, is found out by the others, and is emptied.
    pub(crate) fn roll_back(&mut self, member: u64) {
        self.heal();
        self.run_until("members that know each other", |world| {
            world.leader().is_some() && world.wanted.lock().unwrap().is_none() && world.replicas_run()
        });
        // What is known of logs is asked several times a second.
        self.run_for(Duration::from_secs(1));
        self.note(format!("roll back {member}"));
        self.crash(member);
        self.empty(member);
        for (name, bytes) in &self.copies[&member].files {
            self.files(member).put(name, bytes.clone());
        }
        self.heal();
        self.run_until("the member hears that it is a stranger", |world| {
            let clusters = world.clusters.lock().unwrap();
            let obstacle = |cluster: &Cluster| cluster.status().borrow().obstacle.clone();
            clusters
                .get(&member)
                .and_then(obstacle)
                .is_some_and(|obstacle| obstacle.contains("stranger"))
        });
        self.copies.remove(&member);
        self.wipe(member);
    }

    fn replicas_run(&self) -> bool {
        self.clusters.lock().unwrap().len() == MEMBERS.len()
    }

    fn empty(&self, member: u64) {
        let files = self.files(member);
        for name in files.list().unwrap() {
            files.remove(&name).unwrap();
        }
        files.sync_directory().unwrap();
    }

    pub(crate) fn everybody_has_a_seat(&self) -> bool {
        self.wanted.lock().unwrap().is_none()
    }
}

/// What an administrator does at one member: asks again and again, until whoever lost a seat has it back. In the moment in
/// which a disk is lost, the member that is asked may still know the one that had it: its word counts when it gives it twice.
pub(super) async fn administer(
    id: u64,
    cluster: &Cluster,
    wanted: &Mutex<Option<u64>>,
    events: &Mutex<Events>,
) {
    let mut done_before = None;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let member = *wanted.lock().unwrap();
        let Some(member) = member.filter(|member| *member != id) else {
            continue;
        };
        let replaced = cluster.replace(NodeId(member), Duration::from_secs(5)).await;
        events
            .lock()
            .unwrap()
            .note(elapsed(), format!("{id} replaces {member}: {replaced:?}"));
        if replaced.is_ok() && done_before == Some(member) {
            done_before = None;
            wanted.lock().unwrap().take_if(|wanted| *wanted == member);
        } else if replaced.is_ok() {
            done_before = Some(member);
            tokio::time::sleep(UNTIL_IT_IS_FORGOTTEN).await;
        } else {
            done_before = None;
        }
    }
}

/// Longer than an answer of a member counts.
const UNTIL_IT_IS_FORGOTTEN: Duration = Duration::from_millis(1500);
const PLENTY: u64 = 1 << 40;
