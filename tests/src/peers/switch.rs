//! The simulated PBX itself: phones, calls, and a log of every command that it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::line_protocol::{
    CallId, Fault, LegState, PbxAnswer, PbxEvent, PbxEventKind, PbxRequest, SnapshotCall, ToManager,
};

/// One connection of a CTI manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagerId(pub u64);

/// What the switch wants sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub manager: ManagerId,
    pub message: ToManager,
    /// Zero, or the answer delay that is set: the command is executed already.
    pub delay: Duration,
}

/// A command that changes calls, whether it was carried out or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedCommand {
    pub at: Instant,
    /// Name of the CTI manager that brought it.
    pub manager: String,
    pub kind: CommandKind,
    /// The directory number of the phone.
    pub phone: String,
    /// Number called for `MakeCall`, the call for the others.
    pub argument: String,
    pub executed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommandKind {
    MakeCall,
    AnswerCall,
    ClearConnection,
}

/// A call has two ends; at least one of them is a phone of this PBX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub calling: Leg,
    pub called: Leg,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Digits, with `+` for numbers beyond the PBX.
    pub number: String,
    pub state: LegState,
}

/// Phones by directory number, calls by id, the managers that are connected.
#[derive(Debug, Default)]
pub struct Switch {
    phones: BTreeSet<String>,
    calls: BTreeMap<CallId, Call>,
    managers: BTreeMap<ManagerId, Manager>,
    log: Vec<LoggedCommand>,
    violations: Vec<String>,
    answer_delay: Duration,
    last_call: u64,
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Manager {
    name: String,
    /// Device as the manager wrote it → directory number.
    monitors: BTreeMap<String, String>,
}

impl Switch {
    #[must_use]
    pub fn new(phones: impl IntoIterator<Item = String>) -> Self {
        Self {
            phones: phones.into_iter().collect(),
            ..Self::default()
        }
    }

    pub fn manager_connected(&mut self, id: ManagerId, name: String) {
        let monitors = BTreeMap::new();
        self.managers.insert(id, Manager { name, monitors });
    }

    /// Its monitors go with it; the calls do not.
    pub fn manager_lost(&mut self, id: ManagerId) {
        self.managers.remove(&id);
    }

    pub fn violation_reported(&mut self, id: ManagerId, what: &str) {
        let name = self.manager_name(id);
        self.violations.push(format!("{name}: {what}"));
    }

    /// Carries out one request of a manager.
    pub fn request(&mut self, id: ManagerId, number: u64, request: PbxRequest, now: Instant) {
        let changes_calls = command_of(&request).is_some();
        if let Some((kind, phone, argument)) = command_of(&request) {
            let command = LoggedCommand {
                at: now,
                manager: self.manager_name(id),
                kind,
                phone,
                argument,
                executed: false,
            };
            self.log.push(command);
        }
        let answer = self.execute(id, request);
        if changes_calls && let Some(command) = self.log.last_mut() {
            command.executed = answer.is_ok();
        }
        let delay = if changes_calls {
            self.answer_delay
        } else {
            Duration::ZERO
        };
        self.outputs.push(Output {
            manager: id,
            message: ToManager::Answer { id: number, answer },
            delay,
        });
    }

    /// Somebody beyond the PBX calls one of its phones, which rings from now on.
    pub fn place_call(&mut self, from: &str, to: &str) -> CallId {
        self.new_call(
            from,
            LegState::Connected,
            to,
            LegState::Alerting,
            &[PbxEventKind::Delivered],
        )
    }

    /// The far end of an outgoing call picks up, or somebody lifts the receiver of the phone that rings.
    pub fn called_side_answers(&mut self, call: &str) -> bool {
        let Some(record) = self.calls.get_mut(call) else {
            return false;
        };
        if record.called.state != LegState::Alerting {
            return false;
        }
        record.called.state = LegState::Connected;
        self.announce(call, &PbxEventKind::Established);
        true
    }

    /// The end with that number hangs up; the call is over.
    pub fn hang_up(&mut self, call: &str, by: &str) -> bool {
        let Some(record) = self.calls.get_mut(call) else {
            return false;
        };
        record.calling.state = LegState::Null;
        record.called.state = LegState::Null;
        self.announce(call, &PbxEventKind::Cleared { by: by.to_owned() });
        self.calls.remove(call);
        true
    }

    /// The end of `call` that is not `phone` hangs up.
    pub fn far_end_hangs_up(&mut self, call: &str, phone: &str) -> bool {
        let Some(record) = self.calls.get(call) else {
            return false;
        };
        let far = if record.calling.number == phone {
            &record.called
        } else {
            &record.calling
        };
        let far = far.number.clone();
        self.hang_up(call, &far)
    }

    /// From now on commands are executed at once and answered late.
    pub fn set_answer_delay(&mut self, delay: Duration) {
        self.answer_delay = delay;
    }

    #[must_use]
    pub fn calls(&self) -> &BTreeMap<CallId, Call> {
        &self.calls
    }

    /// The calls in which a phone takes part.
    pub fn calls_of<'a>(&'a self, phone: &'a str) -> impl Iterator<Item = (&'a CallId, &'a Call)> {
        self.calls
            .iter()
            .filter(move |(_, call)| call.calling.number == phone || call.called.number == phone)
    }

    #[must_use]
    pub fn log(&self) -> &[LoggedCommand] {
        &self.log
    }

    /// Commands that came more than once, executed or not. Stories call every number once only.
    #[must_use]
    pub fn repeated_commands(&self) -> Vec<String> {
        let mut seen = BTreeMap::new();
        for command in &self.log {
            let key = (command.kind, command.phone.clone(), command.argument.clone());
            *seen.entry(key).or_insert(0_usize) += 1;
        }
        seen.into_iter()
            .filter(|(_, count)| *count > 1)
            .map(|((kind, phone, argument), count)| format!("{kind:?} {phone} {argument}: {count} times"))
            .collect()
    }

    /// What managers reported about their clients.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Monitors per connected manager, by name; a manager with several connections counts them all.
    #[must_use]
    pub fn monitors(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for manager in self.managers.values() {
            *counts.entry(manager.name.clone()).or_insert(0) += manager.monitors.len();
        }
        counts
    }

    /// Monitors of every connection that has any, with its manager's name.
    #[must_use]
    pub fn monitors_by_connection(&self) -> Vec<(String, usize)> {
        let managers = self
            .managers
            .values()
            .filter(|manager| !manager.monitors.is_empty());
        managers
            .map(|manager| (manager.name.clone(), manager.monitors.len()))
            .collect()
    }

    #[must_use]
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    fn execute(&mut self, id: ManagerId, request: PbxRequest) -> Result<PbxAnswer, Fault> {
        match request {
            PbxRequest::MonitorStart { device } => {
                let phone = self.known_phone(&device)?;
                let manager = self.managers.get_mut(&id).ok_or(Fault::WrongState)?;
                manager.monitors.insert(device, phone);
                Ok(PbxAnswer::Done)
            }
            PbxRequest::MonitorStop { device } => {
                let manager = self.managers.get_mut(&id).ok_or(Fault::WrongState)?;
                manager.monitors.remove(&device).ok_or(Fault::UnknownDevice)?;
                Ok(PbxAnswer::Done)
            }
            PbxRequest::Snapshot { device } => Ok(PbxAnswer::Snapshot {
                calls: self.snapshot(&self.known_phone(&device)?),
            }),
            PbxRequest::MakeCall { device, called } => {
                let phone = self.known_phone(&device)?;
                let events = [PbxEventKind::Originated, PbxEventKind::Delivered];
                let called = number_of(&called);
                let call = self.new_call(&phone, LegState::Connected, &called, LegState::Alerting, &events);
                Ok(PbxAnswer::CallMade { call })
            }
            PbxRequest::AnswerCall { device, call } => {
                let phone = self.known_phone(&device)?;
                let record = self.calls.get(&call).ok_or(Fault::UnknownCall)?;
                if record.called.number != phone || !self.called_side_answers(&call) {
                    return Err(Fault::WrongState);
                }
                Ok(PbxAnswer::Done)
            }
            PbxRequest::ClearConnection { device, call } => {
                let phone = self.known_phone(&device)?;
                if !self.hang_up(&call, &phone) {
                    return Err(Fault::UnknownCall);
                }
                Ok(PbxAnswer::Done)
            }
        }
    }

    fn known_phone(&self, device: &str) -> Result<String, Fault> {
        let number = number_of(device);
        if self.phones.contains(&number) {
            Ok(number)
        } else {
            Err(Fault::UnknownDevice)
        }
    }

    fn new_call(
        &mut self,
        from: &str,
        from_state: LegState,
        to: &str,
        to_state: LegState,
        events: &[PbxEventKind],
    ) -> CallId {
        self.last_call += 1;
        let id = format!("c{}", self.last_call);
        let leg = |number: &str, state| Leg {
            number: number.to_owned(),
            state,
        };
        let call = Call {
            calling: leg(from, from_state),
            called: leg(to, to_state),
        };
        self.calls.insert(id.clone(), call);
        for event in events {
            self.announce(&id, event);
        }
        id
    }

    fn snapshot(&self, phone: &str) -> Vec<SnapshotCall> {
        self.calls_of(phone)
            .map(|(id, call)| {
                let (own, far) = call.seen_from(phone);
                SnapshotCall {
                    call: id.clone(),
                    own,
                    far,
                    calling: call.calling.number.clone(),
                    called: call.called.number.clone(),
                }
            })
            .collect()
    }

    /// Tells every manager that monitors one of the call's phones.
    fn announce(&mut self, id: &str, kind: &PbxEventKind) {
        let Some(call) = self.calls.get(id) else { return };
        for (manager, record) in &self.managers {
            for (device, phone) in &record.monitors {
                if !call.concerns(phone, kind) {
                    continue;
                }
                let event = PbxEvent {
                    device: device.clone(),
                    call: id.to_owned(),
                    kind: kind.clone(),
                    calling: call.calling.number.clone(),
                    called: call.called.number.clone(),
                    own: call.seen_from(phone).0,
                };
                self.outputs.push(Output {
                    manager: *manager,
                    message: ToManager::Event(event),
                    delay: Duration::ZERO,
                });
            }
        }
    }

    fn manager_name(&self, id: ManagerId) -> String {
        self.managers
            .get(&id)
            .map_or_else(|| "unknown manager".to_owned(), |manager| manager.name.clone())
    }
}

impl Call {
    /// States of the phone's own end and of the other.
    fn seen_from(&self, phone: &str) -> (LegState, LegState) {
        if self.calling.number == phone {
            (self.calling.state, self.called.state)
        } else {
            (self.called.state, self.calling.state)
        }
    }

    /// Only the caller's side is told that a call has been dialled.
    fn concerns(&self, phone: &str, kind: &PbxEventKind) -> bool {
        self.calling.number == phone || (self.called.number == phone && *kind != PbxEventKind::Originated)
    }
}

fn command_of(request: &PbxRequest) -> Option<(CommandKind, String, String)> {
    match request {
        PbxRequest::MakeCall { device, called } => {
            Some((CommandKind::MakeCall, number_of(device), number_of(called)))
        }
        PbxRequest::AnswerCall { device, call } => {
            Some((CommandKind::AnswerCall, number_of(device), call.clone()))
        }
        PbxRequest::ClearConnection { device, call } => {
            Some((CommandKind::ClearConnection, number_of(device), call.clone()))
        }
        PbxRequest::MonitorStart { .. } | PbxRequest::MonitorStop { .. } | PbxRequest::Snapshot { .. } => {
            None
        }
    }
}

/// The number in a device or a dialled address: without `tel:`, parameters and visual separators.
#[must_use]
pub fn number_of(address: &str) -> String {
    let address = address.trim();
    let address = address.strip_prefix("tel:").unwrap_or(address);
    address
        .split(';')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|character| character.is_ascii_alphanumeric() || *character == '+')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> Switch {
        let mut switch = Switch::new(["4711".to_owned(), "4712".to_owned()]);
        switch.manager_connected(ManagerId(1), "cm1".to_owned());
        switch
    }

    fn ask(switch: &mut Switch, request: PbxRequest) -> Result<PbxAnswer, Fault> {
        switch.request(ManagerId(1), 1, request, Instant::now());
        let outputs = switch.take_outputs();
        let answer = outputs.into_iter().find_map(|output| match output.message {
            ToManager::Answer { answer, .. } => Some(answer),
            ToManager::Event(_) => None,
        });
        answer.unwrap()
    }

    fn device(number: &str) -> String {
        format!("{number};device=SEP{number}")
    }

    #[test]
    fn a_phone_that_is_called_rings_and_a_monitor_hears_it_in_its_own_words() {
        let mut switch = switch();
        ask(
            &mut switch,
            PbxRequest::MonitorStart {
                device: device("4711"),
            },
        )
        .unwrap();
        switch.place_call("+3222220333", "4711");
        let outputs = switch.take_outputs();
        let [
            Output {
                message: ToManager::Event(event),
                ..
            },
        ] = outputs.as_slice()
        else {
            panic!("{outputs:?}");
        };
        assert_eq!(event.device, device("4711"));
        assert_eq!(
            (event.kind.clone(), event.own),
            (PbxEventKind::Delivered, LegState::Alerting)
        );
    }

    #[test]
    fn a_command_that_comes_twice_is_noticed_even_when_the_second_is_refused() {
        let mut switch = switch();
        let call = switch.place_call("+3222220333", "4711");
        let answer = PbxRequest::AnswerCall {
            device: "4711".to_owned(),
            call,
        };
        assert_eq!(ask(&mut switch, answer.clone()), Ok(PbxAnswer::Done));
        assert!(switch.repeated_commands().is_empty());
        assert_eq!(ask(&mut switch, answer), Err(Fault::WrongState));
        assert_eq!(switch.repeated_commands().len(), 1);
    }

    #[test]
    fn a_call_between_two_phones_is_announced_to_both_and_ends_for_both() {
        let mut switch = switch();
        for number in ["4711", "4712"] {
            ask(
                &mut switch,
                PbxRequest::MonitorStart {
                    device: number.to_owned(),
                },
            )
            .unwrap();
        }
        let made = PbxRequest::MakeCall {
            device: "4711".to_owned(),
            called: "tel:4712".to_owned(),
        };
        switch.request(ManagerId(1), 7, made, Instant::now());
        // Originated and Delivered for the caller, Delivered for the phone that rings, then the answer.
        assert_eq!(switch.take_outputs().len(), 4);
        let call = switch.calls().keys().next().unwrap().clone();
        switch.hang_up(&call, "4712");
        assert_eq!(switch.take_outputs().len(), 2);
        assert!(switch.calls().is_empty());
    }
}
