//! Subscriptions to presence.

use tandem_cluster::Authority;
use tandem_cluster::{ClusterState, ManualPresence, ManualState, NodeId, SessionKey};

use super::bench::*;
use crate::gateway::*;

/// A SUBSCRIBE of user1's for user2; `headers` are whole lines.
pub(super) fn subscribe(to_tag: &str, cseq: u32, headers: &str) -> String {
    subscribe_from("user1", "user2", to_tag, cseq, headers)
}

fn subscribe_from(from: &str, to: &str, to_tag: &str, cseq: u32, headers: &str) -> String {
    let headers = if headers.contains("Event:") {
        headers.to_owned()
    } else {
        format!("Event: presence\r\n{headers}")
    };
    let contact = format!("Contact: <sip:{from}@10.0.0.9:5060;transport=tcp>\r\n{headers}");
    let text = message(
        "SUBSCRIBE",
        from,
        to_tag,
        &cseq.to_string(),
        &format!("z9hG4bK-s{from}{cseq}"),
        &contact,
        "",
    );
    text.replace("sip:8000@gw.example.com", &format!("sip:{to}@lab.test"))
}

fn refresh(key: &SessionKey, cseq: u32, headers: &str) -> String {
    subscribe(&format!(";tag={key}"), cseq, headers)
}

fn set_manual(bench: &mut Bench, user: &str, state: ManualState) {
    let manual = Some(ManualPresence {
        state,
        set_at_ms: bench.now.unix_ms,
        until_ms: None,
    });
    let user = user.to_owned();
    bench.state.apply(Command::ManualPresenceSet {
        user: user.clone(),
        manual,
    });
    bench.input(Input::PresenceChanged { user });
}

/// The client answers the NOTIFY; returns what the gateway sends upon it.
fn answer(bench: &mut Bench, notify: &Sent, status: u16, extra: &str) -> Vec<Sent> {
    bench.receive(&response_to(notify, status, extra))
}

fn watch(bench: &mut Bench) -> (SessionKey, Sent) {
    let sent = bench.receive(&subscribe("", 1, ""));
    assert_eq!(sent[0].status(), 200, "{sent:?}");
    (sent[0].to_tag(), sent[1].clone())
}

/// As [`watch`]; the first NOTIFY has been answered.
fn watch_and_answer(bench: &mut Bench) -> SessionKey {
    let (key, notify) = watch(bench);
    assert!(answer(bench, &notify, 200, "").is_empty());
    key
}

fn taken(bench: &mut Bench) -> Vec<Sent> {
    std::mem::take(&mut bench.sent)
}

fn cseq(sent: &Sent) -> u32 {
    sent.message.cseq_number()
}

fn successor_of(bench: &Bench) -> Bench {
    let mut state: ClusterState = bench.state.clone();
    state.apply(registered(2, 2));
    state.apply(Command::NodeLost {
        id: NodeId(1),
        incarnation: 1,
    });
    Bench::of(2, state)
}

fn owned_by(bench: &Bench, node: u64) -> Vec<tandem_cluster::WatcherRecord> {
    bench.state.watchers_of(NodeId(node)).cloned().collect()
}

#[test]
fn a_200_and_the_present_state_follow_a_subscribe() {
    let mut bench = Bench::new();
    set_manual(&mut bench, "user2", ManualState::Busy);
    let sent = bench.receive(&subscribe("", 1, "Accept: application/pidf+xml\r\n"));
    let (accepted, notify) = (&sent[0], &sent[1]);
    assert_eq!((accepted.status(), sent.len()), (200, 2));
    assert_eq!(accepted.header("Expires"), "3600");
    assert_eq!(accepted.header("Contact"), "<sip:192.0.2.1:5060;transport=tcp>");
    let key = accepted.to_tag();
    assert!(key.as_str().starts_with("n1-"));
    assert_eq!(notify.message.method(), Some(&b"NOTIFY"[..]));
    assert_eq!(notify.header("Event"), "presence");
    assert_eq!(notify.header("Subscription-State"), "active;expires=3600");
    assert_eq!(notify.header("Content-Type"), "application/pidf+xml");
    assert_eq!(notify.header("Route"), "<sip:10.0.0.1:5060;transport=tcp;lr>");
    assert_eq!(
        notify.header("From"),
        format!("<sip:user2@lab.test>;tag={key}"),
        "the notifier speaks as the presentity"
    );
    assert!(
        notify.body().contains("entity=\"sip:user2@lab.test\""),
        "{}",
        notify.body()
    );
    assert!(notify.body().contains("busy"), "{}", notify.body());
    bench.pass(Duration::from_millis(10));
    let record = bench.state.watcher(&key).unwrap();
    assert_eq!((record.presentity.as_str(), record.owner), ("user2", NodeId(1)));
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let mut bench = Bench::new();
    let cases = [
        (
            subscribe("", 1, "Event: dialog\r\n"),
            489,
            "Allow-Events",
            "presence",
        ),
        (subscribe("", 1, "Event: \r\n"), 489, "Allow-Events", "presence"),
        (subscribe("", 1, "Expires: 30\r\n"), 423, "Min-Expires", "60"),
        (subscribe("", 1, "Expires: soon\r\n"), 400, "", ""),
        (
            subscribe("", 1, "Accept: text/plain, application/xpidf+xml\r\n"),
            406,
            "Accept",
            "application/pidf+xml",
        ),
        (
            subscribe("", 1, "Require: eventlist\r\n"),
            420,
            "Unsupported",
            "eventlist",
        ),
        (subscribe_from("user1", "nobody", "", 1, ""), 404, "", ""),
        (subscribe_from("stranger", "user2", "", 1, ""), 403, "", ""),
    ];
    for (text, status, header, value) in cases {
        let sent = bench.receive(&text);
        assert_eq!((sent.len(), sent[0].status()), (1, status), "{text}");
        if !header.is_empty() {
            assert_eq!(sent[0].header(header), value, "{text}");
        }
    }
    assert_eq!(bench.gateway.census().watchers, 0);
}

#[test]
fn accept_may_be_absent_or_a_range_and_expires_is_cut_to_what_is_granted() {
    let mut bench = Bench::new();
    let headers = "Accept: text/plain, application/*;q=0.5\r\nExpires: 99999999999\r\n";
    let sent = bench.receive(&subscribe("", 1, headers));
    assert_eq!(sent[0].header("Expires"), "7200");
}

#[test]
fn a_user_without_remote_call_control_may_watch_and_be_watched() {
    let mut bench = Bench::new();
    let sent = bench.receive(&subscribe_from("user3", "user3", "", 1, ""));
    assert_eq!(sent[0].status(), 200);
}

#[test]
fn a_change_waits_for_five_seconds_and_the_latest_state_wins() {
    let mut bench = Bench::new();
    let (_, first) = watch(&mut bench);
    answer(&mut bench, &first, 200, "");
    set_manual(&mut bench, "user2", ManualState::Busy);
    set_manual(&mut bench, "user2", ManualState::Away);
    assert!(taken(&mut bench).is_empty());
    bench.pass(Duration::from_millis(4999));
    assert!(taken(&mut bench).is_empty());
    bench.pass(Duration::from_millis(1));
    let sent = taken(&mut bench);
    assert_eq!(sent.len(), 1);
    assert!(sent[0].body().contains("away"), "{}", sent[0].body());
    assert_eq!(cseq(&sent[0]), cseq(&first) + 1);
    let suppressed = Report::Watcher(WatcherReport::NotifySuppressed);
    assert_eq!(
        bench
            .reports
            .iter()
            .filter(|report| **report == suppressed)
            .count(),
        1
    );
}

#[test]
fn a_change_that_is_taken_back_in_time_is_not_told() {
    let mut bench = Bench::new();
    set_manual(&mut bench, "user2", ManualState::Busy);
    watch_and_answer(&mut bench);
    bench.state.apply(Command::ManualPresenceSet {
        user: "user2".into(),
        manual: None,
    });
    let busy = bench.now;
    bench.input(Input::PresenceChanged { user: "user2".into() });
    bench.pass(Duration::from_secs(1));
    let manual = Some(ManualPresence {
        state: ManualState::Busy,
        set_at_ms: busy.unix_ms,
        until_ms: None,
    });
    bench.state.apply(Command::ManualPresenceSet {
        user: "user2".into(),
        manual,
    });
    bench.input(Input::PresenceChanged { user: "user2".into() });
    bench.pass(Duration::from_secs(10));
    assert!(taken(&mut bench).is_empty());
}

#[test]
fn the_next_notify_waits_for_the_answer_to_the_last_one() {
    let mut bench = Bench::new();
    let (_, first) = watch(&mut bench);
    set_manual(&mut bench, "user2", ManualState::Busy);
    bench.pass(Duration::from_secs(6));
    assert!(taken(&mut bench).is_empty());
    let sent = answer(&mut bench, &first, 200, "");
    assert_eq!(sent.len(), 1);
}

#[test]
fn who_watches_a_user_that_is_removed_from_the_directory_is_told_so() {
    let mut bench = Bench::new();
    watch_and_answer(&mut bench);
    bench.pass(Duration::from_millis(10));
    bench.input(Input::DirectoryChanged(Arc::default()));
    let sent = taken(&mut bench);
    assert_eq!(sent.len(), 1);
    assert_eq!(
        sent[0].header("Subscription-State"),
        "terminated;reason=noresource"
    );
    assert_eq!(sent[0].body(), "");
    bench.pass(Duration::from_millis(10));
    assert!(bench.state.watchers().is_empty());
}

#[test]
fn a_refresh_is_answered_with_a_notify_at_once_and_moves_the_subscription_to_its_connection() {
    let mut bench = Bench::new();
    let key = watch_and_answer(&mut bench);
    bench.pass(Duration::from_secs(1));
    let sent = bench.receive(&refresh(&key, 2, "Expires: 600\r\n"));
    assert_eq!(
        (sent[0].status(), sent[0].header("Expires")),
        (200, "600".to_owned())
    );
    assert_eq!(sent[1].header("Subscription-State"), "active;expires=600");
    bench.pass(Duration::from_millis(10));
    let expires_at_ms = bench.state.watcher(&key).unwrap().expires_at_ms;
    assert_eq!(expires_at_ms, bench.now.unix_ms - 10 + 600_000);
}

#[test]
fn the_id_of_the_event_is_repeated_and_another_one_is_another_subscription() {
    let mut bench = Bench::new();
    let sent = bench.receive(&subscribe("", 1, "Event: presence;id=a1\r\n"));
    let key = sent[0].to_tag();
    assert_eq!(sent[1].header("Event"), "presence;id=a1");
    assert_eq!(bench.receive(&refresh(&key, 2, ""))[0].status(), 481);
    let sent = bench.receive(&refresh(&key, 3, "Event: presence ; id=a1\r\n"));
    assert_eq!(sent[0].status(), 200);
}

#[test]
fn unsubscribing_and_a_single_look_get_the_state_once_more_and_leave_nothing() {
    let mut bench = Bench::new();
    let key = watch_and_answer(&mut bench);
    bench.pass(Duration::from_millis(10));
    let sent = bench.receive(&refresh(&key, 2, "Expires: 0\r\n"));
    assert_eq!(
        (sent[0].status(), sent[0].header("Expires")),
        (200, "0".to_owned())
    );
    assert_eq!(sent[1].header("Subscription-State"), "terminated;reason=timeout");
    assert!(sent[1].body().contains("<presence"), "{}", sent[1].body());
    bench.pass(Duration::from_millis(10));
    assert!(bench.state.watchers().is_empty());
    let proposed = bench.proposed.len();
    let sent = bench.receive(&subscribe("", 3, "Expires: 0\r\n"));
    assert_eq!(sent[1].header("Subscription-State"), "terminated;reason=timeout");
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.proposed.len(), proposed, "a look is not worth writing");
    assert_eq!(bench.gateway.census().watchers, 0);
    assert_eq!(bench.receive(&refresh(&key, 4, ""))[0].status(), 481);
}

#[test]
fn a_subscription_that_is_not_refreshed_ends_and_its_watcher_is_told() {
    let mut bench = Bench::new();
    watch_and_answer(&mut bench);
    bench.pass(Duration::from_secs(3600));
    let sent = taken(&mut bench);
    assert_eq!(sent[0].header("Subscription-State"), "terminated;reason=timeout");
    bench.pass(Duration::from_millis(10));
    assert!(bench.state.watchers().is_empty());
    assert_eq!(bench.gateway.watchers.next_deadline(), None);
}

#[test]
fn a_watcher_that_knows_nothing_of_it_or_answers_nothing_has_no_subscription() {
    for status in [481, 489, 404] {
        let mut bench = Bench::new();
        let (_, notify) = watch(&mut bench);
        answer(&mut bench, &notify, status, "");
        assert_eq!(bench.gateway.census().watchers, 0, "{status}");
    }
    let mut bench = Bench::new();
    let (_, notify) = watch(&mut bench);
    answer(&mut bench, &notify, 500, "");
    assert_eq!(
        bench.gateway.census().watchers,
        1,
        "a mishap of one transaction is no end"
    );
    let (_, _) = watch(&mut bench);
    bench.pass(Duration::from_secs(32));
    assert_eq!(bench.gateway.census().watchers, 1);
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.state.watchers().len(), 1);
}

#[test]
fn a_notify_that_the_fence_turned_away_goes_again_when_the_state_says_so() {
    let mut bench = Bench::new();
    let (key, notify) = watch(&mut bench);
    bench.pass(Duration::from_millis(10));
    let warning = "Warning: 399 tandem-lb \"another node owns the session\"\r\n";
    assert!(answer(&mut bench, &notify, 481, warning).is_empty());
    bench.pass(Duration::from_millis(200));
    let sent = taken(&mut bench);
    assert_eq!(
        (sent.len(), sent[0].message.from_tag().unwrap()),
        (1, key.as_str().as_bytes())
    );
}

#[test]
fn a_notify_on_a_connection_that_breaks_goes_again_on_another() {
    let mut bench = Bench::new();
    watch(&mut bench);
    bench.sent.clear();
    bench.open_pair(2, PairPurpose::Pair);
    bench.input(Input::PairClosed { id: PairId(1) });
    let sent = taken(&mut bench);
    assert_eq!((sent.len(), sent[0].pair), (1, PairId(2)));
}

#[test]
fn without_a_connection_the_watcher_is_dialled() {
    let mut bench = Bench::new();
    watch_and_answer(&mut bench);
    bench.input(Input::PairClosed { id: PairId(1) });
    bench.pass(Duration::from_secs(6));
    set_manual(&mut bench, "user2", ManualState::Away);
    assert_eq!(bench.dialled.len(), 1);
    assert_eq!(bench.dialled[0].host, "10.0.0.1", "the first of the route set");
    assert!(taken(&mut bench).is_empty());
    bench.open_pair(3, PairPurpose::Pair);
    assert_eq!(taken(&mut bench).len(), 1);
}

#[test]
fn an_isolated_node_tells_nothing_and_takes_nobody() {
    let mut bench = Bench::new();
    watch_and_answer(&mut bench);
    bench.input(Input::AuthorityChanged(Authority::Isolated));
    set_manual(&mut bench, "user2", ManualState::Away);
    bench.pass(Duration::from_secs(10));
    assert!(taken(&mut bench).is_empty());
    assert_eq!(bench.receive(&subscribe("", 2, ""))[0].status(), 480);
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    assert_eq!(taken(&mut bench).len(), 1);
}

#[test]
fn hundreds_who_watch_one_user_are_told_in_portions_and_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..150 {
        let text = subscribe_from("user1", "user2", "", 10 + number, "");
        bench.receive(&text);
        bench.pass(Duration::from_millis(1));
    }
    assert_eq!(bench.receive(&subscribe("", 999, ""))[0].status(), 480);
    let first = taken(&mut bench);
    assert!(first.len() <= 1);
    bench.pass(Duration::from_millis(100));
    taken(&mut bench);
    let all = owned_by(&bench, 1);
    assert_eq!(all.len(), 150);
    let mut successor = successor_of(&bench);
    let watchers = owned_by(&successor, 2);
    successor.input(Input::WatchersReplaced { watchers });
    assert_eq!(taken(&mut successor).len(), 64);
    successor.pass(Duration::from_millis(20));
    assert_eq!(taken(&mut successor).len(), 64);
    successor.pass(Duration::from_millis(20));
    assert_eq!(taken(&mut successor).len(), 22);
    successor.pass(Duration::from_millis(20));
    assert!(taken(&mut successor).is_empty());
}

#[test]
fn the_successor_tells_the_present_state_at_once_with_higher_numbers_and_takes_refreshes() {
    let mut bench = Bench::new();
    let (key, first) = watch(&mut bench);
    bench.pass(Duration::from_millis(10));
    let mut successor = successor_of(&bench);
    let watchers = owned_by(&successor, 2);
    successor.input(Input::WatchersReplaced { watchers });
    let sent = taken(&mut successor);
    assert_eq!(sent.len(), 1);
    assert!(cseq(&sent[0]) > cseq(&first));
    assert_eq!(sent[0].header("Subscription-State"), "active;expires=3600");
    answer(&mut successor, &sent[0], 200, "");
    let sent = successor.receive(&refresh(&key, 2, ""));
    assert_eq!((sent[0].status(), sent[0].to_tag()), (200, key));
}

#[test]
fn a_refresh_that_comes_before_the_loss_is_committed_is_adopted() {
    let mut bench = Bench::new();
    let key = watch_and_answer(&mut bench);
    bench.pass(Duration::from_millis(10));
    let mut other = Bench::of(2, bench.state.clone());
    let sent = other.receive(&refresh(&key, 2, ""));
    assert_eq!(sent[0].status(), 200);
    let record = other.state.watcher(&key).unwrap();
    assert_eq!((record.owner, record.epoch.0), (NodeId(2), 1));
}

#[test]
fn a_refresh_at_a_former_owner_goes_back_to_the_front_end_and_a_resent_one_is_adopted() {
    let mut bench = Bench::new();
    let key = watch_and_answer(&mut bench);
    bench.pass(Duration::from_millis(10));
    bench.state.apply(registered(2, 2));
    let record = bench.state.watcher(&key).unwrap().clone();
    bench.state.apply(Command::WatcherAdopted {
        key: key.clone(),
        from_epoch: record.epoch,
        to: NodeId(2),
    });
    let watcher = bench.state.watcher(&key).cloned().map(Box::new);
    bench.input(Input::WatcherChanged {
        key: key.clone(),
        watcher,
    });
    assert_eq!(bench.gateway.census().watchers, 0);
    set_manual(&mut bench, "user2", ManualState::Away);
    assert!(
        taken(&mut bench).is_empty(),
        "nothing is said to a watcher who has left"
    );
    let sent = bench.receive(&refresh(&key, 2, ""));
    assert_eq!(sent[0].status(), 503);
    assert!(sent[0].header("Warning").starts_with("399 tandem-node "));
    bench.open_pair(5, PairPurpose::Resent);
    let sent = bench.receive_on(5, &refresh(&key, 2, ""));
    assert_eq!((sent[0].status(), sent[0].pair), (200, PairId(5)));
    assert_eq!(sent[1].pair, PairId(1), "such a connection carries answers only");
    assert_eq!(bench.state.watcher(&key).unwrap().owner, NodeId(1));
}

#[test]
fn a_subscribe_that_is_sent_again_is_not_a_second_subscription() {
    let mut bench = Bench::new();
    let sent = bench.receive(&subscribe("", 1, ""));
    bench.open_pair(5, PairPurpose::Resent);
    let again = bench.receive_on(5, &subscribe("", 1, ""));
    assert_eq!(again[0].to_tag(), sent[0].to_tag());
    assert_eq!(bench.gateway.census().watchers, 1);
}

#[test]
fn a_node_that_was_taken_for_lost_forgets_its_watchers() {
    let mut bench = Bench::new();
    watch_and_answer(&mut bench);
    bench.pass(Duration::from_millis(10));
    bench.input(Input::DeclaredLost);
    assert_eq!(bench.gateway.census().watchers, 0);
    assert_eq!(bench.state.watchers().len(), 1, "they are others' now");
}

#[test]
fn without_quorum_what_is_to_be_written_waits_for_it() {
    let mut bench = Bench::new();
    bench.quorum = false;
    let key = watch_and_answer(&mut bench);
    bench.pass(Duration::from_secs(1));
    bench.quorum = true;
    bench.commit();
    assert!(bench.state.watcher(&key).is_some());
}

#[test]
fn options_tell_of_subscriptions() {
    let mut bench = Bench::new();
    let sent = bench.receive(&bare("OPTIONS", "", 1));
    assert!(sent[0].header("Allow").contains("SUBSCRIBE"));
    assert_eq!(sent[0].header("Allow-Events"), "presence");
}
