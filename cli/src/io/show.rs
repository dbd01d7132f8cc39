//! `tandem pki show`.

use std::path::Path;

use tandem_certificate::Certificate;
use tandem_runtime::certificate_holder::peer_identity;
use tandem_runtime::io::certificates::with_causes;
use tandem_runtime::io::command_line::Outcome;

use super::authorities::certificates_in;
use super::now;
use crate::pki::report::describe;

/// A paragraph for each certificate. Not well when a file cannot be read, or a certificate has expired.
pub(super) fn show(paths: &[impl AsRef<Path>]) -> Outcome {
    let mut outcome = Outcome::well("");
    let now = now().unix_timestamp();
    for path in paths {
        match certificates_in(path.as_ref()) {
            Ok(certificates) => {
                for certificate in &certificates {
                    outcome.well &= certificate.not_after > now;
                    let text = describe(certificate, &names(certificate), now);
                    outcome
                        .text
                        .push_str(&format!("{}\n{text}", path.as_ref().display()));
                }
            }
            Err(error) => {
                outcome.well = false;
                eprintln!("tandem: {}", with_causes(&error));
            }
        }
    }
    outcome
}

/// Roles are among them, which are no names of hosts.
fn names(certificate: &Certificate) -> Vec<String> {
    let identity = peer_identity(&certificate.der);
    identity.map_or_else(|_| Vec::new(), |identity| identity.subject_alternative_names)
}
