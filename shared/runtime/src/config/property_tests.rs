//! Arbitrary documents: they are read or refused, and nothing panics.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use toml::{Table, Value};

use super::{AdminConfig, ClusterSection, ConfigError, LogConfig, Section, read_text};

proptest! {
    #[test]
    fn no_document_makes_the_reader_panic(document in document()) {
        let text = toml::to_string(&document).unwrap();
        match read_text(Path::new("x.toml"), &text, read_everything) {
            Ok(()) => {}
            Err(ConfigError::Invalid { problems, .. }) => assert!(!problems.is_empty()),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]a-c.=\"'{}\n#0-9]{0,80}") {
        let _ = read_text(Path::new("x.toml"), &text, read_everything);
    }
}

/// Every getter, on keys that the documents have.
fn read_everything(root: &mut Section) -> Option<()> {
    LogConfig::read(root);
    AdminConfig::read(root, ([127, 0, 0, 1], 9000).into());
    ClusterSection::read(&mut root.section("cluster"), None)?;
    for mut section in root.sections("listener") {
        section.number("id", 1_u8..=9);
        section.duration_or(
            "period_ms",
            Duration::ZERO,
            Duration::ZERO..=Duration::from_secs(1),
        );
        section.duration_or(
            "period_secs",
            Duration::ZERO,
            Duration::ZERO..=Duration::from_secs(1),
        );
        section.parsed_list::<ipnet::IpNet>("allow", "a network");
        section.flag_or("listen", false);
        section.optional_path("tls");
    }
    Some(())
}

fn document() -> impl Strategy<Value = Table> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Float),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,12}".prop_map(Value::String),
        Just(Value::String("127.0.0.1:5060".to_owned())),
        Just(Value::Integer(1)),
    ];
    let value = leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            table_of(inner).prop_map(Value::Table),
        ]
    });
    table_of(value)
}

fn table_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Table> {
    prop::collection::vec((prop::sample::select(KEYS), value), 0..6).prop_map(|pairs| {
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    })
}

const KEYS: &[&str] = &[
    "log",
    "format",
    "filter",
    "admin",
    "listen",
    "cluster",
    "member",
    "id",
    "kind",
    "address",
    "tls",
    "certificate",
    "plaintext_on_loopback",
    "listener",
    "period_ms",
    "period_secs",
    "allow",
    "zzz",
];
