//! The names that an operator lists, and whether a certificate's holder has one of them.

use std::fmt;
use std::str::FromStr;

use tandem_sip::proxy_protocol::PeerIdentity;

/// A name in a certificate: a whole one, or `*.` and a domain, for which the star stands for one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPattern(String);

/// Whether one of the holder's names stands in a list of accepted ones. An empty list accepts all.
#[must_use]
pub fn is_listed(holder: &PeerIdentity, subjects: &[SubjectPattern]) -> bool {
    let mut names = holder.subject_alternative_names.iter().chain(&holder.common_name);
    subjects.is_empty() || names.any(|name| subjects.iter().any(|subject| subject.matches(name)))
}

impl SubjectPattern {
    /// Names compare without regard to case (RFC 4343).
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match self.0.strip_prefix("*.") {
            None => self.0 == name,
            Some(domain) => name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        }
    }
}

impl FromStr for SubjectPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = !name.is_empty() && !name.contains('*') && !name.contains(char::is_whitespace);
        match is_name && (name == text || name.contains('.')) {
            true => Ok(Self(text.trim_end_matches('.').to_ascii_lowercase())),
            false => Err("neither a name nor \"*.\" and a domain"),
        }
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> SubjectPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_one_label_and_case_for_nothing() {
        let pool = pattern("*.Pool.example.com");
        assert!(pool.matches("ocs1.pool.example.com") && pool.matches("OCS2.POOL.EXAMPLE.COM."));
        for other in [
            "pool.example.com",
            "a.b.pool.example.com",
            ".pool.example.com",
            "ocs.pool.example.org",
        ] {
            assert!(!pool.matches(other), "{other}");
        }
        assert!(pattern("ocs").matches("OCS") && !pattern("ocs").matches("ocs.example.com"));
        for text in ["", "*", "*.", "*.com", "a.*.com", "*a.example.com", "a b"] {
            assert!(text.parse::<SubjectPattern>().is_err(), "{text:?}");
        }
    }
}
