//! `tandem-node cluster …`: who belongs to the cluster, and changes to it.

use std::ffi::OsString;
use std::net::SocketAddr;

use lexopt::{Arg, Parser, ValueExt};
use serde_json::{Value, json};
use tandem_runtime::io::command_line::{AdminClient, AdminPlace, ClientError, Outcome, Table, list_of, word};

use super::arguments::{ArgumentError, admin_at};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    admin: SocketAddr,
    json: bool,
    command: Command,
}

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Status,
    Form { without: Vec<u64> },
    Replace { id: u64 },
    Finalize { without: Vec<u64> },
    Check,
}

/// `None`: help was asked for.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Arguments>, ArgumentError> {
    let mut parser = Parser::from_args(arguments);
    let (mut words, mut place) = (Vec::new(), AdminPlace::default());
    let (mut json, mut without) = (false, Vec::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("admin") => place.admin = Some(parser.value()?.parse()?),
            Arg::Long("config") => place.config = Some(parser.value()?.into()),
            Arg::Long("json") => json = true,
            Arg::Long("without") => {
                let ids = parser.value()?.string()?;
                for id in ids.split(',') {
                    without.push(member_id(id)?);
                }
            }
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(word) => words.push(word.string()?),
            Arg::Long(_) | Arg::Short(_) => return Err(argument.unexpected().into()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = match words.as_slice() {
        [] => return Err(ArgumentError::Missing("status, form, replace, finalize or check")),
        ["status"] => Command::Status,
        ["check"] => Command::Check,
        ["form"] => Command::Form {
            without: std::mem::take(&mut without),
        },
        ["replace"] => return Err(ArgumentError::Missing("the member's id")),
        ["replace", id] => Command::Replace { id: member_id(id)? },
        ["finalize"] => Command::Finalize {
            without: std::mem::take(&mut without),
        },
        ["status" | "form" | "finalize" | "check", other, ..] | ["replace", _, other, ..] | [other, ..] => {
            return Err(ArgumentError::Unknown((*other).to_owned()));
        }
    };
    if !without.is_empty() {
        return Err(ArgumentError::Unknown("--without".to_owned()));
    }
    let admin = admin_at(&place)?;
    Ok(Some(Arguments { admin, json, command }))
}

/// `2`, or `n2` as everything calls it.
fn member_id(text: &str) -> Result<u64, ArgumentError> {
    let digits = text.strip_prefix('n').unwrap_or(text);
    digits.parse().map_err(|_| ArgumentError::Value {
        text: text.to_owned(),
        wanted: "the id of a member, as in [[cluster.member]]",
    })
}

pub(super) fn perform(arguments: &Arguments) -> Result<Outcome, ClientError> {
    let client = AdminClient::new(arguments.admin)?;
    let answer = match &arguments.command {
        Command::Status => return status(&client, arguments.json),
        Command::Check => return check(&client, arguments.json),
        Command::Form { without } => client.post("/cluster/form", &json!({ "without": without }))?,
        Command::Replace { id } => client.post("/cluster/replace", &json!({ "id": id }))?,
        Command::Finalize { without } => client.post("/cluster/finalize", &json!({ "without": without }))?,
    };
    Ok(Outcome::well(match arguments.json {
        true => answer.to_string(),
        false => word(&answer["message"]),
    }))
}

/// A healthy cluster has a leader, and all members answer, none of them is a stranger, and nothing is wrong with the
/// member that was asked.
fn status(client: &AdminClient, json: bool) -> Result<Outcome, ClientError> {
    let status = client.get("/cluster")?;
    let membership = &status["membership"];
    let members = list_of(&membership["members"]);
    let well = !status["leader"].is_null()
        && membership["obstacle"].is_null()
        && list_of(&status["conditions"]).is_empty()
        && membership["changing"] == json!(false)
        && members.iter().all(|member| {
            member["answers"] == json!(true)
                && member["stranger"].is_null()
                && member["disk_nearly_full"] == json!(false)
        });
    let text = if json {
        status.to_string()
    } else {
        status_text(&status)
    };
    Ok(Outcome { text, well })
}

/// A healthy cluster: all members hold the same state.
fn check(client: &AdminClient, json: bool) -> Result<Outcome, ClientError> {
    let answer = client.post("/cluster/check", &json!({}))?;
    let text = if json {
        answer.to_string()
    } else {
        check_text(&answer)
    };
    Ok(Outcome {
        text,
        well: answer["agree"] == json!(true),
    })
}

fn check_text(answer: &Value) -> String {
    let mut table = Table::new(&["member", "state"]);
    for member in list_of(&answer["members"]) {
        let state = match (member["hash"].is_null(), member["answers"] == json!(true)) {
            (false, _) => word(&member["hash"]),
            (true, true) => "did not report in time".to_owned(),
            (true, false) => "does not answer".to_owned(),
        };
        table.row([word(&member["id"]), state]);
    }
    let verdict = match answer["agree"] == json!(true) {
        true => "all members hold the same state",
        false => "(!) not all members are known to hold the same state",
    };
    format!(
        "{}\nafter entry {}: {verdict}\n",
        table.text(),
        word(&answer["index"])
    )
}

fn status_text(status: &Value) -> String {
    let membership = &status["membership"];
    let mut text = format!(
        "cluster {}, leader {}, authority {}, seen from {}\n\n",
        word(&membership["identity"]),
        word(&status["leader"]),
        word(&status["authority"]),
        word(&status["node"]),
    );
    let mut table = Table::new(&[
        "member",
        "role",
        "seat",
        "raft id",
        "address",
        "answers",
        "release",
        "starts",
        "last entry",
        "applied",
    ]);
    let members = list_of(&membership["members"]);
    for member in members {
        table.row([
            word(&member["id"]),
            word(&member["role"]),
            word(&member["seat"]),
            word(&member["raft_id"]),
            word(&member["address"]),
            if member["answers"] == json!(true) {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            word(&member["release"]),
            word(&member["starts"]),
            word(&member["last_index"]),
            word(&member["applied"]),
        ]);
    }
    text.push_str(&table.text());
    let format = &membership["format"];
    text.push_str(&format!(
        "\nthe log is written in format {}",
        word(&format["written"])
    ));
    if !format["waits_for"].is_null() {
        text.push_str(&format!(
            "; format {} waits for {}",
            word(&format["newest"]),
            word(&format["waits_for"])
        ));
    }
    text.push('\n');
    if membership["changing"] == json!(true) {
        text.push_str("a change of the voters is in progress; the leader will finish it\n");
    }
    for member in members
        .iter()
        .filter(|member| member["disk_nearly_full"] == json!(true))
    {
        text.push_str(&format!("{} (!): its disk is nearly full\n", word(&member["id"])));
    }
    for member in members.iter().filter(|member| !member["stranger"].is_null()) {
        text.push_str(&format!(
            "{} (!): {}\n",
            word(&member["id"]),
            word(&member["stranger"])
        ));
    }
    for condition in list_of(&status["conditions"]) {
        text.push_str(&format!(
            "{} (!): {}\n",
            word(&status["node"]),
            word(&condition["text"])
        ));
    }
    text
}

pub(super) const USAGE: &str = "\
usage: tandem-node cluster COMMAND [--admin ADDRESS:PORT | --config FILE] [--json]
  status                  show every member: its seat, data directory, release and log, and processes without a seat
  form [--without ID,ID]  form the cluster without the given members; it forms by itself once all members answer
  check                   compare the states of all members after the same log entry
  replace ID              give the seat of member ID to the machine that answers under this id now (wiped, restored or
                          new, with an empty data directory); run again, it continues where it stopped
  finalize [--without ID,ID]
                          write the newest format that every member reads; afterwards earlier releases are refused
exit status: 0 success, 1 refused or a problem was found, 2 usage error or no answer";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, ArgumentError> {
        let arguments = parse(line.split(' ').map(OsString::from))?;
        Ok(arguments.expect("no help was asked for").command)
    }

    #[test]
    fn members_are_named_by_number_with_or_without_the_letter() {
        assert_eq!(parsed("replace 2").unwrap(), Command::Replace { id: 2 });
        assert_eq!(parsed("replace n100").unwrap(), Command::Replace { id: 100 });
        let without = vec![2, 100];
        assert_eq!(
            parsed("form --without n2,100").unwrap(),
            Command::Form { without }
        );
        assert_eq!(parsed("form").unwrap(), Command::Form { without: Vec::new() });
        assert!(matches!(parsed("replace two"), Err(ArgumentError::Value { .. })));
    }

    #[test]
    fn what_does_not_belong_there_is_named() {
        for (line, named) in [
            ("replace", "the member's id is missing"),
            ("status now", "unknown argument \"now\""),
            ("status --without 2", "unknown argument \"--without\""),
            ("join 2", "unknown argument \"join\""),
        ] {
            assert_eq!(parsed(line).unwrap_err().to_string(), named, "{line}");
        }
    }

    #[test]
    fn a_member_that_holds_something_else_or_says_nothing_is_shown() {
        let answer = json!({ "index": 7, "agree": false, "members": [
            { "id": "n1", "answers": true, "hash": "0a" },
            { "id": "n2", "answers": false, "hash": null },
            { "id": "n100", "answers": true, "hash": null },
        ] });
        let text = check_text(&answer);
        for wanted in [
            "n1      0a",
            "n2      does not answer",
            "n100    did not report in time",
            "after entry 7: (!) not all",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn a_stranger_stands_out() {
        let status = json!({
            "node": "n1", "leader": "n1", "authority": "quorum",
            "conditions": [{ "subject": "disk", "not_ready": false, "text": "the disk stands still" }],
            "membership": {
                "identity": "07", "changing": false, "obstacle": null,
                "format": { "written": 1, "newest": 2, "waits_for": "n2 to run release 0.2" },
                "members": [{
                    "id": "n2", "role": "node", "seat": "none", "raft_id": "n2.00000001", "address": "192.0.2.2:7000",
                    "answers": true, "release": "0.1", "starts": 3, "last_index": 7, "applied": 7,
                    "stranger": "its log went back",
                }],
            },
        });
        let text = status_text(&status);
        for wanted in [
            "n2      node  none  n2.00000001  192.0.2.2:7000  yes      0.1      3",
            "format 1; format 2 waits for n2 to run release 0.2",
            "n2 (!): its log went back",
            "n1 (!): the disk stands still",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }
}
