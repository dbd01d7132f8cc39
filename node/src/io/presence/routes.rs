//! The JSON API: presence, manual state and calendar switches (CAL-8, CAL-11).

use std::collections::BTreeSet;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tandem_cluster::{Applied, Command, ManualPresence, ManualState, PresenceRecord, Refusal};
use tandem_raft::Cluster;
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, StatusCode};

use super::calendar_view::CalendarView;
use super::stream::Streams;
use super::view::PresenceView;
use crate::io::clock;
use crate::io::directory_watch::{self, DirectoryFile};
use crate::presence::{Composed, PhonesInUse};

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

    /// Users with any known presence, in order of their ids.
    fn page(&self, request: &AdminRequest) -> Answer {
        let query = Query::of(request);
        let limit = match query.last("limit") {
            None => PAGE_DEFAULT,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=PAGE_MAX).contains(limit))
                .ok_or_else(|| bad_request(&format!("limit must be between 1 and {PAGE_MAX}")))?,
        };
        let mut users = self.view.users_after(query.last("after"), limit + 1);
        let has_more = users.len() > limit;
        users.truncate(limit);
        Ok(ok(&Page {
            next: users.last().filter(|_| has_more).cloned(),
            users: users.iter().map(|user| self.view_of(user)).collect(),
        }))
    }

    fn stream(&self, request: &AdminRequest) -> Answer {
        let query = Query::of(request);
        let asked = query.all("user").map(|user| self.user_id(user));
        let asked: BTreeSet<String> = asked.collect::<Result<_, _>>()?;
        self.streams.open((!asked.is_empty()).then_some(asked))
    }

    async fn set_manual(&self, user: &str, request: &AdminRequest) -> Answer {
        let user = self.user_id(user)?;
        let ManualBody { manual, until_ms } = request.json()?;
        let now_ms = clock::unix_ms();
        if until_ms.is_some_and(|until| until <= now_ms) {
            return Err(bad_request(
                "until_ms is in the past: it takes Unix milliseconds of a future time",
            ));
        }
        let manual = manual.map(|word| ManualPresence {
            state: word.state(),
            set_at_ms: now_ms,
            until_ms,
        });
        let command = Command::ManualPresenceSet {
            user: user.clone(),
            manual,
        };
        self.propose(command).await?;
        Ok(ok(&self.view_of(&user)))
    }

    /// Users who cannot have a calendar are named and left out; the others are switched.
    async fn enable_calendars(&self, request: &AdminRequest) -> Answer {
        let EnableBody { users, enabled } = request.json()?;
        let asked = self.sort_out(&users, enabled);
        if asked.accepted.is_empty() && !users.is_empty() {
            return Err(AdminResponse::json(StatusCode::NOT_FOUND, &asked));
        }
        for some in asked.accepted.chunks(USERS_PER_COMMAND) {
            let users = some.to_vec();
            self.propose(Command::CalendarEnabled { users, enabled }).await?;
        }
        Ok(ok(&asked))
    }

    fn sort_out(&self, users: &[String], enabled: Option<bool>) -> Asked {
        let directory = self.directory.current();
        let mut asked = Asked::default();
        for name in users {
            match directory.user(name) {
                Some(user) if user.mail.is_none() && enabled == Some(true) => {
                    asked.without_mail.push(user.id.clone());
                }
                Some(user) => asked.accepted.push(user.id.clone()),
                // The manual state of a user who is gone can still be withdrawn.
                None if self.is_remembered(name) => asked.accepted.push(name.clone()),
                None => asked.unknown.push(name.clone()),
            }
        }
        asked
    }

    async fn reload_directory(&self) -> Answer {
        match self.directory.reload().await {
            Ok(loaded) => Ok(ok(&loaded)),
            Err(error) => Err(bad_request(&directory_watch::describe(&error))),
        }
    }

    /// In the directory's spelling.
    fn user_id(&self, name: &str) -> Result<String, AdminResponse> {
        let name = percent_decode_str(name)
            .decode_utf8()
            .map_err(|_| bad_request("the user's id is not UTF-8"))?;
        match self.directory.current().user(&name) {
            Some(user) => Ok(user.id.clone()),
            None if self.is_remembered(&name) => Ok(name.into_owned()),
            None => Err(AdminResponse::error(StatusCode::NOT_FOUND, "no such user")),
        }
    }

    fn is_remembered(&self, user: &str) -> bool {
        let state = self.cluster.state();
        state.presence(user).is_some() || state.calendar_enabled(user).is_some()
    }

    fn view_of(&self, user: &str) -> UserView {
        let state = self.cluster.state();
        let (record, enabled) = (state.presence(user).cloned(), state.calendar_enabled(user));
        let directory = self.directory.current();
        let of_directory = directory.user(user).is_some_and(|user| user.calendar);
        let record = record.unwrap_or_default();
        UserView {
            presence: ComposedView::of(user, &self.view.get(user)),
            on_the_phone: self.view.is_in_use_by(user),
            calendar_enabled: enabled.unwrap_or(of_directory),
            calendar: record.calendar.map(CalendarView::of),
            manual: ManualView::of(&record),
        }
    }

    async fn propose(&self, command: Command) -> Result<(), AdminResponse> {
        match self.cluster.propose(command, PROPOSE_TIMEOUT).await {
            Ok(Applied::Refused(Refusal::LimitReached)) => Err(AdminResponse::error(
                StatusCode::CONFLICT,
                "the cluster's limit of users is reached",
            )),
            Ok(Applied::Refused(refusal)) => Err(AdminResponse::error(
                StatusCode::CONFLICT,
                &format!("the cluster refused the change: {refusal:?}"),
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(AdminResponse::error(
                StatusCode::SERVICE_UNAVAILABLE,
                &error.to_string(),
            )),
        }
    }
}

type Answer = Result<AdminResponse, AdminResponse>;

fn ok(value: &impl Serialize) -> AdminResponse {
    AdminResponse::json(StatusCode::OK, value)
}

fn bad_request(message: &str) -> AdminResponse {
    AdminResponse::error(StatusCode::BAD_REQUEST, message)
}

/// The parameters after the question mark, still encoded.
struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    fn of(request: &'a AdminRequest) -> Self {
        let parameters = request.query.as_deref().unwrap_or_default().split('&');
        Self(parameters.filter_map(|one| one.split_once('=')).collect())
    }

    fn all(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(found, _)| *found == name)
            .map(|(_, value)| *value)
    }

    fn last(&self, name: &'a str) -> Option<&'a str> {
        self.all(name).last()
    }
}

#[derive(Serialize)]
struct Page {
    users: Vec<UserView>,
    /// The `after` of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct UserView {
    #[serde(flatten)]
    presence: ComposedView,
    on_the_phone: bool,
    calendar_enabled: bool,
    calendar: Option<CalendarView>,
    manual: Option<ManualView>,
}

/// The stream sends the same.
#[derive(Serialize)]
pub(super) struct ComposedView {
    user: String,
    availability: &'static str,
    activities: Vec<&'static str>,
    note: Option<&'static str>,
    /// What decided.
    source: &'static str,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

impl ComposedView {
    pub(super) fn of(user: &str, composed: &Composed) -> Self {
        Self {
            user: user.to_owned(),
            availability: composed.availability.as_str(),
            activities: composed
                .activities
                .iter()
                .map(|activity| activity.as_str())
                .collect(),
            note: composed.note,
            source: composed.source.as_str(),
            since_ms: composed.since_ms,
            until_ms: composed.until_ms,
        }
    }
}

#[derive(Serialize)]
struct ManualView {
    state: ManualWord,
    set_at_ms: u64,
    until_ms: Option<u64>,
}

impl ManualView {
    fn of(record: &PresenceRecord) -> Option<Self> {
        let manual = record.manual?;
        Some(Self {
            state: ManualWord::of(manual.state),
            set_at_ms: manual.set_at_ms,
            until_ms: manual.until_ms,
        })
    }
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ManualWord {
    Available,
    Away,
    Busy,
    DoNotDisturb,
}

impl ManualWord {
    fn state(self) -> ManualState {
        match self {
            Self::Available => ManualState::Available,
            Self::Away => ManualState::Away,
            Self::Busy => ManualState::Busy,
            Self::DoNotDisturb => ManualState::DoNotDisturb,
        }
    }

    fn of(state: ManualState) -> Self {
        match state {
            ManualState::Available => Self::Available,
            ManualState::Away => Self::Away,
            ManualState::Busy => Self::Busy,
            ManualState::DoNotDisturb => Self::DoNotDisturb,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManualBody {
    /// `null` withdraws the state; the key is required.
    #[serde(deserialize_with = "Option::deserialize")]
    manual: Option<ManualWord>,
    #[serde(default)]
    until_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnableBody {
    users: Vec<String>,
    /// `null`: as in the directory. The key is required.
    #[serde(deserialize_with = "Option::deserialize")]
    enabled: Option<bool>,
}

/// What happened to the users in the request.
#[derive(Default, Serialize)]
struct Asked {
    accepted: Vec<String>,
    unknown: Vec<String>,
    without_mail: Vec<String>,
}

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
const USERS_PER_COMMAND: usize = 500;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
