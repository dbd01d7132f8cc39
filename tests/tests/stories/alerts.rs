//! Every series that an alert reads exists from the start: one that is born at its first event is missed by `increase`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tandem_tests::cluster::{ExchangeOptions, Member};
use tandem_tests::scenario::CalendarScene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_that_an_alert_reads_exists_from_the_start() {
    let scene = CalendarScene::start(4, ExchangeOptions::default()).await.unwrap();
    let wanted = selectors(include_str!("../../../deploy/prometheus/alerts.yml"));
    let started = Instant::now();
    // Nothing goes wrong, so whatever is there was not born of an event. Those of a CAS come with the first look at it.
    loop {
        let exposed = exposed(&scene).await;
        let missing: Vec<_> = wanted
            .iter()
            .filter(|selector| !selector.is_in(&exposed))
            .collect();
        if missing.is_empty() {
            return scene.cluster.dismiss();
        }
        assert!(
            started.elapsed() < scene.patience,
            "nobody exposes {missing:?}:\n{exposed}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn exposed(scene: &CalendarScene) -> String {
    let mut exposed = String::new();
    for member in [Member::Lb, Member::Node(1), Member::Node(2)] {
        let answer = scene.cluster.http(member, "GET", "/metrics", "").await.unwrap();
        exposed.push_str(&answer.body);
    }
    exposed
}

/// A metric with the values of labels that an expression asks for, of which one is enough.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Selector {
    name: String,
    wanted: Vec<String>,
}

impl Selector {
    fn is_in(&self, exposed: &str) -> bool {
        exposed.lines().any(|line| {
            let own = line.strip_prefix(self.name.as_str());
            own.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && self
                    .wanted
                    .iter()
                    .all(|wanted| wanted.split('|').any(|label| line.contains(label)))
        })
    }
}

/// What the expressions select, apart from what Prometheus itself makes (`up`). A label that must not have a value is left
/// out, and so is the job.
fn selectors(rules: &str) -> BTreeSet<Selector> {
    let expressions = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.flat_map(selectors_of).collect()
}

fn selectors_of(expression: &str) -> Vec<Selector> {
    let is_part_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let starts = expression
        .match_indices("tandem_")
        .chain(expression.match_indices("process_"));
    starts
        .filter(|(at, _)| !expression[..*at].ends_with(is_part_of_name))
        .map(|(at, _)| {
            let rest = &expression[at..];
            let end = rest
                .find(|character| !is_part_of_name(character))
                .unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let wanted = matchers.map_or_else(Vec::new, |(matchers, _)| wanted_labels(matchers));
            Selector {
                name: name.to_owned(),
                wanted,
            }
        })
        .collect()
}

/// `reason=~"a|b"` becomes `reason="a"|reason="b"`.
fn wanted_labels(matchers: &str) -> Vec<String> {
    let matchers = matchers.split(',').filter(|matcher| !matcher.contains("!="));
    matchers
        .filter_map(|matcher| matcher.split_once('='))
        .filter(|(label, _)| *label != "job")
        .map(|(label, value)| {
            let values = value.trim_start_matches('~').trim_matches('"').split('|');
            let labels: Vec<_> = values.map(|value| format!("{label}=\"{value}\"")).collect();
            labels.join("|")
        })
        .collect()
}

#[test]
fn selectors_are_read_out_of_expressions() {
    let found = selectors_of(r#"rate(tandem_a_total{reason=~"x|y",state!="z"}[5m]) > 0 and tandem_b == 1"#);
    let selector = |name: &str, wanted: &[&str]| Selector {
        name: name.to_owned(),
        wanted: wanted.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        found,
        [
            selector("tandem_a_total", &[r#"reason="x"|reason="y""#]),
            selector("tandem_b", &[])
        ]
    );
    let exposed = "tandem_a_total{reason=\"y\"} 0\ntandem_bc 1\n";
    assert!(found[0].is_in(exposed));
    assert!(!found[1].is_in(exposed));
}
