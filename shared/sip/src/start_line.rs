//! The first line of a message: request, response, something broken, or not SIP at all.

use super::fault::RefusalReason;
use super::scan::Span;
use super::syntax::is_token;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartLine {
    Request { method: Span, uri: Span },
    Response { status: u16, reason: Span },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartLineKind {
    Good(StartLine),
    /// SIP beyond doubt, so the framing behind it can be believed, but not fit to be passed on.
    Refused(StartLine, RefusalReason),
    NotSip,
}

/// `line` is the first line of a message, without its line end.
///
/// A request line whose method is no token is still taken for one: it ends like a start line, and what stands before
/// it may be what a lying Content-Length left over.
pub(super) fn parse_start_line(line: &[u8]) -> StartLineKind {
    if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
        parse_status_line(line)
    } else {
        parse_request_line(line)
    }
}

fn parse_request_line(line: &[u8]) -> StartLineKind {
    let trimmed = line.trim_ascii_end();
    // RFC 3261 §7.1: the version token ends the line. HTTP, RTSP and leftovers of bodies do not end in one.
    let Some(before_version) = trimmed.iter().rposition(|&byte| matches!(byte, b' ' | b'\t')) else {
        return StartLineKind::NotSip;
    };
    let Some(version) = parse_version(&trimmed[before_version + 1..]) else {
        return StartLineKind::NotSip;
    };
    let method_end = trimmed
        .iter()
        .position(|&byte| matches!(byte, b' ' | b'\t'))
        .unwrap_or(before_version);
    let uri = trimmed.get(method_end + 1..before_version).unwrap_or(b"");
    let start_line = StartLine::Request {
        method: Span::new(0, method_end),
        uri: Span::new(method_end + 1, method_end + 1 + uri.len()),
    };
    let spaces_only = !trimmed.contains(&b'\t');
    let well_formed = is_token(&trimmed[..method_end])
        && spaces_only
        && !uri.is_empty()
        && !uri.contains(&b' ')
        && trimmed.len() == line.len();
    classify(start_line, version, well_formed)
}

fn parse_status_line(line: &[u8]) -> StartLineKind {
    let version_end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let Some(version) = parse_version(&line[..version_end]) else {
        return StartLineKind::NotSip;
    };
    let rest = line.get(version_end + 1..).unwrap_or(b"");
    let code = &rest[..memchr::memchr(b' ', rest).unwrap_or(rest.len())];
    let status = parse_status(code);
    let reason = Span::new((version_end + 1 + code.len() + 1).min(line.len()), line.len());
    let start_line = StartLine::Response {
        status: status.unwrap_or(0),
        reason,
    };
    classify(start_line, version, status.is_some())
}

fn classify(start_line: StartLine, version: Version, well_formed: bool) -> StartLineKind {
    match (version, well_formed) {
        (Version::Two, true) => StartLineKind::Good(start_line),
        (Version::Two, false) => StartLineKind::Refused(start_line, RefusalReason::StartLineMalformed),
        (Version::Other, _) => StartLineKind::Refused(start_line, RefusalReason::VersionNotSupported),
    }
}

#[derive(Clone, Copy)]
enum Version {
    Two,
    Other,
}

/// RFC 3261 §7.1: the version string is case-insensitive.
fn parse_version(token: &[u8]) -> Option<Version> {
    let (name, number) = token.split_at_checked(4)?;
    let dot = memchr::memchr(b'.', number)?;
    let (major, minor) = (&number[..dot], &number[dot + 1..]);
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    if !name.eq_ignore_ascii_case(b"SIP/") || !digits(major) || !digits(minor) {
        return None;
    }
    Some(if number == b"2.0" {
        Version::Two
    } else {
        Version::Other
    })
}

fn parse_status(code: &[u8]) -> Option<u16> {
    let &[hundreds @ b'1'..=b'6', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = code else {
        return None;
    };
    Some(u16::from(hundreds - b'0') * 100 + u16::from(tens - b'0') * 10 + u16::from(ones - b'0'))
}
