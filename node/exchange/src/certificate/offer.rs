//! Which certificates of a host, and of the issuers that they name, could be installed.

use std::net::{IpAddr, Ipv4Addr};

use rustls_pki_types::CertificateDer;
use tandem_certificate::{Certificate, Trusted, is_issued_by};

use super::Source;

/// The addresses that issuers may be fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchFrom {
    Internet,
    /// Also private addresses, where a company's own authority publishes its certificates.
    PrivateNetworks,
    /// Also this machine: for tests.
    Loopback,
}

impl FetchFrom {
    /// The permission that this address needs; `None` if nothing is ever fetched from there.
    #[must_use]
    pub fn needed_for(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(address) => reach_of_v4(address),
            IpAddr::V6(address) => {
                let unreachable =
                    address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local();
                match address.segments() {
                    // RFC 6052: an IPv4 address behind a translator.
                    [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                        let bits = (u32::from(high) << 16) | u32::from(low);
                        reach_of_v4(Ipv4Addr::from_bits(bits))
                    }
                    _ if unreachable => None,
                    _ if address.is_loopback() => Some(Self::Loopback),
                    _ if address.is_unique_local() => Some(Self::PrivateNetworks),
                    _ => Some(Self::Internet),
                }
            }
        }
    }
}

fn reach_of_v4(address: Ipv4Addr) -> Option<FetchFrom> {
    let [first, second, ..] = address.octets();
    // RFC 6598: addresses that providers share among customers.
    let shared = first == 100 && (64..128).contains(&second);
    if first == 0 || address.is_multicast() || address.is_broadcast() || address.is_link_local() {
        None
    } else if address.is_loopback() {
        Some(FetchFrom::Loopback)
    } else if address.is_private() || shared {
        Some(FetchFrom::PrivateNetworks)
    } else {
        Some(FetchFrom::Internet)
    }
}

/// A certificate that could be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub certificate: Certificate,
    pub source: Source,
    pub already_trusted: bool,
    /// Enough to complete the chain: what was fetched, otherwise the authority that the server sent.
    pub recommended: bool,
}

/// What a host sent, in its order, then what was fetched, each once.
#[must_use]
pub fn offered(sent: &[CertificateDer<'_>], fetched: &[Certificate], trusted: &Trusted) -> Vec<Offered> {
    let sent = sent.iter().filter_map(|der| Certificate::parse(der).ok());
    let all = sent.map(|certificate| (certificate, Source::Sent)).chain(
        fetched
            .iter()
            .cloned()
            .map(|certificate| (certificate, Source::Fetched)),
    );
    let mut certificates: Vec<Offered> = Vec::new();
    for (certificate, source) in all {
        let known = certificates
            .iter()
            .any(|known| known.certificate.fingerprint == certificate.fingerprint);
        if !known {
            certificates.push(Offered {
                already_trusted: trusted.contains(certificate.fingerprint),
                certificate,
                source,
                recommended: false,
            });
        }
    }
    recommend(&mut certificates);
    certificates
}

/// The certificates that the server does not send; otherwise the highest one offered.
fn recommend(offered: &mut [Offered]) {
    let mut some_fetched = false;
    for offered in offered
        .iter_mut()
        .filter(|offered| offered.source == Source::Fetched)
    {
        offered.recommended = !offered.already_trusted;
        some_fetched = true;
    }
    if !some_fetched {
        recommend_the_highest(offered);
    }
}

/// Follows the issuers up from the leaf.
fn recommend_the_highest(offered: &mut [Offered]) {
    let mut top = 0;
    for _ in 0..offered.len() {
        let Some(holder) = offered.get(top) else {
            return;
        };
        let issuer = offered.iter().position(|candidate| {
            candidate.certificate.fingerprint != holder.certificate.fingerprint
                && is_issued_by(&holder.certificate, &candidate.certificate)
        });
        match issuer {
            Some(next) => top = next,
            None => break,
        }
    }
    if let Some(top) = offered.get_mut(top) {
        top.recommended =
            !top.already_trusted && (top.certificate.is_authority || top.certificate.is_self_issued());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_fetched_only_from_where_they_may_be() {
        let reach = |text: &str| FetchFrom::needed_for(text.parse().unwrap());
        for nowhere in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.1.1",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert_eq!(reach(nowhere), None, "{nowhere}");
        }
        for own in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(reach(own), Some(FetchFrom::Loopback), "{own}");
        }
        for private in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(reach(private), Some(FetchFrom::PrivateNetworks), "{private}");
        }
        for public in ["192.0.2.1", "100.128.0.1", "2001:db8::1"] {
            assert_eq!(reach(public), Some(FetchFrom::Internet), "{public}");
        }
    }
}
