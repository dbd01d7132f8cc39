//! Data directories that were emptied, put back, swapped or copied, judged by what was acknowledged.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::time::Duration;

use tandem_cluster::{Authority, NodeId};
use tandem_raft::{RaftRole, StopReason};
use tandem_tests::raft_lab::{IDS, Lab, assign, gateways, wait_until};

/// Node 2 was away while node 1 and the witness committed; then the witness loses its disk and node 1 dies. The two that
/// are left would be a majority that knows nothing of it.
#[test]
fn a_wiped_witness_does_not_help_to_lose_what_it_acknowledged() {
    let mut lab = lab();
    lab.kill(1);
    let acknowledged = lab.assign_many(0, "without-node-2", 21);
    lab.kill(2);
    lab.wipe(2);
    lab.kill(0);
    lab.start(1);
    lab.start(2);
    assert!(!lab.can_write(1, "by a wiped voter", REFUSED));
    lab.wait_for_obstacle(2, "cluster replace n100");
    assert_eq!(lab.cluster(2).status().borrow().role, RaftRole::Learner);

    lab.start(0);
    lab.propose(1, assign("after"));
    lab.wait_until_known(1, &acknowledged);
    take_back(&mut lab, 2, &acknowledged);
}

/// The same with a node's disk: only the witness is left of those who know.
#[test]
fn a_wiped_node_does_not_help_to_lose_what_it_acknowledged() {
    for wiped in [0, 1] {
        let away = 1 - wiped;
        let mut lab = lab();
        lab.kill(away);
        let acknowledged = lab.assign_many(wiped, "acknowledged", 21);
        lab.kill(2);
        lab.kill(wiped);
        lab.wipe(wiped);
        lab.start(wiped);
        lab.start(away);
        assert!(!lab.can_write(away, "by a wiped voter", REFUSED));
        lab.start(2);
        lab.propose(away, assign("after"));
        lab.wait_until_known(away, &acknowledged);
        take_back(&mut lab, wiped, &acknowledged);
    }
}

/// The leader has no connection to itself, and answers under its number all the same.
#[test]
fn whoever_has_its_seat_is_said_to_have_it_the_leader_too() {
    let lab = lab();
    lab.propose(0, assign("somebody"));
    for at in 0..3 {
        for member in 0..3 {
            let told = lab.replace(at, member).unwrap();
            assert!(told.contains("has its seat"), "{member} at {at}: {told}");
        }
    }
}

#[test]
fn a_directory_that_went_back_in_time_takes_no_part_in_any_role() {
    for (member, at) in [(0, 1), (1, 0), (2, 0)] {
        let mut lab = lab();
        let copy = lab.back_up(member);
        let mut acknowledged = lab.assign_many(at, "since", 50);
        lab.wait_until_noted(at, member);
        lab.kill(member);
        lab.roll_back(member, &copy);
        lab.start(member);
        lab.wait_for_obstacle(member, "went back in time");
        acknowledged.extend(lab.assign_many(at, "later", 20));
        let behind = lab.cluster(member).status().borrow().last_applied;
        let ahead = lab.cluster(at).status().borrow().last_applied;
        assert!(
            behind + 20 <= ahead,
            "a stranger gets no entries: {behind} of {ahead}"
        );
        let refused = lab.replace(at, member).unwrap_err().to_string();
        assert!(refused.contains("empty its data directory"), "{refused}");

        lab.kill(member);
        lab.wipe(member);
        lab.start(member);
        take_back(&mut lab, member, &acknowledged);
    }
}

/// The member that is rolled back could make a majority with one that was away.
#[test]
fn a_directory_that_went_back_does_not_help_to_lose_what_it_acknowledged() {
    for (member, writer) in [(1, 0), (2, 0), (0, 1)] {
        let away = (0..3).find(|other| ![member, writer].contains(other)).unwrap();
        let mut lab = lab();
        let copy = lab.back_up(member);
        lab.kill(away);
        let acknowledged = lab.assign_many(writer, "acknowledged", 30);
        lab.wait_until_noted(writer, member);
        lab.kill(member);
        lab.roll_back(member, &copy);
        lab.start(member);
        lab.wait_for_obstacle(member, "went back in time");
        lab.start(away);
        lab.propose(writer, assign("with the one that was away"));
        lab.wait_until_known(writer, &acknowledged);
        lab.wait_until_known(away, &acknowledged);
    }
}

#[test]
fn a_start_that_happened_twice_is_noticed() {
    let mut lab = lab();
    lab.kill(1);
    let copy = lab.back_up(1);
    lab.start(1);
    wait_until("the others have heard of this start", || {
        lab.cluster(1).status().borrow().authority == Authority::Quorum
    });
    lab.kill(1);
    lab.roll_back(1, &copy);
    // It counts the same start once more, with nothing missing in its log.
    lab.start(1);
    lab.wait_for_obstacle(1, "happened twice");
    lab.propose(0, assign("without it"));
}

/// Somebody starts a second process on a copy: the one that was started last is believed, as after any restart, and the
/// one before it takes no part any more. At no time do both.
#[test]
fn of_a_process_and_one_on_a_copy_of_its_directory_one_takes_part() {
    let mut lab = lab();
    let copy = lab.back_up(1);
    lab.start_beside(1, copy.path());
    lab.wait_for_obstacle(1, "another process runs on a copy of it");
    lab.propose(0, assign("goes on"));
    assert!(!lab.can_write(1, "by the outdated one", Duration::from_millis(500)));
    lab.end_beside();
}

#[test]
fn one_process_on_each_directory() {
    let mut lab = lab();
    let refused = lab.try_start(1, Duration::ZERO).unwrap_err();
    assert!(
        refused.to_string().contains("is in use by another process"),
        "{refused}"
    );
}

#[test]
fn another_members_directory_is_refused_by_name() {
    for (member, other) in [(0, 1), (1, 2), (2, 0)] {
        let mut lab = lab();
        let copy = lab.back_up(other);
        lab.kill(member);
        lab.roll_back(member, &copy);
        let refused = lab
            .try_start(member, Duration::from_secs(2))
            .unwrap_err()
            .to_string();
        assert!(refused.contains(&format!("{}", IDS[other])), "{refused}");
        assert!(
            refused.contains("give every member its own directory"),
            "{refused}"
        );
    }
}

/// Nobody is left who could know: two of three went back together and forgot the third. They go on from there; the third
/// must notice that acknowledged entries are missing, and touch nothing.
#[test]
fn a_conflict_with_what_is_committed_stops_the_member_that_finds_it() {
    let mut lab = lab();
    let copies = [lab.back_up(1), lab.back_up(2)];
    let acknowledged = lab.assign_many(0, "lost by two", 40);
    lab.wait_until_equal();
    (0..3).for_each(|member| lab.kill(member));
    lab.roll_back(1, &copies[0]);
    lab.roll_back(2, &copies[1]);
    lab.start(1);
    lab.start(2);
    lab.assign_many(1, "written instead", 60);
    std::fs::remove_file(lab.data(0).join("peers")).unwrap();
    lab.forget_peers(&[1, 2]);
    lab.start(0);
    let stopped = lab.wait_until_stopped(0);
    let StopReason::Failed(reason) = stopped else {
        panic!("{stopped:?}");
    };
    assert!(reason.contains("is committed here"), "{reason}");
    let state = lab.cluster(0).state();
    let known = acknowledged
        .iter()
        .filter(|user| state.assignment(user).is_some());
    assert_eq!(known.count(), acknowledged.len());
}

/// Two reinstalled machines beside the one that holds everything.
#[test]
fn nobody_founds_a_second_cluster_beside_the_first() {
    let mut lab = lab();
    let acknowledged = lab.assign_many(0, "acknowledged", 30);
    lab.wait_until_equal();
    (0..3).for_each(|member| lab.kill(member));
    lab.wipe(0);
    lab.wipe(2);
    lab.start(0);
    lab.start(2);
    lab.wait_for_obstacle(0, "n2 did not answer");
    let refused = lab
        .runtime(0)
        .block_on(lab.cluster(0).form(&[]))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("--without 2"), "{refused}");
    lab.start(1);
    lab.wait_for_obstacle(0, "cluster replace n1");
    let refused = lab
        .runtime(0)
        .block_on(lab.cluster(0).form(&[NodeId(2)]))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("belong"), "{refused}");
    assert!(acknowledged.iter().all(|user| lab.knows(1, user)));
}

/// A running cluster of three that has written something.
fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    lab.assign_many(1, "early", 10);
    lab.wait_until_identified(0);
    lab.wait_until_equal();
    lab
}

/// The way back of a member whose directory is empty; everything acknowledged is there afterwards, on all three.
fn take_back(lab: &mut Lab, member: usize, acknowledged: &[String]) {
    let at = usize::from(member == 0);
    lab.wait_for_obstacle(member, "cluster replace");
    let said = lab.replace(at, member).unwrap();
    assert!(said.contains("has its seat"), "{said}");
    assert_eq!(
        lab.replace(at, member).unwrap(),
        said,
        "repeating changes nothing"
    );
    lab.propose(at, assign("after the replacement"));
    lab.wait_until_equal();
    assert_eq!(lab.obstacle(member), None);
    for user in acknowledged {
        assert!((0..3).all(|member| lab.knows(member, user)), "{user} is lost");
    }
    // It counts: with it, either of the others can be away.
    let other = (0..3).find(|other| ![at, member].contains(other)).unwrap();
    lab.kill(other);
    lab.propose(at, assign("with its vote"));
    lab.start(other);
    lab.wait_until_equal();
}

/// Longer than any election takes.
const REFUSED: Duration = Duration::from_secs(4);
