//! The torture messages of RFC 4475 on a stream: what the framer makes of each, what the typed view reads in those that
//! are passed on, and that the next message is read wherever it can still be found.

use std::path::PathBuf;

use bytes::Bytes;

use super::{Frame, Framer, FramerLimits, Message, NameAddr, Phase, RawMessage, Request, Response, Uri};

/// What the framer makes of each message, in the order of the sections.
///
/// Where it is stricter than the RFC asks: RFC 4475 §3.1.2.8 to §3.1.2.10 let an element overlook the white space
/// around the Request-URI. We do not, since a second reader might find another end of the line.
/// Where it is more patient: §3.1.2.1, §3.1.2.7 and §3.1.2.11 to §3.1.2.15 may be refused with 400. Nothing by which a
/// message is framed or routed is wrong with them, so they are passed on to whom they concern.
const FRAMES: &[(&str, &[&str])] = &[
    ("3.1.1.1-wsinv", &["message"]),
    ("3.1.1.2-intmeth", &["message"]),
    ("3.1.1.3-esc01", &["message"]),
    ("3.1.1.4-escnull", &["message"]),
    ("3.1.1.5-esc02", &["message"]),
    ("3.1.1.6-lwsdisp", &["message"]),
    ("3.1.1.7-longreq", &["message"]),
    // The rest of a datagram is to be ignored. On a stream it is the next message, whose body is longer than it says.
    ("3.1.1.8-dblreq", &["message", "message", "lost not_sip"]),
    ("3.1.1.9-semiuri", &["message"]),
    ("3.1.1.10-transports", &["message"]),
    ("3.1.1.11-mpart01", &["message"]),
    ("3.1.1.12-unreason", &["message"]),
    ("3.1.1.13-noreason", &["message"]),
    ("3.1.2.1-badinv01", &["message"]),
    ("3.1.2.2-clerr", &[]),
    ("3.1.2.3-ncl", &["lost 400 content_length_malformed"]),
    ("3.1.2.4-scalar02", &["refused cseq_malformed"]),
    ("3.1.2.5-scalarlg", &["refused cseq_malformed"]),
    ("3.1.2.6-quotbal", &["refused address_malformed"]),
    ("3.1.2.7-ltgtruri", &["message"]),
    ("3.1.2.8-lwsruri", &["refused start_line_malformed"]),
    ("3.1.2.9-lwsstart", &["refused start_line_malformed"]),
    ("3.1.2.10-trws", &["refused start_line_malformed"]),
    ("3.1.2.11-escruri", &["message"]),
    ("3.1.2.12-baddate", &["message"]),
    ("3.1.2.13-regbadct", &["message"]),
    ("3.1.2.14-badaspec", &["message"]),
    ("3.1.2.15-baddn", &["message"]),
    ("3.1.2.16-badvers", &["refused version_not_supported"]),
    ("3.1.2.17-mismatch01", &["refused cseq_method_mismatch"]),
    ("3.1.2.18-mismatch02", &["refused cseq_method_mismatch"]),
    ("3.1.2.19-bigcode", &["refused start_line_malformed"]),
    ("3.2.1-badbranch", &["message"]),
    ("3.3.1-insuf", &["refused header_missing"]),
    ("3.3.2-unkscm", &["message"]),
    ("3.3.3-novelsc", &["message"]),
    ("3.3.4-unksm2", &["message"]),
    ("3.3.5-bext01", &["message"]),
    ("3.3.6-invut", &["message"]),
    ("3.3.7-regaut01", &["message"]),
    ("3.3.8-multi01", &["refused header_duplicate"]),
    ("3.3.9-mcl01", &["lost 400 content_length_duplicate"]),
    ("3.3.10-bcast", &["message"]),
    ("3.3.11-zeromf", &["message"]),
    ("3.3.12-cparam01", &["message"]),
    ("3.3.13-cparam02", &["message"]),
    ("3.3.14-regescrt", &["message"]),
    ("3.3.15-sdp01", &["message"]),
    // RFC 2543 could do without a length; a stream cannot (RFC 3261 §20.14).
    ("3.4.1-inv2543", &["lost 400 content_length_missing"]),
];

#[test]
fn every_file_stands_in_the_table() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".sip").map(str::to_owned))
        .collect();
    let mut listed: Vec<&str> = FRAMES.iter().map(|(name, _)| *name).collect();
    files.sort_unstable();
    listed.sort_unstable();
    assert_eq!(files, listed);
    assert_eq!(listed.len(), 49, "RFC 4475 has so many");
}

#[test]
fn each_is_framed_as_listed_and_the_next_message_is_read_wherever_it_can_be_found() {
    for (name, expected) in FRAMES {
        let message = read(name);
        let stream = [&message[..], GOOD.as_bytes()].concat();
        let (mut frames, phase) = frames_of([&stream[..]]);
        let (one_by_one, _) = frames_of(stream.chunks(1));
        assert_eq!(labels(&one_by_one), labels(&frames), "{name}, byte by byte");
        match expected.last() {
            Some(last) if last.starts_with("lost") => assert_eq!(phase, Phase::Boundary, "{name}"),
            Some(_) => {
                let Some(Frame::Message(next)) = frames.pop() else {
                    panic!("{name}: the message behind it is not read");
                };
                assert_eq!(next.bytes(), GOOD.as_bytes(), "{name}");
                assert_eq!(phase, Phase::Boundary, "{name}");
            }
            None => assert_eq!(phase, Phase::Body, "{name}"),
        }
        assert_eq!(labels(&frames), *expected, "{name}");
    }
}

#[test]
fn what_is_passed_on_is_passed_on_whole() {
    for (name, _) in FRAMES.iter().filter(|(_, frames)| *frames == ["message"]) {
        assert_eq!(raw(name).bytes(), &read(name), "{name}");
    }
    let (frames, _) = frames_of([&read("3.1.1.8-dblreq")[..]]);
    let [Frame::Message(first), Frame::Message(second), ..] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!(
        (first.method(), second.method()),
        (Some(&b"REGISTER"[..]), Some(&b"INVITE"[..]))
    );
}

/// From, To, CSeq and the top Via of everything that is passed on can be read, and survive being written.
#[test]
fn the_typed_view_reads_whatever_is_passed_on_and_writes_it_so_that_it_reads_the_same() {
    for (name, _) in FRAMES.iter().filter(|(_, frames)| *frames == ["message"]) {
        let raw = raw(name);
        let message = Message::parse(&raw).unwrap();
        let (from, to, cseq, via) = match &message {
            Message::Request(request) => (request.from(), request.to(), request.cseq(), request.top_via()),
            Message::Response(response) => (
                response.from(),
                response.to(),
                response.cseq(),
                response.top_via(),
            ),
        };
        let (from, to) = (from.unwrap(), to.unwrap());
        let tags = (from.tag().map(str::as_bytes), to.tag().map(str::as_bytes));
        assert_eq!(tags, (raw.from_tag(), raw.to_tag()), "{name}");
        assert_eq!(cseq.unwrap().number, raw.cseq_number(), "{name}");
        assert_eq!(
            via.unwrap().branch().map(str::as_bytes),
            raw.via_branch(),
            "{name}"
        );
        for contact in message.headers().get_all("Contact") {
            assert!(NameAddr::parse(&contact).is_ok(), "{name}: {contact}");
        }
        let again = RawMessage::parse(message.write()).unwrap();
        assert_eq!(again.transaction_key(), raw.transaction_key(), "{name}");
        assert_eq!(Message::parse(&again).unwrap().write(), message.write(), "{name}");
    }
}

/// Of what the sections say is to be read in their messages.
#[test]
fn the_valid_requests_read_as_their_sections_say() {
    let wsinv = request("3.1.1.1-wsinv");
    assert_eq!(
        wsinv.from().unwrap().display_name.as_deref(),
        Some("J Rosenberg \\\"")
    );
    assert_eq!(
        (wsinv.from().unwrap().tag(), wsinv.to().unwrap().tag()),
        (Some("98asjd8"), Some("1918181833n"))
    );
    assert_eq!(
        (wsinv.cseq().unwrap().number, wsinv.headers.get_all("Via").len()),
        (9, 3)
    );
    assert_eq!(wsinv.headers.get("Max-Forwards").as_deref(), Some("0068"));
    let route = "<sip:services.example.com;lr;unknownwith=value;unknown-no-value>";
    assert_eq!(wsinv.headers.get_all("Route"), [route]);

    let intmeth = request("3.1.1.2-intmeth");
    assert_eq!(
        intmeth.method.as_str(),
        "!interesting-Method0123456789_*+`.%indeed'~"
    );
    assert_eq!(
        intmeth.to().unwrap().display_name.as_deref(),
        Some("BEL:\u{7} NUL:\0 DEL:\u{7f}")
    );
    assert_eq!(
        intmeth.from().unwrap().display_name.as_deref(),
        Some("token1~` token2'+_ token3*%!.-")
    );
    assert_eq!(intmeth.from().unwrap().tag(), Some("_token~1'+`*%!-."));
    assert_eq!(
        intmeth.headers.get("EXTENSIONHEADER-!.%*+_`'~").as_deref(),
        Some("\u{feff}大停電")
    );

    // An escaped name is no name: neither method nor header is unescaped.
    let esc02 = request("3.1.1.5-esc02");
    assert_eq!(esc02.method.as_str(), "RE%47IST%45R");
    assert_eq!(esc02.headers.get_all("Contact").len(), 2);
    assert_eq!(esc02.to().unwrap().display_name.as_deref(), Some("%Z%45"));

    assert_eq!(
        request("3.1.1.6-lwsdisp").from().unwrap().display_name.as_deref(),
        Some("caller")
    );
    let longreq = request("3.1.1.7-longreq");
    assert_eq!(longreq.headers.get_all("Via").len(), 34);
    assert_eq!(longreq.body.len(), 150);
    assert_eq!(request("3.1.1.10-transports").headers.get_all("Via").len(), 5);
    let mpart01 = request("3.1.1.11-mpart01");
    assert!(
        mpart01.body.len() == 553 && mpart01.body.contains(&0),
        "the body is binary"
    );
}

#[test]
fn the_uris_read_as_their_sections_say() {
    let user_and_host = |uri: &str| match Uri::parse(uri) {
        Ok(Uri::Sip(sip)) => (sip.user, sip.host),
        other => panic!("{uri}: {other:?}"),
    };
    for (name, user, host) in [
        ("3.1.1.3-esc01", "sips%3Auser%40example.com", "example.net"),
        ("3.1.1.9-semiuri", "user;par=u%40example.net", "example.com"),
        (
            "3.1.1.2-intmeth",
            "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*",
            "example.com",
        ),
    ] {
        let uri = user_and_host(&request(name).uri);
        assert_eq!(uri, (Some(user.to_owned()), host.to_owned()), "{name}");
    }
    let escnull = request("3.1.1.4-escnull").to().unwrap();
    assert_eq!(user_and_host(&escnull.uri).0.as_deref(), Some("null-%00-null"));
    assert!(matches!(
        Uri::parse(&request("3.3.2-unkscm").uri),
        Ok(Uri::Other(_))
    ));
    assert!(matches!(
        Uri::parse(&request("3.3.3-novelsc").uri),
        Ok(Uri::Other(_))
    ));
    assert!(Uri::parse(&request("3.1.2.7-ltgtruri").uri).is_err());
}

/// RFC 4475 §3.3.12, §3.3.13: without angle brackets a parameter is the header's, within them the URI's.
#[test]
fn parameters_of_a_contact_belong_where_they_stand() {
    let contact = |name| NameAddr::parse(&request(name).headers.get("Contact").unwrap()).unwrap();
    let of_header = contact("3.3.12-cparam01");
    assert_eq!(of_header.uri, "sip:+19725552222@gw1.example.net");
    assert!(of_header.params.contains("unknownparam"));
    let of_uri = contact("3.3.13-cparam02");
    assert_eq!(of_uri.uri, "sip:+19725552222@gw1.example.net;unknownparam");
    assert!(!of_uri.params.contains("unknownparam"));
}

#[test]
fn the_responses_read_as_their_sections_say() {
    let reason = "= 2**3 * 5**2 но сто девяносто девять - простое";
    let unreason = response("3.1.1.12-unreason");
    assert_eq!((unreason.status, &*unreason.reason), (200, reason));
    let noreason = response("3.1.1.13-noreason");
    assert_eq!((noreason.status, &*noreason.reason), (100, ""));
    assert_eq!(response("3.3.10-bcast").headers.get_all("Via").len(), 2);
}

/// What came out, and what the framer waits for then.
fn frames_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Phase) {
    let mut framer = Framer::new(FramerLimits::default());
    let mut frames = Vec::new();
    for piece in pieces {
        framer.buffer_mut().extend_from_slice(piece);
        frames.extend(std::iter::from_fn(|| framer.next_frame()));
    }
    (frames, framer.phase())
}

fn labels(frames: &[Frame]) -> Vec<String> {
    let label = |frame: &Frame| match frame {
        Frame::Message(_) => "message".to_owned(),
        Frame::KeepAlivePing => "ping".to_owned(),
        Frame::Refused { reason, .. } => format!("refused {}", reason.label()),
        Frame::Lost { answer, reason } => match answer {
            Some((_, status)) => format!("lost {status} {}", reason.label()),
            None => format!("lost {}", reason.label()),
        },
    };
    frames.iter().map(label).collect()
}

fn request(name: &str) -> Request {
    match Message::parse(&raw(name)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{name}: {other:?}"),
    }
}

fn response(name: &str) -> Response {
    match Message::parse(&raw(name)) {
        Ok(Message::Response(response)) => response,
        other => panic!("{name}: {other:?}"),
    }
}

fn raw(name: &str) -> RawMessage {
    RawMessage::parse(read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read(name: &str) -> Bytes {
    let path = folder().join(format!("{name}.sip"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "testdata", "rfc4475"]
        .iter()
        .collect()
}

const GOOD: &str = "OPTIONS sip:good@example.com SIP/2.0\r\n\
    Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKgood\r\n\
    From: <sip:caller@example.net>;tag=good\r\n\
    To: <sip:good@example.com>\r\n\
    Call-ID: good\r\n\
    CSeq: 1 OPTIONS\r\n\
    Content-Length: 4\r\n\r\ngood";
