//! Three members over real sockets and files on loopback, each in a runtime of its own that can be dropped.
#![expect(clippy::disallowed_methods, reason = "how long a take-over lasts is measured")]
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tandem_cluster::{Command, Format, MemberAddress};
use tandem_raft::{RaftRole, StopReason};
use tandem_tests::raft_lab::{GENEROUS, IDS, Lab, assign, gateways, wait_until};

#[test]
fn the_survivors_go_on_when_the_leader_dies() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let acknowledged = lab.assign_many(0, "before", 50);

    let mut take_overs = Vec::new();
    for round in 0..6 {
        let leader = lab.wait_for_leader();
        let survivor = 1 - leader;
        let killed = Instant::now();
        lab.kill(leader);
        lab.propose(survivor, assign(&format!("first-{round}")));
        take_overs.push(killed.elapsed());
        lab.start(leader);
        lab.wait_until_equal();
    }
    take_overs.sort();
    println!("kill of the leader to the first write at the survivor: {take_overs:?}");
    assert!(take_overs.last().is_some_and(|longest| *longest < GENEROUS));
    for user in acknowledged {
        assert!(lab.knows(0, &user) && lab.knows(1, &user) && lab.knows(2, &user));
    }
}

#[test]
fn everything_that_was_acknowledged_survives_a_restart_of_all() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let acknowledged = lab.assign_many(1, "user", 300);
    for member in 0..3 {
        lab.kill(member);
    }
    lab.start_all();
    lab.wait_for_leader();
    lab.propose(2, assign("after"));
    lab.wait_until_equal();
    for user in acknowledged {
        assert!(lab.knows(0, &user) && lab.knows(2, &user));
    }
}

#[test]
fn a_member_that_missed_more_than_the_log_holds_gets_a_snapshot() {
    let mut lab = Lab::new();
    lab.adjust = |config| {
        config.snapshot_after_entries = 50;
        config.entries_kept = 10;
        config.log_segment_bytes = 4096;
    };
    lab.start_all();
    lab.propose(0, gateways());
    lab.kill(1);
    for round in 0..4 {
        lab.assign_many(0, &format!("missed-{round}"), 100);
    }
    lab.start(1);
    lab.wait_until_equal();
    assert!(lab.knows(1, "missed-0-0") && lab.knows(1, "missed-3-99"));
    for member in 0..3 {
        lab.kill(member);
    }
    lab.start_all();
    lab.propose(1, assign("after"));
    lab.wait_until_equal();
    assert!(lab.knows(2, "missed-0-0") && lab.knows(2, "after"));
}

#[test]
fn a_planned_stop_hands_the_lead_over_first() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let leader = lab.wait_for_leader();
    let started = Instant::now();
    let cluster = lab.cluster(leader).clone();
    lab.runtime(leader).block_on(cluster.drain());
    println!("handing the lead over: {:?}", started.elapsed());
    assert_eq!(lab.wait_for_leader(), 1 - leader);
    lab.runtime(leader).block_on(cluster.shutdown());
    assert_eq!(cluster.status().borrow().role, RaftRole::Stopped);
    lab.propose(1 - leader, assign("after"));
}

#[test]
fn members_speak_mutual_tls() {
    let mut lab = Lab::with_certificates(IDS);
    lab.start_all();
    lab.propose(0, gateways());
    lab.assign_many(1, "user", 50);
    let leader = lab.wait_for_leader();
    let killed = Instant::now();
    lab.kill(leader);
    lab.propose(1 - leader, assign("after"));
    println!(
        "kill of the leader to the first write, with TLS: {:?}",
        killed.elapsed()
    );
}

#[test]
fn a_member_with_the_certificate_of_another_is_left_out() {
    let mut lab = Lab::with_certificates([IDS[0], IDS[0], IDS[2]]);
    lab.start_all();
    // A cluster does not form by itself without a member, whatever the reason.
    let refused = lab.form(0, &[]).unwrap_err();
    assert!(refused.to_string().contains("n2 did not answer"), "{refused}");
    let formed = lab.form(0, &[IDS[1]]).unwrap();
    assert_eq!(formed.matches("n1.").count(), 1, "{formed}");
    lab.propose(0, gateways());
    let users = lab.assign_many(0, "user", 20);
    let proposal = lab
        .cluster(1)
        .propose(assign("refused"), Duration::from_millis(500));
    assert!(lab.runtime(1).block_on(proposal).is_err());
    assert!(lab.knows(0, &users[0]) && !lab.knows(1, &users[0]));
}

/// A name may have addresses at which nobody listens: here often that of the other family.
#[test]
fn members_find_each_other_by_name() {
    let mut lab = Lab::new();
    lab.adjust = |config| {
        for member in &mut config.members {
            let MemberAddress::Address(address) = member.address else {
                panic!("{} has a name already", member.id)
            };
            if member.id == config.id {
                config.listen = Some(address);
            }
            member.address = format!("LocalHost:{}", address.port()).parse().unwrap();
        }
    };
    lab.start_all();
    lab.propose(0, gateways());
    lab.assign_many(1, "user", 20);
    lab.kill(0);
    lab.propose(1, assign("after"));
    lab.start(0);
    lab.wait_until_equal();
}

#[test]
fn members_that_hold_the_same_say_so() {
    let mut lab = Lab::new();
    lab.adjust = |config| config.finalise_after = Some(Duration::ZERO);
    lab.start_all();
    lab.wait_until_finalised(Format::NEWEST);
    lab.propose(0, gateways());
    lab.assign_many(1, "user", 20);
    for member in 0..3 {
        let marks = lab.marks(member);
        assert!(
            marks.iter().all(|mark| mark.is_some() && *mark == marks[0]),
            "{marks:?}"
        );
    }
}

/// The planted fault: one member was built with another limit, which is a part of the state.
#[test]
fn a_member_whose_state_two_others_contradict_stops() {
    let mut lab = Lab::new();
    lab.adjust = |config| {
        config.finalise_after = Some(Duration::ZERO);
        if config.id == IDS[1] {
            config.limits.sessions_max += 1;
        }
    };
    lab.start_all();
    lab.wait_until_finalised(Format::NEWEST);
    lab.propose(0, gateways());
    let marks = lab.marks(0);
    assert_eq!(marks[0], marks[2]);
    assert_ne!(marks[0], marks[1]);
    let StopReason::Failed(reason) = lab.wait_until_stopped(1) else {
        panic!("it was asked to stop")
    };
    assert!(reason.contains("another one than that of n1, n100"), "{reason}");
    lab.propose(0, assign("after"));
}

#[test]
fn five_hundred_proposals_at_once_are_applied() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let leader = lab.wait_for_leader();
    for member in [leader, 1 - leader] {
        let started = Instant::now();
        lab.assign_many(member, &format!("at-{member}"), 500);
        println!(
            "500 proposals at member {member} (leader {leader}): {:?}",
            started.elapsed()
        );
    }
    let started = Instant::now();
    for count in 0..200 {
        lab.propose(leader, assign(&format!("alone-{count}")));
    }
    println!(
        "one proposal after the other, each: {:?}",
        started.elapsed() / 200
    );
    let started = Instant::now();
    for count in 0..200 {
        lab.propose(1 - leader, assign(&format!("forwarded-{count}")));
    }
    println!("the same forwarded, each: {:?}", started.elapsed() / 200);
}

#[test]
fn the_leader_declares_a_killed_node_lost() {
    let mut lab = Lab::new();
    lab.start_all();
    for node in [0, 1] {
        lab.propose(
            node,
            Command::NodeRegistered {
                id: IDS[node],
                sip_address: SocketAddr::from(([127, 0, 0, 1], 5060)),
                incarnation: (70 + node as u64) << 16,
            },
        );
    }
    lab.wait_until_equal();
    let leader = lab.wait_for_leader();
    let killed = Instant::now();
    lab.kill(leader);
    let survivor = lab.cluster(1 - leader).clone();
    wait_until("the survivor is alone", || {
        survivor.state().live_nodes().eq([IDS[1 - leader]])
    });
    println!(
        "kill of the leader until its node is lost: {:?}",
        killed.elapsed()
    );
}
