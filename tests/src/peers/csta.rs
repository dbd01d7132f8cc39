//! The CSTA documents that the peers write, composed from docs/spec/uacsta.md §2 and §4 alone.
//!
//! Independent of the node's own codec on purpose: the judge has its own copy of the rules.

use quick_xml::escape::escape;

use super::line_protocol::{LegState, PbxEvent, PbxEventKind, SnapshotCall};

/// The namespace that communicators and the simulated CTI managers use.
pub const CSTA: &str = "http://www.ecma-international.org/standards/ecma-323/csta/ed3";
/// ECMA-354 application session.
pub const APPLICATION_SESSION: &str = "http://www.ecma-international.org/standards/ecma-354/appl_session";

const LCS_LINE: &str = "http://schemas.microsoft.com/Lcs/2005/04/RCCExtension";

/// A document with one root in the CSTA namespace.
#[must_use]
pub fn document(root: &str, inner: &str) -> String {
    in_namespace(CSTA, root, inner)
}

/// `RequestSystemStatus` as in an opening INVITE; its private data names the line.
#[must_use]
pub fn request_system_status(line: &str) -> String {
    document("RequestSystemStatus", &line_extension(line))
}

#[must_use]
pub fn get_csta_features(line: &str) -> String {
    document("GetCSTAFeatures", &line_extension(line))
}

#[must_use]
pub fn monitor_start(line: &str) -> String {
    let line = escape(line);
    document(
        "MonitorStart",
        &format!("<monitorObject><deviceObject>{line}</deviceObject></monitorObject>"),
    )
}

#[must_use]
pub fn monitor_stop(monitor: &str) -> String {
    document("MonitorStop", &element("monitorCrossRefID", monitor))
}

#[must_use]
pub fn snapshot_device(line: &str) -> String {
    document("SnapshotDevice", &element("snapshotObject", line))
}

/// `called` is a whole `tel:` URI.
#[must_use]
pub fn make_call(line: &str, called: &str) -> String {
    let inner = [
        element("callingDevice", line),
        element("calledDirectoryNumber", called),
        element("autoOriginate", "doNotPrompt"),
    ];
    document("MakeCall", &inner.concat())
}

#[must_use]
pub fn answer_call(call: &str, line: &str) -> String {
    document("AnswerCall", &connection("callToBeAnswered", call, line))
}

#[must_use]
pub fn clear_connection(call: &str, line: &str) -> String {
    document(
        "ClearConnection",
        &connection("connectionToBeCleared", call, line),
    )
}

#[must_use]
pub fn system_status_response() -> String {
    document(
        "RequestSystemStatusResponse",
        "<systemStatus>normal</systemStatus>",
    )
}

#[must_use]
pub fn monitor_start_response(monitor: &str) -> String {
    document("MonitorStartResponse", &element("monitorCrossRefID", monitor))
}

#[must_use]
pub fn make_call_response(call: &str, device: &str) -> String {
    document("MakeCallResponse", &connection("callingDevice", call, device))
}

/// `CSTAErrorCode` (docs/spec/uacsta.md §2.9): `category` is the element, `code` its word.
#[must_use]
pub fn error(category: &str, code: &str) -> String {
    document("CSTAErrorCode", &element(category, code))
}

/// `SnapshotDeviceResponse`: the device's own connection first, then the far end's.
#[must_use]
pub fn snapshot_response(device: &str, calls: &[SnapshotCall]) -> String {
    let infos: String = calls.iter().map(|call| snapshot_info(device, call)).collect();
    document(
        "SnapshotDeviceResponse",
        &format!("<crossRefIDorSnapshotData><snapshotData>{infos}</snapshotData></crossRefIDorSnapshotData>"),
    )
}

/// `SnapshotCallResponse`: who called whom.
#[must_use]
pub fn snapshot_call_response(call: &SnapshotCall) -> String {
    let party =
        |name: &str, number: &str| format!("<{name}>{}</{name}>", element("deviceIdentifier", number));
    let (calling, called) = (
        party("callingDevice", &call.calling),
        party("calledDevice", &call.called),
    );
    document(
        "SnapshotCallResponse",
        &format!("<crossRefIDorSnapshotData><snapshotData/></crossRefIDorSnapshotData>{calling}{called}"),
    )
}

/// The event that a monitor with id `monitor` gets.
#[must_use]
pub fn event(monitor: &str, event: &PbxEvent) -> String {
    let own = element("localConnectionInfo", state(event.own));
    let calling = party("callingDevice", &event.calling);
    let called = party("calledDevice", &event.called);
    let redirection = "<lastRedirectionDevice><notRequired/></lastRedirectionDevice>";
    let (root, parts) = match &event.kind {
        PbxEventKind::Originated => {
            let connection = connection("originatedConnection", &event.call, &event.device);
            let parts = format!("{connection}{calling}{called}{own}<cause>newCall</cause>");
            ("OriginatedEvent", parts)
        }
        PbxEventKind::Delivered => {
            let alerting = called_end(event);
            let connection = connection("connection", &event.call, alerting);
            let alerting = party("alertingDevice", alerting);
            let parts =
                format!("{connection}{alerting}{calling}{called}{redirection}{own}<cause>newCall</cause>");
            ("DeliveredEvent", parts)
        }
        PbxEventKind::Established => {
            let answering = called_end(event);
            let connection = connection("establishedConnection", &event.call, answering);
            let answering = party("answeringDevice", answering);
            let parts =
                format!("{connection}{answering}{calling}{called}{redirection}{own}<cause>normal</cause>");
            ("EstablishedEvent", parts)
        }
        PbxEventKind::Cleared { by } => {
            let connection = connection("droppedConnection", &event.call, &event.device);
            let releasing = party("releasingDevice", by);
            let parts = format!("{connection}{releasing}{own}<cause>normalClearing</cause>");
            ("ConnectionClearedEvent", parts)
        }
    };
    document(root, &format!("{}{parts}", element("monitorCrossRefID", monitor)))
}

/// A positive answer of the ECMA-354 session services.
#[must_use]
pub fn session_document(root: &str, inner: &str) -> String {
    in_namespace(APPLICATION_SESSION, root, inner)
}

/// One element with text, escaped.
#[must_use]
pub fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

fn connection(name: &str, call: &str, device: &str) -> String {
    format!(
        "<{name}>{}{}</{name}>",
        element("callID", call),
        element("deviceID", device)
    )
}

fn party(name: &str, device: &str) -> String {
    format!("<{name}>{}</{name}>", element("deviceIdentifier", device))
}

/// The end that was called: the monitored device in the monitor's own words when it is that one.
fn called_end(event: &PbxEvent) -> &str {
    if super::switch::number_of(&event.device) == event.called {
        &event.device
    } else {
        &event.called
    }
}

fn snapshot_info(device: &str, call: &SnapshotCall) -> String {
    let connection = connection("connectionIdentifier", &call.call, device);
    let own = element("localConnectionState", state(call.own));
    let far = element("localConnectionState", state(call.far));
    format!(
        "<snapshotDeviceResponseInfo>{connection}<localCallState><compoundCallState>{own}{far}\
         </compoundCallState></localCallState></snapshotDeviceResponseInfo>"
    )
}

fn state(state: LegState) -> &'static str {
    match state {
        LegState::Null => "null",
        LegState::Alerting => "alerting",
        LegState::Connected => "connected",
    }
}

fn line_extension(line: &str) -> String {
    let line = escape(line);
    format!(
        "<extensions><privateData><private><lcs:line xmlns:lcs=\"{LCS_LINE}\">{line}</lcs:line>\
         </private></privateData></extensions>"
    )
}

fn in_namespace(namespace: &str, root: &str, inner: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<{root} xmlns=\"{namespace}\">{inner}</{root}>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Element;

    #[test]
    fn what_is_written_can_be_read_and_is_escaped() {
        let root = Element::parse(&make_call("tel:1;a=<&>", "tel:+32")).unwrap();
        assert_eq!(root.namespace.as_deref(), Some(CSTA));
        assert_eq!(root.text_at(&["callingDevice"]), Some("tel:1;a=<&>"));
    }

    #[test]
    fn the_caller_sees_the_far_end_alert_and_the_called_phone_sees_itself() {
        let seen = |device: &str, own| PbxEvent {
            device: device.to_owned(),
            call: "c1".to_owned(),
            kind: PbxEventKind::Delivered,
            calling: "4711".to_owned(),
            called: "4712".to_owned(),
            own,
        };
        let alerting = |document: &str| {
            let root = Element::parse(document).unwrap();
            root.text_at(&["alertingDevice", "deviceIdentifier"])
                .unwrap()
                .to_owned()
        };
        assert_eq!(alerting(&event("m", &seen("4711", LegState::Connected))), "4712");
        assert_eq!(
            alerting(&event("m", &seen("4712;device=S", LegState::Alerting))),
            "4712;device=S"
        );
    }
}
