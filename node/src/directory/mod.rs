//! Users, devices and lines: who may control which phone.
//!
//! Owns the directory as it was read ([`mod@file`]), who a client is ([`authentication`]) and which device its line URI
//! means ([`line_uri`], [`line_appearance`]). It does not know sessions or the PBX. What always holds: a
//! directory that exists is consistent — ids are unique without regard to case, and every device and user that
//! a line names is there.

pub mod authentication;
pub mod file;
pub mod line_appearance;
pub mod line_uri;

use std::collections::HashMap;

pub use authentication::AuthenticationError;
pub use file::read_file;
pub use line_appearance::{LineAppearance, LineError};
pub use line_uri::{LineUri, LineUriError};

/// All of it, indexed for look-ups by any spelling.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    users: Vec<User>,
    lines: Vec<Line>,
    by_id: HashMap<Folded, usize>,
    by_mail: HashMap<Folded, usize>,
    by_ocs_primary_address: HashMap<Folded, usize>,
    /// Several lines may share a number, in different partitions.
    by_number: HashMap<String, Vec<usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: String,
    pub mail: Option<String>,
    /// `sip:` and an address.
    pub ocs_primary_address: Option<String>,
    pub display_name: Option<String>,
    pub remote_call_control: RemoteCallControl,
    /// His calendar shows in his presence, unless an administrator says otherwise. Such a user has a mail address.
    pub calendar: bool,
}

/// Whether a user may have remote call control at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteCallControl {
    Enabled,
    Disabled,
}

/// A number in a partition, the devices it stands on and the users it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: String,
    pub partition: Option<String>,
    /// At least one.
    pub devices: Vec<String>,
    pub users: Vec<String>,
}

/// Text in which case is told apart no more.
type Folded = String;

impl Directory {
    /// Of users and lines that have been checked.
    #[must_use]
    pub fn new(users: Vec<User>, lines: Vec<Line>) -> Self {
        let mut directory = Self::default();
        for (position, user) in users.iter().enumerate() {
            directory.by_id.insert(fold(&user.id), position);
            if let Some(mail) = &user.mail {
                directory.by_mail.insert(fold(mail), position);
            }
            if let Some(address) = &user.ocs_primary_address {
                directory.by_ocs_primary_address.insert(fold(address), position);
            }
        }
        for (position, line) in lines.iter().enumerate() {
            directory
                .by_number
                .entry(line.number.clone())
                .or_default()
                .push(position);
        }
        Self {
            users,
            lines,
            ..directory
        }
    }

    /// By user id, without regard to case.
    #[must_use]
    pub fn user(&self, id: &str) -> Option<&User> {
        self.by_id.get(&fold(id)).map(|position| &self.users[*position])
    }

    #[must_use]
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// Those whose calendar the directory switches on.
    pub fn calendar_users(&self) -> impl Iterator<Item = &User> {
        self.users.iter().filter(|user| user.calendar)
    }

    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    fn user_by_mail(&self, mail: &str) -> Option<&User> {
        self.by_mail
            .get(&fold(mail))
            .map(|position| &self.users[*position])
    }

    fn user_by_ocs_primary_address(&self, address: &str) -> Option<&User> {
        self.by_ocs_primary_address
            .get(&fold(address))
            .map(|position| &self.users[*position])
    }

    fn lines_with_number(&self, number: &str) -> impl Iterator<Item = &Line> {
        let positions = self.by_number.get(number).map_or(&[][..], Vec::as_slice);
        positions.iter().map(|position| &self.lines[*position])
    }
}

/// User ids, mail and SIP addresses, device and partition names are compared like this, as directories do.
fn fold(text: &str) -> Folded {
    text.to_lowercase()
}

fn is_same(left: &str, right: &str) -> bool {
    fold(left) == fold(right)
}
