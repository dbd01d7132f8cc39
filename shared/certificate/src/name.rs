//! Whether a certificate names the host that was configured.

use std::net::IpAddr;

/// What a certificate calls its holder: every CN of its subject, and its alternative names as far as they name hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolderNames {
    pub common_names: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// Where the host was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameMatch {
    AlternativeName,
    /// No alternative name says so: name constraints of the authorities do not reach it.
    CommonName,
}

/// Where the host was looked for in vain: CAL-6 has a status for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameMismatch {
    /// There are no alternative names, and the CN is another.
    CommonName,
    /// There are alternative names; neither they nor the CN match.
    AlternativeName,
}

impl HolderNames {
    /// The rule of CAL-6: the host equals the CN **or** an alternative name. An address equals an `iPAddress`, or the
    /// text of the CN.
    ///
    /// # Errors
    /// Which of the two mismatches of CAL-6 it is.
    pub fn matching(&self, host: &str) -> Result<NameMatch, NameMismatch> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => self.matching_address(address),
            Err(_) => self.matching_domain(host),
        };
        found.ok_or_else(|| self.mismatch())
    }

    fn matching_address(&self, address: IpAddr) -> Option<NameMatch> {
        if self.addresses.contains(&address) {
            return Some(NameMatch::AlternativeName);
        }
        let by_common_name = self
            .common_names
            .iter()
            .any(|name| name.parse::<IpAddr>() == Ok(address));
        by_common_name.then_some(NameMatch::CommonName)
    }

    fn matching_domain(&self, host: &str) -> Option<NameMatch> {
        let matches = |name: &String| covers(name, host);
        if self.dns_names.iter().any(matches) {
            return Some(NameMatch::AlternativeName);
        }
        self.common_names
            .iter()
            .any(matches)
            .then_some(NameMatch::CommonName)
    }

    fn mismatch(&self) -> NameMismatch {
        if self.dns_names.is_empty() && self.addresses.is_empty() {
            NameMismatch::CommonName
        } else {
            NameMismatch::AlternativeName
        }
    }
}

/// RFC 6125 §6.4.3 in its strict form: `*` is a whole label, the leftmost, stands for exactly one, and at least two
/// labels follow it.
fn covers(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (without_root(pattern), without_root(host));
    if host.is_empty() {
        return false;
    }
    let Some(parent) = pattern.strip_prefix("*.") else {
        return pattern.eq_ignore_ascii_case(host);
    };
    let Some((label, rest)) = host.split_once('.') else {
        return false;
    };
    !label.is_empty() && parent.contains('.') && !parent.contains('*') && parent.eq_ignore_ascii_case(rest)
}

/// `mail.example.com.` is `mail.example.com`.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(common: &[&str], dns: &[&str], addresses: &[&str]) -> HolderNames {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        HolderNames {
            common_names: owned(common),
            dns_names: owned(dns),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn either_the_common_name_or_an_alternative_name_is_enough() {
        let both = names(&["cas1.contoso.com"], &["mail.contoso.com"], &[]);
        assert_eq!(both.matching("MAIL.contoso.com."), Ok(NameMatch::AlternativeName));
        assert_eq!(both.matching("cas1.Contoso.com"), Ok(NameMatch::CommonName));
        assert_eq!(
            both.matching("cas2.contoso.com"),
            Err(NameMismatch::AlternativeName)
        );
        let only_common = names(&["cas1.contoso.com"], &[], &[]);
        assert_eq!(
            only_common.matching("cas1.contoso.com"),
            Ok(NameMatch::CommonName)
        );
        assert_eq!(
            only_common.matching("cas2.contoso.com"),
            Err(NameMismatch::CommonName)
        );
        assert_eq!(
            names(&[], &[], &[]).matching("cas"),
            Err(NameMismatch::CommonName)
        );
    }

    #[test]
    fn a_wildcard_stands_for_one_whole_label_in_both_places() {
        for holder in [names(&["*.a.com"], &[], &[]), names(&[], &["*.a.com"], &[])] {
            assert!(holder.matching("foo.a.com").is_ok());
            assert!(holder.matching("FOO.A.COM").is_ok());
            assert!(holder.matching("bar.foo.a.com").is_err());
            assert!(holder.matching("a.com").is_err());
            assert!(holder.matching(".a.com").is_err());
        }
        for pattern in ["f*.a.com", "foo.*.com", "*.com", "*", "*.*.com", "", "*."] {
            assert!(
                names(&[], &[pattern], &[]).matching("foo.a.com").is_err(),
                "{pattern}"
            );
        }
    }

    #[test]
    fn an_address_is_compared_as_an_address() {
        let holder = names(&["10.0.0.7"], &["10.0.0.9"], &["192.0.2.1", "2001:db8::1"]);
        assert_eq!(holder.matching("192.0.2.1"), Ok(NameMatch::AlternativeName));
        assert_eq!(
            holder.matching("2001:0db8:0:0::1"),
            Ok(NameMatch::AlternativeName)
        );
        assert_eq!(holder.matching("10.0.0.7"), Ok(NameMatch::CommonName));
        assert_eq!(
            holder.matching("10.0.0.9"),
            Err(NameMismatch::AlternativeName),
            "an address is no DNS name"
        );
    }
}
