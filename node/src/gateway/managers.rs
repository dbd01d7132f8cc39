//! What goes to the CTI managers, and what comes of it.
//!
//! The connections are part of this machine: a request is handed to its connection in the step that asks, and an answer or
//! an event to whoever waits for it. The driver sees the links alone.

use crate::csta::{Event, Request, Response};
use crate::cti::{
    ConnectionStatus, CtiConnectionId, CtiFailure, CtiInput, CtiOutput, LinkFailure, RequestToken,
};

use super::{Gateway, Now, Output, Report};

/// A request that this step has asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) connection: CtiConnectionId,
    pub(super) token: RequestToken,
    pub(super) request: Request,
}

/// What a CTI manager has said, or what has become of the way to it. One at a time is taken in.
#[derive(Debug)]
pub(super) enum CtiNews {
    Answered {
        token: RequestToken,
        result: Result<Response, CtiFailure>,
    },
    Event {
        connection: CtiConnectionId,
        event: Box<Event>,
    },
    MonitorStopped {
        connection: CtiConnectionId,
        cross_ref_id: String,
    },
    InService {
        connection: CtiConnectionId,
    },
    OutOfService {
        connection: CtiConnectionId,
        reason: LinkFailure,
    },
}

impl Gateway {
    /// The CTI connections, for the metrics.
    pub fn cti_statuses(&self) -> impl Iterator<Item = ConnectionStatus<'_>> {
        self.connections.statuses()
    }

    pub(super) fn cti(&mut self, input: CtiInput, now: Now) {
        let outputs = self.connections.handle(input, now.instant);
        self.sort_out(outputs);
    }

    pub(super) fn cti_deadline(&mut self, now: Now) {
        if self
            .connections
            .next_deadline()
            .is_some_and(|at| at <= now.instant)
        {
            self.cti(CtiInput::DeadlineReached, now);
        }
    }

    /// Everything is handed over: the links end, and nobody is told of requests that are still under way.
    pub(super) fn stop_links(&mut self, now: Now) {
        self.cti(CtiInput::DrainStarted, now);
        for news in std::mem::take(&mut self.cti_news) {
            match news {
                CtiNews::OutOfService { connection, reason } => {
                    self.report(Report::CtiOutOfService { connection, reason });
                }
                CtiNews::Answered { .. }
                | CtiNews::Event { .. }
                | CtiNews::MonitorStopped { .. }
                | CtiNews::InService { .. } => {}
            }
        }
    }

    pub(super) fn hand_over_requests(&mut self, now: Now) {
        while let Some(asked) = self.cti_asked.pop_front() {
            let Asked {
                connection,
                token,
                request,
            } = asked;
            let outputs = self.connections.submit(connection, token, request, now.instant);
            self.sort_out(outputs);
        }
    }

    /// What concerns a link goes out; the rest waits for its turn in this step.
    fn sort_out(&mut self, outputs: Vec<CtiOutput>) {
        for output in outputs {
            match output {
                CtiOutput::Connect { link } => {
                    let address = self.connections.address(link.connection).map(ToOwned::to_owned);
                    let connect = address.map(|address| Output::ConnectLink { link, address });
                    self.outputs.extend(connect);
                }
                CtiOutput::Write { link, bytes } => self.outputs.push(Output::WriteLink { link, bytes }),
                CtiOutput::Close { link } => self.outputs.push(Output::CloseLink { link }),
                CtiOutput::Answered { token, result } => {
                    self.cti_news.push_back(CtiNews::Answered { token, result });
                }
                CtiOutput::Event { connection, event } => {
                    let event = Box::new(event);
                    self.cti_news.push_back(CtiNews::Event { connection, event });
                }
                CtiOutput::MonitorStopped {
                    connection,
                    cross_ref_id,
                } => self.cti_news.push_back(CtiNews::MonitorStopped {
                    connection,
                    cross_ref_id,
                }),
                CtiOutput::ConnectionUp { connection } => {
                    self.cti_news.push_back(CtiNews::InService { connection });
                }
                CtiOutput::ConnectionDown { connection, reason } => {
                    self.cti_news
                        .push_back(CtiNews::OutOfService { connection, reason });
                }
            }
        }
    }

    pub(super) fn take_news(&mut self, news: CtiNews, now: Now) {
        match news {
            CtiNews::Answered { token, result } => self.cti_answered(token, result, now),
            CtiNews::Event { connection, event } => self.cti_event(connection, &event),
            CtiNews::MonitorStopped {
                connection,
                cross_ref_id,
            } => self.cti_monitor_stopped(connection, cross_ref_id, now),
            CtiNews::InService { connection } => {
                self.report(Report::CtiInService { connection });
                self.cti_in_service(connection, now);
            }
            CtiNews::OutOfService { connection, reason } => {
                self.report(Report::CtiOutOfService { connection, reason });
                self.cti_out_of_service(connection, now);
            }
        }
    }
}
