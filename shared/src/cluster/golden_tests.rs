//! The bytes of everything that members store or tell each other, against files that hold what releases wrote.
//!
//! Files of a released format are never written again. Those of the format of the next release are, by running these
//! tests with `TANDEM_WRITE_GOLDEN` set.

use std::fmt::{self, Debug};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};

use super::command::SessionUpdate;
use super::*;

/// What the last release writes.
const RELEASED: Format = Format::RELEASE_0_1;

/// One value by its name, and its bytes.
pub(crate) type Sample = (String, Vec<u8>);

/// Compares with the golden file of this name, which belongs to `format`.
#[track_caller]
pub(crate) fn check(file: &str, format: Format, samples: &[Sample]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let path = folder.join(format!("{file}-{}.txt", format.0));
    if format > RELEASED && std::env::var_os("TANDEM_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, write(samples)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let golden = read(&text);
    let advice = if format > RELEASED {
        "this format is not released yet: run the test with TANDEM_WRITE_GOLDEN set, and name the change in the commit"
    } else {
        "this format is released and must stay as it is: give what is new the next number of Format, and write it in \
         that format only"
    };
    for (position, (name, bytes)) in samples.iter().enumerate() {
        let found = golden.get(position).map(|(name, bytes)| (name.as_str(), bytes));
        assert!(
            found == Some((name.as_str(), bytes)),
            "{name} in {format} is not what {file}-{}.txt holds; {advice}\n now {}\nthen {}",
            format.0,
            hex(bytes),
            found.map_or_else(
                || "nothing".to_owned(),
                |(name, bytes)| format!("{} ({name})", hex(bytes))
            )
        );
    }
    let more = golden.get(samples.len()).map(|(name, _)| name);
    assert_eq!(
        more, None,
        "it is in {file}-{}.txt and here no more; {advice}",
        format.0
    );
}

fn write(samples: &[Sample]) -> String {
    let mut text = String::new();
    for (name, bytes) in samples {
        text.push_str(name);
        text.push('\n');
        for line in bytes.chunks(32) {
            text.push_str(&format!("    {}\n", hex(line)));
        }
    }
    text
}

fn read(text: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("    "), samples.last_mut()) {
            (Some(digits), Some((_, bytes))) => {
                let pairs = digits
                    .as_bytes()
                    .chunks(2)
                    .map(|pair| std::str::from_utf8(pair).unwrap());
                bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()));
            }
            _ => samples.push((line.to_owned(), Vec::new())),
        }
    }
    samples
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names of an enum's variants in their order, as the compiler knows them: no list here can be short of one.
pub(crate) fn variants<T: DeserializeOwned>() -> &'static [&'static str] {
    let Err(Names(names)) = T::deserialize(AsksForNames) else {
        panic!("nothing was given to be read");
    };
    names.expect("the type is an enum")
}

struct AsksForNames;

#[derive(Debug)]
struct Names(Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for AsksForNames {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Names> {
        Err(Names(None))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Names> {
        Err(Names(Some(variants)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl fmt::Display for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("names of variants")
    }
}

impl std::error::Error for Names {}

impl de::Error for Names {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self(None)
    }
}

/// Each value under its variant's name and a word that tells it from others of the variant. All variants are there, and
/// every value comes back from its bytes.
#[track_caller]
fn samples<T>(values: &[(&str, T)]) -> Vec<Sample>
where
    T: Serialize + DeserializeOwned + Debug + PartialEq,
{
    let of = variants::<T>();
    let mut there: Vec<&str> = Vec::new();
    let samples = values.iter().map(|(word, value)| {
        let bytes = postcard::to_stdvec(value).unwrap();
        let (again, rest) = postcard::take_from_bytes::<T>(&bytes).unwrap();
        assert_eq!((&again, rest), (value, &[][..]));
        let variant = of[usize::from(bytes[0])];
        there.push(variant);
        let space = if word.is_empty() { "" } else { " " };
        (format!("{variant}{space}{word}"), bytes)
    });
    let samples = samples.collect();
    there.dedup();
    assert_eq!(there, of, "one sample of each variant at least, in their order");
    samples
}

/// All values of an enum whose variants hold nothing.
fn units<T>(name: &str) -> Vec<Sample>
where
    T: Serialize + DeserializeOwned + Debug,
{
    let numbered = variants::<T>().iter().zip(0_u8..);
    let samples = numbered.map(|(variant, number)| {
        let (value, rest) = postcard::take_from_bytes::<T>(std::slice::from_ref(&number)).unwrap();
        assert_eq!((format!("{value:?}").as_str(), rest), (*variant, &[][..]));
        (format!("{name}::{variant}"), postcard::to_stdvec(&value).unwrap())
    });
    samples.collect()
}

#[test]
fn commands() {
    let commands = all_commands();
    let formats: Vec<Format> = commands.iter().map(|(_, command)| command.format()).collect();
    let samples: Vec<(Format, Sample)> = formats.into_iter().zip(samples(&commands)).collect();
    for format in [Format::RELEASE_0_1, Format::RELEASE_0_2] {
        let of_format = samples.iter().filter(|(needed, _)| *needed == format);
        let of_format: Vec<Sample> = of_format.map(|(_, sample)| sample.clone()).collect();
        check("commands", format, &of_format);
    }
}

#[test]
fn answers_to_proposers() {
    check("applied", Format::RELEASE_0_1, &samples(&all_answers()));
}

#[test]
fn actors() {
    let actors = [
        ("", Actor::Unknown),
        ("", Actor::Member(NodeId(2))),
        ("", Actor::Administrator("somebody".to_owned())),
    ];
    check("actors", Format::RELEASE_0_2, &samples(&actors));
}

#[test]
fn what_is_known_of_members() {
    let described = |role| MemberRecord::Described {
        address: SocketAddr::from(([192, 0, 2, 1], 7000)),
        role,
        directory: DirectoryId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
    };
    let records = [
        ("", MemberRecord::Undescribed),
        ("node", described(MemberRole::Node)),
        ("witness", described(MemberRole::Witness)),
    ];
    check("members", Format::RELEASE_0_2, &samples(&records));
}

#[test]
fn words_within_commands_and_tables() {
    let mut refusals = units::<Refusal>("Refusal");
    let later = refusals.split_off(REFUSALS_OF_RELEASE_0_1);
    let released = [
        units::<AssignmentReason>("AssignmentReason"),
        units::<CalendarState>("CalendarState"),
        units::<CallState>("CallState"),
        units::<ManualState>("ManualState"),
        units::<NodeState>("NodeState"),
        units::<SettingName>("SettingName"),
        refusals,
    ];
    check("words", Format::RELEASE_0_1, &released.concat());
    let of_release_0_2 = [units::<MemberRole>("MemberRole"), later];
    check("words", Format::RELEASE_0_2, &of_release_0_2.concat());
}

const REFUSALS_OF_RELEASE_0_1: usize = 8;

#[test]
fn the_replicated_state() {
    let mut state = ClusterState::new(StateLimits::default());
    for command in history() {
        let (applied, _) = state.apply(command.clone());
        assert!(!matches!(applied, Applied::Refused(_)), "{command:?}");
    }
    assert!(state.sessions().count() > 0 && state.intent_count() > 0 && !state.watchers().is_empty());
    assert!(
        state
            .presence("user1")
            .is_some_and(|record| record.calendar.is_some())
    );
    let check_layout = |state: &ClusterState, format| {
        let bytes = state.encode(format).unwrap();
        assert_eq!(ClusterState::decode(&bytes, format).unwrap(), *state);
        check("state", format, &[("state".to_owned(), bytes)]);
    };
    check_layout(&state, Format::RELEASE_0_1);
    let format = Format::RELEASE_0_2;
    state.apply(Command::FormatFinalised { format });
    let id = RaftId::new(0x7f3a_91c2, NodeId(2));
    state.apply(Command::MemberRemoved { id });
    check_layout(&state, Format::RELEASE_0_2);
}

#[test]
fn a_golden_file_is_read_as_it_was_written() {
    let samples = vec![
        ("one".to_owned(), (0..=255).collect()),
        ("two words".to_owned(), vec![7]),
        ("nothing".to_owned(), Vec::new()),
    ];
    assert_eq!(read(&write(&samples)), samples);
}

/// A past that leaves something in every table.
fn history() -> Vec<Command> {
    let user = |number: u64| format!("user{number}");
    let register = |id| Command::NodeRegistered {
        id: NodeId(id),
        sip_address: SocketAddr::from(([192, 0, 2, 1], 5060)),
        incarnation: 70 + id,
    };
    vec![
        register(1),
        register(2),
        Command::CasGatewaysConfigured {
            gateways: vec![(cas("cas-1"), endpoint()), (cas("cas-2"), endpoint())],
            at_ms: 1,
        },
        Command::CasAssign {
            users: (1..5).map(user).collect(),
            at_ms: 2,
        },
        Command::CasFailed {
            users: vec![(user(2), 0)],
            at_ms: 3,
        },
        Command::CasBreaker {
            cas: cas("cas-2"),
            node: NodeId(1),
            open: true,
        },
        opened(),
        Command::Intent {
            key: key(),
            epoch: Epoch::FIRST,
            request: request(),
            operation: IntentOperation::MakeCall {
                called: "4712".to_owned(),
            },
            decided_at_ms: 4,
        },
        Command::WatcherSet {
            record: Box::new(watcher()),
        },
        Command::SettingChanged {
            name: "session_timer_secs".to_owned(),
            value: Some("900".to_owned()),
        },
        Command::CalendarEnabled {
            users: vec![user(3)],
            enabled: Some(false),
        },
        Command::CalendarPresenceChanged {
            node: successor_of_user("user1", [NodeId(1), NodeId(2)]).unwrap(),
            users: vec![(user(1), Some(calendar()))],
        },
        Command::ManualPresenceSet {
            user: user(4),
            manual: Some(manual()),
        },
    ]
}

fn all_commands() -> Vec<(&'static str, Command)> {
    let users = || vec!["user1".to_owned(), "user2".to_owned()];
    let operations = [
        (
            "MakeCall",
            IntentOperation::MakeCall {
                called: "4712".to_owned(),
            },
        ),
        (
            "AnswerCall",
            IntentOperation::AnswerCall {
                call_id: "1".to_owned(),
            },
        ),
        (
            "ClearConnection",
            IntentOperation::ClearConnection {
                call_id: "1".to_owned(),
            },
        ),
    ];
    let intents = operations.map(|(word, operation)| {
        let intent = Command::Intent {
            key: key(),
            epoch: Epoch(3),
            request: request(),
            operation,
            decided_at_ms: 1_700_000_000_000,
        };
        (word, intent)
    });
    let mut commands = vec![
        (
            "IPv4",
            Command::NodeRegistered {
                id: NodeId(1),
                sip_address: SocketAddr::from(([192, 0, 2, 1], 5060)),
                incarnation: u64::MAX,
            },
        ),
        (
            "IPv6",
            Command::NodeRegistered {
                id: NodeId(999_999),
                sip_address: SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 5060)),
                incarnation: 0,
            },
        ),
        (
            "",
            Command::NodeLost {
                id: NodeId(2),
                incarnation: 71,
            },
        ),
        (
            "",
            Command::NodeDraining {
                id: NodeId(2),
                incarnation: 71,
            },
        ),
        ("", opened()),
        (
            "whole",
            Command::SessionUpdated {
                key: key(),
                epoch: Epoch(3),
                update: update(),
            },
        ),
        (
            "empty",
            Command::SessionUpdated {
                key: key(),
                epoch: Epoch(3),
                update: SessionUpdate::default(),
            },
        ),
        (
            "",
            Command::SessionClosed {
                key: key(),
                epoch: Epoch(3),
            },
        ),
        (
            "",
            Command::Adopt {
                key: key(),
                from_epoch: Epoch(3),
                to: NodeId(2),
            },
        ),
    ];
    commands.extend(intents);
    commands.extend([
        (
            "",
            Command::IntentResult {
                key: key(),
                request: request(),
                body: "<Response/>".to_owned(),
            },
        ),
        ("", Command::Expire { before_ms: 9 }),
        (
            "",
            Command::SettingChanged {
                name: "session_timer_secs".to_owned(),
                value: Some("900".to_owned()),
            },
        ),
        (
            "to its default",
            Command::SettingChanged {
                name: "session_timer_secs".to_owned(),
                value: None,
            },
        ),
        (
            "",
            Command::CasGatewaysSet {
                gateways: vec![cas("cas-1"), cas("cas-2")],
                at_ms: 1,
            },
        ),
        (
            "",
            Command::CasEligible {
                cas: cas("cas-1"),
                eligible: true,
            },
        ),
        (
            "",
            Command::CasAssign {
                users: users(),
                at_ms: 2,
            },
        ),
        (
            "",
            Command::CasFailed {
                users: vec![("user1".to_owned(), 7)],
                at_ms: 3,
            },
        ),
        ("", Command::CasUnassign { users: users() }),
        (
            "",
            Command::Batch(vec![
                Command::Expire { before_ms: 9 },
                Command::CasUnassign { users: users() },
            ]),
        ),
        ("", Command::Rebalance { per_second: 20 }),
        (
            "",
            Command::CasGatewaysConfigured {
                gateways: vec![(cas("cas-1"), endpoint())],
                at_ms: 1,
            },
        ),
        (
            "",
            Command::CasBreaker {
                cas: cas("cas-1"),
                node: NodeId(1),
                open: true,
            },
        ),
        (
            "",
            Command::CasMoved {
                users: vec![("user1".to_owned(), 7, cas("cas-2"))],
                at_ms: 4,
            },
        ),
        (
            "",
            Command::CalendarEnabled {
                users: users(),
                enabled: Some(false),
            },
        ),
        (
            "as the directory says",
            Command::CalendarEnabled {
                users: users(),
                enabled: None,
            },
        ),
        (
            "",
            Command::CallbacksReceived {
                callbacks: vec![CallbackNote {
                    user: "user1".to_owned(),
                    attempt: 3,
                    subscription: "subscription".to_owned(),
                    has_events: true,
                    failed: Some("ErrorServerBusy".to_owned()),
                }],
            },
        ),
        (
            "",
            Command::CalendarPresenceChanged {
                node: NodeId(1),
                users: vec![("user1".to_owned(), Some(calendar())), ("user2".to_owned(), None)],
            },
        ),
        (
            "",
            Command::ManualPresenceSet {
                user: "user1".to_owned(),
                manual: Some(manual()),
            },
        ),
        (
            "",
            Command::WatcherSet {
                record: Box::new(watcher()),
            },
        ),
        (
            "",
            Command::WatcherRemoved {
                key: key(),
                epoch: Epoch(3),
            },
        ),
        (
            "",
            Command::WatcherAdopted {
                key: key(),
                from_epoch: Epoch(3),
                to: NodeId(2),
            },
        ),
        (
            "",
            Command::FormatFinalised {
                format: Format::RELEASE_0_2,
            },
        ),
        (
            "",
            Command::MemberRemoved {
                id: RaftId::new(0x7f3a_91c2, NodeId(2)),
            },
        ),
        (
            "",
            Command::SecretSet {
                name: "exchange".to_owned(),
                secret: SealedSecret::new(KeyCheck([1; 16]), [2; 12], vec![3; 40]).map(Box::new),
            },
        ),
        (
            "forgotten",
            Command::SecretSet {
                name: "exchange".to_owned(),
                secret: None,
            },
        ),
    ]);
    commands
}

fn all_answers() -> Vec<(&'static str, Applied)> {
    vec![
        ("", Applied::Done),
        (
            "",
            Applied::AlreadyOpened {
                session: key(),
                record: Some(Box::new(session())),
            },
        ),
        (
            "and closed",
            Applied::AlreadyOpened {
                session: key(),
                record: None,
            },
        ),
        ("", Applied::Session(Box::new(session()))),
        (
            "",
            Applied::IntentKnown(Box::new(IntentRecord {
                operation: IntentOperation::AnswerCall {
                    call_id: "1".to_owned(),
                },
                epoch: Epoch(3),
                decided_at_ms: 4,
                result: Some("<Response/>".to_owned()),
            })),
        ),
        (
            "",
            Applied::Assignments(vec![
                (
                    "user1".to_owned(),
                    Some(Assignment {
                        cas: cas("cas-1"),
                        epoch: 7,
                        since_ms: 2,
                        reason: AssignmentReason::Rebalanced,
                    }),
                ),
                ("user2".to_owned(), None),
            ]),
        ),
        (
            "",
            Applied::Batch(vec![Applied::Done, Applied::Refused(Refusal::NoCas)]),
        ),
        ("", Applied::Refused(Refusal::LimitReached)),
    ]
}

fn key() -> SessionKey {
    SessionKey::new("n1-0000000000000001".to_owned())
}

fn request() -> RequestKey {
    RequestKey {
        top_via: "SIP/2.0/TCP ocs;branch=z9hG4bK2".to_owned(),
        cseq: 2,
    }
}

fn cas(name: &str) -> CasId {
    CasId(name.to_owned())
}

fn endpoint() -> CasEndpoint {
    CasEndpoint {
        host: "cas-1.example.com".to_owned(),
        port: 443,
        description: "first".to_owned(),
        channel_binding: true,
        legacy_algorithms: false,
    }
}

fn opened() -> Command {
    Command::SessionOpened {
        opening: OpeningKey {
            top_via: "SIP/2.0/TCP ocs;branch=z9hG4bK1".to_owned(),
            call_id: "call".to_owned(),
            from_tag: "tag".to_owned(),
            cseq: 1,
            from_uri: "sip:user1@example.com".to_owned(),
        },
        record: Box::new(session()),
        decided_at_ms: 1_700_000_000_000,
    }
}

fn dialog() -> DialogRecord {
    DialogRecord {
        call_id: "call".to_owned(),
        local_identity: "<sip:gateway@example.com>".to_owned(),
        remote_identity: "<sip:user1@example.com>;tag=tag;epid=1".to_owned(),
        remote_uri: "sip:user1@example.com".to_owned(),
        route_set: vec!["<sip:ocs.example.com;transport=tcp;lr>".to_owned()],
        remote_target: "sip:192.0.2.20:5060;transport=tcp".to_owned(),
        local_target: "sip:192.0.2.9:5060;transport=tcp".to_owned(),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        key: key(),
        dialog: dialog(),
        user: "user1".to_owned(),
        line: "tel:4711;phone-context=dialstring".to_owned(),
        device: "4711".to_owned(),
        monitor: MonitorRecord {
            cross_ref_id: "7".to_owned(),
            active: true,
        },
        owner: NodeId(1),
        epoch: Epoch::FIRST,
        connection: ConnectionId([7; 16]),
        client_address: IpAddr::from([192, 0, 2, 20]),
        expires_at_ms: 1_700_000_900_000,
        session_interval_secs: 1800,
        cti_connection: Some("192.0.2.7:8000".to_owned()),
        calls: [("1".to_owned(), call())].into(),
    }
}

fn call() -> CallRecord {
    CallRecord {
        pbx_call_id: "77".to_owned(),
        state: CallState::Connected,
        calling: "4711".to_owned(),
        called: "4712".to_owned(),
    }
}

fn update() -> SessionUpdate {
    SessionUpdate {
        connection: Some((ConnectionId([8; 16]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))),
        remote_target: Some("sip:192.0.2.21:5060;transport=tcp".to_owned()),
        expires_at_ms: Some(1_700_001_800_000),
        monitor_active: Some(false),
        cti_connection: Some("192.0.2.8:8000".to_owned()),
        calls: vec![("1".to_owned(), None), ("2".to_owned(), Some(call()))],
    }
}

fn watcher() -> WatcherRecord {
    WatcherRecord {
        key: SessionKey::new("n2-0000000000000002".to_owned()),
        dialog: dialog(),
        presentity: "user1".to_owned(),
        owner: NodeId(2),
        epoch: Epoch::FIRST,
        connection: ConnectionId([8; 16]),
        client_address: IpAddr::from([192, 0, 2, 20]),
        expires_at_ms: 1_700_000_900_000,
        event_id: Some("5".to_owned()),
    }
}

fn calendar() -> CalendarPresence {
    CalendarPresence {
        state: CalendarState::OutOfOffice,
        from_ms: 1_700_000_000_000,
        until_ms: Some(1_700_003_600_000),
    }
}

fn manual() -> ManualPresence {
    ManualPresence {
        state: ManualState::DoNotDisturb,
        set_at_ms: 1_700_000_000_000,
        until_ms: None,
    }
}
