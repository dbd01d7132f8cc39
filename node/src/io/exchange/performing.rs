//! Performs the outputs of the calendars.

use std::time::Duration;

use tandem_cluster::Command;
use tandem_raft::Cluster;
use tokio::task::{Id, JoinError};
use tracing::{debug, error};

use crate::calendar::{Input, Output, Report, RequestId, View};
use crate::io::clock;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{Failure, Operation};

use super::client::{OpenStream, PerformRequest};
use super::driver::{CalendarDriver, Running};

/// Requests that must be answered even if their task panics.
#[derive(Clone, Copy)]
pub(super) enum Awaited {
    Request(RequestId),
    Proposal(u64),
}

impl Running {
    pub(super) fn take_in(&mut self, input: Input) {
        let CalendarDriver {
            calendars,
            cluster,
            directory,
            incarnation,
            ..
        } = &mut self.driver;
        let view = View {
            state: &cluster.state(),
            directory: &directory.borrow().clone(),
            incarnation: *incarnation.borrow(),
            authority: self.status.borrow().authority,
        };
        for output in calendars.handle(input, view, clock::now(cluster)) {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Request {
                request,
                cas,
                operation,
                impersonate,
                affinity,
                timeout,
            } => {
                let asked = PerformRequest {
                    cas,
                    operation,
                    impersonate,
                    affinity,
                    timeout,
                };
                self.request(request, asked);
            }
            Output::SubscribePush {
                request,
                cas,
                user,
                mailbox,
                attempt,
                status_frequency,
                timeout,
            } => {
                let push = self.driver.push.as_ref();
                let Some(callback_url) = push.and_then(|push| push.url(&user, attempt)) else {
                    return self.refuse_push(request);
                };
                let asked = PerformRequest {
                    cas,
                    operation: Operation::SubscribePush {
                        callback_url,
                        status_frequency,
                    },
                    impersonate: Some(mailbox),
                    affinity: AffinityKey::User(user),
                    timeout,
                };
                self.request(request, asked);
            }
            Output::OpenStream {
                stream,
                cas,
                subscriptions,
                anchor,
                affinity,
                connection_timeout,
                read_timeout,
            } => {
                let open = OpenStream {
                    stream,
                    cas,
                    subscriptions,
                    anchor,
                    affinity,
                    connection_timeout,
                    read_timeout,
                };
                let handle = self.driver.client.open_stream(open, self.sender.clone());
                self.streams.insert(stream, handle);
            }
            Output::CloseStream { stream } => drop(self.streams.remove(&stream)),
            Output::Propose { proposal, command } => {
                let task = propose(self.driver.cluster.clone(), proposal, command);
                let id = self.tasks.spawn(task).id();
                self.awaited.insert(id, Awaited::Proposal(proposal));
            }
            Output::Publish { user, presence } => {
                self.driver.metrics.published();
                self.driver.presence.publish(user, presence);
            }
            Output::UseCas(cas_list) => self.driver.client.set_cas(&cas_list),
            Output::ListenForCallbacks {
                port,
                status_frequency,
            } => {
                if let Some(push) = &self.driver.push {
                    push.move_to(port, Duration::from_secs(u64::from(status_frequency) * 60));
                }
            }
            Output::AnswerCallback { callback, status } => {
                if let Some(asker) = self.callbacks.remove(&callback) {
                    // The CAS may have closed the connection.
                    let _ = asker.send(status);
                }
            }
            Output::Report(report) => self.report(&report),
        }
    }

    /// A lost subscription may be requested again at another mailbox server.
    fn report(&mut self, report: &Report) {
        if let Report::SubscriptionLost { user, cas, .. } | Report::Deaf { user, cas } = report {
            let affinity = AffinityKey::User(user.clone());
            self.driver.client.forget_affinity(cas, &affinity);
        }
        self.reports.report(report);
    }

    fn request(&mut self, request: RequestId, asked: PerformRequest) {
        let (client, metrics) = (self.driver.client.clone(), self.driver.metrics.clone());
        let id = self.tasks.spawn(async move {
            let (cas, operation) = (asked.cas.clone(), asked.operation.label());
            let performed = client.perform(asked).await;
            metrics.requested(&cas, operation, performed.latency);
            Input::Answered {
                request,
                result: performed.result,
                latency: performed.latency,
            }
        });
        self.awaited.insert(id.id(), Awaited::Request(request));
    }

    /// Settings that the configuration makes impossible are not passed on, so this is a bug.
    fn refuse_push(&mut self, request: RequestId) {
        debug!("a push subscription was requested without a listener for callbacks");
        let id = self.tasks.spawn(async move {
            Input::Answered {
                request,
                result: Err(Failure::Malformed("no listener for callbacks")),
                latency: Duration::ZERO,
            }
        });
        self.awaited.insert(id.id(), Awaited::Request(request));
    }

    pub(super) fn done(&mut self, done: Result<(Id, Input), JoinError>) {
        let (id, input) = match done {
            Ok((id, input)) => (id, Some(input)),
            Err(error) => {
                error!(%error, "a calendar task failed");
                (error.id(), None)
            }
        };
        let awaited = self.awaited.remove(&id);
        let instead = || match awaited? {
            Awaited::Request(request) => Some(Input::Answered {
                request,
                result: Err(Failure::Malformed("the client dropped the request")),
                latency: Duration::ZERO,
            }),
            Awaited::Proposal(proposal) => Some(Input::Committed {
                proposal,
                applied: None,
            }),
        };
        if let Some(input) = input.or_else(instead) {
            self.take_in(input);
        }
    }
}

/// The outcome is reported in any case.
async fn propose(cluster: Cluster, proposal: u64, command: Command) -> Input {
    let applied = match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(applied) => Some(applied),
        Err(error) => {
            debug!(%error, "a calendar proposal was not committed in time");
            // A proposal that failed immediately is not retried immediately.
            tokio::time::sleep(PROPOSE_PAUSE).await;
            None
        }
    };
    Input::Committed { proposal, applied }
}

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
const PROPOSE_PAUSE: Duration = Duration::from_millis(200);
