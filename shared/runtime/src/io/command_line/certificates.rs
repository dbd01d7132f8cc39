//! Certificates, as both binaries show them.

use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{ClientError, Table, list_of, word};

/// What the routes take of a file: its text, or its bytes in base64 when it is none.
///
/// # Errors
/// When it cannot be read.
pub fn file_body(file: &Path) -> Result<Value, ClientError> {
    let bytes = std::fs::read(file).map_err(|error| ClientError::File {
        path: file.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => json!({ "pem": text }),
        Err(bytes) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes.as_bytes());
            json!({ "base64": encoded })
        }
    })
}

/// What is trusted, what could not be read, and our own certificate.
#[must_use]
pub fn listed_certificates(answer: &Value) -> String {
    let mut table = Table::new(&["subject", "valid until", "SHA-256 fingerprint", "file"]);
    for certificate in list_of(&answer["trusted"]) {
        table.row([
            word(&certificate["subject"]),
            word(&certificate["not_after"]),
            word(&certificate["sha256_fingerprint"]),
            word(&certificate["file"]),
        ]);
    }
    let mut text = table.text();
    for problem in list_of(&answer["problems"]) {
        text.push_str(&format!(
            "{}: {}\n",
            word(&problem["file"]),
            word(&problem["reason"])
        ));
    }
    let own = &answer["own"];
    if !own.is_null() {
        text.push_str("\nour own:\n");
        text.push_str(&changed_certificates(&own["chain"]));
        if own["requested"].as_bool() == Some(true) {
            text.push_str("a request waits for its signed certificate\n");
        }
    }
    text
}

/// A chain that was installed, and what is missing of it.
#[must_use]
pub fn signed_certificates(answer: &Value) -> String {
    let mut text = changed_certificates(&answer["chain"]);
    if answer["completeness"].as_str() == Some("leaf_only") {
        text.push_str("The issuer is missing: upload the certificate again with the authority's chain.\n");
    }
    text
}

/// Certificates that were added, removed or installed.
#[must_use]
pub fn changed_certificates(certificates: &Value) -> String {
    let mut table = Table::new(&["subject", "valid until", "SHA-256 fingerprint"]);
    for certificate in list_of(certificates) {
        table.row([
            word(&certificate["subject"]),
            word(&certificate["not_after"]),
            word(&certificate["sha256_fingerprint"]),
        ]);
    }
    table.text()
}
