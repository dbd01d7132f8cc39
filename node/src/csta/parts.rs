//! The parts that CSTA documents are made of, read and written.

use super::codec::DecodeError;
use super::event::{Cause, Device, EventKind, RedirectionDevice};
use super::request::Argument;
use super::response::SnapshotConnection;
use super::service::{Feature, Features, Parameter, ParameterKind, Service};
use super::{ConnectionIdentifier, LocalConnectionState, SystemStatus};
use tandem_xml::{Element, Writer, shorten};

/// `extensions/privateData/private/line`: Microsoft's RCC extension.
pub(super) fn line(root: &Element<'_>) -> Option<String> {
    root.descendant(&["extensions", "privateData", "private", "line"])
        .map(|line| line.text.to_string())
        .filter(|line| !line.is_empty())
}

pub(super) fn write_line(writer: &mut Writer, line: &str) {
    writer.element("extensions", |writer| {
        writer.element("privateData", |writer| {
            writer.element("private", |writer| {
                writer.element_in("line", LINE_NAMESPACE, |writer| writer.characters(line));
            });
        });
    });
}

pub(super) fn monitored_device(root: &Element<'_>) -> Result<String, DecodeError> {
    let object = root
        .child("monitorObject")
        .ok_or_else(|| missing(root, "monitorObject"))?;
    text(object, "deviceObject")
}

/// The DeviceID itself; some peers wrap it in a deviceObject as MonitorStart does.
pub(super) fn snapshot_object(root: &Element<'_>) -> Result<String, DecodeError> {
    let object = root
        .child("snapshotObject")
        .ok_or_else(|| missing(root, "snapshotObject"))?;
    if object.text.is_empty() {
        text(object, "deviceObject")
    } else {
        Ok(object.text.to_string())
    }
}

pub(super) fn argument(root: &Element<'_>, parameter: &'static Parameter) -> Result<Argument, DecodeError> {
    let element = parameter.element;
    Ok(match parameter.kind {
        ParameterKind::OwnDevice(_) => Argument::Device(text(root, element)?),
        ParameterKind::OwnCall => Argument::Call(connection(root, element)?),
        ParameterKind::Number(_) => Argument::Number(text(root, element)?),
        ParameterKind::Choice(words) => Argument::Choice(choice(root, element, words)?),
    })
}

fn choice(
    root: &Element<'_>,
    element: &'static str,
    words: &[&'static str],
) -> Result<&'static str, DecodeError> {
    let told = root.child_text(element);
    let known = words.iter().find(|word| told.is_none_or(|told| told == **word));
    known
        .copied()
        .ok_or_else(|| told.map_or_else(|| missing(root, element), |told| invalid(element, told)))
}

pub(super) fn write_argument(writer: &mut Writer, element: &str, argument: &Argument) {
    match argument {
        Argument::Device(device) => writer.leaf(element, device),
        Argument::Call(call) => write_connection(writer, element, call),
        Argument::Number(number) => writer.leaf(element, number),
        Argument::Choice(word) => writer.leaf(element, word),
    }
}

pub(super) fn system_status(root: &Element<'_>) -> Result<SystemStatus, DecodeError> {
    let word = text(root, SYSTEM_STATUS)?;
    SystemStatus::from_word(&word).ok_or_else(|| invalid(SYSTEM_STATUS, &word))
}

pub(super) fn features(root: &Element<'_>) -> Features {
    let listed = |group: &str| {
        let lists = root.child(group).map_or(&[][..], |group| &group.children);
        lists
            .iter()
            .flat_map(|list| &list.children)
            .map(|element| element.name)
            .collect::<Vec<_>>()
    };
    let (services, events) = (listed("supportedServices"), listed("supportedEvents"));
    Features {
        services: Service::advertised()
            .filter(|(_, feature)| services.contains(&feature.element))
            .map(|(service, _)| service)
            .collect(),
        events: EventKind::ALL
            .into_iter()
            .filter(|kind| events.contains(&kind.element()))
            .collect(),
    }
}

pub(super) fn write_features(writer: &mut Writer, features: &Features) {
    writer.element("supportedServices", |writer| {
        let listed = features.services.iter();
        let mut listed = listed.filter_map(|service| service.row().feature).peekable();
        while let Some(list) = listed.peek().map(|feature| feature.list) {
            writer.element(list, |writer| {
                while let Some(feature) = listed.next_if(|feature| feature.list == list) {
                    write_feature(writer, feature);
                }
            });
        }
    });
    writer.element("supportedEvents", |writer| {
        if !features.events.is_empty() {
            writer.element("callControlEvtsList", |writer| {
                features
                    .events
                    .iter()
                    .for_each(|kind| writer.empty(kind.element()));
            });
        }
    });
}

fn write_feature(writer: &mut Writer, feature: Feature) {
    match feature.option {
        Some(option) => writer.element(feature.element, |writer| writer.leaf(option, "true")),
        None => writer.empty(feature.element),
    }
}

pub(super) fn snapshot(root: &Element<'_>) -> Result<Vec<SnapshotConnection>, DecodeError> {
    let Some(data) = root.descendant(&["crossRefIDorSnapshotData", "snapshotData"]) else {
        return Ok(Vec::new());
    };
    data.children
        .iter()
        .filter(|element| element.name == "snapshotDeviceResponseInfo")
        .map(|info| {
            Ok(SnapshotConnection {
                connection: connection(info, "connectionIdentifier")?,
                states: info
                    .descendant(&["localCallState", "compoundCallState"])
                    .map_or(Ok(Vec::new()), compound_call_state)?,
            })
        })
        .collect()
}

fn compound_call_state(element: &Element<'_>) -> Result<Vec<LocalConnectionState>, DecodeError> {
    let states = element
        .children
        .iter()
        .filter(|child| child.name == "localConnectionState");
    states
        .map(|state| connection_state("localConnectionState", &state.text))
        .collect()
}

pub(super) fn write_snapshot(writer: &mut Writer, connections: &[SnapshotConnection]) {
    writer.element("crossRefIDorSnapshotData", |writer| {
        writer.element("snapshotData", |writer| {
            for snapshot in connections {
                writer.element("snapshotDeviceResponseInfo", |writer| {
                    write_connection(writer, "connectionIdentifier", &snapshot.connection);
                    writer.element("localCallState", |writer| {
                        write_call_state(writer, &snapshot.states)
                    });
                });
            }
        });
    });
}

fn write_call_state(writer: &mut Writer, states: &[LocalConnectionState]) {
    if states.is_empty() {
        return writer.empty("unknown");
    }
    writer.element("compoundCallState", |writer| {
        states
            .iter()
            .for_each(|state| writer.leaf("localConnectionState", state.word()));
    });
}

pub(super) fn connection(
    parent: &Element<'_>,
    name: &'static str,
) -> Result<ConnectionIdentifier, DecodeError> {
    let element = parent.child(name).ok_or_else(|| missing(parent, name))?;
    Ok(ConnectionIdentifier {
        call_id: text(element, "callID")?,
        device_id: element.child_text("deviceID").map(str::to_owned),
    })
}

pub(super) fn write_connection(writer: &mut Writer, name: &str, connection: &ConnectionIdentifier) {
    writer.element(name, |writer| {
        writer.leaf("callID", &connection.call_id);
        if let Some(device_id) = &connection.device_id {
            writer.leaf("deviceID", device_id);
        }
    });
}

/// `None` also for a form of device that we do not know: a party that cannot be shown must not cost the event.
pub(super) fn device(root: &Element<'_>, name: &str) -> Option<Device> {
    let choice = root.child(name)?.children.first()?;
    match choice.name {
        "deviceIdentifier" => Some(Device::Identifier(choice.text.to_string())),
        "notKnown" => Some(Device::NotKnown),
        "restricted" => Some(Device::Restricted),
        _ => None,
    }
}

pub(super) fn write_device(writer: &mut Writer, name: &str, device: Option<&Device>) {
    let Some(device) = device else { return };
    writer.element(name, |writer| match device {
        Device::Identifier(identifier) => writer.leaf("deviceIdentifier", identifier),
        Device::NotKnown => writer.empty("notKnown"),
        Device::Restricted => writer.empty("restricted"),
    });
}

pub(super) fn last_redirection(root: &Element<'_>) -> Option<RedirectionDevice> {
    let choice = root.child(LAST_REDIRECTION)?.children.first()?;
    match choice.name {
        "numberDialed" => Some(RedirectionDevice::NumberDialed(choice.text.to_string())),
        "notKnown" => Some(RedirectionDevice::NotKnown),
        "notRequired" => Some(RedirectionDevice::NotRequired),
        "notSpecified" => Some(RedirectionDevice::NotSpecified),
        "restricted" => Some(RedirectionDevice::Restricted),
        _ => None,
    }
}

pub(super) fn write_last_redirection(writer: &mut Writer, device: Option<&RedirectionDevice>) {
    let Some(device) = device else { return };
    writer.element(LAST_REDIRECTION, |writer| match device {
        RedirectionDevice::NumberDialed(number) => writer.leaf("numberDialed", number),
        RedirectionDevice::NotKnown => writer.empty("notKnown"),
        RedirectionDevice::NotRequired => writer.empty("notRequired"),
        RedirectionDevice::NotSpecified => writer.empty("notSpecified"),
        RedirectionDevice::Restricted => writer.empty("restricted"),
    });
}

pub(super) fn connection_state(
    element: &'static str,
    word: &str,
) -> Result<LocalConnectionState, DecodeError> {
    LocalConnectionState::from_word(word).ok_or_else(|| invalid(element, word))
}

/// Mandatory in the schema, but not every peer sends it.
pub(super) fn cause(root: &Element<'_>) -> Result<Cause, DecodeError> {
    root.child_text("cause").map_or(Ok(Cause::NORMAL), |word| {
        Cause::from_word(word).ok_or_else(|| invalid("cause", word))
    })
}

pub(super) fn seconds(root: &Element<'_>, name: &'static str) -> Result<u32, DecodeError> {
    let word = text(root, name)?;
    word.parse().map_err(|_| invalid(name, &word))
}

/// The text under errorCode, whichever of its two forms it takes; empty when there is none.
pub(super) fn session_error(root: &Element<'_>) -> String {
    let code = root.child("errorCode").and_then(|code| code.children.first());
    code.map(|code| shorten(&code.text).to_owned())
        .unwrap_or_default()
}

pub(super) fn text(parent: &Element<'_>, name: &'static str) -> Result<String, DecodeError> {
    parent
        .child_text(name)
        .map(str::to_owned)
        .ok_or_else(|| missing(parent, name))
}

pub(super) fn missing(document: &Element<'_>, element: &'static str) -> DecodeError {
    DecodeError::Missing {
        document: shorten(document.name).to_owned(),
        element,
    }
}

fn invalid(element: &'static str, value: &str) -> DecodeError {
    DecodeError::InvalidValue {
        element,
        value: shorten(value).to_owned(),
    }
}

const LINE_NAMESPACE: &str = "http://schemas.microsoft.com/Lcs/2005/04/RCCExtension";
pub(super) const CROSS_REF_ID: &str = "monitorCrossRefID";
pub(super) const SYSTEM_STATUS: &str = "systemStatus";
const LAST_REDIRECTION: &str = "lastRedirectionDevice";
