//! PUBLISH on the wire: what the publisher wants said, to its server, over a connection that we dial (RFC 3903).

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use rand::rngs::StdRng;
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

use super::outbound::Outbound;
use super::pairs::Pairs;
use super::watchers::PIDF;
use super::{Gateway, GatewayConfig, Now, OutboundTarget, Output, PairId, Report, View, new_branch, via};

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
        let publishing = self.publishing.iter();
        let users = publishing.flat_map(|publishing| publishing.publisher.users());
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
        if let Some(mut publication) = self.publication(now) {
            publication.connected(target, pair);
        }
    }

    pub(super) fn publisher_disconnected(&mut self, pair: PairId, now: Now) {
        if let Some(mut publication) = self.publication(now) {
            publication.disconnected(pair);
        }
    }

    pub(super) fn publisher_authority_changed(&mut self, now: Now) {
        if let Some(mut publication) = self.publication(now) {
            publication.authority_changed();
        }
    }

    pub(super) fn publish_answered(&mut self, raw: &RawMessage, status: u16, now: Now) {
        if let Some(mut publication) = self.publication(now) {
            publication.answered(raw, status);
        }
    }

    fn publisher_input(&mut self, input: PublisherInput, now: Now) {
        if let Some(mut publication) = self.publication(now) {
            publication.take_in(input);
        }
    }

    /// `None`: nothing is published.
    fn publication(&mut self, now: Now) -> Option<Publication<'_>> {
        Some(Publication {
            now,
            publishing: self.publishing.as_mut()?,
            authority: self.authority,
            config: &self.config,
            pairs: &self.pairs,
            outbound: &mut self.outbound,
            rng: &mut self.rng,
            outputs: &mut self.outputs,
        })
    }
}

/// The publisher, and what its work may touch.
struct Publication<'a> {
    now: Now,
    publishing: &'a mut Publishing,
    authority: Authority,
    config: &'a GatewayConfig,
    pairs: &'a Pairs,
    outbound: &'a mut Outbound,
    rng: &'a mut StdRng,
    outputs: &'a mut Vec<Output>,
}

impl Publication<'_> {
    fn connected(&mut self, target: &OutboundTarget, pair: PairId) {
        if self.publishing.target == *target && self.authority != Authority::Isolated {
            self.publishing.pair = Some(pair);
            self.take_in(PublisherInput::Connected);
        }
    }

    fn disconnected(&mut self, pair: PairId) {
        if self.publishing.pair == Some(pair) {
            self.publishing.pair = None;
            self.take_in(PublisherInput::ConnectionLost);
        }
    }

    /// A node that may have been replaced publishes nothing.
    fn authority_changed(&mut self) {
        if self.authority == Authority::Isolated
            && let Some(pair) = self.publishing.pair
        {
            self.disconnected(pair);
        }
    }

    fn answered(&mut self, raw: &RawMessage, status: u16) {
        if raw.from_tag() != Some(self.publishing.tag.as_bytes()) {
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
        self.take_in(PublisherInput::Answered { id, answer });
    }

    fn take_in(&mut self, input: PublisherInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.publishing.publisher.handle(input, self.now.instant) {
                match output {
                    PublisherOutput::Connect => inputs.extend(self.connect()),
                    PublisherOutput::Publish(request) => self.send(&request),
                    PublisherOutput::Report(outcome) => {
                        self.outputs.push(Output::Report(Report::Published(outcome)));
                    }
                }
            }
        }
    }

    /// The publisher asks again, so nothing is remembered of an attempt.
    fn connect(&mut self) -> Option<PublisherInput> {
        if self.authority == Authority::Isolated {
            return None;
        }
        let target = self.publishing.target.clone();
        let pair = self.outbound.path_to(target, self.outputs)?;
        self.publishing.pair = Some(pair);
        Some(PublisherInput::Connected)
    }

    fn send(&mut self, request: &PublishRequest) {
        let branch = new_branch(self.config.node, self.rng);
        let publishing = &self.publishing;
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
        let profile = self.config.watchers.profile;
        let bytes = write_publish(request, &publishing.tag, &via, profile, self.now);
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
