//! Which users are on the phone, from the calls of all sessions.

use std::collections::HashMap;

use tandem_cluster::{CallState, SessionKey, SessionRecord};

/// Tells who is on the phone.
pub trait PhonesInUse {
    fn is_in_use_by(&self, user: &str) -> bool;

    /// In no order.
    fn users_on_the_phone(&self) -> Vec<String>;
}

/// Users with a call, by the sessions that report it. Sessions without a call are not remembered.
#[derive(Debug, Clone, Default)]
pub struct Phones {
    by_session: HashMap<SessionKey, String>,
    sessions: HashMap<String, usize>,
}

impl Phones {
    /// The users who are on the phone, in no order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.sessions.keys().map(String::as_str)
    }

    /// Of all sessions.
    #[must_use]
    pub fn of<'a>(sessions: impl IntoIterator<Item = &'a SessionRecord>) -> Self {
        let mut phones = Self::default();
        for session in sessions {
            phones.session_changed(session);
        }
        phones
    }

    /// Takes the current state of a session. Returns the user if that starts or ends their being on the phone.
    pub fn session_changed(&mut self, session: &SessionRecord) -> Option<String> {
        let was_in_use = self.is_in_use_by(&session.user);
        let is_calling = session.calls.values().any(|call| occupies(call.state));
        match (self.by_session.contains_key(&session.key), is_calling) {
            (false, true) => {
                self.by_session.insert(session.key.clone(), session.user.clone());
                *self.sessions.entry(session.user.clone()).or_default() += 1;
            }
            (true, false) => drop(self.session_closed(&session.key)),
            (true, true) | (false, false) => {}
        }
        (self.is_in_use_by(&session.user) != was_in_use).then(|| session.user.clone())
    }

    /// Returns the user if they are no longer on the phone.
    pub fn session_closed(&mut self, key: &SessionKey) -> Option<String> {
        let user = self.by_session.remove(key)?;
        let count = self.sessions.get_mut(&user)?;
        *count = count.saturating_sub(1);
        if *count > 0 {
            return None;
        }
        self.sessions.remove(&user);
        Some(user)
    }
}

impl PhonesInUse for Phones {
    fn is_in_use_by(&self, user: &str) -> bool {
        self.sessions.contains_key(user)
    }

    fn users_on_the_phone(&self) -> Vec<String> {
        self.sessions.keys().cloned().collect()
    }
}

/// A phone that only rings, or whose call has failed, is not in use.
fn occupies(state: CallState) -> bool {
    match state {
        CallState::Initiated
        | CallState::Originated
        | CallState::Delivered
        | CallState::Connected
        | CallState::Hold => true,
        CallState::Alerting | CallState::Failed => false,
    }
}
