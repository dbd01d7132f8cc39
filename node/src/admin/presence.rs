//! `/presence` and `/calendar/enable`: presence, manual states and calendar switches (CAL-8, CAL-11).

use serde::{Deserialize, Serialize};
use tandem_cluster::{
    CalendarPresence, CalendarState, ClusterState, Command, ManualPresence, ManualState, PresenceRecord,
};

use super::Denied;
use crate::directory::Directory;
use crate::presence::Composed;

/// The directory's spelling of a user's id, or the id of a user who is remembered without being in the directory any more.
#[must_use]
pub fn user_id(state: &ClusterState, directory: &Directory, name: &str) -> Option<String> {
    match directory.user(name) {
        Some(user) => Some(user.id.clone()),
        None => is_remembered(state, name).then(|| name.to_owned()),
    }
}

fn is_remembered(state: &ClusterState, user: &str) -> bool {
    state.presence(user).is_some() || state.calendar_enabled(user).is_some()
}

/// `GET /presence`: users with any known presence, in order of their ids.
#[derive(Debug, Serialize)]
pub struct Page {
    pub users: Vec<UserView>,
    /// The `after` of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How many users a page holds, as `limit` says.
///
/// # Errors
/// If it is no number, or too large.
pub fn page_limit(limit: Option<&str>) -> Result<usize, Denied> {
    let Some(limit) = limit else {
        return Ok(PAGE_DEFAULT);
    };
    let limit = limit.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
    limit.ok_or_else(|| Denied::bad_request(format!("limit must be between 1 and {PAGE_MAX}")))
}

/// `GET /presence/USER`, and an element of a page.
#[derive(Debug, Serialize)]
pub struct UserView {
    #[serde(flatten)]
    presence: ComposedView,
    on_the_phone: bool,
    calendar_enabled: bool,
    calendar: Option<CalendarView>,
    manual: Option<ManualView>,
}

impl UserView {
    #[must_use]
    pub fn of(
        user: &str,
        composed: &Composed,
        on_the_phone: bool,
        state: &ClusterState,
        directory: &Directory,
    ) -> Self {
        let record = state.presence(user).cloned().unwrap_or_default();
        let of_directory = directory.user(user).is_some_and(|user| user.calendar);
        Self {
            presence: ComposedView::of(user, composed),
            on_the_phone,
            calendar_enabled: state.calendar_enabled(user).unwrap_or(of_directory),
            calendar: record.calendar.map(CalendarView::of),
            manual: ManualView::of(&record),
        }
    }
}

/// A user's presence. The stream sends the same.
#[derive(Debug, Serialize)]
pub struct ComposedView {
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
    #[must_use]
    pub fn of(user: &str, composed: &Composed) -> Self {
        let activities = composed.activities.iter();
        Self {
            user: user.to_owned(),
            availability: composed.availability.as_str(),
            activities: activities.map(|activity| activity.as_str()).collect(),
            note: composed.note,
            source: composed.source.as_str(),
            since_ms: composed.since_ms,
            until_ms: composed.until_ms,
        }
    }
}

/// The current state of a user's calendar, wherever it appears.
#[derive(Debug, Serialize)]
pub struct CalendarView {
    state: &'static str,
    from_ms: u64,
    until_ms: Option<u64>,
}

impl CalendarView {
    #[must_use]
    pub fn of(calendar: CalendarPresence) -> Self {
        Self {
            state: match calendar.state {
                CalendarState::Unknown => "unknown",
                CalendarState::Free => "free",
                CalendarState::Tentative => "tentative",
                CalendarState::Busy => "busy",
                CalendarState::OutOfOffice => "out_of_office",
                CalendarState::WorkingElsewhere => "working_elsewhere",
            },
            from_ms: calendar.from_ms,
            until_ms: calendar.until_ms,
        }
    }
}

#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize, Deserialize, Clone, Copy)]
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

/// `POST /presence/USER`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManualBody {
    /// `null` withdraws the state; the key is required.
    #[serde(deserialize_with = "Option::deserialize")]
    manual: Option<ManualWord>,
    #[serde(default)]
    until_ms: Option<u64>,
}

impl ManualBody {
    /// `now_ms`: now, in Unix milliseconds.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn command(&self, user: String, now_ms: u64) -> Result<Command, Denied> {
        if self.until_ms.is_some_and(|until| until <= now_ms) {
            return Err(Denied::bad_request(
                "until_ms is in the past: it takes Unix milliseconds of a future time",
            ));
        }
        let manual = self.manual.map(|word| ManualPresence {
            state: word.state(),
            set_at_ms: now_ms,
            until_ms: self.until_ms,
        });
        Ok(Command::ManualPresenceSet { user, manual })
    }
}

/// `POST /calendar/enable`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnableBody {
    users: Vec<String>,
    /// `null`: as in the directory. The key is required.
    #[serde(deserialize_with = "Option::deserialize")]
    enabled: Option<bool>,
}

/// What happened to the users in the request.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sorted {
    accepted: Vec<String>,
    unknown: Vec<String>,
    without_mail: Vec<String>,
}

impl EnableBody {
    /// Users who cannot have a calendar are named and left out.
    #[must_use]
    pub fn sorted(&self, state: &ClusterState, directory: &Directory) -> Sorted {
        let mut sorted = Sorted::default();
        for name in &self.users {
            match directory.user(name) {
                Some(user) if user.mail.is_none() && self.enabled == Some(true) => {
                    sorted.without_mail.push(user.id.clone());
                }
                Some(user) => sorted.accepted.push(user.id.clone()),
                // The switch of a user who is gone can still be taken back.
                None if is_remembered(state, name) => sorted.accepted.push(name.clone()),
                None => sorted.unknown.push(name.clone()),
            }
        }
        sorted
    }

    /// Users were named, and none of them is left.
    #[must_use]
    pub fn is_in_vain(&self, sorted: &Sorted) -> bool {
        sorted.accepted.is_empty() && !self.users.is_empty()
    }

    /// For the users who are left, in portions that an entry of the log can hold.
    pub fn commands(&self, sorted: &Sorted) -> impl Iterator<Item = Command> {
        let portions = sorted.accepted.chunks(USERS_PER_COMMAND);
        portions.map(|users| Command::CalendarEnabled {
            users: users.to_vec(),
            enabled: self.enabled,
        })
    }
}

/// The parameters after a question mark, still encoded.
#[derive(Debug)]
pub struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    #[must_use]
    pub fn parse(query: Option<&'a str>) -> Self {
        let parameters = query.unwrap_or_default().split('&');
        Self(parameters.filter_map(|one| one.split_once('=')).collect())
    }

    pub fn all(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(found, _)| *found == name);
        named.map(|(_, value)| *value)
    }

    #[must_use]
    pub fn last(&self, name: &'a str) -> Option<&'a str> {
        self.all(name).last()
    }
}

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
const USERS_PER_COMMAND: usize = 500;

#[cfg(test)]
mod tests {
    use tandem_cluster::StateLimits;

    use super::*;
    use crate::directory::{RemoteCallControl, User};

    fn directory() -> Directory {
        let user = |id: &str, mail: Option<&str>| User {
            id: id.to_owned(),
            mail: mail.map(str::to_owned),
            ocs_primary_address: None,
            display_name: None,
            remote_call_control: RemoteCallControl::Enabled,
            calendar: false,
        };
        Directory::new(
            vec![user("Ana", Some("ana@lab.test")), user("cy", None)],
            Vec::new(),
        )
    }

    #[test]
    fn users_who_cannot_have_a_calendar_are_named_and_left_out() {
        let mut state = ClusterState::new(StateLimits::default());
        let gone = vec!["gone".to_owned()];
        let _ = state.apply(Command::CalendarEnabled {
            users: gone,
            enabled: Some(true),
        });
        let body: EnableBody =
            serde_json::from_str(r#"{"users": ["ANA", "cy", "gone", "nobody"], "enabled": true}"#).unwrap();
        let sorted = body.sorted(&state, &directory());
        let expected = Sorted {
            accepted: vec!["Ana".to_owned(), "gone".to_owned()],
            unknown: vec!["nobody".to_owned()],
            without_mail: vec!["cy".to_owned()],
        };
        assert_eq!(sorted, expected);
        assert!(!body.is_in_vain(&sorted));
        assert!(body.is_in_vain(&Sorted::default()));
        assert_eq!(body.commands(&sorted).count(), 1);
    }

    #[test]
    fn a_manual_state_that_has_ended_is_refused() {
        let body: ManualBody = serde_json::from_str(r#"{"manual": "away", "until_ms": 5}"#).unwrap();
        assert!(body.command("ana".to_owned(), 5).is_err());
        assert!(body.command("ana".to_owned(), 4).is_ok());
        assert!(
            serde_json::from_str::<ManualBody>("{}").is_err(),
            "the key is required"
        );
    }

    #[test]
    fn a_page_has_a_limit() {
        assert_eq!(page_limit(None), Ok(100));
        assert_eq!(page_limit(Some("1000")), Ok(1000));
        for wrong in ["0", "1001", "", "many"] {
            assert!(page_limit(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_parameter_that_is_there_twice_the_last_counts_or_all() {
        let query = Query::parse(Some("user=a&x&user=b&limit=3"));
        assert_eq!(query.all("user").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(query.last("user"), Some("b"));
        assert_eq!(query.last("limit"), Some("3"));
        assert_eq!(Query::parse(None).last("limit"), None);
    }
}
