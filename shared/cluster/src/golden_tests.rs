//! The bytes of everything that members store or tell each other, against files that hold what releases wrote.

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::path::Path;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use tandem_golden::Sample;

use super::golden_samples_tests::{all_answers, all_commands, history};
use super::*;

/// What the last release writes.
const RELEASED: Format = Format::RELEASE_0_1;

/// Compares with the golden file of this name, which belongs to `format`.
#[track_caller]
fn check(file: &str, format: Format, samples: &[Sample]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let released = format <= RELEASED;
    tandem_golden::check(&folder, &format!("{file}-{}", format.0), released, samples);
}

/// The names of an enum's variants in their order, as the compiler knows them: no list here can be short of one.
fn variants<T: DeserializeOwned>() -> &'static [&'static str] {
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
        address: SocketAddr::from(([192, 0, 2, 1], 7000)).into(),
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
    let has_intents = state
        .sessions()
        .any(|session| state.intents_of(&session.key).count() > 0);
    assert!(has_intents && !state.watchers().is_empty());
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
    let identity = ClusterIdentity(7);
    state.apply(Command::ClusterIdentified { identity });
    check_layout(&state, Format::RELEASE_0_2);
}
