//! The typed view of a message, for whoever answers it.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};

use super::header::Headers;
use super::name_addr::{NameAddr, NameAddrError};
use super::raw_message::RawMessage;
use super::syntax::to_text;
use super::via::{Via, ViaError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Request(Request),
    Response(Response),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// As written: routes and contacts go out byte for byte as they came in.
    pub uri: String,
    pub headers: Headers,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub reason: String,
    pub headers: Headers,
    pub body: Bytes,
}

/// Why a well-framed message has no typed view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the start line is no text")]
    StartLineMalformed,
    #[error("{0} is missing")]
    HeaderMissing(&'static str),
    #[error("CSeq is malformed")]
    CSeqMalformed,
    #[error("{0}")]
    Address(#[from] NameAddrError),
    #[error("{0}")]
    Via(#[from] ViaError),
}

impl Message {
    pub fn parse(raw: &RawMessage) -> Result<Self, ParseError> {
        let headers = parse_headers(raw);
        let body = raw.body();
        if let Some(status) = raw.status() {
            let reason = to_text(raw.reason().unwrap_or(b"")).into_owned();
            return Ok(Self::Response(Response {
                status,
                reason,
                headers,
                body,
            }));
        }
        let method = Method::from(text(raw.method())?);
        let uri = text(raw.request_uri())?.to_owned();
        Ok(Self::Request(Request {
            method,
            uri,
            headers,
            body,
        }))
    }

    #[must_use]
    pub fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }

    #[must_use]
    pub fn write(&self) -> Bytes {
        match self {
            Self::Request(request) => request.write(),
            Self::Response(response) => response.write(),
        }
    }
}

impl Request {
    #[must_use]
    pub fn new(method: Method, uri: impl Into<String>) -> Self {
        Self {
            method,
            uri: uri.into(),
            headers: Headers::new(),
            body: Bytes::new(),
        }
    }

    /// Begins an answer: Via, Record-Route, From, To, Call-ID and CSeq are copied byte for byte.
    ///
    /// The To-tag is the caller's to add ([`Response::set_to_tag`]). An empty reason means the standard one.
    #[must_use]
    pub fn response(&self, status: u16, reason: &str) -> Response {
        let mut response = Response::new(status, reason);
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            response.headers.copy_from(&self.headers, name);
        }
        response
    }

    /// Content-Length is written anew, last.
    #[must_use]
    pub fn write(&self) -> Bytes {
        let uri = self.uri.replace(char::is_whitespace, "");
        write_message(
            &format!("{} {uri} SIP/2.0\r\n", self.method),
            &self.headers,
            &self.body,
        )
    }

    pub fn from(&self) -> Result<NameAddr, ParseError> {
        address(&self.headers, "From")
    }

    pub fn to(&self) -> Result<NameAddr, ParseError> {
        address(&self.headers, "To")
    }

    pub fn cseq(&self) -> Result<CSeq, ParseError> {
        cseq(&self.headers)
    }

    pub fn top_via(&self) -> Result<Via, ParseError> {
        top_via(&self.headers)
    }
}

impl Response {
    /// Without headers. An empty reason means the standard one.
    #[must_use]
    pub fn new(status: u16, reason: &str) -> Self {
        let reason = if reason.is_empty() {
            reason_phrase(status)
        } else {
            reason.to_owned()
        };
        Self {
            status,
            reason,
            headers: Headers::new(),
            body: Bytes::new(),
        }
    }

    /// Adds the tag to To unless it has one. Nothing else of the value changes.
    pub fn set_to_tag(&mut self, tag: &str) {
        let Some(to) = self.headers.get_bytes("To") else {
            return;
        };
        let has_tag = self.to().map_or(true, |to| to.tag().is_some());
        if !has_tag {
            let tagged = [to, b";tag=", tag.as_bytes()].concat();
            self.headers.set("To", tagged);
        }
    }

    /// Content-Length is written anew, last.
    #[must_use]
    pub fn write(&self) -> Bytes {
        let reason = self.reason.replace(['\r', '\n'], " ");
        write_message(
            &format!("SIP/2.0 {} {reason}\r\n", self.status),
            &self.headers,
            &self.body,
        )
    }

    pub fn from(&self) -> Result<NameAddr, ParseError> {
        address(&self.headers, "From")
    }

    pub fn to(&self) -> Result<NameAddr, ParseError> {
        address(&self.headers, "To")
    }

    pub fn cseq(&self) -> Result<CSeq, ParseError> {
        cseq(&self.headers)
    }

    pub fn top_via(&self) -> Result<Via, ParseError> {
        top_via(&self.headers)
    }
}

/// Methods are case-sensitive, and anyone may invent one (RFC 3261 §7.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Options,
    Info,
    Update,
    Register,
    Subscribe,
    Notify,
    Message,
    Refer,
    Prack,
    Publish,
    Other(String),
}

impl Method {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Options => "OPTIONS",
            Self::Info => "INFO",
            Self::Update => "UPDATE",
            Self::Register => "REGISTER",
            Self::Subscribe => "SUBSCRIBE",
            Self::Notify => "NOTIFY",
            Self::Message => "MESSAGE",
            Self::Refer => "REFER",
            Self::Prack => "PRACK",
            Self::Publish => "PUBLISH",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Self {
        match name {
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "OPTIONS" => Self::Options,
            "INFO" => Self::Info,
            "UPDATE" => Self::Update,
            "REGISTER" => Self::Register,
            "SUBSCRIBE" => Self::Subscribe,
            "NOTIFY" => Self::Notify,
            "MESSAGE" => Self::Message,
            "REFER" => Self::Refer,
            "PRACK" => Self::Prack,
            "PUBLISH" => Self::Publish,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl FromStr for Method {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(Self::from(name))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CSeq {
    pub number: u32,
    pub method: Method,
}

impl CSeq {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parts = text.split_whitespace();
        let (Some(number), Some(method), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ParseError::CSeqMalformed);
        };
        let number = number.parse().map_err(|_| ParseError::CSeqMalformed)?;
        Ok(Self {
            number,
            method: Method::from(method),
        })
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.number, self.method)
    }
}

/// The standard phrase for a status (RFC 3261 §21 and its extensions); the name of its class where there is none.
#[must_use]
pub fn reason_phrase(status: u16) -> String {
    if let Some((_, phrase)) = PHRASES.iter().find(|(code, _)| *code == status) {
        return (*phrase).to_owned();
    }
    match rsip::StatusCode::from(status) {
        rsip::StatusCode::Other(..) => class_phrase(status).to_owned(),
        known => split_words(known.to_string().split_once(' ').map_or("", |(_, name)| name)),
    }
}

/// rsip names its codes in one word: `BusyHere`.
fn split_words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character);
    }
    words
}

fn class_phrase(status: u16) -> &'static str {
    match status / 100 {
        1 => "Session Progress",
        2 => "OK",
        3 => "Redirection",
        4 => "Bad Request",
        5 => "Server Internal Error",
        _ => "Decline",
    }
}

fn text(part: Option<&[u8]>) -> Result<&str, ParseError> {
    part.and_then(|part| std::str::from_utf8(part).ok())
        .ok_or(ParseError::StartLineMalformed)
}

fn parse_headers(raw: &RawMessage) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in raw.headers() {
        headers.append_received(name, raw.bytes().slice_ref(value));
    }
    headers
}

fn write_message(start_line: &str, headers: &Headers, body: &Bytes) -> Bytes {
    let mut message = BytesMut::with_capacity(1024 + body.len());
    message.put_slice(start_line.as_bytes());
    for (name, value) in headers.iter().filter(|(name, _)| *name != "Content-Length") {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            message.put_slice(part);
        }
    }
    message.put_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    message.put_slice(body);
    message.freeze()
}

fn address(headers: &Headers, name: &'static str) -> Result<NameAddr, ParseError> {
    let value = headers.get(name).ok_or(ParseError::HeaderMissing(name))?;
    Ok(NameAddr::parse(&value)?)
}

fn cseq(headers: &Headers) -> Result<CSeq, ParseError> {
    CSeq::parse(&headers.get("CSeq").ok_or(ParseError::HeaderMissing("CSeq"))?)
}

fn top_via(headers: &Headers) -> Result<Via, ParseError> {
    let values = headers.get_all("Via");
    Ok(Via::parse(
        values.first().ok_or(ParseError::HeaderMissing("Via"))?,
    )?)
}

/// Where capitals do not tell the standards' spelling.
const PHRASES: &[(u16, &str)] = &[
    (200, "OK"),
    (414, "Request-URI Too Long"),
    (416, "Unsupported URI Scheme"),
    (481, "Call/Transaction Does Not Exist"),
    (504, "Server Time-out"),
    (606, "Not Acceptable"),
];
