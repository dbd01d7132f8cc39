//! What each operation is answered.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::{Granted, Head, Reply, Servers};
use crate::peers::exchange::account::Verdict;
use crate::peers::exchange::answer;
use crate::peers::exchange::faults::Effect;
use crate::peers::exchange::mail_store::{Condition, EventKind, Mailbox};
use crate::peers::exchange::request::{
    Impersonation, Operation, OperationName, Refusal, Request, Version, Wanted,
};
use crate::peers::exchange::subscriptions::Kind;

impl Servers {
    pub(super) fn unauthorized(&mut self, cas: usize, head: &Head) -> Option<Reply> {
        let verdict = self.account.judge(head.authorization.as_deref());
        match verdict {
            Verdict::Welcome => return None,
            Verdict::Unauthenticated | Verdict::WrongPassword => {}
            Verdict::LockedOut => self.violation("the service account was locked out".to_owned()),
        }
        self.cas[cas].record.unauthenticated += 1;
        Some(Reply::Answer {
            status: 401,
            headers: vec![("www-authenticate", "Basic realm=\"cas\"".to_owned())],
            body: String::new(),
            after: Duration::ZERO,
        })
    }

    pub(super) fn refuse(&mut self, cas: usize, refusal: &Refusal) -> Reply {
        self.cas[cas].record.refused += 1;
        self.violation(format!("{}: {}", refusal.code, refusal.text));
        self.fault(cas, refusal.code, &refusal.text, &[])
    }

    pub(super) fn fault(&self, cas: usize, code: &str, text: &str, values: &[(&str, String)]) -> Reply {
        self.soap(cas, 500, &answer::fault(code, text, values))
    }

    fn soap(&self, cas: usize, status: u16, body: &str) -> Reply {
        Reply::Answer {
            status,
            headers: Vec::new(),
            body: answer::envelope(self.cas[cas].newest, body),
            after: Duration::ZERO,
        }
    }

    fn ok(&self, cas: usize, body: &str) -> Reply {
        self.soap(cas, 200, body)
    }

    pub(super) fn spoilt(
        &mut self,
        cas: usize,
        operation: OperationName,
        effect: Effect,
        now: Instant,
    ) -> Reply {
        let text = "The simulated server was told to say so.";
        match effect {
            Effect::Code(code) => self.ok(cas, &answer::error(operation.as_str(), code, "")),
            Effect::SoapFault(code) => self.fault(cas, code, text, &[]),
            Effect::SoapFaultWith200(code) => self.ok(cas, &answer::fault(code, text, &[])),
            Effect::Busy { back_off } => {
                self.cas[cas].back_off(now, back_off);
                self.soap(cas, 500, &answer::busy(back_off))
            }
            Effect::Http { status, retry_after } => {
                let header = retry_after.map(|secs| ("retry-after", secs.to_string()));
                if let Some(secs) = retry_after {
                    self.cas[cas].back_off(now, Duration::from_secs(secs.into()));
                }
                Reply::Answer {
                    status,
                    headers: header.into_iter().collect(),
                    body: String::new(),
                    after: Duration::ZERO,
                }
            }
            Effect::Slow(_) | Effect::Hang => Reply::Hang,
            Effect::CutOff => Reply::CutOff {
                body: answer::envelope(self.cas[cas].newest, &answer::fault("ErrorCutOff", text, &[])),
            },
        }
    }

    pub(super) fn answer(&mut self, cas: usize, head: &Head, request: &Request, now: Instant) -> Reply {
        if self.cas[cas].is_over_its_limit() {
            self.cas[cas].back_off(now, LIMIT_BACK_OFF);
            return self.soap(cas, 500, &answer::busy(LIMIT_BACK_OFF));
        }
        match &request.operation {
            Operation::GetUserAvailability {
                mailboxes,
                from,
                until,
            } => self.availability(cas, mailboxes, *from, *until, request.version),
            Operation::GetEvents {
                subscription,
                watermark,
            } => self.get_events(cas, subscription, watermark, now),
            Operation::Unsubscribe { subscription } => self.unsubscribe(cas, subscription),
            Operation::GetStreamingEvents {
                subscriptions,
                minutes,
            } => self.open_stream(cas, head, request, subscriptions, *minutes, now),
            Operation::Subscribe { .. } | Operation::FindItem { .. } | Operation::GetFolder { .. } => {
                match self.impersonated(cas, request.impersonation.as_ref()) {
                    Ok(mailbox) => self.in_mailbox(cas, head, request, &mailbox, now),
                    Err(reply) => reply,
                }
            }
        }
    }

    /// The primary address of the mailbox that the request is about.
    fn impersonated(&mut self, cas: usize, who: Option<&Impersonation>) -> Result<String, Reply> {
        let Some(who) = who else {
            self.violation("a request for a calendar impersonates nobody".to_owned());
            return Err(self.fault(
                cas,
                "ErrorMissingEmailAddress",
                "The account has no mailbox.",
                &[],
            ));
        };
        let Some(mailbox) = self.store.get(who.address()) else {
            let text = "No mailbox with such guid.";
            return Err(self.fault(cas, "ErrorNonExistentMailbox", text, &[]));
        };
        let primary = mailbox.primary.clone();
        let is_alias = !primary.eq_ignore_ascii_case(who.address());
        let refusal = match mailbox.condition {
            Condition::Gone => Some("ErrorNonExistentMailbox"),
            Condition::ImpersonationDenied => Some("ErrorImpersonateUserDenied"),
            Condition::Moving => Some("ErrorMailboxMoveInProgress"),
            Condition::Present => None,
        };
        if let Some(code) = refusal {
            return Err(self.fault(cas, code, "The mailbox cannot be opened.", &[]));
        }
        if is_alias && matches!(who, Impersonation::PrimarySmtpAddress(_)) {
            let text = "The SMTP address is not the primary one.";
            let value = ("Primary", primary);
            return Err(self.fault(cas, "ErrorNonPrimarySmtpAddress", text, &[value]));
        }
        Ok(primary)
    }

    fn in_mailbox(
        &mut self,
        cas: usize,
        head: &Head,
        request: &Request,
        mailbox: &str,
        now: Instant,
    ) -> Reply {
        match &request.operation {
            Operation::Subscribe {
                wanted,
                events,
                watermark,
            } => {
                if watermark.is_some() {
                    self.violation(format!("Subscribe for {mailbox} with an old watermark"));
                }
                self.subscribe(cas, head, mailbox, wanted, events.clone(), now)
            }
            Operation::FindItem {
                from,
                until,
                entries_max,
                properties,
            } => {
                let mut rows = self.mailbox(mailbox).view(*from, *until);
                let is_complete = rows.len() <= *entries_max;
                rows.truncate(*entries_max);
                self.ok(
                    cas,
                    &answer::found(&rows, is_complete, properties, request.version),
                )
            }
            Operation::GetFolder { tags } => self.ok(cas, &answer::folder(self.mailbox(mailbox), tags)),
            Operation::GetEvents { .. }
            | Operation::GetStreamingEvents { .. }
            | Operation::Unsubscribe { .. }
            | Operation::GetUserAvailability { .. } => unreachable!("these are about no single mailbox"),
        }
    }

    fn subscribe(
        &mut self,
        cas: usize,
        head: &Head,
        mailbox: &str,
        wanted: &Wanted,
        events: BTreeSet<EventKind>,
        now: Instant,
    ) -> Reply {
        let host = self
            .reached(head, Some(mailbox))
            .expect("the mailbox was looked up just now");
        let watermark = self.store.last_change();
        let server = &mut self.cas[cas];
        let id = server
            .table
            .subscribe(mailbox, &host, wanted, events, watermark, now);
        let (kind, told) = match wanted {
            Wanted::Push { .. } => (Kind::Push, Some(watermark)),
            Wanted::Streaming => (Kind::Streaming, None),
            Wanted::Pull { .. } => (Kind::Pull, Some(watermark)),
        };
        self.granted.push(Granted {
            at: now,
            cas,
            mailbox: mailbox.to_owned(),
            kind,
        });
        let mut reply = self.ok(cas, &answer::subscribed(&id, told));
        if let Reply::Answer { headers, .. } = &mut reply {
            headers.push((
                "set-cookie",
                format!("X-BackEndOverrideCookie={host}~1942; path=/; secure; HttpOnly"),
            ));
        }
        reply
    }

    fn get_events(&mut self, cas: usize, subscription: &str, watermark: &str, now: Instant) -> Reply {
        match self.cas[cas].table.get_events(subscription, watermark, now) {
            Ok(told) => self.ok(cas, &answer::events(&told)),
            Err(code) => self.ok(cas, &answer::error("GetEvents", code, "")),
        }
    }

    fn unsubscribe(&mut self, cas: usize, subscription: &str) -> Reply {
        match self.cas[cas].table.unsubscribe(subscription) {
            Ok(()) => self.ok(cas, &answer::success("Unsubscribe", "")),
            Err(code) => {
                if code == "ErrorInvalidPullSubscriptionId" {
                    self.violation("Unsubscribe of a push subscription".to_owned());
                }
                self.ok(cas, &answer::error("Unsubscribe", code, ""))
            }
        }
    }

    fn open_stream(
        &mut self,
        cas: usize,
        head: &Head,
        request: &Request,
        ids: &[String],
        minutes: u32,
        now: Instant,
    ) -> Reply {
        if let Some(encoding) = &head.accept_encoding {
            self.violation(format!("a stream is asked for with Accept-Encoding: {encoding}"));
        }
        let distinct: HashSet<_> = ids.iter().collect();
        if distinct.len() < ids.len() {
            self.violation("a stream is asked for with an id twice".to_owned());
        }
        let anchor = request.impersonation.as_ref().map(Impersonation::address);
        let host = self.reached(head, anchor);
        let server = &mut self.cas[cas];
        let opened = server.table.open_stream(ids, host.as_deref(), minutes, now);
        let newest = server.newest;
        match opened {
            Ok(stream) => {
                self.collect(cas, now);
                Reply::Stream {
                    stream,
                    first: answer::stream_opened(newest),
                }
            }
            Err(bad) => Reply::Answer {
                status: 200,
                headers: Vec::new(),
                body: answer::stream_refused(newest, "ErrorSubscriptionNotFound", &bad),
                after: Duration::ZERO,
            },
        }
    }

    /// The mailbox server behind this request: the cookie's, else the anchor's, else the impersonated mailbox's.
    fn reached(&self, head: &Head, mailbox: Option<&str>) -> Option<String> {
        if let Some(cookie) = &head.back_end {
            return cookie.split('~').next().map(str::to_owned);
        }
        let address = head.anchor.as_deref().or(mailbox)?;
        let found = self.store.get(address).or_else(|| self.store.get(mailbox?));
        found.map(|mailbox| mailbox.server.clone())
    }

    fn availability(
        &self,
        cas: usize,
        addresses: &[String],
        from: i64,
        until: i64,
        version: Version,
    ) -> Reply {
        let responses: String = addresses
            .iter()
            .map(|address| match self.store.get(address) {
                Some(mailbox) if mailbox.condition != Condition::Gone => {
                    answer::free_busy(&mailbox.view(from, until), version)
                }
                Some(_) | None => answer::no_free_busy("ErrorMailRecipientNotFound"),
            })
            .collect();
        self.ok(cas, &answer::availability(&responses))
    }

    fn mailbox(&self, primary: &str) -> &Mailbox {
        self.store
            .get(primary)
            .expect("the mailbox was looked up just now")
    }
}

pub(super) fn delayed(reply: Reply, delay: Duration) -> Reply {
    match reply {
        Reply::Answer {
            status,
            headers,
            body,
            after,
        } => Reply::Answer {
            status,
            headers,
            body,
            after: after + delay,
        },
        Reply::Stream { .. } | Reply::Hang | Reply::CutOff { .. } => reply,
    }
}

const LIMIT_BACK_OFF: Duration = Duration::from_secs(1);
