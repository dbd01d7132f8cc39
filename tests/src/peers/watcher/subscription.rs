//! One subscription as its subscriber keeps it, and what it finds wrong with what it is told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_sip::RawMessage;

use super::document::Document;

/// A NOTIFY that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    pub cseq: u32,
    pub state: SubscriptionState,
    /// `None`: without a body.
    pub document: Option<Document>,
    pub at: Instant,
}

/// Subscription-State (RFC 6665 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionState {
    Active { expires_secs: u32 },
    Terminated { reason: String },
}

/// A final answer to a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub expires_secs: Option<u32>,
    /// Allow-Events, Min-Expires or Retry-After, whichever came.
    pub hint: Option<String>,
}

/// Who watches whom.
#[derive(Debug)]
pub struct Subscription {
    watcher: String,
    presentity: String,
    event: String,
    call_id: String,
    own_tag: String,
    /// The notifier's tag, once an answer or a NOTIFY has told it.
    notifier_tag: Option<String>,
    cseq: u32,
    answers: Vec<Answer>,
    notifies: Vec<Notify>,
    /// A SUBSCRIBE has been sent since the last NOTIFY: the next one may come at any time.
    asked: bool,
    violations: Vec<String>,
}

impl Subscription {
    pub(super) fn new(watcher: &str, presentity: &str, event: &str, random: u64) -> Self {
        Self {
            watcher: watcher.to_owned(),
            presentity: presentity.to_owned(),
            event: event.to_owned(),
            call_id: format!("w{random:x}@watcher"),
            own_tag: format!("f{random:x}"),
            notifier_tag: None,
            cseq: 0,
            answers: Vec::new(),
            notifies: Vec::new(),
            asked: false,
            violations: Vec::new(),
        }
    }

    /// Final answers to its SUBSCRIBEs, in order.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    #[must_use]
    pub fn notifies(&self) -> &[Notify] {
        &self.notifies
    }

    /// What it was told last.
    #[must_use]
    pub fn document(&self) -> Option<&Document> {
        self.notifies.last()?.document.as_ref()
    }

    #[must_use]
    pub fn is_terminated(&self) -> bool {
        let last = self.notifies.last().map(|notify| &notify.state);
        matches!(last, Some(SubscriptionState::Terminated { .. }))
    }

    /// Each SUBSCRIBE so far has its final answer.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        usize::try_from(self.cseq).is_ok_and(|asked| asked == self.answers.len())
    }

    /// It was granted, last time it was asked for, and has not ended.
    #[must_use]
    pub fn stands(&self) -> bool {
        let granted = self.answers.last().is_some_and(|answer| answer.status < 300);
        granted && self.is_answered() && !self.is_terminated()
    }

    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// The node that issued its tag: `n1` or the like.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.notifier_tag
            .as_deref()?
            .split_once('-')
            .map(|(node, _)| node)
    }

    pub(super) fn is_of(&self, call_id: &str, own_tag: &str) -> bool {
        self.call_id == call_id && self.own_tag == own_tag
    }

    /// A SUBSCRIBE that begins it, refreshes it, or with 0 ends it.
    pub(super) fn subscribe(
        &mut self,
        expires_secs: Option<u32>,
        address: SocketAddr,
        branch: &str,
    ) -> Bytes {
        self.cseq += 1;
        self.asked = true;
        let (watcher, presentity) = (&self.watcher, &self.presentity);
        let to_tag = self.notifier_tag.as_ref();
        let to_tag = to_tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let mut lines = vec![
            format!("SUBSCRIBE {presentity} SIP/2.0"),
            format!("Via: SIP/2.0/TCP {address};branch={branch}"),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:{watcher}@mail.example.com>;tag={}", self.own_tag),
            format!("To: <{presentity}>{to_tag}"),
            format!("Call-ID: {}", self.call_id),
            format!("CSeq: {} SUBSCRIBE", self.cseq),
            format!("Contact: <sip:{watcher}@{address};transport=tcp>"),
            format!("Event: {}", self.event),
            "Accept: application/pidf+xml".to_owned(),
        ];
        lines.extend(expires_secs.map(|secs| format!("Expires: {secs}")));
        lines.push("Content-Length: 0".to_owned());
        Bytes::from(format!("{}\r\n\r\n", lines.join("\r\n")))
    }

    pub(super) fn answered(&mut self, raw: &RawMessage) {
        let status = raw.status().unwrap_or_default();
        if status < 200 {
            return;
        }
        if status < 300 {
            self.note_notifier(raw.to_tag());
        }
        let hints = ["Allow-Events", "Min-Expires", "Retry-After"];
        self.answers.push(Answer {
            status,
            expires_secs: header(raw, "Expires").and_then(|value| value.parse().ok()),
            hint: hints.iter().find_map(|name| header(raw, name)),
        });
    }

    /// Nothing was delayed on its way since `undelayed_since`.
    pub(super) fn notified(&mut self, raw: &RawMessage, at: Instant, undelayed_since: Option<Instant>) {
        self.note_notifier(raw.from_tag());
        let cseq = raw.cseq_number();
        if self.is_terminated() {
            self.violation("a NOTIFY after the last one");
        }
        if let Some(last) = self.notifies.last().map(|last| (last.cseq, last.at)) {
            self.judge_order(cseq, last.0);
            if undelayed_since.is_some_and(|since| since <= last.1) {
                self.judge_gap(cseq, at, last);
            }
        }
        if header(raw, "Event").as_deref() != Some(self.event.as_str()) {
            self.violation(&format!("Event is {:?}", header(raw, "Event")));
        }
        let state = match subscription_state(raw) {
            Ok(state) => state,
            Err(what) => return self.violation(&what),
        };
        let document = self.read_document(raw, &state);
        self.asked = false;
        self.notifies.push(Notify {
            cseq,
            state,
            document,
            at,
        });
    }

    fn judge_order(&mut self, cseq: u32, last_cseq: u32) {
        if cseq <= last_cseq {
            self.violation(&format!("CSeq {cseq} after {last_cseq}"));
        }
    }

    /// Changes come five seconds apart. One who asks, and one whose notifier has changed, is told at once.
    fn judge_gap(&mut self, cseq: u32, at: Instant, (last_cseq, last_at): (u32, Instant)) {
        let has_new_owner = cseq >> CSEQ_BLOCK_BITS != last_cseq >> CSEQ_BLOCK_BITS;
        let gap = at.duration_since(last_at);
        if gap < GAP_MIN && !self.asked && !has_new_owner {
            self.violation(&format!(
                "two changes within {gap:?}, CSeq {last_cseq} and {cseq}"
            ));
        }
    }

    fn read_document(&mut self, raw: &RawMessage, state: &SubscriptionState) -> Option<Document> {
        let body = raw.body();
        if body.is_empty() {
            if matches!(state, SubscriptionState::Active { .. }) {
                self.violation("a NOTIFY without a body");
            }
            return None;
        }
        if header(raw, "Content-Type").as_deref() != Some("application/pidf+xml") {
            self.violation(&format!("Content-Type is {:?}", header(raw, "Content-Type")));
        }
        match Document::read(&String::from_utf8_lossy(&body)) {
            Ok(document) if document.entity == self.presentity => Some(document),
            Ok(document) => {
                self.violation(&format!("it is about {}", document.entity));
                None
            }
            Err(what) => {
                self.violation(&format!("no PIDF: {what}"));
                None
            }
        }
    }

    /// One dialog has one notifier, whichever node speaks for it.
    fn note_notifier(&mut self, tag: Option<&[u8]>) {
        let tag = tag.map(|tag| String::from_utf8_lossy(tag).into_owned());
        match (&self.notifier_tag, tag) {
            (None, Some(tag)) => self.notifier_tag = Some(tag),
            (Some(known), Some(tag)) if *known == tag => {}
            (_, tag) => self.violation(&format!("another notifier: {tag:?}")),
        }
    }

    fn violation(&mut self, what: &str) {
        self.violations
            .push(format!("{} watching {}: {what}", self.watcher, self.presentity));
    }
}

fn subscription_state(raw: &RawMessage) -> Result<SubscriptionState, String> {
    let value = header(raw, "Subscription-State").ok_or("no Subscription-State")?;
    let parameter = |name: &str| {
        let found = value
            .split(';')
            .skip(1)
            .filter_map(|parameter| parameter.split_once('='));
        let mut found = found.filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| value.to_owned())
    };
    let wrong = || format!("Subscription-State is {value:?}");
    match value.split(';').next() {
        Some("active") => {
            let expires_secs = parameter("expires").and_then(|secs| secs.parse().ok());
            let expires_secs = expires_secs.ok_or_else(wrong)?;
            Ok(SubscriptionState::Active { expires_secs })
        }
        Some("terminated") => Ok(SubscriptionState::Terminated {
            reason: parameter("reason").ok_or_else(wrong)?,
        }),
        Some(_) | None => Err(wrong()),
    }
}

pub(in crate::peers) fn header(raw: &RawMessage, name: &str) -> Option<String> {
    let mut headers = raw.headers();
    let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// Five seconds, less what a busy machine may have held the first of two back.
const GAP_MIN: Duration = Duration::from_millis(4000);
/// A node's numbers share what lies above the lowest twenty bits.
const CSEQ_BLOCK_BITS: u32 = 20;
