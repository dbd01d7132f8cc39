//! Intents: what keeps a PBX-changing command from being executed twice.

use std::sync::Arc;

use super::ClusterState;
use crate::command::{Applied, Refusal};
use crate::session::{IntentRecord, RequestKey, SessionKey};
use tandem_planted::{Bug, planted};

impl ClusterState {
    #[must_use]
    pub fn intent(&self, session: &SessionKey, request: &RequestKey) -> Option<&IntentRecord> {
        self.intents.get(session)?.get(request).map(Arc::as_ref)
    }

    /// Every command of the session that has begun and is not forgotten yet.
    pub fn intents_of(
        &self,
        session: &SessionKey,
    ) -> impl Iterator<Item = (&RequestKey, &IntentRecord)> + '_ {
        let intents = self.intents.get(session).into_iter().flatten();
        intents.map(|(request, intent)| (request.as_ref(), intent.as_ref()))
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
            return if *known == intent || planted(Bug::DuplicateIntentExecuted) {
                Applied::Done
            } else {
                Applied::IntentKnown(Box::new(known.clone()))
            };
        }
        let request = Arc::new(request);
        self.intents_by_age
            .insert((intent.decided_at_ms, key.clone(), request.clone()));
        self.intents
            .entry(key.clone())
            .or_default()
            .insert(request, intent.into());
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
            Arc::make_mut(intent).result.get_or_insert(body);
        }
        Applied::Done
    }

    pub(super) fn forget_intents_of(&mut self, key: &SessionKey) {
        for (request, intent) in self.intents.remove(key).unwrap_or_default() {
            self.intents_by_age
                .remove(&(intent.decided_at_ms, key.clone(), request));
        }
    }

    /// Drops the oldest that were decided before this time, so many at most, and says how many.
    pub(super) fn expire_intents(&mut self, before_ms: u64, most: usize) -> usize {
        let mut dropped = 0;
        while dropped < most
            && let Some((decided_at_ms, ..)) = self.intents_by_age.get_min()
            && *decided_at_ms < before_ms
        {
            self.forget_oldest_intent();
            dropped += 1;
        }
        dropped
    }

    fn forget_oldest_intent(&mut self) {
        let Some((_, key, request)) = self.intents_by_age.remove_min() else {
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

#[cfg(test)]
mod tests {
    use super::super::test_support::{apply_all, cluster_of, key, lost, opened};
    use super::*;
    use crate::command::Command;
    use crate::session::{Epoch, IntentOperation};

    fn request(cseq: u32) -> RequestKey {
        RequestKey {
            top_via: format!("SIP/2.0/TCP ocs;branch={cseq}"),
            cseq,
        }
    }

    fn intent(cseq: u32, epoch: Epoch, decided_at_ms: u64) -> Command {
        let operation = IntentOperation::MakeCall {
            called: "4712".to_owned(),
        };
        Command::Intent {
            key: key(1, 1),
            epoch,
            request: request(cseq),
            operation,
            decided_at_ms,
        }
    }

    fn result(cseq: u32, body: &str) -> Command {
        Command::IntentResult {
            key: key(1, 1),
            request: request(cseq),
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_successor_learns_of_the_intent_and_of_its_result() {
        let mut state = cluster_of(2);
        apply_all(
            &mut state,
            [opened(1, 1), intent(1, Epoch::FIRST, 10), lost(1, 1)],
        );
        let (applied, _) = state.apply(intent(1, Epoch(1), 20));
        let Applied::IntentKnown(known) = applied else {
            panic!("{applied:?}");
        };
        assert_eq!((known.decided_at_ms, known.result), (10, None));
        apply_all(
            &mut state,
            [result(1, "<MakeCallResponse/>"), result(1, "<Other/>")],
        );
        let known = state.intent(&key(1, 1), &request(1)).unwrap();
        assert_eq!(
            known.result.as_deref(),
            Some("<MakeCallResponse/>"),
            "the first result stands"
        );
    }

    #[test]
    fn a_proposal_applied_twice_is_told_from_a_repeated_request() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [opened(1, 1)]);
        assert_eq!(state.apply(intent(1, Epoch::FIRST, 10)).0, Applied::Done);
        assert_eq!(state.apply(intent(1, Epoch::FIRST, 10)).0, Applied::Done);
        let repeated = state.apply(intent(1, Epoch::FIRST, 11)).0;
        assert!(matches!(repeated, Applied::IntentKnown(_)), "{repeated:?}");
        apply_all(&mut state, [result(1, "<MakeCallResponse/>")]);
        let late = state.apply(intent(1, Epoch::FIRST, 10)).0;
        assert!(
            matches!(late, Applied::IntentKnown(_)),
            "what has a result is done: {late:?}"
        );
        assert_eq!(state.intents_by_age.len(), 1);
    }

    #[test]
    fn nobody_but_the_owner_writes_an_intent() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), lost(1, 1)]);
        assert_eq!(
            state.apply(intent(1, Epoch::FIRST, 1)).0,
            Applied::Refused(Refusal::StaleEpoch)
        );
        let key = key(1, 2);
        let elsewhere = Command::IntentResult {
            key,
            request: request(1),
            body: String::new(),
        };
        assert_eq!(
            state.apply(elsewhere).0,
            Applied::Refused(Refusal::UnknownSession)
        );
    }

    #[test]
    fn intents_are_bounded_expire_and_end_with_their_session() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [opened(1, 1)]);
        apply_all(
            &mut state,
            (1..=6).map(|cseq| intent(cseq, Epoch::FIRST, u64::from(cseq))),
        );
        assert_eq!(state.intents_by_age.len(), 4);
        assert!(
            state.intent(&key(1, 1), &request(2)).is_none(),
            "the oldest go first"
        );
        apply_all(&mut state, [Command::Expire { before_ms: 5 }]);
        assert_eq!(state.intents_by_age.len(), 2);
        apply_all(
            &mut state,
            [Command::SessionClosed {
                key: key(1, 1),
                epoch: Epoch::FIRST,
            }],
        );
        assert_eq!(state.intents_by_age.len(), 0);
        assert!(state.intents.is_empty());
    }

    #[test]
    fn a_result_whose_intent_is_forgotten_changes_nothing() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [opened(1, 1)]);
        let before = state.clone();
        assert_eq!(
            state.apply(result(1, "<MakeCallResponse/>")),
            (Applied::Done, Vec::new())
        );
        assert_eq!(state, before);
    }
}
