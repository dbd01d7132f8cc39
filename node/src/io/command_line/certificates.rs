//! Certificates: what is trusted, what a host shows, and our own.

use serde_json::{Value, json};
use tandem_runtime::io::command_line::{
    AdminClient, ClientError, Outcome, Table, changed_certificates, file_body, list_of, listed_certificates,
    signed_certificates, word,
};

use super::arguments::{CertificateCommand, Host};

pub(super) fn perform(
    client: &AdminClient,
    command: &CertificateCommand,
    json: bool,
) -> Result<Outcome, ClientError> {
    let shown = |answer: &Value, text: fn(&Value) -> String| match json {
        true => answer.to_string(),
        false => text(answer),
    };
    match command {
        CertificateCommand::List => {
            let answer = client.get(ROUTES)?;
            Ok(Outcome::well(shown(&answer, listed_certificates)))
        }
        CertificateCommand::Diagnose {
            host,
            legacy_algorithms,
        } => {
            let body =
                json!({ "host": host.host, "port": host.port, "legacy_algorithms": legacy_algorithms });
            let answer = client.post(&route("diagnose"), &body)?;
            Ok(Outcome {
                well: is_verified(&answer),
                text: shown(&answer, report_text),
            })
        }
        CertificateCommand::Import {
            host,
            accept,
            private_addresses,
        } => {
            let answer = import(client, host, accept, *private_addresses)?;
            Ok(Outcome {
                well: is_verified(&answer["report"]),
                text: shown(&answer, import_text),
            })
        }
        CertificateCommand::Upload { file } => {
            let answer = client.post(&route("upload"), &file_body(file)?)?;
            Ok(Outcome::well(shown(&answer, changed_certificates)))
        }
        CertificateCommand::Remove { fingerprint } => {
            let body = json!({ "sha256_fingerprint": fingerprint });
            let answer = client.post(&route("remove"), &body)?;
            Ok(Outcome::well(shown(&answer, changed_certificates)))
        }
        CertificateCommand::Request { names } => {
            let common_name = names.first().cloned().unwrap_or_default();
            let body = json!({ "common_name": common_name, "names": names });
            let answer = client.post(&route("csr"), &body)?;
            Ok(Outcome::well(shown(&answer, |answer| {
                word(&answer["request_pem"])
            })))
        }
        CertificateCommand::Signed { file } => {
            let answer = client.post(&route("signed"), &file_body(file)?)?;
            Ok(Outcome::well(shown(&answer, signed_certificates)))
        }
    }
}

/// `recommended` stands for what the host's own offer recommends.
fn import(
    client: &AdminClient,
    host: &Host,
    accept: &[String],
    private_addresses: bool,
) -> Result<Value, ClientError> {
    let body = |accept: &[String]| {
        json!({
            "host": host.host,
            "port": host.port,
            "accept": accept,
            "private_addresses": private_addresses,
        })
    };
    if !accept.iter().any(|word| word == RECOMMENDED) {
        return client.post(&route("import"), &body(accept));
    }
    let offer = client.post(&route("import"), &body(&[]))?;
    let mut fingerprints: Vec<String> = accept
        .iter()
        .filter(|word| *word != RECOMMENDED)
        .cloned()
        .collect();
    for certificate in list_of(&offer["offered"]) {
        if certificate["recommended"].as_bool() == Some(true) {
            fingerprints.push(word(&certificate["sha256_fingerprint"]));
        }
    }
    match fingerprints.is_empty() {
        true => Ok(offer),
        false => client.post(&route("import"), &body(&fingerprints)),
    }
}

/// The certificate viewer (CAL-6).
fn report_text(report: &Value) -> String {
    let mut text = format!(
        "{}:{}  {}\nSSL connection/certificate: {}\n{}\n\n",
        word(&report["host"]),
        word(&report["port"]),
        word(&report["reachability"]),
        word(&report["status"]),
        word(&report["explanation"]),
    );
    let mut table = Table::new(&["chain", "status", "valid until", "key", "signature", "remark"]);
    for element in list_of(&report["chain"]) {
        table.row([
            word(&element["subject"]),
            word(&element["status"]),
            word(&element["not_after"]),
            format!(
                "{} {}",
                word(&element["key_algorithm"]),
                word(&element["key_bits"])
            ),
            word(&element["signature_algorithm"]),
            word(&element["remark"]),
        ]);
    }
    text.push_str(&table.text());
    text
}

fn import_text(answer: &Value) -> String {
    let mut text = report_text(&answer["report"]);
    let offered = list_of(&answer["offered"]);
    if !offered.is_empty() {
        let mut table = Table::new(&[
            "offered",
            "SHA-256 fingerprint",
            "source",
            "trusted",
            "recommended",
        ]);
        for certificate in offered {
            table.row([
                word(&certificate["subject"]),
                word(&certificate["sha256_fingerprint"]),
                word(&certificate["source"]),
                word(&certificate["already_trusted"]),
                word(&certificate["recommended"]),
            ]);
        }
        text.push_str(&format!("\n{}", table.text()));
        text.push_str("\nCompare the fingerprints with the authority's, then: --accept FINGERPRINT or --accept recommended\n");
    }
    for note in list_of(&answer["notes"]) {
        text.push_str(&format!("{}\n", word(note)));
    }
    let installed = list_of(&answer["installed"]);
    if !installed.is_empty() {
        text.push_str("\ntrusted from now on:\n");
        text.push_str(&changed_certificates(&answer["installed"]));
    }
    text
}

fn is_verified(report: &Value) -> bool {
    report["status"].as_str() == Some("Verified")
}

fn route(verb: &str) -> String {
    format!("{ROUTES}/{verb}")
}

const ROUTES: &str = "/exchange/certificates";
const RECOMMENDED: &str = "recommended";
