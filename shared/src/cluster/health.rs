//! What a member can do, and why not: a decision alone, without clock or network.
//!
//! A member that answers may still be of no use: its log may not be the leader's, or lag behind; its list of members may
//! differ from the cluster's; its certificate may have ended; its disk may stand still. Each of these is a condition, with
//! the text for whoever runs the cluster. Conditions are levels: examined anew each time, never remembered.

use std::time::Duration;

use super::authority::Authority;

/// What a condition is about. The labels are those of the metric and of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The member takes no part in a cluster.
    Membership,
    /// Contact with a majority.
    Quorum,
    Leader,
    /// The entries of the log themselves.
    Log,
    /// How far the state is behind.
    Lag,
    /// The configured list of members.
    MemberList,
    Certificate,
    Disk,
}

impl Subject {
    pub const ALL: [Self; 8] = [
        Self::Membership,
        Self::Quorum,
        Self::Leader,
        Self::Log,
        Self::Lag,
        Self::MemberList,
        Self::Certificate,
        Self::Disk,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Membership => "membership",
            Self::Quorum => "quorum",
            Self::Leader => "leader",
            Self::Log => "log",
            Self::Lag => "lag",
            Self::MemberList => "member_list",
            Self::Certificate => "certificate",
            Self::Disk => "disk",
        }
    }
}

/// What a condition means for the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does its work; somebody should look at it.
    Alarm,
    /// It cannot do its work.
    NotReady,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub subject: Subject,
    pub severity: Severity,
    /// What is wrong, and where known what to do.
    pub text: String,
}

/// What is known of the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Why it takes no part in a cluster.
    pub obstacle: Option<String>,
    pub authority: Authority,
    pub hears_leader: bool,
    /// Whether the leader holds the same entry where this member's state ends; `None`: not known.
    pub log_agrees: Option<bool>,
    /// How far its state is behind what the leader has committed: entries, and for how long it has not caught up.
    pub behind: Option<(u64, Duration)>,
    /// How its list of members differs from others' and from the log's, one text for each.
    pub list_differences: Vec<String>,
    /// How long its certificate is still valid; `None`: it has none.
    pub certificate_left: Option<Duration>,
    /// How long the write has taken that is under way; `None`: there is none.
    pub writing_for: Option<Duration>,
    pub disk_nearly_full: bool,
}

/// From where on something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Entries, and how long it has not caught up: a member that is behind by more than one of them is not ready.
    pub behind_max: (u64, Duration),
    pub certificate_left_min: Duration,
    pub writing_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            behind_max: (5_000, Duration::from_secs(5)),
            certificate_left_min: Duration::from_secs(14 * 24 * 60 * 60),
            writing_max: Duration::from_secs(2),
        }
    }
}

/// All that is not as it should be, in the order of [`Subject`].
#[must_use]
pub fn conditions(view: &View, bounds: &Bounds) -> Vec<Condition> {
    let found = [
        not_ready(Subject::Membership, view.obstacle.clone()),
        not_ready(Subject::Quorum, quorum(view)),
        not_ready(
            Subject::Leader,
            (!view.hears_leader).then(|| "no leader is known".to_owned()),
        ),
        not_ready(Subject::Log, log(view)),
        not_ready(Subject::Lag, lag(view, bounds)),
        alarm(
            Subject::MemberList,
            (!view.list_differences.is_empty()).then(|| view.list_differences.join("; ")),
        ),
        certificate(view, bounds),
        disk(view, bounds),
    ];
    found.into_iter().flatten().collect()
}

fn not_ready(subject: Subject, text: Option<String>) -> Option<Condition> {
    text.map(|text| Condition {
        subject,
        severity: Severity::NotReady,
        text,
    })
}

fn alarm(subject: Subject, text: Option<String>) -> Option<Condition> {
    text.map(|text| Condition {
        subject,
        severity: Severity::Alarm,
        text,
    })
}

fn quorum(view: &View) -> Option<String> {
    match view.authority {
        Authority::Quorum => None,
        Authority::NoLeader => Some("the cluster has no majority".to_owned()),
        Authority::Isolated => Some("this member has no contact with a majority of the cluster".to_owned()),
    }
}

fn log(view: &View) -> Option<String> {
    (view.log_agrees == Some(false)).then(|| {
        "the leader holds another entry where this member's state ends: one of the two has lost acknowledged entries; \
         compare their states before either is replaced"
            .to_owned()
    })
}

fn lag(view: &View, bounds: &Bounds) -> Option<String> {
    let (entries, time) = view.behind?;
    let is_late = entries > bounds.behind_max.0 || time > bounds.behind_max.1;
    is_late.then(|| {
        format!(
            "the state is {entries} entries behind the leader and has not caught up for {} s",
            time.as_secs()
        )
    })
}

fn certificate(view: &View, bounds: &Bounds) -> Option<Condition> {
    let left = view.certificate_left?;
    if left.is_zero() {
        let text = "the certificate for connections between members has ended: put a new one in its place"
            .to_owned();
        return not_ready(Subject::Certificate, Some(text));
    }
    let ends_soon = left < bounds.certificate_left_min;
    alarm(
        Subject::Certificate,
        ends_soon.then(|| {
            let hours = left.as_secs() / 3600;
            format!("the certificate for connections between members ends in {hours} hours: put a new one in its place")
        }),
    )
}

fn disk(view: &View, bounds: &Bounds) -> Option<Condition> {
    let hangs = view.writing_for.filter(|time| *time > bounds.writing_max);
    let text = match (hangs, view.disk_nearly_full) {
        (Some(time), _) => format!(
            "one write to the data directory has taken {} s so far: the disk stands still",
            time.as_secs()
        ),
        (None, true) => "the disk of the data directory is nearly full".to_owned(),
        (None, false) => return None,
    };
    alarm(Subject::Disk, Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> View {
        View {
            obstacle: None,
            authority: Authority::Quorum,
            hears_leader: true,
            log_agrees: Some(true),
            behind: None,
            list_differences: Vec::new(),
            certificate_left: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            writing_for: None,
            disk_nearly_full: false,
        }
    }

    fn found(view: &View) -> Vec<(Subject, Severity)> {
        let conditions = conditions(view, &Bounds::default());
        assert!(conditions.iter().all(|condition| !condition.text.is_empty()));
        conditions
            .into_iter()
            .map(|condition| (condition.subject, condition.severity))
            .collect()
    }

    #[test]
    fn a_healthy_member_has_no_condition() {
        assert_eq!(found(&healthy()), []);
        let in_time = View {
            behind: Some((5_000, Duration::from_secs(5))),
            log_agrees: None,
            certificate_left: None,
            writing_for: Some(Duration::from_secs(2)),
            ..healthy()
        };
        assert_eq!(found(&in_time), []);
    }

    #[test]
    fn each_trouble_is_a_condition_of_its_own() {
        let seconds = Duration::from_secs;
        let not_ready = Severity::NotReady;
        let (alarm, healthy) = (Severity::Alarm, healthy());
        let cases: [(View, Subject, Severity); 11] = [
            (
                View {
                    obstacle: Some("new".into()),
                    ..healthy.clone()
                },
                Subject::Membership,
                not_ready,
            ),
            (
                View {
                    authority: Authority::Isolated,
                    ..healthy.clone()
                },
                Subject::Quorum,
                not_ready,
            ),
            (
                View {
                    authority: Authority::NoLeader,
                    ..healthy.clone()
                },
                Subject::Quorum,
                not_ready,
            ),
            (
                View {
                    hears_leader: false,
                    ..healthy.clone()
                },
                Subject::Leader,
                not_ready,
            ),
            (
                View {
                    log_agrees: Some(false),
                    ..healthy.clone()
                },
                Subject::Log,
                not_ready,
            ),
            (
                View {
                    behind: Some((5_001, seconds(0))),
                    ..healthy.clone()
                },
                Subject::Lag,
                not_ready,
            ),
            (
                View {
                    behind: Some((1, seconds(6))),
                    ..healthy.clone()
                },
                Subject::Lag,
                not_ready,
            ),
            (
                View {
                    list_differences: vec!["x".into()],
                    ..healthy.clone()
                },
                Subject::MemberList,
                alarm,
            ),
            (
                View {
                    certificate_left: Some(seconds(3600)),
                    ..healthy.clone()
                },
                Subject::Certificate,
                alarm,
            ),
            (
                View {
                    certificate_left: Some(seconds(0)),
                    ..healthy.clone()
                },
                Subject::Certificate,
                not_ready,
            ),
            (
                View {
                    writing_for: Some(seconds(3)),
                    ..healthy.clone()
                },
                Subject::Disk,
                alarm,
            ),
        ];
        for (view, subject, severity) in cases {
            assert_eq!(found(&view), [(subject, severity)], "{view:?}");
        }
    }
}
