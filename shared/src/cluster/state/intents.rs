//! Intents: what keeps a PBX-changing command from being executed twice.

use super::ClusterState;
use crate::cluster::command::{Applied, Refusal};
use crate::cluster::session::{IntentRecord, RequestKey, SessionKey};

impl ClusterState {
    #[must_use]
    pub fn intent(&self, session: &SessionKey, request: &RequestKey) -> Option<&IntentRecord> {
        self.intents.get(session)?.get(request)
    }

    #[must_use]
    pub fn intent_count(&self) -> usize {
        self.intents_by_age.len()
    }

    /// An intent that is known is answered with what is known of it, except to the proposer itself: the same
    /// epoch, operation and time are one proposal applied twice, whose first answer was lost on the way.
    pub(super) fn record_intent(
        &mut self,
        key: &SessionKey,
        request: RequestKey,
        intent: IntentRecord,
    ) -> Applied {
        if let Err(refusal) = self.session_at(key, intent.epoch) {
            return Applied::Refused(refusal);
        }
        if let Some(known) = self.intent(key, &request) {
            return if *known == intent {
                Applied::Done
            } else {
                Applied::IntentKnown(Box::new(known.clone()))
            };
        }
        self.intents_by_age
            .insert((intent.decided_at_ms, key.clone(), request.clone()));
        self.intents
            .entry(key.clone())
            .or_default()
            .insert(request, intent);
        if self.intents_by_age.len() > self.limits.intents_max {
            self.forget_oldest_intent();
        }
        Applied::Done
    }

    /// The first result stands: it is what the client was given. A result whose intent is forgotten has nothing
    /// left to guard.
    pub(super) fn record_intent_result(
        &mut self,
        key: &SessionKey,
        request: &RequestKey,
        body: String,
    ) -> Applied {
        if !self.sessions.contains_key(key) {
            return Applied::Refused(Refusal::UnknownSession);
        }
        if let Some(intent) = self
            .intents
            .get_mut(key)
            .and_then(|intents| intents.get_mut(request))
        {
            intent.result.get_or_insert(body);
        }
        Applied::Done
    }

    pub(super) fn forget_intents_of(&mut self, key: &SessionKey) {
        for (request, intent) in self.intents.remove(key).unwrap_or_default() {
            self.intents_by_age
                .remove(&(intent.decided_at_ms, key.clone(), request));
        }
    }

    pub(super) fn expire_intents(&mut self, before_ms: u64) {
        while self
            .intents_by_age
            .first()
            .is_some_and(|(decided_at_ms, ..)| *decided_at_ms < before_ms)
        {
            self.forget_oldest_intent();
        }
    }

    fn forget_oldest_intent(&mut self) {
        let Some((_, key, request)) = self.intents_by_age.pop_first() else {
            return;
        };
        if let Some(intents) = self.intents.get_mut(&key) {
            intents.remove(&request);
            if intents.is_empty() {
                self.intents.remove(&key);
            }
        }
    }
}
