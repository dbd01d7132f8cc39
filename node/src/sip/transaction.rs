//! Server transactions, as far as a UAS on a reliable transport has them (RFC 3261 §17.2): what an answer looks like,
//! and how long an opening INVITE waits.
//!
//! Nothing is retransmitted and nothing absorbed: TCP repeats no request, and a client's CSeq starts again at will.
//! An ACK needs no matching either, since a 200 is not sent twice.

use std::time::Duration;

use bytes::Bytes;
use tandem_cluster::SessionRecord;
use tandem_sip::{RawMessage, Request, write_answer};

use crate::csta;

use super::dialog::{CONTENT_DISPOSITION, USER_AGENT};

/// RFC 3261 §17.2.1: 100 Trying when no final answer is there after 200 ms.
pub const TRYING_AFTER: Duration = Duration::from_millis(200);

/// 100 Trying. RFC 3261 §8.2.6.2: it carries no tag.
#[must_use]
pub fn trying(invite: &RawMessage) -> Bytes {
    write_answer(invite, 100, "Trying", "", &[])
}

/// An answer without a body. RFC 3261 §8.2.6.2: the answer to a request without a To-tag needs one.
#[must_use]
pub fn plain(request: &RawMessage, status: u16, to_tag: &str, extra_headers: &[(&str, &str)]) -> Bytes {
    debug_assert!(
        request.to_tag().is_some() || !to_tag.is_empty(),
        "{status} without a To-tag"
    );
    let reason = tandem_sip::reason_phrase(status);
    write_answer(request, status, &reason, to_tag, extra_headers)
}

/// 200 to a request inside a dialog, with a CSTA body.
#[must_use]
pub fn with_csta(request: &Request, body: &str) -> Bytes {
    let mut response = request.response(200, "OK");
    response
        .headers
        .append("Content-Disposition", CONTENT_DISPOSITION);
    response.headers.append("Content-Type", csta::CONTENT_TYPE);
    response.body = Bytes::copy_from_slice(body.as_bytes());
    response.write()
}

/// 200 to an opening or refreshing INVITE (`UPDATE` likewise, without a body).
#[must_use]
pub fn session_answer(
    request: &Request,
    record: &SessionRecord,
    interval_secs: u32,
    body: Option<&str>,
) -> Bytes {
    let mut response = request.response(200, "OK");
    response.set_to_tag(record.key.as_str());
    response
        .headers
        .append("Contact", format!("<{}>", record.dialog.local_target));
    response.headers.append("Allow", ALLOW);
    response.headers.append("Supported", "timer");
    if interval_secs > 0 {
        // RFC 4028 §9: with refresher=uac the answer requires the extension.
        response.headers.append("Require", "timer");
        response
            .headers
            .append("Session-Expires", format!("{interval_secs};refresher=uac"));
    }
    response.headers.append("Server", USER_AGENT);
    if let Some(body) = body {
        response
            .headers
            .append("Content-Disposition", CONTENT_DISPOSITION);
        response.headers.append("Content-Type", csta::CONTENT_TYPE);
        response.body = Bytes::copy_from_slice(body.as_bytes());
    }
    response.write()
}

/// The methods that a node serves.
pub const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, INFO, OPTIONS, SUBSCRIBE, UPDATE";
/// The event packages to which one can subscribe (RFC 6665 §8.2.2).
pub const ALLOW_EVENTS: &str = "presence";
