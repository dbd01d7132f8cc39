//! What a member can do, and why not: a decision alone, without clock or network.
//!
//! A member that answers may still be of no use: its log may not be the leader's, or lag behind; its list of members may
//! differ from the cluster's; its certificate may have ended; its disk may stand still. Each of these is a condition, with
//! the text for those who run the cluster. Conditions are levels: examined again each time, never remembered.

use std::time::Duration;

use super::NodeId;
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
    /// The wall clock.
    Clock,
    /// What the state holds.
    State,
}

impl Subject {
    pub const ALL: [Self; 10] = [
        Self::Membership,
        Self::Quorum,
        Self::Leader,
        Self::Log,
        Self::Lag,
        Self::MemberList,
        Self::Certificate,
        Self::Disk,
        Self::Clock,
        Self::State,
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
            Self::Clock => "clock",
            Self::State => "state",
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
    /// The snapshot that is being sent to it: bytes that have arrived, and bytes in all.
    pub arriving: Option<(u64, u64)>,
    /// How its list of members differs from others' and from the log's, one text for each.
    pub list_differences: Vec<String>,
    /// How long its certificate is still valid; `None`: it has none.
    pub certificate_left: Option<Duration>,
    /// How long the write has taken that is under way; `None`: there is none.
    pub writing_for: Option<Duration>,
    pub disk_nearly_full: bool,
    /// By how many milliseconds the wall clocks of other members are certainly ahead of its own; negative: behind.
    pub clocks_ahead_ms: Vec<(NodeId, i64)>,
    /// Members whose state was another one after the same entry, and its index.
    pub differing_states: Option<(u64, Vec<NodeId>)>,
}

/// From where on something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Entries, and how long it has not caught up: a member that is behind by more than one of them is not ready.
    pub behind_max: (u64, Duration),
    pub certificate_left_min: Duration,
    pub writing_max: Duration,
    pub clock_difference_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            behind_max: (5_000, Duration::from_secs(5)),
            certificate_left_min: Duration::from_secs(14 * 24 * 60 * 60),
            writing_max: WRITING_MAX,
            clock_difference_max: Duration::from_secs(2),
        }
    }
}

/// A disk that takes longer for one write stands still.
pub const WRITING_MAX: Duration = Duration::from_secs(2);

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
        alarm(Subject::Clock, clock(view, bounds)),
        not_ready(Subject::State, state(view)),
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
    let arriving = view.arriving.map_or_else(String::new, |(arrived, total)| {
        format!("; {arrived} of {total} bytes of a snapshot have arrived")
    });
    is_late.then(|| {
        format!(
            "the state is {entries} entries behind the leader and has not caught up for {} s{arriving}",
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
    if let Some(time) = hangs {
        let text = format!(
            "one write to the data directory has taken {} s so far: the disk stands still",
            time.as_secs()
        );
        return not_ready(Subject::Disk, Some(text));
    }
    let nearly_full = view.disk_nearly_full;
    alarm(
        Subject::Disk,
        nearly_full.then(|| "the disk of the data directory is nearly full".to_owned()),
    )
}

/// No decision of the cluster goes by wall clocks; certificates, calendars and logs do.
fn clock(view: &View, bounds: &Bounds) -> Option<String> {
    let differs = |(_, ahead): &&(NodeId, i64)| {
        Duration::from_millis(ahead.unsigned_abs()) > bounds.clock_difference_max
    };
    let texts: Vec<String> = view
        .clocks_ahead_ms
        .iter()
        .filter(differs)
        .map(|(id, ahead)| {
            let seconds = Duration::from_millis(ahead.unsigned_abs()).as_secs_f64();
            let side = if *ahead > 0 { "ahead of" } else { "behind" };
            format!("the clock of {id} is {seconds:.1} s {side} this member's")
        })
        .collect();
    (!texts.is_empty()).then(|| format!("{}: let both follow the same time servers", texts.join("; ")))
}

fn state(view: &View) -> Option<String> {
    let (index, others) = view.differing_states.as_ref()?;
    Some(state_differs(*index, others))
}

/// What to tell of members whose states differ.
#[must_use]
pub fn state_differs(index: u64, others: &[NodeId]) -> String {
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    format!(
        "after entry {index} the state is another one than that of {}: the same entries led to different states; find out who \
         is right, empty the data directory of the one that is not, and run `tandem-node cluster replace`",
        others.join(", ")
    )
}

/// By how much a peer's wall clock is certainly ahead of one's own: it answered at some moment of the `round_trip` that ends
/// now. Negative: behind; 0: they may agree.
#[must_use]
pub fn clock_ahead_ms(theirs_ms: u64, own_ms: u64, round_trip: Duration) -> i64 {
    let round_trip_ms = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let ahead_of_end = theirs_ms.saturating_sub(own_ms);
    let behind_start = own_ms.saturating_sub(round_trip_ms).saturating_sub(theirs_ms);
    signed(ahead_of_end) - signed(behind_start)
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
            arriving: None,
            list_differences: Vec::new(),
            certificate_left: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            writing_for: None,
            disk_nearly_full: false,
            clocks_ahead_ms: vec![(NodeId(2), 2_000), (NodeId(3), -2_000)],
            differing_states: None,
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
        let cases: [(View, Subject, Severity); 14] = [
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
                not_ready,
            ),
            (
                View {
                    disk_nearly_full: true,
                    ..healthy.clone()
                },
                Subject::Disk,
                alarm,
            ),
            (
                View {
                    clocks_ahead_ms: vec![(NodeId(2), -2_001)],
                    ..healthy.clone()
                },
                Subject::Clock,
                alarm,
            ),
            (
                View {
                    differing_states: Some((7, vec![NodeId(2)])),
                    ..healthy.clone()
                },
                Subject::State,
                not_ready,
            ),
        ];
        for (view, subject, severity) in cases {
            assert_eq!(found(&view), [(subject, severity)], "{view:?}");
        }
    }

    #[test]
    fn a_member_that_is_sent_a_snapshot_says_how_far_it_is() {
        let view = View {
            behind: Some((30_000, Duration::from_secs(7))),
            arriving: Some((3_000_000, 5_000_000)),
            ..healthy()
        };
        let found = conditions(&view, &Bounds::default());
        assert_eq!(
            found[0].text,
            "the state is 30000 entries behind the leader and has not caught up for 7 s; 3000000 of 5000000 bytes of a \
             snapshot have arrived"
        );
    }

    #[test]
    fn only_a_difference_that_is_certain_counts() {
        let round_trip = Duration::from_millis(300);
        for (theirs, ahead) in [
            (10_000, 0),
            (9_700, 0),
            (9_850, 0),
            (10_001, 1),
            (9_699, -1),
            (74_000, 64_000),
        ] {
            assert_eq!(clock_ahead_ms(theirs, 10_000, round_trip), ahead, "{theirs}");
        }
    }

    #[test]
    fn a_clock_that_differs_is_named_with_its_difference() {
        let view = View {
            clocks_ahead_ms: vec![(NodeId(2), 64_000), (NodeId(3), 10), (NodeId(4), -2_500)],
            ..healthy()
        };
        let found = conditions(&view, &Bounds::default());
        assert_eq!(
            found[0].text,
            "the clock of n2 is 64.0 s ahead of this member's; the clock of n4 is 2.5 s behind this member's: let both follow \
             the same time servers"
        );
    }
}
