//! SUBSCRIBE: a new subscription, a refresh, or the end of one (RFC 6665 §4.2.1).

use std::net::IpAddr;
use std::time::Duration;

use tandem_cluster::Authority;
use tandem_cluster::{ConnectionId, Epoch, SessionKey, WatcherRecord};
use tandem_sip::{Headers, NameAddr, RawMessage, Request};

use crate::directory::User;
use crate::sip::dialog::{self, Caller};
use crate::sip::transaction;

use super::super::session::QueuedRequest;
use super::super::{Gateway, Now, Pair, PairId, PairPurpose, Report, View};
use super::{Due, EndOfSubscription, Watcher, WatcherReport, WhoMayWatch};

/// Why a SUBSCRIBE is refused. Never 503 (ARCHITECTURE.md §4).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    Plainly(u16),
    UnknownExtension(String),
    BadEvent,
    TooBrief,
    NotNow,
}

/// What a SUBSCRIBE asks for.
struct Wanted {
    event_id: Option<String>,
    /// Seconds; 0 ends the subscription, or is content with one look.
    expires_secs: u32,
}

impl Gateway {
    pub(in crate::gateway) fn subscribe_arrived(
        &mut self,
        pair_id: PairId,
        raw: RawMessage,
        request: Request,
        view: View<'_>,
        now: Now,
    ) {
        let pair = self.pairs.known(pair_id).clone();
        let queued = QueuedRequest::new(raw, request, pair_id, &pair, now.instant);
        if queued.resent
            && let Some(known) = self.watchers.table.begun_by(&queued.raw.transaction_key())
        {
            let known = known.clone();
            return self.accept(&known, &queued, now);
        }
        match self.check_subscribe(&queued, &pair, now) {
            Ok((record, wanted)) => self.subscribe(record, &wanted, &queued, view, now),
            Err(refused) => self.refuse_subscribe(&queued, &refused),
        }
    }

    fn check_subscribe(
        &mut self,
        queued: &QueuedRequest,
        pair: &Pair,
        now: Now,
    ) -> Result<(WatcherRecord, Wanted), Refused> {
        let request = &queued.request;
        let wanted = read_wanted(&request.headers)?;
        let from = request.headers.get("From").unwrap_or_default();
        let caller = Caller::of(&from).map_err(|_| Refused::Plainly(400))?;
        if self.config.watchers.who_may_watch == WhoMayWatch::Users
            && self.directory.user_by_uri(&caller.uri).is_none()
        {
            return Err(Refused::Plainly(403));
        }
        let presentity = self
            .presentity_of(request)
            .ok_or(Refused::Plainly(404))?
            .id
            .clone();
        check_accept(&request.headers)?;
        let dialog = dialog::dialog_of(request, pair.local_target()).map_err(|_| Refused::Plainly(400))?;
        self.check_room_for_watcher(&presentity)?;
        let record = WatcherRecord {
            key: SessionKey::new(self.answers().new_tag()),
            dialog,
            presentity,
            owner: self.config.node,
            epoch: Epoch::FIRST,
            connection: pair.connection,
            client_address: pair.client.ip(),
            expires_at_ms: now.cluster_ms + u64::from(wanted.expires_secs) * 1000,
            event_id: wanted.event_id.clone(),
        };
        Ok((record, wanted))
    }

    /// The user whom the Request-URI names, or To where that is a server's own.
    fn presentity_of(&self, request: &Request) -> Option<&User> {
        let to = request.headers.get("To").unwrap_or_default();
        let to = NameAddr::parse(&to)
            .map(|address| address.uri)
            .unwrap_or_default();
        self.directory
            .user_by_uri(&request.uri)
            .or_else(|| self.directory.user_by_uri(&to))
    }

    fn check_room_for_watcher(&self, presentity: &str) -> Result<(), Refused> {
        let settings = &self.config.watchers;
        let watching = self.watchers.table.presentity(presentity);
        let is_crowded =
            watching.is_some_and(|user| user.watchers.len() >= settings.watchers_per_presentity_max);
        let is_full = self.watchers.table.len() >= settings.watchers_max;
        match self.authority == Authority::Isolated || self.draining || is_full || is_crowded {
            true => Err(Refused::NotNow),
            false => Ok(()),
        }
    }

    fn subscribe(
        &mut self,
        record: WatcherRecord,
        wanted: &Wanted,
        queued: &QueuedRequest,
        view: View<'_>,
        now: Now,
    ) {
        let key = record.key.clone();
        let user = record.presentity.clone();
        let mut watcher = Watcher::new(record, now);
        watcher.opening = Some(queued.raw.transaction_key());
        if wanted.expires_secs == 0 {
            watcher.end(EndOfSubscription::Unsubscribed, now.instant);
        }
        self.watchers.table.insert(watcher);
        self.accept(&key, queued, now);
        self.look_at_presence(&user, view, now);
        if wanted.expires_secs > 0 {
            self.report(Report::Watcher(WatcherReport::Started));
            self.write_watcher(&key, now);
        }
    }

    /// 200, and the NOTIFY that follows it.
    fn accept(&mut self, key: &SessionKey, queued: &QueuedRequest, now: Now) {
        let watcher = self.known_watcher(key);
        watcher.due = Due::AtOnce;
        let left = match watcher.ending {
            Some(_) => Duration::ZERO,
            None => watcher.expires_at.saturating_duration_since(now.instant),
        };
        let expires = left.as_millis().div_ceil(1000).to_string();
        let contact = format!("<{}>", watcher.record.dialog.local_target);
        let headers = [
            ("Contact", contact.as_str()),
            ("Expires", expires.as_str()),
            ("Allow-Events", transaction::ALLOW_EVENTS),
            ("Server", dialog::USER_AGENT),
        ];
        let bytes = transaction::plain(&queued.raw, 200, key.as_str(), &headers);
        self.answers().send(queued, bytes, "SUBSCRIBE", 200);
    }

    /// A SUBSCRIBE in a dialog that this node owns.
    pub(super) fn resubscribe(&mut self, key: &SessionKey, queued: &QueuedRequest, now: Now) {
        let wanted = match read_wanted(&queued.request.headers) {
            Ok(wanted) => wanted,
            Err(refused) => return self.refuse_subscribe(queued, &refused),
        };
        let origin = self.pairs.get(queued.pair);
        let origin = origin.map(|pair| (pair.connection, pair.client.ip(), pair.purpose));
        let watcher = self.known_watcher(key);
        // RFC 6665 §4.1.2.4, §4.4.1: another id would be another subscription; one that has ended is none.
        if wanted.event_id != watcher.record.event_id || watcher.ending.is_some() {
            return self.refuse_subscribe(queued, &Refused::Plainly(481));
        }
        watcher.refresh(&wanted, &queued.request, origin, now);
        self.accept(key, queued, now);
        if wanted.expires_secs > 0 {
            self.write_watcher(key, now);
        }
    }

    fn refuse_subscribe(&mut self, queued: &QueuedRequest, refused: &Refused) {
        let mut answers = self.answers();
        let retry_after = answers.retry_after();
        let min_expires = EXPIRES_SECS_MIN.to_string();
        let (status, header) = match refused {
            Refused::Plainly(406) => (406, Some(("Accept", PIDF))),
            Refused::Plainly(status) => (*status, None),
            Refused::UnknownExtension(tags) => (420, Some(("Unsupported", tags.as_str()))),
            Refused::BadEvent => (489, Some(("Allow-Events", transaction::ALLOW_EVENTS))),
            Refused::TooBrief => (423, Some(("Min-Expires", min_expires.as_str()))),
            Refused::NotNow => (480, Some(("Retry-After", retry_after.as_str()))),
        };
        let tag = answers.new_tag();
        let bytes = transaction::plain(&queued.raw, status, &tag, header.as_slice());
        answers.send(queued, bytes, "SUBSCRIBE", status);
    }
}

impl Watcher {
    /// A refresh is a target refresh as well, and moves the subscription to the connection that it came by.
    fn refresh(
        &mut self,
        wanted: &Wanted,
        request: &Request,
        origin: Option<(ConnectionId, IpAddr, PairPurpose)>,
        now: Now,
    ) {
        if let Some((connection, address, _)) = origin {
            (self.record.connection, self.record.client_address) = (connection, address);
        }
        if let Some(target) = dialog::remote_target(&request.headers) {
            self.record.dialog.remote_target = target;
        }
        if wanted.expires_secs == 0 {
            return self.end(EndOfSubscription::Unsubscribed, now.instant);
        }
        let lifetime = Duration::from_secs(wanted.expires_secs.into());
        self.expires_at = now.instant + lifetime;
        self.record.expires_at_ms = now.cluster_ms + u64::from(wanted.expires_secs) * 1000;
    }
}

fn read_wanted(headers: &Headers) -> Result<Wanted, Refused> {
    let required = headers.get_all("Require");
    let unknown: Vec<&str> = required
        .iter()
        .map(|tag| &**tag)
        .filter(|tag| !tag.is_empty())
        .collect();
    if !unknown.is_empty() {
        return Err(Refused::UnknownExtension(unknown.join(", ")));
    }
    let event_id = read_event(&headers.get("Event").unwrap_or_default())?;
    let expires_secs = read_expires(headers.get("Expires").as_deref())?;
    Ok(Wanted {
        event_id,
        expires_secs,
    })
}

/// RFC 6665 §8.4: the package, and the id that tells subscriptions of one dialog apart.
fn read_event(value: &str) -> Result<Option<String>, Refused> {
    let (package, parameters) = value.split_once(';').unwrap_or((value, ""));
    if !package.trim().eq_ignore_ascii_case(transaction::ALLOW_EVENTS) {
        return Err(Refused::BadEvent);
    }
    let id = parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("id"));
    Ok(id.map(|(_, id)| id.trim().to_owned()).filter(|id| !id.is_empty()))
}

fn read_expires(value: Option<&str>) -> Result<u32, Refused> {
    let Some(value) = value else {
        return Ok(EXPIRES_SECS_DEFAULT);
    };
    let value = value.split(';').next().unwrap_or_default().trim();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refused::Plainly(400));
    }
    // More digits than a number has room for mean "as long as possible".
    match value.parse().unwrap_or(EXPIRES_SECS_MAX) {
        0 => Ok(0),
        1..EXPIRES_SECS_MIN => Err(Refused::TooBrief),
        secs => Ok(secs.min(EXPIRES_SECS_MAX)),
    }
}

/// RFC 3856 §6.7: PIDF is what every watcher understands, even one that does not say so.
fn check_accept(headers: &Headers) -> Result<(), Refused> {
    if !headers.contains("Accept") {
        return Ok(());
    }
    let accepted = headers.get_all("Accept");
    let mut ranges = accepted
        .iter()
        .map(|range| range.split(';').next().unwrap_or_default().trim());
    let fits = |range: &str| {
        [PIDF, "application/*", "*/*"]
            .iter()
            .any(|fitting| range.eq_ignore_ascii_case(fitting))
    };
    match ranges.any(fits) {
        true => Ok(()),
        false => Err(Refused::Plainly(406)),
    }
}

/// RFC 3863.
pub(in crate::gateway) const PIDF: &str = "application/pidf+xml";
/// RFC 3856 §6.4.
const EXPIRES_SECS_DEFAULT: u32 = 3600;
/// Shorter ones cost more than they tell.
const EXPIRES_SECS_MIN: u32 = 60;
/// Longer ones keep watchers that are gone.
const EXPIRES_SECS_MAX: u32 = 7200;
