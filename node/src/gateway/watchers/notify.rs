//! NOTIFY: when it goes, what it says, and what its answer means (RFC 6665 §4.2).

use bytes::Bytes;
use tandem_cluster::Authority;
use tandem_cluster::SessionKey;
use tandem_sip::{Method, NameAddr, RawMessage, Uri};

use std::time::Duration;

use crate::presence::{Composed, pidf};
use crate::sip::dialog;

use super::super::events::is_from_front_end;
use super::super::{Gateway, Now, Output, PairId, Report, View, new_branch, via};
use super::{Due, EndOfSubscription, PIDF, TRANSACTION_TIMEOUT, UnderWay, Watcher, WatcherReport};

impl Gateway {
    /// Sends the watcher what it is to be told, unless something forbids it for now.
    pub(super) fn notify(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        // An owner that may have been replaced starts nothing.
        if self.authority == Authority::Isolated {
            return;
        }
        // The key may be a session's, and a watcher that this step has touched may be gone.
        let watcher = self.watchers.table.get(key);
        let Some(watcher) = watcher.filter(|watcher| watcher.may_be_told(now.instant)) else {
            return;
        };
        let (connection, address) = (watcher.record.connection, watcher.record.client_address);
        let next_hop = dialog::next_hop(&watcher.record.dialog);
        let (user, ending) = (watcher.record.presentity.clone(), watcher.ending);
        let composed = self.presence_for(&user, ending, view, now);
        let Some(pair) = self.path_along(connection, address, &next_hop) else {
            self.pathless.insert(key.clone());
            return;
        };
        if self.watchers.pace.admits(key, now.instant) {
            self.send_notify(key, pair, composed, now);
        }
    }

    /// As it was looked at last, or now. The last NOTIFY about a user who was removed says nothing of their presence.
    fn presence_for(
        &mut self,
        user: &str,
        ending: Option<EndOfSubscription>,
        view: View<'_>,
        now: Now,
    ) -> Composed {
        if let Some(composed) = self.watchers.table.known_presence(user) {
            return composed;
        }
        if ending == Some(EndOfSubscription::NoSuchUser) {
            return Composed::UNKNOWN;
        }
        self.look_at_presence(user, view, now);
        let looked_at = self.watchers.table.known_presence(user);
        looked_at.expect("who is watched is known once they were looked at")
    }

    fn send_notify(&mut self, key: &SessionKey, pair: PairId, composed: Composed, now: Now) {
        let branch = new_branch(self.config.node, &mut self.rng);
        let profile = self.config.watchers.profile;
        let watcher = self.watchers.table.known_mut(key);
        let body = match watcher.ending {
            Some(EndOfSubscription::NoSuchUser) => None,
            Some(_) | None => {
                let entity = entity_of(&watcher.record.dialog.local_identity);
                Some(pidf::write(&entity, &composed, profile, now.unix_ms))
            }
        };
        let bytes = watcher.write_notify(&branch, body, now);
        watcher.due = Due::Nothing;
        watcher.told = Some(composed);
        watcher.not_before = now.instant + NOTIFY_INTERVAL;
        watcher.under_way = Some(UnderWay {
            branch,
            pair,
            until: now.instant + TRANSACTION_TIMEOUT,
        });
        let ending = watcher.ending;
        self.outputs.push(Output::Send { pair, bytes });
        self.report(Report::Watcher(WatcherReport::NotifySent));
        if let Some(reason) = ending {
            self.end_subscription(key, reason, now);
        }
    }

    /// An answer to a NOTIFY: its From-tag is the watcher's key.
    pub(in crate::gateway) fn notify_answered(
        &mut self,
        raw: &RawMessage,
        status: u16,
        view: View<'_>,
        now: Now,
    ) {
        let key = SessionKey::new(String::from_utf8_lossy(raw.from_tag().unwrap_or_default()));
        let branch = raw.via_branch().unwrap_or_default();
        // One that is gone, or has been told something else since, is not interested.
        let watcher = self.watcher_mut(&key);
        let Some(watcher) = watcher.filter(|watcher| watcher.waits_for_answer_to(branch)) else {
            return;
        };
        watcher.under_way = None;
        if status == 481 && is_from_front_end(raw) {
            return self.notify_fenced(&key, view, now);
        }
        watcher.fenced = 0;
        self.report(Report::Watcher(WatcherReport::NotifyAnswered { status }));
        if ends_subscription(status) {
            self.end_subscription(&key, EndOfSubscription::Refused, now);
        }
    }

    /// Another node may own the watcher: the state tells, and if none does, the same is told again.
    fn notify_fenced(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        self.report(Report::Fenced { key: key.clone() });
        let watcher = self.watchers.table.known_mut(key);
        watcher.fenced += 1;
        watcher.told = None;
        watcher.due = Due::Change;
        watcher.not_before = now.instant + FENCED_WAIT * watcher.fenced.min(FENCED_WAITS_MAX);
        self.look_up_watcher(key, view, now);
    }

    /// The connection broke before the watcher could have answered: it may not have had the NOTIFY.
    pub(in crate::gateway) fn notify_again(&mut self, pair: PairId) {
        let is_lost = |watcher: &Watcher| watcher.under_way.as_ref().is_some_and(|sent| sent.pair == pair);
        let table = &self.watchers.table;
        let lost = table.iter().filter(|(_, watcher)| is_lost(watcher));
        let keys: Vec<SessionKey> = lost.map(|(key, _)| key.clone()).collect();
        for key in keys {
            let watcher = self.known_watcher(&key);
            watcher.under_way = None;
            watcher.told = None;
            watcher.due = Due::AtOnce;
        }
    }
}

impl Watcher {
    fn waits_for_answer_to(&self, branch: &[u8]) -> bool {
        let under_way = self.under_way.as_ref();
        under_way.is_some_and(|under_way| under_way.branch.as_bytes() == branch)
    }

    fn write_notify(&mut self, branch: &str, body: Option<String>, now: Now) -> Bytes {
        let cseq = self.next_cseq();
        let record = &self.record;
        let via = via(&record.dialog.local_target, branch);
        let mut notify = dialog::request(&record.dialog, &record.key, Method::Notify, cseq, &via, None);
        notify
            .headers
            .append("Event", event_value(record.event_id.as_deref()));
        notify
            .headers
            .append("Subscription-State", self.subscription_state(now));
        if let Some(body) = body {
            notify.headers.append("Content-Type", PIDF);
            notify.body = Bytes::from(body);
        }
        notify.write()
    }

    fn subscription_state(&self, now: Now) -> String {
        match self.ending {
            Some(end) => format!("terminated;reason={}", end.reason()),
            None => {
                let left = self.expires_at.saturating_duration_since(now.instant);
                format!("active;expires={}", left.as_millis().div_ceil(1000))
            }
        }
    }
}

/// The Event of a NOTIFY is that of its SUBSCRIBE, `id` and all (RFC 6665 §4.1.2.2).
fn event_value(id: Option<&str>) -> String {
    id.map_or_else(|| "presence".to_owned(), |id| format!("presence;id={id}"))
}

/// The presentity as the watcher wrote it: that is what the watcher looks for in the document.
fn entity_of(to: &str) -> String {
    let uri = NameAddr::parse(to).map(|address| address.uri).unwrap_or_default();
    match Uri::parse(&uri) {
        Ok(Uri::Sip(sip)) => format!("sip:{}", sip.address()),
        Ok(Uri::Tel(_) | Uri::Other(_)) | Err(_) => uri,
    }
}

/// RFC 6665 §4.2.2 with RFC 5057 §5.1: answers that leave no subscription behind, or no dialog.
fn ends_subscription(status: u16) -> bool {
    matches!(
        status,
        404 | 405 | 408 | 410 | 416 | 480..=482 | 484 | 485 | 489 | 501 | 502 | 604
    )
}

/// RFC 3856 §6.10.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(5);
/// How long a NOTIFY that the front end's fence turned away waits, times the number of its attempts.
const FENCED_WAIT: Duration = Duration::from_millis(200);
const FENCED_WAITS_MAX: u32 = 25;
