//! Standard reason phrases.

/// The standard phrase for a status (RFC 3261 §21 and its extensions); the name of its class where there is none.
#[must_use]
pub fn reason_phrase(status: u16) -> String {
    if let Some((_, phrase)) = PHRASES.iter().find(|(code, _)| *code == status) {
        return (*phrase).to_owned();
    }
    let known = rsip::StatusCode::from(status);
    if matches!(known, rsip::StatusCode::Other(..)) {
        return class_phrase(status).to_owned();
    }
    split_words(known.to_string().split_once(' ').map_or("", |(_, name)| name))
}

/// rsip names its codes in one word: `BusyHere`.
fn split_words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character);
    }
    words
}

fn class_phrase(status: u16) -> &'static str {
    match status / 100 {
        1 => "Session Progress",
        2 => "OK",
        3 => "Redirection",
        4 => "Bad Request",
        5 => "Server Internal Error",
        _ => "Decline",
    }
}

/// Where capitals do not tell the standards' spelling.
const PHRASES: &[(u16, &str)] = &[
    (200, "OK"),
    (414, "Request-URI Too Long"),
    (416, "Unsupported URI Scheme"),
    (481, "Call/Transaction Does Not Exist"),
    (504, "Server Time-out"),
    (606, "Not Acceptable"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_spelled_as_the_standards_do() {
        let cases = [
            (100, "Trying"),
            (200, "OK"),
            (422, "Session Interval Too Small"),
            (481, "Call/Transaction Does Not Exist"),
            (486, "Busy Here"),
            (503, "Service Unavailable"),
            (504, "Server Time-out"),
            (513, "Message Too Large"),
            (499, "Bad Request"),
            (299, "OK"),
        ];
        for (status, phrase) in cases {
            assert_eq!(reason_phrase(status), phrase);
        }
    }
}
