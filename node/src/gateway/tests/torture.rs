//! The torture messages of RFC 4475 at a node: each as its stream would bring it, and a good request after it.

use std::path::PathBuf;

use tandem_sip::{Frame, Framer, FramerLimits};

use super::bench::*;
use crate::gateway::*;

/// The final answers to the requests of each file. Responses get none; nor does the gateway hear of what is not framed
/// (§3.1.2.2, §3.1.2.3, §3.3.9, §3.4.1): the connection answers that, and closes.
///
/// Where the RFC hopes for another one: §3.1.2.1 and §3.1.2.7 get 415 for their bodies before anybody looks at what
/// else is wrong, as does §3.3.15, whose Accept names nothing that we could answer with. §3.1.2.14 and §3.1.2.15 are
/// understood nevertheless. Nobody registers at a node, so that every REGISTER is 405 whatever is wrong with it.
const ANSWERS: &[(&str, &[u16])] = &[
    ("3.1.1.1-wsinv", &[481]),
    ("3.1.1.2-intmeth", &[501]),
    ("3.1.1.3-esc01", &[415]),
    ("3.1.1.4-escnull", &[405]),
    ("3.1.1.5-esc02", &[501]),
    ("3.1.1.6-lwsdisp", &[200]),
    ("3.1.1.7-longreq", &[415]),
    ("3.1.1.8-dblreq", &[405, 415]),
    ("3.1.1.9-semiuri", &[200]),
    ("3.1.1.10-transports", &[200]),
    ("3.1.1.11-mpart01", &[405]),
    ("3.1.1.12-unreason", &[]),
    ("3.1.1.13-noreason", &[]),
    ("3.1.2.1-badinv01", &[415]),
    ("3.1.2.2-clerr", &[]),
    ("3.1.2.3-ncl", &[]),
    ("3.1.2.4-scalar02", &[400]),
    ("3.1.2.5-scalarlg", &[]),
    ("3.1.2.6-quotbal", &[400]),
    ("3.1.2.7-ltgtruri", &[415]),
    ("3.1.2.8-lwsruri", &[400]),
    ("3.1.2.9-lwsstart", &[400]),
    ("3.1.2.10-trws", &[400]),
    ("3.1.2.11-escruri", &[415]),
    ("3.1.2.12-baddate", &[415]),
    ("3.1.2.13-regbadct", &[405]),
    ("3.1.2.14-badaspec", &[200]),
    ("3.1.2.15-baddn", &[200]),
    ("3.1.2.16-badvers", &[505]),
    ("3.1.2.17-mismatch01", &[400]),
    ("3.1.2.18-mismatch02", &[400]),
    ("3.1.2.19-bigcode", &[]),
    ("3.2.1-badbranch", &[200]),
    ("3.3.1-insuf", &[400]),
    ("3.3.2-unkscm", &[416]),
    ("3.3.3-novelsc", &[416]),
    ("3.3.4-unksm2", &[405]),
    ("3.3.5-bext01", &[420]),
    ("3.3.6-invut", &[415]),
    ("3.3.7-regaut01", &[405]),
    ("3.3.8-multi01", &[400]),
    ("3.3.9-mcl01", &[]),
    ("3.3.10-bcast", &[]),
    ("3.3.11-zeromf", &[200]),
    ("3.3.12-cparam01", &[405]),
    ("3.3.13-cparam02", &[405]),
    ("3.3.14-regescrt", &[405]),
    ("3.3.15-sdp01", &[415]),
    ("3.4.1-inv2543", &[]),
];

#[test]
fn every_torture_message_is_answered_and_the_next_request_is_served() {
    for (name, expected) in ANSWERS {
        let mut bench = Bench::new();
        assert_eq!(answers(&mut bench, &read(name)), *expected, "{name}");
        assert!(bench.proposed.is_empty(), "{name} changes the state");
        bench.sign_in();
    }
}

#[test]
fn every_file_stands_in_the_table() {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".sip").map(str::to_owned))
        .collect();
    let mut listed: Vec<&str> = ANSWERS.iter().map(|(name, _)| *name).collect();
    files.sort_unstable();
    listed.sort_unstable();
    assert_eq!(files, listed);
}

/// RFC 3261 §8.2.2.3; RFC 4475 §3.3.5.
#[test]
fn an_options_that_requires_what_we_do_not_know_is_told_what() {
    let options = String::from_utf8(read("3.3.5-bext01")).unwrap();
    let sent = Bench::new().receive(&options);
    let unsupported = sent[0].header("Unsupported");
    assert_eq!(unsupported, "nothingSupportsThis, nothingSupportsThisEither");
}

/// RFC 3261 §8.2.2.1; RFC 4475 §3.3.2.
#[test]
fn an_invite_for_another_scheme_is_refused_by_its_scheme() {
    let mut bench = Bench::new();
    let text = invite("1", "user1").replacen("INVITE sip:8000@gw.example.com", "INVITE isbn:2983792873", 1);
    assert_eq!(bench.receive(&text)[0].status(), 416);
    let text = invite("2", "user1").replacen("INVITE sip:8000@gw.example.com", "INVITE tel:8000", 1);
    assert_eq!(bench.receive(&text)[0].status(), 200);
}

/// What the gateway answers to everything that can be framed.
fn answers(bench: &mut Bench, stream: &[u8]) -> Vec<u16> {
    let mut framer = Framer::new(FramerLimits::default());
    framer.buffer_mut().extend_from_slice(stream);
    let frames = std::iter::from_fn(|| framer.next_frame());
    frames.flat_map(|frame| answers_to(bench, frame)).collect()
}

fn answers_to(bench: &mut Bench, frame: Frame) -> Vec<u16> {
    let pair = PairId(1);
    match frame {
        Frame::Message(message) => {
            bench.sent.clear();
            bench.input(Input::SipMessage { pair, message });
            bench.sent.drain(..).map(|sent| sent.status()).collect()
        }
        Frame::Refused { message, reason } => {
            let input = Input::SipMessageRefused {
                pair,
                message,
                status: reason.status(),
                reason: "refused",
            };
            bench.handle(input).iter().filter_map(status_sent).collect()
        }
        Frame::KeepAlivePing | Frame::Lost { .. } => Vec::new(),
    }
}

/// Read from the start line alone: the answer repeats whatever the request was refused for.
fn status_sent(output: &Output) -> Option<u16> {
    let Output::Send {
        pair: PairId(1),
        bytes,
    } = output
    else {
        return None;
    };
    let status = bytes.strip_prefix(b"SIP/2.0 ").unwrap();
    Some(std::str::from_utf8(&status[..3]).unwrap().parse().unwrap())
}

fn read(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.sip"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> PathBuf {
    let samples = ["..", "shared", "sip", "testdata", "rfc4475"];
    samples
        .iter()
        .fold(PathBuf::from(env!("CARGO_MANIFEST_DIR")), |path, part| {
            path.join(part)
        })
}
