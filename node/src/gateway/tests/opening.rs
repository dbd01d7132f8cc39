//! Signing in, and being refused.

use tandem_cluster::{Applied, Refusal};

use super::bench::*;
use crate::csta::{CstaMessage, Response, SystemStatus};
use crate::cti::CtiConnectionId;
use crate::gateway::*;

#[test]
fn a_200_leaves_only_after_the_commit() {
    let mut bench = Bench::new();
    bench.quorum = false;
    assert!(bench.receive(&invite("1", "user1")).is_empty());
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.sent.pop().unwrap().status(), 100);
    bench.quorum = true;
    bench.commit();
    let answer = bench.sent.pop().unwrap();
    assert_eq!(answer.status(), 200);
    let record = bench.record(&answer.to_tag());
    assert_eq!(
        (record.user.as_str(), record.line.as_str(), record.device.as_str()),
        ("user1", LINE, "4711")
    );
}

#[test]
fn the_200_shows_the_front_ends_address_and_grants_the_client_the_refresh() {
    let mut bench = Bench::new();
    let sent = bench.receive(&invite("1", "user1"));
    let answer = &sent[0];
    assert_eq!(answer.header("Contact"), "<sip:192.0.2.1:5060;transport=tcp>");
    assert_eq!(answer.header("Session-Expires"), "1800;refresher=uac");
    assert_eq!(answer.header("Require"), "timer");
    assert_eq!(
        answer.header("Record-Route"),
        "<sip:10.0.0.1:5060;transport=tcp;lr>"
    );
    assert!(answer.to_tag().as_str().starts_with("n1-"));
    let normal = Response::RequestSystemStatus {
        status: SystemStatus::Normal,
    };
    assert_eq!(answer.csta(), CstaMessage::Response(normal));
}

#[test]
fn the_same_invite_again_gets_the_same_answer_and_another_client_with_the_same_call_id_its_own() {
    let mut bench = Bench::new();
    let first = bench.receive(&invite("1", "user1"));
    let again = bench.receive(&invite("1", "user1"));
    assert_eq!(again[0].to_tag(), first[0].to_tag());
    let other = bench.receive(&invite("1", "user2"));
    assert_ne!(other[0].to_tag(), first[0].to_tag());
    assert_eq!(bench.state.sessions().len(), 2);
}

#[test]
fn a_client_that_opens_anew_replaces_its_old_session() {
    let mut bench = Bench::new();
    let old = bench.sign_in();
    let sent = bench.receive(&invite("2", "user1"));
    assert_eq!(
        sent.len(),
        1,
        "no BYE goes to a client that has forgotten the dialog"
    );
    assert!(bench.state.session(&old).is_none());
    assert_eq!(bench.state.sessions().len(), 1);
}

#[test]
fn a_new_directory_holds_for_those_who_come_and_leaves_open_sessions_alone() {
    let mut bench = Bench::new();
    let open = bench.sign_in();
    bench.input(Input::DirectoryChanged(Arc::new(Directory::default())));
    let sent = bench.receive(&invite("1", "user2"));
    assert_eq!(sent[0].status(), 403);
    assert!(bench.state.session(&open).is_some());
}

#[test]
fn sessions_take_the_cti_connections_in_turn() {
    let mut bench = Bench::new();
    bench.sign_in();
    bench.receive(&invite("1", "user2"));
    let connections: Vec<_> = bench
        .reports
        .iter()
        .filter_map(|report| {
            let Report::SessionStarted { connection, .. } = report else {
                return None;
            };
            Some(*connection)
        })
        .collect();
    assert_eq!(connections, vec![CtiConnectionId(0), CtiConnectionId(1)]);
}

#[test]
fn each_reason_to_refuse_has_its_status() {
    let mut bench = Bench::new();
    let valid = invite("1", "user1");
    let status = |bench: &mut Bench, text: &str| bench.receive(text)[0].status();
    assert_eq!(status(&mut bench, &invite("1", "nobody")), 403);
    assert_eq!(status(&mut bench, &invite("1", "user3")), 403);
    assert_eq!(status(&mut bench, &valid.replace("4711", "9999")), 404);
    assert_eq!(status(&mut bench, &valid.replace("4711", "4712")), 403);
    assert_eq!(
        status(
            &mut bench,
            &valid.replace("application/csta+xml", "application/sdp.......")
        ),
        415
    );
    assert_eq!(
        status(
            &mut bench,
            &valid.replace("</RequestSystemStatus>", "</RequestSystemStatuz>")
        ),
        400
    );
    assert_eq!(
        status(
            &mut bench,
            &valid.replace("Supported: timer", "Require: teleport")
        ),
        420
    );
    let short = valid.replace("Supported: timer", "Supported: timer\r\nSession-Expires: 60");
    assert_eq!(status(&mut bench, &short), 422);
    assert_eq!(status(&mut bench, &bare("BYE", "", 9)), 481);
    assert_eq!(status(&mut bench, &bare("INFO", ";tag=n7-0", 9)), 481);
    assert_eq!(status(&mut bench, &bare("REGISTER", "", 9)), 405);
    assert_eq!(status(&mut bench, &bare("DANCE", "", 9)), 501);
    assert_eq!(status(&mut bench, &bare("OPTIONS", "", 9)), 200);
    assert_eq!(bench.state.sessions().len(), 0);
}

#[test]
fn without_a_cti_manager_or_a_quorum_a_client_is_asked_to_come_again() {
    let mut bench = Bench::new();
    bench.input(Input::AuthorityChanged(Authority::NoLeader));
    assert_eq!(bench.receive(&invite("1", "user1"))[0].status(), 480);
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    for connection in [CtiConnectionId(0), CtiConnectionId(1)] {
        bench.lose_cti(connection);
    }
    let refused = bench.receive(&invite("1", "user1"));
    assert_eq!(
        (refused[0].status(), refused[0].header("Retry-After").as_str()),
        (480, "1")
    );
}

#[test]
fn sessions_are_served_without_quorum_where_that_is_configured() {
    let state = tandem_cluster::ClusterState::new(tandem_cluster::StateLimits::default());
    let mut bench = Bench::configured(1, state, |config| {
        config.new_sessions_without_quorum = WithoutQuorum::Serve;
    });
    bench.input(Input::AuthorityChanged(Authority::NoLeader));
    bench.quorum = false;
    assert_eq!(bench.receive(&invite("1", "user1"))[0].status(), 200);
    bench.quorum = true;
    bench.commit();
    assert_eq!(bench.state.sessions().len(), 1);
}

#[test]
fn sessions_without_quorum_are_bounded_in_number_and_time() {
    let mut bench = without_quorum();
    let open = |bench: &mut Bench, number: &str, user: &str| bench.receive(&invite(number, user))[0].status();
    assert_eq!(open(&mut bench, "1", "user1"), 200);
    assert_eq!(open(&mut bench, "2", "user2"), 480, "one at a time");
    bench.quorum = true;
    bench.commit();
    assert_eq!(bench.state.sessions().len(), 1);
    bench.quorum = false;
    assert_eq!(open(&mut bench, "3", "user2"), 200, "there is room again");

    bench.quorum = true;
    bench.commit();
    bench.quorum = false;
    bench.pass(Duration::from_secs(301));
    assert_eq!(open(&mut bench, "4", "user1"), 480, "too late");
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    bench.input(Input::AuthorityChanged(Authority::NoLeader));
    assert_eq!(open(&mut bench, "5", "user1"), 200, "a new loss");
}

#[test]
fn a_session_that_the_cluster_does_not_take_in_ends_with_a_bye() {
    let mut bench = without_quorum();
    assert_eq!(bench.receive(&invite("1", "user1"))[0].status(), 200);
    bench.sent.clear();
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    bench.input(Input::Committed {
        batch: 0,
        applied: Some(Applied::Refused(Refusal::LimitReached)),
    });
    let methods: Vec<_> = bench.sent.iter().map(|sent| sent.message.method()).collect();
    assert_eq!(methods, [Some(&b"BYE"[..])]);
}

fn without_quorum() -> Bench {
    let state = tandem_cluster::ClusterState::new(tandem_cluster::StateLimits::default());
    let mut bench = Bench::configured(1, state, |config| {
        config.new_sessions_without_quorum = WithoutQuorum::Serve;
    });
    bench.input(Input::AuthorityChanged(Authority::NoLeader));
    bench.quorum = false;
    bench
}

#[test]
fn a_commit_that_does_not_come_is_answered_480() {
    let mut bench = Bench::new();
    bench.quorum = false;
    bench.receive(&invite("1", "user1"));
    bench.now.instant += Duration::from_secs(5);
    bench.input(Input::Committed {
        batch: 0,
        applied: None,
    });
    assert_eq!(bench.sent.pop().unwrap().status(), 480);
}

/// Its first commit was heard of by nobody here, and it came back meanwhile.
#[test]
fn a_session_that_another_node_has_given_back_outlives_the_attempt_to_open_it() {
    let mut bench = Bench::new();
    bench.quorum = false;
    bench.receive(&invite("1", "user1"));
    let opened = bench.proposed.pop().unwrap();
    bench.state.apply(registered(2, 2));
    bench.state.apply(opened);
    let key = bench.state.sessions().next().unwrap().key.clone();
    for to in [NodeId(2), NodeId(1)] {
        let (key, from_epoch) = (key.clone(), bench.record(&key).epoch);
        bench.state.apply(Command::Adopt { key, from_epoch, to });
    }
    let session = bench.known(&key);
    bench.input(Input::SessionChanged {
        key: key.clone(),
        session,
    });
    assert_eq!(std::mem::take(&mut bench.sent)[0].status(), 480);
    bench.now.instant += Duration::from_secs(5);
    bench.input(Input::Committed {
        batch: 0,
        applied: None,
    });
    assert!(bench.gateway.sessions.contains(&key));
}

#[test]
fn a_cancelled_invite_is_answered_487() {
    let mut bench = Bench::new();
    bench.quorum = false;
    bench.receive(&invite("1", "user1"));
    let cancel = invite("1", "user1").replace("INVITE", "CANCEL");
    let statuses: Vec<u16> = bench.receive(&cancel).iter().map(Sent::status).collect();
    assert_eq!(statuses, vec![200, 487]);
}

#[test]
fn a_refresh_keeps_the_dialog_and_moves_its_end() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    let before = bench.record(&key).expires_at_ms;
    bench.pass(Duration::from_secs(1740));
    let sent = bench.receive(&refresh(&key));
    assert_eq!((sent[0].status(), sent[0].to_tag()), (200, key.clone()));
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.record(&key).expires_at_ms, before + 1_740_000);
}

#[test]
fn a_session_that_is_not_refreshed_ends_with_bye() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.sent.clear();
    bench.pass(Duration::from_secs(1800));
    let bye = bench.sent.pop().unwrap();
    assert_eq!(bye.message.method(), Some(&b"BYE"[..]));
    assert_eq!(bye.header("Route"), "<sip:10.0.0.1:5060;transport=tcp;lr>");
    assert!(bench.state.session(&key).is_none());
}
