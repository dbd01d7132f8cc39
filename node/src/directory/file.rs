//! The directory from a TOML file: `[[user]]`, `[[device]]`, `[[line]]`.

use std::collections::HashMap;
use std::path::Path;

use tandem_runtime::config::{self, ConfigError, Section};

use super::{Directory, Line, RemoteCallControl, User, fold};

/// Reads and checks the file; every problem in it is reported.
pub fn read_file(path: &Path) -> Result<Directory, ConfigError> {
    config::read_file(path, |root| Some(read(root)))
}

/// A value that breaks a rule is noted in its section, which spoils the document as a whole; so what is built
/// from the rest never comes into use.
fn read(root: &mut Section) -> Directory {
    let mut seen = Seen::default();
    let users = root
        .sections("user")
        .into_iter()
        .filter_map(|section| read_user(section, &mut seen))
        .collect();
    for mut section in root.sections("device") {
        if let Some(name) = section.text("name") {
            seen.devices.add(&section, "name", &name);
        }
    }
    let lines = root
        .sections("line")
        .into_iter()
        .filter_map(|section| read_line(section, &mut seen))
        .collect();
    Directory::new(users, lines)
}

fn read_user(mut section: Section, seen: &mut Seen) -> Option<User> {
    let id = section.text("id");
    let mail = section.optional_text("mail");
    let ocs_primary_address = section.optional_text("ocs_primary_address");
    let display_name = section.optional_text("display_name");
    let calendar = section.flag_or("calendar", false);
    if calendar && mail.is_none() {
        section.problem("calendar", "needs a mailbox", "true beside `mail`, or false");
    }
    let remote_call_control = if section.flag_or("remote_call_control", true) {
        RemoteCallControl::Enabled
    } else {
        RemoteCallControl::Disabled
    };
    if let Some(mail) = &mail {
        seen.mails.add(&section, "mail", mail);
    }
    if let Some(address) = &ocs_primary_address {
        if !fold(address).starts_with("sip:") {
            section.problem(
                "ocs_primary_address",
                "is not a SIP address",
                "\"sip:\" and an address",
            );
        }
        seen.addresses.add(&section, "ocs_primary_address", address);
    }
    let id = id?;
    seen.users.add(&section, "id", &id);
    Some(User {
        id,
        mail,
        ocs_primary_address,
        display_name,
        remote_call_control,
        calendar,
    })
}

fn read_line(mut section: Section, seen: &mut Seen) -> Option<Line> {
    let number = section.text("number");
    let partition = section.optional_text("partition");
    let devices: Vec<String> = section.parsed_list("devices", "the name of a device");
    let users: Vec<String> = section.parsed_list("users", "the id of a user");
    if devices.is_empty() {
        section.problem("devices", "names no device", "a list of the names of devices");
    }
    seen.devices
        .require(&section, "devices", "the name of a [[device]]", &devices);
    seen.users
        .require(&section, "users", "the id of a [[user]]", &users);
    let number = number?;
    let whole = partition.iter().fold(number.clone(), |number, partition| {
        format!("{number} in {partition}")
    });
    seen.lines.add(&section, "number", &whole);
    Some(Line {
        number,
        partition,
        devices,
        users,
    })
}

/// What has been read so far, to find what is there twice or not at all.
#[derive(Default)]
struct Seen {
    users: Names,
    mails: Names,
    addresses: Names,
    devices: Names,
    lines: Names,
}

/// Names without regard to case, and where each was given first.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn add(&mut self, section: &Section, key: &str, name: &str) {
        match self.0.get(&fold(name)) {
            Some(first) => section.problem(key, format!("{name:?} is in {first} already"), "each one once"),
            None => {
                self.0.insert(fold(name), section.path_of(key));
            }
        }
    }

    fn require(&self, section: &Section, key: &str, accepted: &str, names: &[String]) {
        let mut seen = Self::default();
        for name in names {
            if !self.0.contains_key(&fold(name)) {
                section.problem(key, format!("{name:?} is not in this file"), accepted);
            }
            seen.add(section, key, name);
        }
    }
}

#[cfg(test)]
pub(super) fn directory_of(text: &str) -> Directory {
    config::read_text(Path::new("directory.toml"), text, |root| Some(read(root))).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn problems(text: &str) -> Vec<String> {
        match config::read_text(Path::new("directory.toml"), text, |root| Some(read(root))) {
            Err(ConfigError::Invalid { problems, .. }) => problems
                .into_iter()
                .map(|problem| format!("{} {}", problem.key, problem.what))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn users_devices_and_lines_are_read() {
        let directory = directory_of(
            r#"
            [[user]]
            id = "user1"
            mail = "user1@example.com"
            display_name = "User One"
            remote_call_control = true
            calendar = true
            [[user]]
            id = "user2"
            [[device]]
            name = "SEP0001"
            [[line]]
            number = "4711"
            partition = "internal"
            devices = ["SEP0001"]
            users = ["user1"]
            "#,
        );
        let line = Line {
            number: "4711".to_owned(),
            partition: Some("internal".to_owned()),
            devices: vec!["SEP0001".to_owned()],
            users: vec!["user1".to_owned()],
        };
        assert_eq!(directory.lines(), [line]);
        let user = directory.user("USER1").unwrap();
        assert_eq!(user.display_name.as_deref(), Some("User One"));
        let calendars: Vec<&str> = directory.calendar_users().map(|user| user.id.as_str()).collect();
        assert_eq!(
            calendars,
            ["user1"],
            "a calendar is shown only where somebody said so"
        );
    }

    #[test]
    fn every_problem_is_reported_by_its_key() {
        let text = r#"
            user = [
                { id = "joe", mail = "j@example.com" },
                { id = "JOE", ocs_primary_address = "joe@example.com", color = "red" },
                { mail = "J@example.com", calendar = true },
                { id = "ann", calendar = true },
            ]
            device = [{ name = "SEP1" }]
            line = [
                { number = "1", devices = ["SEP1", "SEP9"], users = ["joe", "nobody", "Joe"] },
                { number = "1", devices = [] },
            ]
        "#;
        assert_eq!(
            problems(text),
            [
                r#"user[1].color is not a known key"#,
                r#"user[1].id "JOE" is in user[0].id already"#,
                r#"user[1].ocs_primary_address is not a SIP address"#,
                r#"user[2].id is missing"#,
                r#"user[2].mail "J@example.com" is in user[0].mail already"#,
                r#"user[3].calendar needs a mailbox"#,
                r#"line[0].devices "SEP9" is not in this file"#,
                r#"line[0].users "Joe" is in line[0].users already"#,
                r#"line[0].users "nobody" is not in this file"#,
                r#"line[1].devices names no device"#,
                r#"line[1].number "1" is in line[0].number already"#,
            ]
        );
    }

    #[test]
    fn ten_thousand_users_are_read_within_the_limits() {
        let mut text = String::new();
        for number in 0..10_000 {
            write!(
                text,
                "[[user]]\nid = \"user{number}\"\nmail = \"user{number}@example.com\"\n\
                 [[device]]\nname = \"SEP{number}\"\n\
                 [[line]]\nnumber = \"{number}\"\ndevices = [\"SEP{number}\"]\nusers = [\"user{number}\"]\n"
            )
            .unwrap();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let directory = read_file(file.path()).unwrap();
        assert_eq!(
            (directory.users().len(), directory.lines().len()),
            (10_000, 10_000)
        );
    }
}
