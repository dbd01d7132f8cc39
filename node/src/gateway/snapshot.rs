//! What a snapshot of a device says against what is known of its calls: the events that were missed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use tandem_cluster::{CallRecord, CallState};

use crate::csta::{
    Cause, ConnectionIdentifier, Device, Event, EventKind, LocalConnectionState, RedirectionDevice,
};

use super::session::{CallParties, Found};
use super::translation::directory_number;

/// The events between what was known and what the snapshot shows, in order, with the PBX's own ids. Calls that
/// ended come first, so that a client has room for those that began.
pub(super) fn missed_events(known: &BTreeMap<String, CallRecord>, found: &Found, device: &str) -> Vec<Event> {
    let snapshot = &found.connections;
    let present: BTreeSet<&str> = snapshot
        .iter()
        .map(|call| call.connection.call_id.as_str())
        .collect();
    let mut events: Vec<Event> = known
        .values()
        .filter(|call| !present.contains(call.pbx_call_id.as_str()))
        .map(|call| cleared(&call.pbx_call_id, device))
        .collect();
    for call in snapshot {
        let Some(state) = call_state(&call.states) else {
            continue;
        };
        let call_id = call.connection.call_id.as_str();
        let before = known.values().find(|known| known.pbx_call_id == call_id);
        let parties = Parties::of(before, found.parties.get(call_id), state, device);
        events.extend(steps(before, &parties, call_id, device));
    }
    events
}

/// The state of the device's own connection, read together with those of the other parties.
pub(super) fn call_state(states: &[LocalConnectionState]) -> Option<CallState> {
    let (own, others) = states.split_first()?;
    let any = |state| others.contains(&state);
    match own {
        LocalConnectionState::Null | LocalConnectionState::Queued => None,
        LocalConnectionState::Initiated => Some(CallState::Initiated),
        LocalConnectionState::Alerting => Some(CallState::Alerting),
        LocalConnectionState::Connected
            if any(LocalConnectionState::Connected) || any(LocalConnectionState::Hold) =>
        {
            Some(CallState::Connected)
        }
        LocalConnectionState::Connected if any(LocalConnectionState::Alerting) => Some(CallState::Delivered),
        LocalConnectionState::Connected if any(LocalConnectionState::Fail) => Some(CallState::Failed),
        LocalConnectionState::Connected => Some(CallState::Originated),
        LocalConnectionState::Hold => Some(CallState::Hold),
        LocalConnectionState::Fail => Some(CallState::Failed),
    }
}

/// How far a call has come; one state of a rank does not follow another of the same.
pub(super) fn rank(state: CallState) -> u8 {
    match state {
        CallState::Initiated => 0,
        CallState::Originated => 1,
        CallState::Alerting | CallState::Delivered => 2,
        CallState::Connected | CallState::Hold | CallState::Failed => 3,
    }
}

fn steps(before: Option<&CallRecord>, parties: &Parties, call_id: &str, device: &str) -> Vec<Event> {
    let from = before.map(|call| call.state);
    let state = parties.state;
    let event = |kind| parties.event(kind, call_id, device);
    let outgoing = |from| from == CallState::Initiated || from == CallState::Originated;
    match (from, state) {
        (Some(from), state) if from == state => Vec::new(),
        (Some(CallState::Hold), CallState::Connected) => vec![event(EventKind::Retrieved)],
        (_, CallState::Hold) => vec![event(EventKind::Held)],
        (_, CallState::Failed) => vec![event(EventKind::Failed)],
        (_, CallState::Initiated) => vec![event(EventKind::ServiceInitiated)],
        (_, CallState::Originated) => vec![event(EventKind::Originated)],
        (_, CallState::Alerting) => vec![event(EventKind::Delivered)],
        (None | Some(CallState::Initiated), CallState::Delivered) => {
            vec![event(EventKind::Originated), event(EventKind::Delivered)]
        }
        (Some(_), CallState::Delivered) => vec![event(EventKind::Delivered)],
        (Some(from), CallState::Connected) if outgoing(from) => {
            vec![event(EventKind::Delivered), event(EventKind::Established)]
        }
        (_, CallState::Connected) => vec![event(EventKind::Established)],
    }
}

/// Who takes part in the call, as far as it is known.
struct Parties {
    calling: Device,
    called: Device,
    incoming: bool,
    state: CallState,
}

impl Parties {
    fn of(call: Option<&CallRecord>, told: Option<&CallParties>, state: CallState, device: &str) -> Self {
        let rings =
            state == CallState::Alerting || call.is_some_and(|call| call.state == CallState::Alerting);
        let Some(call) = call else {
            return Self::of_new_call(told.cloned().unwrap_or_default(), rings, state, device);
        };
        Self {
            calling: party(&call.calling),
            called: party(&call.called),
            incoming: rings,
            state,
        }
    }

    /// Nobody has told of the call before: what the CTI manager does not say, its state may.
    fn of_new_call(told: CallParties, rings: bool, state: CallState, device: &str) -> Self {
        let own = || Device::Identifier(device.to_owned());
        let is_own = |party: &Device| {
            let number = party.identifier().map(directory_number);
            number == Some(directory_number(device))
        };
        let incoming = rings || told.called.as_ref().is_some_and(is_own);
        let (caller, callee) = if incoming {
            (Device::NotKnown, own())
        } else {
            (own(), Device::NotKnown)
        };
        Self {
            calling: told.calling.unwrap_or(caller),
            called: told.called.unwrap_or(callee),
            incoming,
            state,
        }
    }

    fn event(&self, kind: EventKind, call_id: &str, device: &str) -> Event {
        let own_connection = ConnectionIdentifier::new(call_id, device);
        let far_connection = ConnectionIdentifier {
            call_id: call_id.to_owned(),
            device_id: self.called.identifier().map(ToOwned::to_owned),
        };
        // Delivered and Established name the called device's connection.
        let names_called = matches!(kind, EventKind::Delivered | EventKind::Established) && !self.incoming;
        let connection = if names_called {
            far_connection
        } else {
            own_connection
        };
        let mut event = Event::new(kind, "", connection);
        event.subject = Some(if names_called {
            self.called.clone()
        } else {
            Device::Identifier(device.to_owned())
        });
        event.calling = Some(self.calling.clone());
        event.called = Some(self.called.clone());
        event.last_redirection = Some(RedirectionDevice::NotKnown);
        event.local_connection_info = Some(self.own_state_after(kind));
        event.cause = match kind {
            EventKind::Delivered | EventKind::Originated | EventKind::ServiceInitiated => Cause::NEW_CALL,
            EventKind::ConnectionCleared
            | EventKind::Diverted
            | EventKind::Established
            | EventKind::Failed
            | EventKind::Held
            | EventKind::NetworkReached
            | EventKind::Retrieved => Cause::NORMAL,
        };
        event
    }

    fn own_state_after(&self, kind: EventKind) -> LocalConnectionState {
        match kind {
            EventKind::Delivered if self.incoming => LocalConnectionState::Alerting,
            EventKind::ServiceInitiated => LocalConnectionState::Initiated,
            EventKind::Held => LocalConnectionState::Hold,
            EventKind::ConnectionCleared => LocalConnectionState::Null,
            EventKind::Failed if self.state == CallState::Failed => LocalConnectionState::Fail,
            EventKind::Delivered
            | EventKind::Diverted
            | EventKind::Established
            | EventKind::Failed
            | EventKind::NetworkReached
            | EventKind::Originated
            | EventKind::Retrieved => LocalConnectionState::Connected,
        }
    }
}

fn party(number: &str) -> Device {
    if number.is_empty() {
        Device::NotKnown
    } else {
        Device::Identifier(number.to_owned())
    }
}

fn cleared(call_id: &str, device: &str) -> Event {
    let mut event = Event::new(
        EventKind::ConnectionCleared,
        "",
        ConnectionIdentifier::new(call_id, device),
    );
    event.subject = Some(Device::NotKnown);
    event.local_connection_info = Some(LocalConnectionState::Null);
    event.cause = Cause::NORMAL_CLEARING;
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csta::SnapshotConnection;

    fn known(calls: &[(&str, CallState)]) -> BTreeMap<String, CallRecord> {
        calls
            .iter()
            .map(|(call_id, state)| {
                let record = CallRecord {
                    pbx_call_id: (*call_id).to_owned(),
                    state: *state,
                    calling: "4711".to_owned(),
                    called: "4712".to_owned(),
                };
                ((*call_id).to_owned(), record)
            })
            .collect()
    }

    fn seen(call_id: &str, states: &[LocalConnectionState]) -> SnapshotConnection {
        SnapshotConnection {
            connection: ConnectionIdentifier::new(call_id, "4711"),
            states: states.to_vec(),
        }
    }

    fn found(connections: Vec<SnapshotConnection>) -> Found {
        Found {
            connections,
            nameless: Vec::new(),
            parties: BTreeMap::new(),
        }
    }

    fn kinds(events: &[Event]) -> Vec<(EventKind, &str)> {
        events
            .iter()
            .map(|event| (event.kind, event.connection.call_id.as_str()))
            .collect()
    }

    #[test]
    fn a_call_that_ended_is_reported_cleared_and_one_that_stands_is_not_reported() {
        let known = known(&[("c-1", CallState::Connected), ("c-2", CallState::Connected)]);
        let connected = [LocalConnectionState::Connected, LocalConnectionState::Connected];
        let events = missed_events(&known, &found(vec![seen("c-2", &connected)]), "4711");
        assert_eq!(kinds(&events), vec![(EventKind::ConnectionCleared, "c-1")]);
    }

    #[test]
    fn a_call_that_was_delivered_and_answered_meanwhile_is_told_in_order() {
        let known = known(&[("c-1", CallState::Originated)]);
        let connected = [LocalConnectionState::Connected, LocalConnectionState::Connected];
        let events = missed_events(&known, &found(vec![seen("c-1", &connected)]), "4711");
        assert_eq!(
            kinds(&events),
            vec![(EventKind::Delivered, "c-1"), (EventKind::Established, "c-1")]
        );
        assert_eq!(events[1].called, Some(Device::Identifier("4712".to_owned())));
    }

    #[test]
    fn a_phone_that_began_to_ring_meanwhile_is_told() {
        let ringing = [LocalConnectionState::Alerting, LocalConnectionState::Connected];
        let events = missed_events(&BTreeMap::new(), &found(vec![seen("c-9", &ringing)]), "4711");
        assert_eq!(kinds(&events), vec![(EventKind::Delivered, "c-9")]);
        assert_eq!(
            events[0].local_connection_info,
            Some(LocalConnectionState::Alerting)
        );
    }

    #[test]
    fn a_new_outgoing_call_is_told_from_its_beginning() {
        let dialled = [LocalConnectionState::Connected, LocalConnectionState::Alerting];
        let events = missed_events(&BTreeMap::new(), &found(vec![seen("c-9", &dialled)]), "4711");
        assert_eq!(
            kinds(&events),
            vec![(EventKind::Originated, "c-9"), (EventKind::Delivered, "c-9")]
        );
    }
}
