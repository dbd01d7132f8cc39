//! The other ends of the gateway's CTI links. They are well; what they answer to anything else is for the test to say.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::csta::{CstaMessage, Request, Response, SystemRequest, SystemStatus, decode};
use crate::cti::{CtiConnectionId, CtiInput, Frame, LinkFailure, LinkFramer, LinkId};

#[derive(Debug, Default)]
pub(super) struct CtiManagers {
    links: BTreeMap<CtiConnectionId, (LinkId, LinkFramer)>,
    /// Attempts to connect to these get no answer.
    away: BTreeSet<CtiConnectionId>,
}

/// A message for a CTI manager, and what to do about it.
pub(super) enum Received {
    /// Answered at once.
    Heartbeat(CtiInput),
    Request {
        invoke_id: u16,
        request: Request,
    },
}

impl CtiManagers {
    pub(super) fn connect(&mut self, link: LinkId) -> Option<CtiInput> {
        self.links.insert(link.connection, (link, LinkFramer::default()));
        (!self.away.contains(&link.connection)).then_some(CtiInput::LinkOpened(link))
    }

    pub(super) fn close(&mut self, link: LinkId) {
        if self
            .links
            .get(&link.connection)
            .is_some_and(|(known, _)| *known == link)
        {
            self.links.remove(&link.connection);
        }
    }

    pub(super) fn read(&mut self, link: LinkId, bytes: &[u8]) -> Vec<Received> {
        let Some((_, framer)) = self.links.get_mut(&link.connection) else {
            return Vec::new();
        };
        framer.push(bytes);
        let frames: Vec<Frame> = std::iter::from_fn(|| framer.next_frame())
            .map(|frame| frame.unwrap())
            .collect();
        let received = frames
            .iter()
            .filter_map(|frame| match decode(&frame.body).unwrap() {
                CstaMessage::Request(Request::System(SystemRequest::RequestSystemStatus { .. })) => {
                    let status = SystemStatus::Normal;
                    let well = Response::RequestSystemStatus { status }.encode();
                    let answer = self.say(link.connection, frame.invoke_id, &well);
                    Some(Received::Heartbeat(answer))
                }
                CstaMessage::Request(request) => Some(Received::Request {
                    invoke_id: frame.invoke_id,
                    request,
                }),
                CstaMessage::Response(_)
                | CstaMessage::Error(_)
                | CstaMessage::Event(_)
                | CstaMessage::OtherEvent { .. }
                | CstaMessage::OtherResponse { .. }
                | CstaMessage::ApplicationSession(_) => None,
            });
        received.collect()
    }

    pub(super) fn say(&self, connection: CtiConnectionId, invoke_id: u16, document: &str) -> CtiInput {
        let bytes: Bytes = Frame::write(invoke_id, document).unwrap();
        let (link, _) = &self.links[&connection];
        CtiInput::BytesReceived { link: *link, bytes }
    }

    /// The link breaks, and no other one can be opened.
    pub(super) fn leave(&mut self, connection: CtiConnectionId) -> CtiInput {
        self.away.insert(connection);
        let (link, _) = self.links.remove(&connection).unwrap();
        let reason = LinkFailure::ClosedByPeer;
        CtiInput::LinkClosed { link, reason }
    }

    /// The attempt to connect that is under way, if one is, gets its answer.
    pub(super) fn come_back(&mut self, connection: CtiConnectionId) -> CtiInput {
        self.away.remove(&connection);
        match self.links.get(&connection) {
            Some((link, _)) => CtiInput::LinkOpened(*link),
            None => CtiInput::DeadlineReached,
        }
    }
}
