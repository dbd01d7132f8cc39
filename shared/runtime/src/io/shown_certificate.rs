//! Which certificate a client showed whose handshake came to nothing: rustls keeps only those that it accepts.

use std::cell::RefCell;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::certificate_holder::{parse_certificate, peer_identity};

tokio::task_local! {
    static SHOWN: RefCell<Option<String>>;
}

/// Does a handshake; what was noted meanwhile stands beside its outcome.
pub(super) async fn noting<T>(handshake: impl Future<Output = T>) -> (T, Option<String>) {
    let whole = async {
        let outcome = handshake.await;
        (outcome, SHOWN.with(RefCell::take))
    };
    SHOWN.scope(RefCell::default(), whole).await
}

/// For the handshake that goes on in this task, if one does.
pub(super) fn note(text: String) {
    let _ = SHOWN.try_with(|shown| shown.replace(Some(text)));
}

/// Whose certificate this is, who issued it, and who should have.
pub(super) fn describe(certificate: &CertificateDer<'_>, accepted: &RootCertStore) -> String {
    let read = peer_identity(certificate).and_then(|identity| {
        let issuer = parse_certificate(certificate)?.issuer().to_string();
        Ok((identity, issuer))
    });
    let (identity, issuer) = match read {
        Ok(read) => read,
        Err(error) => return format!("the certificate cannot be read: {error}"),
    };
    let names = identity.subject_alternative_names.into_iter();
    let names: Vec<String> = names.chain(identity.common_name).take(NAMES_MAX).collect();
    let authorities: Vec<String> = accepted
        .subjects()
        .iter()
        .take(NAMES_MAX)
        .map(|name| name_of(name.as_ref()))
        .collect();
    format!(
        "the certificate names {names:?} and was issued by {issuer:?}, and accepted authorities are {authorities:?}"
    )
}

fn name_of(der: &[u8]) -> String {
    match X509Name::from_der(der) {
        Ok((_, name)) => name.to_string(),
        Err(_) => "a name that cannot be read".to_owned(),
    }
}

/// More of them help nobody who reads a log.
const NAMES_MAX: usize = 16;
