//! Lines, devices and calls: as the client names them, and as the CTI managers do.

use tandem_sip::Uri;

use crate::csta::{Argument, ConnectionIdentifier, MonitorRequest, Request, SnapshotRequest};

use super::session::Session;

/// The client's device and call ids, in the CTI manager's terms.
pub(super) fn translate_request(session: &Session, request: &Request) -> Request {
    let device = || session.record.device.clone();
    let call =
        |call: &ConnectionIdentifier| ConnectionIdentifier::new(session.pbx_call_id(&call.call_id), device());
    match request {
        Request::Monitor(MonitorRequest::Start { .. }) => {
            Request::Monitor(MonitorRequest::Start { device: device() })
        }
        Request::Snapshot(SnapshotRequest::Device { .. }) => {
            Request::Snapshot(SnapshotRequest::Device { device: device() })
        }
        Request::Call(request) => Request::Call(request.map(|argument| match argument {
            Argument::Device(_) => Argument::Device(device()),
            Argument::Call(named) => Argument::Call(call(named)),
            Argument::Number(number) => Argument::Number(dialled_number(number).unwrap_or_default()),
            Argument::Choice(word) => Argument::Choice(word),
        })),
        Request::System(_)
        | Request::Monitor(MonitorRequest::Stop { .. })
        | Request::Snapshot(SnapshotRequest::Call { .. })
        | Request::Unsupported { .. } => request.clone(),
    }
}

/// What the PBX dials for a called number: the digits of a `tel:` URI, the user of a `sip:` URI.
pub(super) fn dialled_number(text: &str) -> Option<String> {
    let number = match Uri::parse(text) {
        Ok(Uri::Tel(tel)) => tel.number,
        Ok(Uri::Sip(sip)) => sip.user?,
        Ok(Uri::Other(_)) | Err(_) => text.to_owned(),
    };
    // RFC 3966 §3: visual separators mean nothing.
    let number: String = number
        .chars()
        .filter(|character| !matches!(character, '-' | '.' | '(' | ')' | ' '))
        .collect();
    let dialable = |character: char| character.is_ascii_digit() || matches!(character, '+' | '*' | '#');
    (!number.is_empty() && number.len() <= NUMBER_BYTES_MAX && number.chars().all(dialable)).then_some(number)
}

/// Clients write the line URI as they were given it; the number decides.
pub(super) fn is_same_line(text: &str, line: &str) -> bool {
    text == line || dialled_number(text).is_some_and(|number| dialled_number(line) == Some(number))
}

/// `4711;device=SEP0001` → `4711`: a device as the CTI managers name it, without what tells it from its siblings.
pub(super) fn directory_number(device: &str) -> &str {
    device.split(';').next().unwrap_or(device)
}

/// Numbers as the client writes them: its own line byte for byte, others as `tel:` URIs.
pub(super) fn client_device(identifier: &str, device: &str, line: &str) -> String {
    if directory_number(identifier) == directory_number(device) {
        return line.to_owned();
    }
    match Uri::parse(identifier) {
        Ok(Uri::Tel(_) | Uri::Sip(_)) => identifier.to_owned(),
        Ok(Uri::Other(_)) | Err(_) => {
            let number = directory_number(identifier);
            if number.starts_with('+') {
                format!("tel:{number}")
            } else {
                format!("tel:{number};phone-context=dialstring")
            }
        }
    }
}

const NUMBER_BYTES_MAX: usize = 64;
