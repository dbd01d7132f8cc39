//! Envelopes as servers write them: found by position and local name, with what is wrong in them
//! (docs/spec/ews.md §1.7).

use std::fmt;

use super::failure::{Failure, ResponseCode};
use super::retry_after::parse_back_off;
use tandem_xml::{Element, Limits, XmlError, shorten_to};

/// `t:ServerVersionInfo` of an answer's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    pub major: u16,
    pub minor: u16,
    pub build: u16,
    pub revision: u16,
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            build,
            revision,
        } = self;
        write!(formatter, "{major}.{minor}.{build}.{revision}")
    }
}

/// One SOAP document.
#[derive(Debug)]
pub(super) struct Envelope<'a>(Element<'a>);

impl<'a> Envelope<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Failure> {
        Element::parse(bytes, LIMITS).map(Self).map_err(failure_of)
    }

    pub(super) fn server_version(&self) -> Option<ServerVersion> {
        let info = self.0.descendant(&["Header", "ServerVersionInfo"])?;
        let number = |name: &str| info.attribute(name)?.trim().parse().ok();
        Some(ServerVersion {
            major: number("MajorVersion")?,
            minor: number("MinorVersion")?,
            build: number("MajorBuildNumber").unwrap_or(0),
            revision: number("MinorBuildNumber").unwrap_or(0),
        })
    }

    /// The content of the body, unless it is a fault.
    pub(super) fn payload(&self) -> Result<&Element<'a>, Failure> {
        let body = self.0.child("Body");
        let payload = body.and_then(|body| body.children.first());
        let payload = payload.ok_or(Failure::Malformed("no SOAP body, or an empty one"))?;
        match payload.name {
            "Fault" => Err(failure_of_fault(payload)),
            _ => Ok(payload),
        }
    }
}

/// The messages of a response, whatever the names of them and their wrapper.
pub(super) fn response_messages<'e, 'a>(payload: &'e Element<'a>) -> Vec<&'e Element<'a>> {
    let wrapper = payload.child("ResponseMessages").unwrap_or(payload);
    let is_message = |element: &&Element<'_>| {
        element.attribute("ResponseClass").is_some() || element.child("ResponseCode").is_some()
    };
    wrapper.children.iter().filter(is_message).collect()
}

/// The message of a response to a request for a single thing.
pub(super) fn only_message<'e, 'a>(payload: &'e Element<'a>) -> Result<&'e Element<'a>, Failure> {
    let message = response_messages(payload).into_iter().next();
    let message = message.ok_or(Failure::Malformed("no response message"))?;
    check(message)?;
    Ok(message)
}

/// Whether a response message reports success. A warning means that something was not done.
pub(super) fn check(message: &Element<'_>) -> Result<(), Failure> {
    let code = message.child_text("ResponseCode");
    let class = message.attribute("ResponseClass");
    match code {
        Some("NoError") if class.as_deref() != Some("Error") => Ok(()),
        None if class.as_deref() == Some("Success") => Ok(()),
        Some(code) => Err(failure_with(code, message.child_text("MessageText"), message)),
        None => Err(Failure::Malformed("an error without a response code")),
    }
}

/// Exchange puts the code into the detail, gromox into `faultcode` alone, SOAP 1.2 into a subcode.
fn failure_of_fault(fault: &Element<'_>) -> Failure {
    let detail = fault.child("detail").or_else(|| fault.child("Detail"));
    let said = [
        detail.and_then(|detail| detail.child_text("ResponseCode")),
        fault.child("Code").and_then(|code| {
            let subcode = code.child("Subcode")?;
            subcode.child_text("Value")
        }),
        fault.child("Code").and_then(|code| code.child_text("Value")),
        fault.child_text("faultcode"),
    ];
    let Some(code) = said.into_iter().flatten().next() else {
        return Failure::Malformed("a fault without a code");
    };
    let local = code.rsplit_once(':').map_or(code, |(_, local)| local);
    let reason = fault.child("Reason").and_then(|reason| reason.child_text("Text"));
    let message = fault.child_text("faultstring").or(reason);
    failure_with(local, message, detail.unwrap_or(fault))
}

/// `holder` is the element in which `MessageXml` may stand.
fn failure_with(code: &str, message: Option<&str>, holder: &Element<'_>) -> Failure {
    let values = message_values(holder);
    let value = |wanted: &str| {
        let found = values.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, text)| *text)
    };
    Failure::Response {
        code: response_code(code),
        message: shorten_to(message.unwrap_or_default(), MESSAGE_CHARACTERS_MAX).to_owned(),
        back_off: value("BackOffMilliseconds").and_then(parse_back_off),
        primary_address: primary_address(code, &values),
        inner: value("InnerErrorResponseCode").map(response_code),
    }
}

/// `t:MessageXml/t:Value[@Name]`, name and text.
fn message_values<'e>(holder: &'e Element<'_>) -> Vec<(String, &'e str)> {
    let Some(xml) = holder.child("MessageXml") else {
        return Vec::new();
    };
    let named = |value: &'e Element<'_>| Some((value.attribute("Name")?.into_owned(), value.text.as_ref()));
    xml.children.iter().filter_map(named).collect()
}

/// `Name="Primary"`, or under any other name, if it is an address.
fn primary_address(code: &str, values: &[(String, &str)]) -> Option<String> {
    let is_address = |text: &str| text.contains('@') && text.len() <= ADDRESS_BYTES_MAX;
    let found = values.iter().find(|(_, text)| is_address(text));
    found
        .filter(|_| code == "ErrorNonPrimarySmtpAddress")
        .map(|(_, text)| (*text).to_owned())
}

fn response_code(code: &str) -> ResponseCode {
    ResponseCode(shorten_to(code, CODE_CHARACTERS_MAX).to_owned())
}

fn failure_of(error: XmlError) -> Failure {
    match error {
        XmlError::TooLarge { .. } | XmlError::TooManyElements => Failure::TooLarge,
        XmlError::TooDeep => Failure::Malformed("elements are nested too deeply"),
        XmlError::NotUtf8 { .. } => Failure::Malformed("not UTF-8"),
        XmlError::DocumentTypeRefused => Failure::Malformed("a document type is not accepted"),
        XmlError::Malformed { .. } | XmlError::UnknownEntity { .. } => {
            Failure::Malformed("not well-formed XML")
        }
        XmlError::Empty => Failure::Malformed("an empty document"),
    }
}

/// Availability of 100 mailboxes with 500 appointments each fits.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
const LIMITS: Limits = Limits {
    document_bytes_max: ANSWER_BYTES_MAX,
    depth_max: 64,
    elements_max: 300_000,
};
const MESSAGE_CHARACTERS_MAX: usize = 300;
const CODE_CHARACTERS_MAX: usize = 100;
/// RFC 5321 §4.5.3.1: 64 for the local part, 255 for the domain.
const ADDRESS_BYTES_MAX: usize = 320;
