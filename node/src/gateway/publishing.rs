//! PUBLISH on the wire: what the publisher wants said, to its server, over a connection that we dial (RFC 3903).

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use tandem_cluster::Authority;
use tandem_sip::{Headers, Method, RawMessage, Request};

use crate::directory::User;
use crate::presence::pidf::{self, Profile};
use crate::presence::publication::{
    PublishAnswer, PublishId, PublishRequest, Publisher, PublisherInput, PublisherOutput, PublisherSettings,
};
use crate::presence::{Availability, Composed};
use crate::sip::dialog;
use crate::sip::transaction;

use super::watchers::PIDF;
use super::{Gateway, Now, OutboundTarget, Output, PairId, Report, View, new_branch, via};

/// Where presence is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishSettings {
    pub target: OutboundTarget,
    pub publisher: PublisherSettings,
    /// What Via shows instead of an address.
    pub host_name: Option<String>,
}

/// The publisher, and the way to its server.
#[derive(Debug)]
pub(super) struct Publishing {
    target: OutboundTarget,
    publisher: Publisher,
    host_name: Option<String>,
    pair: Option<PairId>,
    /// The From-tag of every PUBLISH of this process. It names the node, as the front end's fence expects.
    tag: String,
}

impl Publishing {
    pub(super) fn new(settings: &PublishSettings, tag: String) -> Self {
        Self {
            target: settings.target.clone(),
            publisher: Publisher::new(settings.publisher),
            host_name: settings.host_name.clone(),
            pair: None,
            tag,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.publisher.next_deadline()
    }
}

impl Gateway {
    /// Somebody wants to know of every user, watched or not.
    pub(super) fn publishes(&self) -> bool {
        self.publishing.is_some()
    }

    pub(super) fn presence_owners_changed(&mut self, view: View<'_>, now: Now) {
        if self.publishes() {
            let recorded = view.state.presence_records().keys().map(ToString::to_string);
            let mut users: BTreeSet<String> = recorded.collect();
            users.extend(view.phones.users_on_the_phone());
            for user in users {
                self.look_at_presence(&user, view, now);
            }
        }
    }

    /// `is_kept_here`: this node keeps the user's calendar, so it publishes for them.
    pub(super) fn publish_presence(&mut self, user: &str, composed: Composed, is_kept_here: bool, now: Now) {
        let address = self.directory.user(user).and_then(address_of);
        let is_known = composed.availability != Availability::Unknown;
        let user = user.to_owned();
        let input = match address {
            _ if !is_kept_here => PublisherInput::LeftToAnother { user },
            Some(address) if is_known => PublisherInput::Composed {
                user,
                address,
                composed,
            },
            Some(_) | None => PublisherInput::Withdrawn { user },
        };
        self.publisher_input(input, now);
    }

    pub(super) fn withdraw_removed_users(&mut self, now: Now) {
        let Some(publishing) = &self.publishing else {
            return;
        };
        let users = publishing.publisher.users();
        let removed = users.filter(|user| self.directory.user(user).is_none());
        let removed: Vec<String> = removed.cloned().collect();
        for user in removed {
            self.publisher_input(PublisherInput::Withdrawn { user }, now);
        }
    }

    pub(super) fn publisher_deadline(&mut self, now: Now) {
        let due = self.publishing.as_ref().and_then(Publishing::next_deadline);
        if due.is_some_and(|at| at <= now.instant) {
            self.publisher_input(PublisherInput::DeadlineReached, now);
        }
    }

    /// A connection that we dialled stands.
    pub(super) fn publisher_connected(&mut self, target: &OutboundTarget, pair: PairId, now: Now) {
        let is_isolated = self.authority == Authority::Isolated;
        if let Some(publishing) = &mut self.publishing
            && publishing.target == *target
            && !is_isolated
        {
            publishing.pair = Some(pair);
            self.publisher_input(PublisherInput::Connected, now);
        }
    }

    pub(super) fn publisher_disconnected(&mut self, pair: PairId, now: Now) {
        if let Some(publishing) = &mut self.publishing
            && publishing.pair == Some(pair)
        {
            publishing.pair = None;
            self.publisher_input(PublisherInput::ConnectionLost, now);
        }
    }

    /// A node that may have been replaced publishes nothing.
    pub(super) fn publisher_authority_changed(&mut self, now: Now) {
        if self.authority != Authority::Isolated {
            return;
        }
        if let Some(pair) = self.publishing.as_ref().and_then(|publishing| publishing.pair) {
            self.publisher_disconnected(pair, now);
        }
    }

    pub(super) fn publish_answered(&mut self, raw: &RawMessage, status: u16, now: Now) {
        let Some(publishing) = &self.publishing else {
            return;
        };
        if raw.from_tag() != Some(publishing.tag.as_bytes()) {
            return;
        }
        let header = |name: &str| {
            let mut headers = raw.headers();
            let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
            found.map(|(_, value)| String::from_utf8_lossy(value.trim_ascii()).into_owned())
        };
        let secs = |name| header(name).and_then(|value| value.split([';', ' ', '(']).next()?.parse().ok());
        let answer = PublishAnswer {
            status,
            entity_tag: header("SIP-ETag"),
            expires_secs: secs("Expires"),
            min_expires_secs: secs("Min-Expires"),
            retry_after_secs: secs("Retry-After"),
        };
        let id = PublishId(raw.cseq_number().into());
        self.publisher_input(PublisherInput::Answered { id, answer }, now);
    }

    fn publisher_input(&mut self, input: PublisherInput, now: Now) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(publishing) = &mut self.publishing else {
                return;
            };
            for output in publishing.publisher.handle(input, now.instant) {
                match output {
                    PublisherOutput::Connect => inputs.extend(self.connect_publisher()),
                    PublisherOutput::Publish(request) => self.send_publish(&request, now),
                    PublisherOutput::Report(outcome) => self.report(Report::Published(outcome)),
                }
            }
        }
    }

    /// The publisher asks again, so nothing is remembered of an attempt.
    fn connect_publisher(&mut self) -> Option<PublisherInput> {
        let target = self.publishing.as_ref()?.target.clone();
        if self.authority == Authority::Isolated {
            return None;
        }
        let pair = self.path_to_target(target)?;
        self.publishing.as_mut()?.pair = Some(pair);
        Some(PublisherInput::Connected)
    }

    fn send_publish(&mut self, request: &PublishRequest, now: Now) {
        let branch = new_branch(self.config.node, &mut self.rng);
        let profile = self.config.watchers.profile;
        let Some(publishing) = &self.publishing else {
            return;
        };
        let Some((id, pair)) = publishing
            .pair
            .and_then(|id| self.pairs.get(id).map(|pair| (id, pair)))
        else {
            return;
        };
        let own = match &publishing.host_name {
            Some(name) => format!("sip:{name};transport={}", pair.transport_label()),
            None => pair.local_target(),
        };
        let via = via(&own, &branch);
        let bytes = write_publish(request, &publishing.tag, &via, profile, now);
        self.outputs.push(Output::Send { pair: id, bytes });
    }
}

/// Each PUBLISH is a request of its own, with a Call-ID of its own; its number comes back in the answer.
fn write_publish(request: &PublishRequest, tag: &str, via: &str, profile: Profile, now: Now) -> Bytes {
    let (address, number) = (&request.address, request.id.0);
    let mut headers = Headers::new();
    headers.append("Via", via);
    headers.append("From", format!("<{address}>;tag={tag}"));
    headers.append("To", format!("<{address}>"));
    headers.append("Call-ID", format!("{tag}-{number}"));
    headers.append("CSeq", format!("{number} PUBLISH"));
    headers.append("Max-Forwards", "70");
    headers.append("Event", transaction::ALLOW_EVENTS);
    headers.append("Expires", request.expires_secs.to_string());
    headers.append("User-Agent", dialog::USER_AGENT);
    if let Some(entity_tag) = &request.entity_tag {
        headers.append("SIP-If-Match", entity_tag);
    }
    let mut body = Bytes::new();
    if let Some(composed) = &request.composed {
        headers.append("Content-Type", PIDF);
        body = Bytes::from(pidf::write(address, composed, profile, now.unix_ms));
    }
    Request {
        method: Method::Publish,
        uri: address.clone(),
        headers,
        body,
    }
    .write()
}

/// By which the user is known to other servers.
fn address_of(user: &User) -> Option<String> {
    let mail = user.mail.as_ref().map(|mail| format!("sip:{mail}"));
    user.ocs_primary_address.clone().or(mail)
}
