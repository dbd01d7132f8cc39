//! What follows from the owner that the state names, without a gateway around it.
#![expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]

use bytes::Bytes;
use tandem_cluster::ConnectionId;
use tandem_sip::proxy_protocol::Transport;
use tandem_sip::{Message, RawMessage};

use super::*;
use crate::gateway::{Pair, PairId, PairPurpose};

const WAIT: Duration = Duration::from_secs(5);
const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);

fn request(purpose: PairPurpose, now: Instant) -> QueuedRequest {
    let text = "INFO sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK-1\r\n\
                From: <sip:b@example.com>;tag=1\r\nTo: <sip:a@example.com>;tag=n1-a\r\nCall-ID: c\r\n\
                CSeq: 2 INFO\r\nContent-Length: 0\r\n\r\n";
    let raw = RawMessage::parse(Bytes::from_static(text.as_bytes())).unwrap();
    let Ok(Message::Request(request)) = Message::parse(&raw) else {
        panic!("not a request");
    };
    let pair = Pair {
        purpose,
        connection: ConnectionId([1; 16]),
        client: "10.0.0.1:40000".parse().unwrap(),
        local: "192.0.2.1:5060".parse().unwrap(),
        host_name: None,
        subject: None,
        transport: Transport::Tcp,
    };
    QueuedRequest::new(raw, request, PairId(1), &pair, now)
}

fn ownership() -> (Ownership, SessionKey, Instant) {
    (
        Ownership::new(HERE, 2, WAIT),
        SessionKey::new("n1-a"),
        Instant::now(),
    )
}

#[test]
fn the_owner_that_the_state_names_decides() {
    let (mut ownership, key, now) = ownership();
    assert_eq!(ownership.verdict(&key, None, now), Verdict::Unknown);
    assert_eq!(ownership.verdict(&key, Some(HERE), now), Verdict::Own);
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::Leave);
}

#[test]
fn a_request_for_what_another_node_owns_claims_it_once_at_a_time() {
    let (mut ownership, key, now) = ownership();
    assert_eq!(
        ownership.hold(&key, request(PairPurpose::Pair, now), now).ok(),
        Some(true)
    );
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::Claim);
    assert_eq!(
        ownership.hold(&key, request(PairPurpose::Pair, now), now).ok(),
        Some(false)
    );
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::Leave);
    assert!(ownership.adoption_answered(&key));
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::Claim);
    assert_eq!(ownership.take(&key).len(), 2);
    assert!(!ownership.adoption_answered(&key));
    ownership.check_invariants();
}

#[test]
fn what_was_left_to_another_node_is_claimed_only_for_a_request_that_was_sent_again() {
    let (mut ownership, key, now) = ownership();
    ownership.left(&key, now);
    assert!(ownership.hold(&key, request(PairPurpose::Pair, now), now).is_ok());
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::SendBack);
    assert!(
        ownership
            .hold(&key, request(PairPurpose::Resent, now), now)
            .is_ok()
    );
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::Claim);
}

#[test]
fn what_has_come_back_has_not_left() {
    let (mut ownership, key, now) = ownership();
    ownership.left(&key, now);
    ownership.came_back(&key);
    assert!(ownership.hold(&key, request(PairPurpose::Pair, now), now).is_ok());
    assert_eq!(ownership.verdict(&key, Some(THERE), now), Verdict::Claim);
}

#[test]
fn no_more_is_held_than_there_is_room_for_nor_for_longer_than_its_time() {
    let (mut ownership, key, now) = ownership();
    assert!(ownership.hold(&key, request(PairPurpose::Pair, now), now).is_ok());
    assert!(ownership.hold(&key, request(PairPurpose::Pair, now), now).is_ok());
    assert!(
        ownership
            .hold(&key, request(PairPurpose::Pair, now), now)
            .is_err()
    );
    assert_eq!(ownership.next_deadline(), Some(now + WAIT));
    assert!(ownership.take_overdue(now).is_empty());
    assert_eq!(ownership.take_overdue(now + WAIT).len(), 2);
    assert_eq!(ownership.next_deadline(), None);
    ownership.check_invariants();
}
