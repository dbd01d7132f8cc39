//! What is wrong and what to do, in sentences for an administrator.

use tandem_certificate::Certificate;

use super::chain::{Chain, ChainEnd, ElementStatus, Link, Source};
use super::diagnosis::hexadecimal;
use super::verification::Refusal;

pub(super) fn of(
    host: &str,
    verdict: &Result<(), Refusal>,
    chain: &Chain,
    relies_on_legacy_algorithms: bool,
) -> String {
    let Err(refusal) = verdict else {
        return verified(host, chain, relies_on_legacy_algorithms);
    };
    let mut sentences: Vec<String> = chain.links.iter().filter_map(about_link).collect();
    sentences.extend(about_end(chain));
    sentences.extend(about_fetched(chain));
    if sentences.is_empty() {
        sentences.extend(about_chain_refusal(refusal));
    }
    sentences.extend(about_name(host, chain, refusal));
    sentences.join(" ")
}

pub(super) fn unreadable(host: &str) -> String {
    format!("The certificate that {host} sent cannot be read: have it issued again.")
}

fn verified(host: &str, chain: &Chain, relies_on_legacy_algorithms: bool) -> String {
    let anchor = chain.links.last().map(|link| link.certificate.short_name());
    let mut text = format!(
        "The certificate is good for {host} and leads to \"{}\" in the trust store.",
        anchor.unwrap_or(host)
    );
    if relies_on_legacy_algorithms {
        text.push_str(
            " That is so only because legacy algorithms (RSA-1024, SHA-1) are switched on for this cas: \
             have a certificate with 2048 bits and SHA-256 issued, then switch them off.",
        );
    }
    text
}

fn about_link(link: &Link) -> Option<String> {
    let name = link.certificate.short_name();
    let remark = link.remark.as_deref().unwrap_or_default();
    let advice = match link.status {
        ElementStatus::Verified | ElementStatus::Missing | ElementStatus::Unchecked => return None,
        ElementStatus::Expired => "renew it at the certification authority and install it on the server.",
        ElementStatus::NotYetValid => "check the clocks of this machine and of the authority.",
        ElementStatus::BadSignature => {
            "the authority has a new key, or the connection is being intercepted: if the authority was renewed, remove its \
             outdated certificate from the trust store and add the new one."
        }
        ElementStatus::Unsupported => {
            "have it issued with RSA of 2048 bits or more and SHA-256, or switch legacy_algorithms on for this \
             cas (RSA-1024 and SHA-1, TLS 1.2 only)."
        }
    };
    Some(format!("Bad certificate \"{name}\": {remark}; {advice}"))
}

fn about_end(chain: &Chain) -> Option<String> {
    let last = &chain.links.last()?.certificate;
    match chain.end {
        ChainEnd::IssuerMissing => Some(missing_issuer(last)),
        ChainEnd::RootNotTrusted if chain.links.len() == 1 => Some(format!(
            "The server shows a self-signed certificate (\"{}\", SHA-256 {}) that is not in \
             the trust store: add it there if it is the right one, or have one issued by an authority.",
            last.subject, last.fingerprint
        )),
        ChainEnd::RootNotTrusted => Some(format!(
            "The chain ends at \"{}\" (SHA-256 {}), which is not in the trust store: if you trust this authority, add \
             its certificate; an import from the host offers it when the server sent it.",
            last.subject, last.fingerprint
        )),
        ChainEnd::TooLong => Some("The chain is longer than is accepted.".to_owned()),
        ChainEnd::Trusted | ChainEnd::RootRenewed => None,
    }
}

fn missing_issuer(holder: &Certificate) -> String {
    let key = holder.authority_key.as_deref().map(hexadecimal);
    let key = key.map_or_else(String::new, |key| format!(" (key identifier {key})"));
    let from = if holder.issuer_urls.is_empty() {
        "ask the authority for it".to_owned()
    } else {
        format!("it should be available at {}", holder.issuer_urls.join(" and "))
    };
    format!(
        "The certificate of \"{}\"{key}, which issued \"{}\", was not sent by the server and is not in the trust \
         store; {from}. Add it to the trust store, or let the server send it.",
        holder.issuer,
        holder.short_name()
    )
}

fn about_fetched(chain: &Chain) -> Option<String> {
    let fetched = chain.links.iter().find(|link| link.source == Source::Fetched)?;
    Some(format!(
        "The server does not send the certificate of \"{}\": add it to the trust store, or let the server send it.",
        fetched.certificate.subject
    ))
}

/// Faults that no single certificate shows.
fn about_chain_refusal(refusal: &Refusal) -> Option<String> {
    let Refusal::Chain(error) = refusal else {
        return None;
    };
    let reason = if matches!(error, webpki::Error::CaUsedAsEndEntity) {
        "the server uses the certificate of an authority as its own: have a server certificate issued, or add this \
         very certificate to the trust store."
            .to_owned()
    } else if matches!(
        error,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension
    ) {
        "it is not meant for servers: have one issued with the extended key usage \"server authentication\"."
            .to_owned()
    } else if matches!(error, webpki::Error::EndEntityUsedAsCa) {
        "a certificate in its chain was issued by one that is not a certification authority.".to_owned()
    } else if matches!(error, webpki::Error::NameConstraintViolation) {
        "an authority in its chain may not issue for this name.".to_owned()
    } else if matches!(error, webpki::Error::PathLenConstraintViolated) {
        "its chain has more intermediate authorities than one of them allows.".to_owned()
    } else if matches!(error, webpki::Error::UnsupportedCertVersion) {
        "it is an X.509 version 1 certificate: have a version 3 certificate issued.".to_owned()
    } else {
        format!("its chain is not accepted ({error}).")
    };
    Some(format!("Bad certificate: {reason}"))
}

/// A wrong name is reported even if something else is wrong first, so that one new certificate fixes both.
fn about_name(host: &str, chain: &Chain, refusal: &Refusal) -> Option<String> {
    let leaf = &chain.links.first()?.certificate;
    if *refusal == Refusal::NameBeyondConstraints {
        return Some(format!(
            "Only the common name of the certificate is {host}, and an authority in its chain may issue for some \
             names only: have it issued with {host} as a subject alternative name."
        ));
    }
    leaf.names.matching(host).err()?;
    Some(format!(
        "The cas is configured as {host}, and the certificate is for {}: configure the cas by a name that the \
         certificate has, or have one issued for {host}. A wildcard stands for one label only.",
        names_of(leaf)
    ))
}

fn names_of(leaf: &Certificate) -> String {
    let common = leaf.names.common_names.iter().map(|name| format!("CN {name}"));
    let dns = leaf.names.dns_names.iter().map(|name| format!("SAN {name}"));
    let addresses = leaf.names.addresses.iter().map(|name| format!("SAN {name}"));
    let names: Vec<String> = common.chain(dns).chain(addresses).take(NAMES_SHOWN).collect();
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(", ")
    }
}

const NAMES_SHOWN: usize = 12;
