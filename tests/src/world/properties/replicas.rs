//! Members that have applied the same entries hold the same state, byte for byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tandem_runtime::io::environment;
use tokio::time::sleep;

use crate::cluster::post_to;

/// Has all members mark their state after one entry, by the node behind this admin listener, and compares the marks.
///
/// # Errors
/// When two states differ, and when not all members have marked theirs within `patience`.
pub(in crate::world) async fn judge(asked: Option<SocketAddr>, patience: Duration) -> anyhow::Result<()> {
    let asked = asked.context("a node has an admin listener")?;
    let end = environment::now() + patience;
    loop {
        let marks = post_to(asked, "/cluster/check", &serde_json::Value::Null).await;
        let verdict = marks.and_then(|marks| Ok(serde_json::from_value::<Marks>(marks)?.verdict()));
        match verdict {
            Ok(Verdict::Equal) => return Ok(()),
            Ok(Verdict::Different(states)) => bail!("members hold different states: {states:?}"),
            Ok(Verdict::Incomplete(missing)) if environment::now() >= end => {
                bail!("the states of {missing:?} cannot be compared")
            }
            Err(error) if environment::now() >= end => {
                return Err(error.context("states cannot be compared"));
            }
            // The next entry that asks for marks has perhaps come meanwhile, or a member is still catching up.
            Ok(Verdict::Incomplete(_)) | Err(_) => sleep(ASKED_AGAIN_AFTER).await,
        }
    }
}

/// What `POST /cluster/check` answers.
#[derive(Debug, Deserialize)]
struct Marks {
    members: Vec<Mark>,
}

#[derive(Debug, Deserialize)]
struct Mark {
    id: String,
    /// Of the state after the entry asked about; `None`: the member has not said.
    hash: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    /// Who holds what.
    Different(BTreeMap<String, Vec<String>>),
    /// These have not said.
    Incomplete(Vec<String>),
}

impl Marks {
    fn verdict(self) -> Verdict {
        let mut states: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut missing = Vec::new();
        for Mark { id, hash } in self.members {
            match hash {
                Some(hash) => states.entry(hash).or_default().push(id),
                None => missing.push(id),
            }
        }
        // A difference is one whoever else is silent.
        match (states.len(), missing.is_empty()) {
            (2.., _) => Verdict::Different(states),
            (1, true) => Verdict::Equal,
            (_, _) => Verdict::Incomplete(missing),
        }
    }
}

const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(marks: &[(&str, Option<&str>)]) -> Verdict {
        let members = marks.iter().map(|(id, hash)| Mark {
            id: (*id).to_owned(),
            hash: hash.map(str::to_owned),
        });
        let members = members.collect();
        Marks { members }.verdict()
    }

    #[test]
    fn states_are_equal_once_all_have_said_the_same() {
        assert_eq!(verdict(&[("1", Some("a")), ("2", Some("a"))]), Verdict::Equal);
        let missing = Verdict::Incomplete(vec!["2".to_owned()]);
        assert_eq!(verdict(&[("1", Some("a")), ("2", None)]), missing);
        assert_eq!(verdict(&[]), Verdict::Incomplete(Vec::new()));
    }

    #[test]
    fn a_difference_counts_although_somebody_is_silent() {
        let found = verdict(&[("1", Some("a")), ("2", None), ("3", Some("b"))]);
        assert!(matches!(found, Verdict::Different(states) if states.len() == 2));
    }
}
