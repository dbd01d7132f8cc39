//! Certificates out of a file or an answer: PEM, DER, or PKCS #7 as certification authorities hand out (`.p7b`).

use base64::Engine as _;
use thiserror::Error;
use x509_parser::pem::Pem;

use super::parsed::{Certificate, Unreadable};
use super::pkcs7;

/// Every certificate of a file, in its order and each once. Other sections of a PEM file are passed over.
///
/// # Errors
/// When it holds none, or one that cannot be read.
pub fn read_bundle(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    if bytes.len() > BUNDLE_BYTES_MAX {
        return Err(BundleError::TooLarge);
    }
    let certificates = if contains(bytes, b"-----BEGIN ") {
        read_pem(bytes)?
    } else if let Some(der) = bare_base64(bytes) {
        read_der(&der)?
    } else {
        read_der(bytes)?
    };
    let mut distinct: Vec<Certificate> = Vec::new();
    for certificate in certificates {
        if distinct
            .iter()
            .all(|known| known.fingerprint != certificate.fingerprint)
        {
            distinct.push(certificate);
        }
    }
    if distinct.is_empty() {
        return Err(BundleError::Empty);
    }
    Ok(distinct)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    #[error("it holds no certificate: put \"BEGIN CERTIFICATE\" blocks, DER or a .p7b file into it")]
    Empty,
    #[error("it is larger than {} KiB", BUNDLE_BYTES_MAX >> 10)]
    TooLarge,
    #[error("it holds more than {BUNDLE_CERTIFICATES_MAX} certificates")]
    TooMany,
    #[error("a PEM block in it is damaged: export it again")]
    DamagedPem,
    #[error("a certificate in it cannot be read: {0}")]
    Certificate(#[from] Unreadable),
}

fn read_pem(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    let mut certificates = Vec::new();
    for section in Pem::iter_from_buffer(bytes) {
        let section = section.map_err(|_| BundleError::DamagedPem)?;
        match section.label.as_str() {
            // certutil and the web pages of Active Directory write PKCS #7 under this label too.
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                certificates.extend(read_der(&section.contents)?);
            }
            "PKCS7" | "CMS" => certificates.extend(read_pkcs7(&section.contents)?),
            _ => {}
        }
        if certificates.len() > BUNDLE_CERTIFICATES_MAX {
            return Err(BundleError::TooMany);
        }
    }
    Ok(certificates)
}

fn read_der(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    match read_pkcs7(bytes) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Ok(vec![Certificate::parse(bytes)?]),
        Err(error) => Err(error),
    }
}

/// Base64 without the lines of PEM around it; `None` when it is something else.
fn bare_base64(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let decoded = base64::engine::general_purpose::STANDARD.decode(digits).ok()?;
    (!decoded.is_empty()).then_some(decoded)
}

/// None when it is something else.
fn read_pkcs7(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    let Some(elements) = pkcs7::certificates(bytes) else {
        return Ok(Vec::new());
    };
    let mut certificates = Vec::new();
    for element in elements {
        if certificates.len() == BUNDLE_CERTIFICATES_MAX {
            return Err(BundleError::TooMany);
        }
        certificates.push(Certificate::parse(element)?);
    }
    Ok(certificates)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// The list of a whole operating system fits.
pub const BUNDLE_BYTES_MAX: usize = 1 << 20;
pub const BUNDLE_CERTIFICATES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn engine_encoded(der: &[u8]) -> String {
        base64::engine::general_purpose::STANDARD.encode(der)
    }

    /// PKCS #7 around one certificate, without content and signers.
    fn pkcs7_of(certificate: &[u8]) -> Vec<u8> {
        let tagged = |tag: u8, contents: &[u8]| {
            let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], length.as_slice(), contents].concat()
        };
        let data = tagged(
            0x30,
            &tagged(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01]),
        );
        let parts = [
            tagged(0x02, &[1]),
            tagged(0x31, &[]),
            data,
            tagged(0xa0, certificate),
            tagged(0x31, &[]),
        ];
        let kind = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
        let content = tagged(0xa0, &tagged(0x30, &parts.concat()));
        tagged(0x30, &[kind.as_slice(), &content].concat())
    }

    #[test]
    fn a_certificate_is_read_in_every_form_that_windows_exports() {
        let made = rcgen::generate_simple_self_signed(["vip.example.com".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        let wanted = Ok(vec![Certificate::parse(&der).unwrap()]);
        let signed_data = pkcs7_of(&der);
        let with_label = |label: &str, bytes: &[u8]| {
            let text = engine_encoded(bytes);
            let lines: Vec<&str> = text
                .as_bytes()
                .chunks(64)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            format!(
                "-----BEGIN {label}-----\r\n{}\r\n-----END {label}-----\r\n",
                lines.join("\r\n")
            )
        };
        for (form, bytes) in [
            ("DER", der.clone()),
            ("PEM", made.cert.pem().into_bytes()),
            ("base64 alone", format!("{}\n", engine_encoded(&der)).into_bytes()),
            ("PKCS #7", signed_data.clone()),
            ("PKCS #7 in PEM", with_label("PKCS7", &signed_data).into_bytes()),
            (
                "PKCS #7 called a certificate",
                with_label("CERTIFICATE", &signed_data).into_bytes(),
            ),
            (
                "PKCS #7 in base64 alone",
                engine_encoded(&signed_data).into_bytes(),
            ),
        ] {
            assert_eq!(read_bundle(&bytes), wanted, "{form}");
        }
    }

    #[test]
    fn what_is_no_certificate_says_what_to_bring_instead() {
        for (bytes, says) in [
            (&b""[..], "not an X.509 certificate"),
            (b"AAAA", "not an X.509 certificate"),
            (
                b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "holds no certificate",
            ),
            (b"-----BEGIN CERTIFICATE-----\nAA", "damaged"),
        ] {
            let error = read_bundle(bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let long = vec![b'A'; BUNDLE_BYTES_MAX + 1];
        assert_eq!(read_bundle(&long), Err(BundleError::TooLarge));
    }
}
