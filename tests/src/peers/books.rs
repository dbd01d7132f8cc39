//! The books that a communicator keeps: every request, every event, every call, and what was wrong with them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use super::switch::number_of;
use crate::xml::Element;

/// A request as the communicator sent it, and what came of it.
#[derive(Debug, Clone)]
pub struct SentRequest {
    pub method: &'static str,
    /// Root of the CSTA body; empty when there was none.
    pub service: String,
    pub cseq: u32,
    pub sent_at: Instant,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Pending,
    Answered(Answer),
    /// The connection broke first; nobody will answer any more.
    ConnectionLost,
}

/// A final answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub at: Instant,
    pub status: u16,
    pub document: Option<Element>,
}

impl SentRequest {
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Pending | Outcome::ConnectionLost => None,
        }
    }

    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.outcome, Outcome::Pending)
    }

    /// 200, and no CSTA error inside.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.answer()
            .is_some_and(|answer| answer.status == 200 && answer.csta_error().is_none())
    }

    /// From sending to the final answer; to `now` while there is none.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Duration {
        let end = self.answer().map_or(now, |answer| answer.at);
        end.saturating_duration_since(self.sent_at)
    }
}

impl Answer {
    /// `category/code` of a `CSTAErrorCode`.
    #[must_use]
    pub fn csta_error(&self) -> Option<String> {
        let root = self.document.as_ref()?;
        if root.name != "CSTAErrorCode" {
            return None;
        }
        let child = root.children.first()?;
        Some(format!("{}/{}", child.name, child.text.trim()))
    }
}

/// One event as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedEvent {
    pub at: Instant,
    pub name: String,
    pub monitor: String,
    pub call: String,
    pub cseq: u32,
    /// `localConnectionInfo`.
    pub own_state: String,
}

/// A call as the communicator believes it to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownCall {
    pub stage: Stage,
    /// Digits; empty until an event tells.
    pub calling: String,
    pub called: String,
    /// Event names, in order.
    pub history: Vec<String>,
}

/// How far a call has come; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// From the `MakeCallResponse`; no event yet.
    Made,
    Originated,
    /// Rings here, or at the far end.
    Delivered,
    Established,
    Cleared,
}

/// Calls by the callID that the client holds, and the rules of their lives.
#[derive(Debug, Default)]
pub struct CallBook {
    calls: BTreeMap<String, KnownCall>,
}

impl CallBook {
    #[must_use]
    pub fn calls(&self) -> &BTreeMap<String, KnownCall> {
        &self.calls
    }

    /// Calls that are not over.
    pub fn live(&self) -> impl Iterator<Item = (&String, &KnownCall)> {
        self.calls.iter().filter(|(_, call)| call.stage != Stage::Cleared)
    }

    /// The live call with that far end.
    #[must_use]
    pub fn live_with(&self, far_end: &str) -> Option<(&String, &KnownCall)> {
        self.live()
            .find(|(_, call)| call.calling == far_end || call.called == far_end)
    }

    /// Whether such an event was told of a call, once.
    #[must_use]
    pub fn was_told(&self, id: &str, event: &str) -> bool {
        let told = self.calls.get(id).into_iter().flat_map(|call| &call.history);
        told.filter(|told| *told == event).count() == 1
    }

    /// A `MakeCallResponse` named a call.
    pub(super) fn made(&mut self, id: &str, calling: &str, called: &str) -> Result<(), String> {
        let call = KnownCall {
            stage: Stage::Made,
            calling: calling.to_owned(),
            called: number_of(called),
            history: Vec::new(),
        };
        match self.calls.entry(id.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(call);
                Ok(())
            }
            Entry::Occupied(_) => Err(format!("MakeCallResponse names call {id}, which exists")),
        }
    }

    /// An event is entered; the text says what was wrong with it.
    pub(super) fn entered(&mut self, id: &str, event: &Element) -> Result<(), String> {
        let name = event.name.as_str();
        let Some(stage) = stage_after(name) else {
            return Err(format!("{name} is no event that this client asked for"));
        };
        let known = self.calls.contains_key(id);
        let call = self.calls.entry(id.to_owned()).or_insert_with(|| KnownCall {
            stage: Stage::Made,
            calling: String::new(),
            called: String::new(),
            history: Vec::new(),
        });
        for (field, element) in [
            (&mut call.calling, "callingDevice"),
            (&mut call.called, "calledDevice"),
        ] {
            if let Some(number) = event.text_at(&[element, "deviceIdentifier"]) {
                *field = number_of(number);
            }
        }
        call.history.push(name.to_owned());
        let before = call.stage;
        call.stage = stage.max(before);
        if !known && !matches!(stage, Stage::Originated | Stage::Delivered) {
            return Err(format!(
                "{name} for call {id}, which the client has never heard of"
            ));
        }
        if stage <= before {
            return Err(format!(
                "{name} for call {id}, which was {before:?}: {:?}",
                call.history
            ));
        }
        Ok(())
    }
}

fn stage_after(event: &str) -> Option<Stage> {
    match event {
        "OriginatedEvent" => Some(Stage::Originated),
        "DeliveredEvent" => Some(Stage::Delivered),
        "EstablishedEvent" => Some(Stage::Established),
        "ConnectionClearedEvent" => Some(Stage::Cleared),
        _ => None,
    }
}

/// The call of an event and the device, by the name of the element that carries its connection. The device may be
/// left out (docs/spec/uacsta.md §2.1): a successor may not know the far end.
#[must_use]
pub fn connection_of(event: &Element) -> Option<(&str, &str)> {
    let name = match event.name.as_str() {
        "OriginatedEvent" => "originatedConnection",
        "DeliveredEvent" => "connection",
        "EstablishedEvent" => "establishedConnection",
        "ConnectionClearedEvent" => "droppedConnection",
        _ => return None,
    };
    Some((
        event.text_at(&[name, "callID"])?,
        event.text_at(&[name, "deviceID"]).unwrap_or_default(),
    ))
}

/// callID → the states of its ends, out of a `SnapshotDeviceResponse`.
#[must_use]
pub fn snapshot_calls(response: &Element) -> BTreeMap<String, Vec<String>> {
    let Some(data) = response.at(&["crossRefIDorSnapshotData", "snapshotData"]) else {
        return BTreeMap::new();
    };
    data.children
        .iter()
        .filter_map(|info| {
            let call = info.text_at(&["connectionIdentifier", "callID"])?;
            let states = info.at(&["localCallState", "compoundCallState"])?;
            let states = states.children.iter().map(|state| state.text.trim().to_owned());
            Some((call.to_owned(), states.collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> Element {
        Element {
            name: name.to_owned(),
            ..Element::default()
        }
    }

    #[test]
    fn a_call_goes_forward_once_and_never_back() {
        let mut book = CallBook::default();
        assert!(book.entered("c1", &event("DeliveredEvent")).is_ok());
        assert!(book.entered("c1", &event("EstablishedEvent")).is_ok());
        assert!(book.entered("c1", &event("EstablishedEvent")).is_err());
        assert!(book.entered("c1", &event("ConnectionClearedEvent")).is_ok());
        assert!(book.entered("c1", &event("DeliveredEvent")).is_err());
    }

    #[test]
    fn an_event_that_skips_the_start_of_a_call_is_noticed() {
        let mut book = CallBook::default();
        assert!(book.entered("c1", &event("ConnectionClearedEvent")).is_err());
    }
}
