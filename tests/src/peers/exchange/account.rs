//! The one account that a client uses, and how patient the domain is with wrong passwords.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Names, password, and what was tried.
#[derive(Debug, Clone)]
pub struct Account {
    /// UPN and `DOMAIN\user`, compared without regard to case.
    names: Vec<String>,
    password: String,
    /// The last two passwords, latest first: Active Directory does not hold them against anybody, or every change of a
    /// password would lock out whoever has not heard of it yet.
    former: Vec<String>,
    wrong_in_a_row: u32,
    wrong_attempts: u32,
    locked_out: bool,
}

/// What an `Authorization` header field is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Welcome,
    /// No credential, or a scheme that is not offered.
    Unauthenticated,
    WrongPassword,
    /// Even the right password does not help any more.
    LockedOut,
}

impl Account {
    #[must_use]
    pub fn new(names: &[&str], password: &str) -> Self {
        Self {
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            password: password.to_owned(),
            former: Vec::new(),
            wrong_in_a_row: 0,
            wrong_attempts: 0,
            locked_out: false,
        }
    }

    /// The administrator of the domain changes it; that unlocks nothing.
    pub fn set_password(&mut self, password: &str) {
        let former = std::mem::replace(&mut self.password, password.to_owned());
        self.former.insert(0, former);
        self.former.truncate(2);
    }

    #[must_use]
    pub fn wrong_attempts(&self) -> u32 {
        self.wrong_attempts
    }

    #[must_use]
    pub fn is_locked_out(&self) -> bool {
        self.locked_out
    }

    /// Judges one request, and counts.
    pub fn judge(&mut self, authorization: Option<&str>) -> Verdict {
        let Some((name, password)) = authorization.and_then(basic) else {
            return Verdict::Unauthenticated;
        };
        if self.locked_out {
            return Verdict::LockedOut;
        }
        if self.names.contains(&name.to_ascii_lowercase()) && password == self.password {
            self.wrong_in_a_row = 0;
            return Verdict::Welcome;
        }
        self.wrong_attempts += 1;
        self.wrong_in_a_row += u32::from(!self.former.contains(&password));
        self.locked_out = self.wrong_in_a_row >= WRONG_MAX;
        Verdict::WrongPassword
    }
}

fn basic(authorization: &str) -> Option<(String, String)> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// As many domains have it.
const WRONG_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("LAB\\Svc:{password}")))
    }

    #[test]
    fn five_wrong_passwords_in_a_row_lock_the_account() {
        let mut account = Account::new(&["svc@lab.test", "LAB\\svc"], "right");
        assert_eq!(account.judge(None), Verdict::Unauthenticated);
        assert_eq!(account.judge(Some("NTLM TlRM")), Verdict::Unauthenticated);
        for _ in 0..4 {
            assert_eq!(account.judge(Some(&header("wrong"))), Verdict::WrongPassword);
        }
        assert_eq!(account.judge(Some(&header("right"))), Verdict::Welcome);
        for _ in 0..5 {
            account.judge(Some(&header("wrong")));
        }
        assert_eq!(account.judge(Some(&header("right"))), Verdict::LockedOut);
        assert_eq!(account.wrong_attempts(), 9);
    }

    #[test]
    fn the_last_two_passwords_lock_nobody_out() {
        let mut account = Account::new(&["LAB\\svc"], "first");
        account.set_password("second");
        account.set_password("third");
        for _ in 0..5 {
            assert_eq!(account.judge(Some(&header("first"))), Verdict::WrongPassword);
            assert_eq!(account.judge(Some(&header("second"))), Verdict::WrongPassword);
        }
        assert!(!account.is_locked_out());
        account.set_password("fourth");
        for _ in 0..5 {
            account.judge(Some(&header("first")));
        }
        assert!(account.is_locked_out());
    }
}
