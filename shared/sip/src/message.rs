//! The typed view of a message, for whoever answers it.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::Headers;
use super::method::{CSeq, CSeqError, Method};
use super::name_addr::{NameAddr, NameAddrError};
use super::raw_message::RawMessage;
use super::reason::reason_phrase;
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
    #[error("{0}")]
    CSeq(#[from] CSeqError),
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
        if self.to().is_ok_and(|to| to.tag().is_none()) {
            self.headers.extend_value("To", &format!(";tag={tag}"));
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
    Ok(CSeq::parse(
        &headers.get("CSeq").ok_or(ParseError::HeaderMissing("CSeq"))?,
    )?)
}

fn top_via(headers: &Headers) -> Result<Via, ParseError> {
    let values = headers.get_all("Via");
    Ok(Via::parse(
        values.first().ok_or(ParseError::HeaderMissing("Via"))?,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(bytes: impl Into<Vec<u8>>) -> RawMessage {
        RawMessage::parse(bytes.into().into()).unwrap()
    }

    fn request(bytes: impl Into<Vec<u8>>) -> Request {
        match Message::parse(&raw(bytes)).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => panic!("a response"),
        }
    }

    const INVITE: &str = "INVITE sip:b@h;opaque=user:epid:abc;gruu SIP/2.0\r\n\
        v: SIP/2.0/TLS one;branch=z9hG4bK1 , SIP/2.0/TLS 10.1.1.5:50123\r\n\
        Record-Route: <sip:pool;lr;ms-key-info=AAEAAQ==>,<sip:edge;lr>\r\n\
        f: \"Joe\"\r\n\t<sip:joe@example.com> ; tag = 1;epid=ab\r\n\
        t: <sip:8000@gw.example.com>\r\n\
        i: 5D3Dg0E65a9F86\r\n\
        CSeq: 0001  INVITE\r\n\
        m: <sip:joe@example.com;opaque=user:epid:abc;gruu>\r\n\
        Subject : x\r\n\
        k: timer, ms-early-media\r\n\
        Content-Type: application/csta+xml\r\n\
        l: 4\r\n\r\n<a/>";

    #[test]
    fn an_invite_of_a_client_is_read_whole() {
        let request = request(INVITE);
        assert_eq!(
            (&request.method, &*request.uri),
            (&Method::Invite, "sip:b@h;opaque=user:epid:abc;gruu")
        );
        assert_eq!(request.body, "<a/>");
        let from = request.from().unwrap();
        assert_eq!(
            (from.tag(), from.params.get("epid"), &*from.uri),
            (Some("1"), Some("ab"), "sip:joe@example.com")
        );
        assert_eq!(request.to().unwrap().tag(), None);
        assert_eq!(
            request.cseq(),
            Ok(CSeq {
                number: 1,
                method: Method::Invite
            })
        );
        assert_eq!(request.top_via().unwrap().branch(), Some("z9hG4bK1"));
        assert_eq!(request.headers.get_all("Via").len(), 2);
        assert_eq!(
            request.headers.get_all("Record-Route")[0],
            "<sip:pool;lr;ms-key-info=AAEAAQ==>"
        );
        assert_eq!(
            request.headers.get("From").as_deref(),
            Some("\"Joe\" <sip:joe@example.com> ; tag = 1;epid=ab")
        );
        assert_eq!(request.headers.get("Subject").as_deref(), Some("x"));
        assert!(request.headers.lists("Supported", "timer"));
    }

    #[test]
    fn an_answer_repeats_what_identifies_the_request_byte_for_byte() {
        let mut response = request(INVITE).response(200, "");
        response.set_to_tag("n1-77");
        response.set_to_tag("n1-78");
        response.headers.append("Contact", "<sip:8000@gw1>");
        response.body = Bytes::from_static(b"<b/>");
        let expected = "SIP/2.0 200 OK\r\n\
            Via: SIP/2.0/TLS one;branch=z9hG4bK1 , SIP/2.0/TLS 10.1.1.5:50123\r\n\
            Record-Route: <sip:pool;lr;ms-key-info=AAEAAQ==>,<sip:edge;lr>\r\n\
            From: \"Joe\"\r\n\t<sip:joe@example.com> ; tag = 1;epid=ab\r\n\
            To: <sip:8000@gw.example.com>;tag=n1-77\r\n\
            Call-ID: 5D3Dg0E65a9F86\r\n\
            CSeq: 0001  INVITE\r\n\
            Contact: <sip:8000@gw1>\r\n\
            Content-Length: 4\r\n\r\n<b/>";
        assert_eq!(response.write(), expected);
    }

    #[test]
    fn a_latin_1_byte_is_text_to_us_and_leaves_as_it_came() {
        let latin: Vec<u8> = INVITE
            .bytes()
            .map(|byte| if byte == b'J' { 0xdc } else { byte })
            .collect();
        let request = request(latin);
        assert_eq!(request.from().unwrap().display_name.as_deref(), Some("Üoe"));
        assert!(
            request
                .response(200, "")
                .write()
                .windows(4)
                .any(|bytes| bytes == b"\"\xdco\x65")
        );
    }

    #[test]
    fn a_body_may_hold_any_byte() {
        let body: Vec<u8> = (0..=255).collect();
        let mut bytes = INVITE.replace("l: 4\r\n\r\n<a/>", "l: 256\r\n\r\n").into_bytes();
        bytes.extend_from_slice(&body);
        let request = request(bytes);
        assert_eq!(request.body, body);
        assert!(request.write().ends_with(&body));
    }

    #[test]
    fn methods_and_headers_nobody_knows_survive() {
        let text = INVITE
            .replace("INVITE", "BENOTIFY")
            .replace("Subject : x", "ms-Strange:;;,");
        let request = request(text);
        assert_eq!(request.method, Method::Other("BENOTIFY".to_owned()));
        assert_eq!(request.cseq().unwrap().method, request.method);
        assert_eq!(request.headers.get("MS-strange").as_deref(), Some(";;,"));
        assert_eq!(Method::from("invite"), Method::Other("invite".to_owned()));
    }

    #[test]
    fn a_reason_phrase_stays_as_it_came() {
        let text = INVITE.replace(
            "INVITE sip:b@h;opaque=user:epid:abc;gruu SIP/2.0",
            "SIP/2.0 486 Besetzt Ü",
        );
        let Ok(Message::Response(response)) = Message::parse(&raw(text)) else {
            panic!("no response")
        };
        assert_eq!((response.status, &*response.reason), (486, "Besetzt Ü"));
        assert!(
            response
                .write()
                .starts_with("SIP/2.0 486 Besetzt Ü\r\n".as_bytes())
        );
    }

    #[test]
    fn a_request_uri_that_is_no_sip_uri_is_left_alone() {
        let request = request(INVITE.replace(
            "sip:b@h;opaque=user:epid:abc;gruu",
            "tel:4711;phone-context=dialstring",
        ));
        assert_eq!(request.uri, "tel:4711;phone-context=dialstring");
    }

    #[test]
    fn the_length_is_always_ours() {
        let mut request = Request::new(Method::Info, "sip:a@b");
        request.headers.append("Content-Length", "99");
        request.headers.append("l", "98");
        request.body = Bytes::from_static(b"12345");
        assert_eq!(
            request.write(),
            "INFO sip:a@b SIP/2.0\r\nContent-Length: 5\r\n\r\n12345"
        );
    }

    #[test]
    fn rsip_reads_what_we_write() {
        let written = request(INVITE).response(200, "").write();
        let theirs = rsip::Response::try_from(&written[..]);
        // rsip refuses folding; without it, both read the same.
        assert!(theirs.is_err());
        let unfolded = request(INVITE.replace("\r\n\t", " ")).response(200, "").write();
        let theirs = rsip::Response::try_from(&unfolded[..]).unwrap();
        assert_eq!(theirs.status_code, rsip::StatusCode::OK);
        assert_eq!(theirs.headers.iter().count(), raw(unfolded).headers().count());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_message_read_and_written_reads_the_same(
            uri in "sip:[a-z;?=]{1,12}",
            value in "[!-~][ -~]{0,30}",
            body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut first = request(INVITE);
            first.uri = uri;
            first.headers.append("Extra", value.trim());
            first.body = body.into();
            let written = first.write();
            let second = request(written.to_vec());
            prop_assert_eq!(second.write(), written);
            prop_assert_eq!(second.headers.get("Extra"), first.headers.get("Extra"));
            prop_assert_eq!(second.body, first.body);
        }

        #[test]
        fn no_damage_makes_it_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = INVITE.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(raw) = RawMessage::parse(bytes.into())
                && let Ok(Message::Request(request)) = Message::parse(&raw)
            {
                let _ = (request.from(), request.to(), request.cseq(), request.top_via());
                prop_assert!(RawMessage::parse(request.response(400, "").write()).is_ok());
            }
        }
    }
}
