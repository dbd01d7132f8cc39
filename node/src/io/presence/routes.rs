//! The JSON API: presence, manual state and calendar switches (CAL-8, CAL-11).

use std::collections::BTreeSet;

use tandem_raft::Cluster;
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, StatusCode};

use super::stream::Streams;
use super::view::PresenceView;
use crate::admin::presence::{self, EnableBody, ManualBody, Page, Query, UserView};
use crate::io::answering::{Answer, bad, decoded, denied, ok, propose};
use crate::io::clock;
use crate::io::directory_watch::{self, DirectoryFile};
use crate::presence::PhonesInUse;

/// What the routes need to answer.
#[derive(Clone)]
pub struct PresenceRoutes {
    cluster: Cluster,
    directory: DirectoryFile,
    view: PresenceView,
    streams: Streams,
}

impl PresenceRoutes {
    #[must_use]
    pub fn new(cluster: Cluster, directory: DirectoryFile, view: PresenceView) -> Self {
        Self {
            streams: Streams::new(view.clone()),
            cluster,
            directory,
            view,
        }
    }

    /// `None`: the path is not one of these routes.
    pub async fn answer(&self, request: &AdminRequest) -> Option<AdminResponse> {
        let answer = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/presence") => self.page(request),
            ("GET", "/presence/stream") => self.stream(request),
            ("POST", "/calendar/enable") => self.enable_calendars(request).await,
            ("POST", "/directory/reload") => self.reload_directory().await,
            (_, "/presence" | "/presence/stream" | "/calendar/enable" | "/directory/reload") => {
                Err(AdminResponse::method_not_allowed())
            }
            (method, path) => {
                let user = path.strip_prefix("/presence/")?;
                match method {
                    "GET" => self.one(user),
                    "POST" => self.set_manual(user, request).await,
                    _ => Err(AdminResponse::method_not_allowed()),
                }
            }
        };
        Some(answer.unwrap_or_else(|refusal| refusal))
    }

    fn one(&self, user: &str) -> Answer {
        let user = self.user_id(user)?;
        Ok(ok(&self.view_of(&user)))
    }

    fn page(&self, request: &AdminRequest) -> Answer {
        let query = Query::parse(request.query.as_deref());
        let limit = presence::page_limit(query.last("limit")).map_err(denied)?;
        let mut users = self.view.users_after(query.last("after"), limit + 1);
        let has_more = users.len() > limit;
        users.truncate(limit);
        Ok(ok(&Page {
            next: users.last().filter(|_| has_more).cloned(),
            users: users.iter().map(|user| self.view_of(user)).collect(),
        }))
    }

    fn stream(&self, request: &AdminRequest) -> Answer {
        let query = Query::parse(request.query.as_deref());
        let asked = query.all("user").map(|user| self.user_id(user));
        let asked: BTreeSet<String> = asked.collect::<Result<_, _>>()?;
        self.streams.open((!asked.is_empty()).then_some(asked))
    }

    async fn set_manual(&self, user: &str, request: &AdminRequest) -> Answer {
        let user = self.user_id(user)?;
        let body: ManualBody = request.json()?;
        let command = body.command(user.clone(), clock::unix_ms()).map_err(denied)?;
        propose(&self.cluster, command).await?;
        Ok(ok(&self.view_of(&user)))
    }

    async fn enable_calendars(&self, request: &AdminRequest) -> Answer {
        let body: EnableBody = request.json()?;
        let sorted = body.sorted(&self.cluster.state(), &self.directory.current());
        if body.is_in_vain(&sorted) {
            return Err(AdminResponse::json(StatusCode::NOT_FOUND, &sorted));
        }
        for command in body.commands(&sorted) {
            propose(&self.cluster, command).await?;
        }
        Ok(ok(&sorted))
    }

    async fn reload_directory(&self) -> Answer {
        match self.directory.reload().await {
            Ok(loaded) => Ok(ok(&loaded)),
            Err(error) => Err(bad(&directory_watch::describe(&error))),
        }
    }

    fn user_id(&self, name: &str) -> Result<String, AdminResponse> {
        let name = decoded(name)?;
        let user = presence::user_id(&self.cluster.state(), &self.directory.current(), &name);
        user.ok_or_else(|| AdminResponse::error(StatusCode::NOT_FOUND, "no such user"))
    }

    fn view_of(&self, user: &str) -> UserView {
        let (composed, on_the_phone) = (self.view.get(user), self.view.is_in_use_by(user));
        UserView::of(
            user,
            &composed,
            on_the_phone,
            &self.cluster.state(),
            &self.directory.current(),
        )
    }
}
