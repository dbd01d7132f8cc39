//! Presence as a document: PIDF (RFC 3863) with the person of the data model (RFC 4479) and activities (RFC 4480).

use quick_xml::escape::escape;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::composition::{Activity, Availability, Composed};
use tandem_xml::is_xml_character;

/// The content type of such a document.
pub const CONTENT_TYPE: &str = "application/pidf+xml";

/// The dialect in which a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    #[default]
    Standard,
    /// As Cisco's presence servers write it: the namespace of a draft of RPID, and elements of their own beside it.
    Cisco,
}

impl Profile {
    /// As written in a configuration.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "standard" => Some(Self::Standard),
            "cisco" => Some(Self::Cisco),
            _ => None,
        }
    }
}

/// The full state of `entity` (`sip:` and an address) as of `at_ms` (Unix milliseconds).
///
/// Calendar and phone describe the person and not a device, so the tuple has nothing but `basic`.
#[must_use]
pub fn write(entity: &str, composed: &Composed, profile: Profile, at_ms: u64) -> String {
    let mut document = String::with_capacity(BYTES_EXPECTED);
    let timestamp = timestamp(at_ms);
    document.push_str(r#"<?xml version="1.0" encoding="UTF-8"?>"#);
    document.push_str("\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\"");
    document.push_str(r#" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model""#);
    document.push_str(namespaces(profile));
    document.push_str(&format!(" entity=\"{}\">", escaped(entity)));
    document.push_str(&tuple(composed, profile, timestamp.as_deref()));
    document.push_str(&person(composed, profile, timestamp.as_deref()));
    document.push_str("</presence>\n");
    document
}

/// RFC 3863 §4.1.2: status, then timestamp.
fn tuple(composed: &Composed, profile: Profile, timestamp: Option<&str>) -> String {
    let id = match profile {
        Profile::Standard => "tandem",
        Profile::Cisco => "cisco-upc",
    };
    let basic = if composed.is_open() { "open" } else { "closed" };
    let timestamp = element("timestamp", timestamp);
    format!(r#"<tuple id="{id}"><status><basic>{basic}</basic></status>{timestamp}</tuple>"#)
}

/// RFC 4479 §3.1: activities, then note, then timestamp.
fn person(composed: &Composed, profile: Profile, timestamp: Option<&str>) -> String {
    let activities = activities(composed, profile);
    let note = element("dm:note", composed.note);
    let timestamp = element("dm:timestamp", timestamp);
    format!(r#"<dm:person id="person">{activities}{note}{timestamp}</dm:person>"#)
}

/// Empty when there are none: RFC 4480 §3.2 wants at least one child.
fn activities(composed: &Composed, profile: Profile) -> String {
    let prefix = match profile {
        Profile::Standard => "r",
        Profile::Cisco => "e",
    };
    let one = |activity: &Activity| format!("<{prefix}:{}/>", activity.as_str());
    let mut children: String = composed.activities.iter().map(one).collect();
    match profile {
        Profile::Standard => {}
        Profile::Cisco => children.push_str(cisco_activity(composed.availability)),
    }
    if children.is_empty() {
        return children;
    }
    let from = attribute("from", composed.since_ms);
    let until = attribute("until", composed.until_ms);
    format!("<{prefix}:activities{from}{until}>{children}</{prefix}:activities>")
}

fn cisco_activity(availability: Availability) -> &'static str {
    match availability {
        Availability::Available => "<ce:available/>",
        Availability::DoNotDisturb => "<ce:dnd/>",
        Availability::Unknown => "<ce:unavailable/>",
        Availability::Away | Availability::Busy | Availability::InAMeeting | Availability::OnThePhone => "",
    }
}

fn namespaces(profile: Profile) -> &'static str {
    match profile {
        Profile::Standard => r#" xmlns:r="urn:ietf:params:xml:ns:pidf:rpid""#,
        Profile::Cisco => concat!(
            r#" xmlns:e="urn:ietf:params:xml:ns:pidf:status:rpid""#,
            r#" xmlns:ce="urn:cisco:params:xml:ns:pidf:rpid""#
        ),
    }
}

fn element(name: &str, text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!("<{name}>{}</{name}>", escaped(text)))
}

fn attribute(name: &str, unix_ms: Option<u64>) -> String {
    let time = unix_ms.and_then(timestamp);
    time.map_or_else(String::new, |time| format!(" {name}=\"{time}\""))
}

/// RFC 3339 in UTC, whole seconds. `None` beyond the year 9999, which RFC 3339 cannot express.
#[must_use]
pub fn timestamp(unix_ms: u64) -> Option<String> {
    let unix_secs = i64::try_from(unix_ms / 1000).ok()?;
    let time = OffsetDateTime::from_unix_timestamp(unix_secs).ok()?;
    time.format(&Rfc3339).ok()
}

/// Escapes a text. Characters that XML 1.0 §2.2 does not allow even when escaped are left out. Line breaks and tabs
/// become references, because a reader would turn them into spaces in an attribute.
fn escaped(text: &str) -> String {
    let writable: String = text
        .chars()
        .filter(|&character| is_xml_character(character))
        .collect();
    escape(&writable)
        .replace('\t', "&#9;")
        .replace('\n', "&#10;")
        .replace('\r', "&#13;")
}

const BYTES_EXPECTED: usize = 768;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quick_xml::Reader;
    use quick_xml::XmlVersion;
    use quick_xml::events::Event;
    use tandem_cluster::{CalendarPresence, CalendarState, PresenceRecord};

    use super::super::composition::{CompositionSettings, compose};
    use super::*;

    /// 2026-11-22T09:00:07.250Z.
    const NOW: u64 = 1_795_338_007_250;
    const NINE: u64 = 1_795_338_000_000;

    fn composed(state: CalendarState) -> Composed {
        let calendar = CalendarPresence {
            state,
            from_ms: NINE,
            until_ms: Some(NINE + 3_600_000),
        };
        let record = PresenceRecord {
            calendar: Some(calendar),
            manual: None,
            version: 1,
        };
        compose(Some(&record), false, CompositionSettings::default(), NOW)
    }

    /// Start tags with their namespaces resolved by hand would say no more than this: names in order, with text.
    fn outline(document: &str) -> Vec<String> {
        let mut reader = Reader::from_str(document);
        let mut lines = Vec::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) | Event::Empty(tag) => {
                    lines.push(tag.name().as_ref().to_owned());
                }
                Event::Text(text) => {
                    let text: &str = &text;
                    if !text.trim().is_empty() {
                        lines.push(format!("= {text}"));
                    }
                }
                Event::Eof => return lines,
                Event::End(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_)
                | Event::GeneralRef(_) => {}
            }
        }
    }

    fn entity_of(document: &str) -> String {
        let mut reader = Reader::from_str(document);
        loop {
            if let Event::Start(tag) = reader.read_event().unwrap() {
                let entity = tag.try_get_attribute("entity").unwrap().unwrap();
                return entity
                    .normalized_value(XmlVersion::Implicit1_0)
                    .unwrap()
                    .into_owned();
            }
        }
    }

    #[test]
    fn a_meeting_is_written_in_the_order_of_the_schemas() {
        let document = write(
            "sip:ana@lab.test",
            &composed(CalendarState::Busy),
            Profile::Standard,
            NOW,
        );
        let expected = concat!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
            r#"<presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model""#,
            r#" xmlns:r="urn:ietf:params:xml:ns:pidf:rpid" entity="sip:ana@lab.test">"#,
            r#"<tuple id="tandem"><status><basic>open</basic></status><timestamp>2026-11-22T09:00:07Z</timestamp></tuple>"#,
            r#"<dm:person id="person"><r:activities from="2026-11-22T09:00:00Z" until="2026-11-22T10:00:00Z">"#,
            r"<r:meeting/><r:busy/></r:activities><dm:note>In a meeting</dm:note>",
            "<dm:timestamp>2026-11-22T09:00:07Z</dm:timestamp></dm:person></presence>\n",
        );
        assert_eq!(document, expected);
    }

    #[test]
    fn without_an_activity_there_is_no_element_for_them() {
        let document = write(
            "sip:ana@lab.test",
            &composed(CalendarState::Free),
            Profile::Standard,
            NOW,
        );
        let expected = [
            "presence",
            "tuple",
            "status",
            "basic",
            "= open",
            "timestamp",
            "= 2026-11-22T09:00:07Z",
            "dm:person",
            "dm:timestamp",
            "= 2026-11-22T09:00:07Z",
        ];
        assert_eq!(outline(&document), expected);
    }

    #[test]
    fn nothing_known_is_closed() {
        let document = write("sip:ana@lab.test", &Composed::UNKNOWN, Profile::Standard, NOW);
        assert!(outline(&document).contains(&"= closed".to_owned()), "{document}");
    }

    #[test]
    fn the_dialect_of_cisco_has_its_namespaces_and_its_own_elements() {
        let of = |composed: &Composed| write("sip:ana@lab.test", composed, Profile::Cisco, NOW);
        let meeting = of(&composed(CalendarState::Busy));
        assert!(meeting.contains(r#"xmlns:e="urn:ietf:params:xml:ns:pidf:status:rpid""#));
        assert!(meeting.contains(r#"xmlns:ce="urn:cisco:params:xml:ns:pidf:rpid""#));
        assert!(
            meeting.contains("<e:meeting/><e:busy/></e:activities>"),
            "{meeting}"
        );
        assert!(meeting.contains(r#"<tuple id="cisco-upc">"#));
        assert!(of(&composed(CalendarState::Free)).contains("<ce:available/>"));
        assert!(of(&Composed::UNKNOWN).contains("<ce:unavailable/>"));
        assert_eq!(Profile::parse("cisco"), Some(Profile::Cisco));
        assert_eq!(Profile::parse("standard"), Some(Profile::Standard));
        assert_eq!(Profile::parse("Cisco "), None);
    }

    #[test]
    fn a_time_that_cannot_be_told_is_left_out() {
        let forever = Composed {
            until_ms: Some(u64::MAX),
            ..composed(CalendarState::Busy)
        };
        let document = write("sip:ana@lab.test", &forever, Profile::Standard, u64::MAX);
        assert!(!document.contains("until="), "{document}");
        assert!(!document.contains("timestamp"), "{document}");
        assert_eq!(timestamp(0).as_deref(), Some("1970-01-01T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn whatever_an_entity_is_called_it_reads_back(entity in any::<String>()) {
            let document = write(&entity, &Composed::UNKNOWN, Profile::Standard, NOW);
            let writable: String = entity.chars().filter(|&character| is_xml_character(character)).collect();
            prop_assert_eq!(entity_of(&document), writable);
        }

        #[test]
        fn whatever_is_in_a_text_stays_in_it(text in "[<>&'\"\\PC]{0,20}") {
            let document = format!("<a>{}</a>", escaped(&text));
            let mut reader = Reader::from_str(&document);
            let mut depth = 0;
            loop {
                match reader.read_event().unwrap() {
                    Event::Start(_) => depth += 1,
                    Event::Eof => break,
                    Event::Empty(_) | Event::Comment(_) | Event::CData(_) | Event::PI(_) => prop_assert!(false),
                    Event::End(_) | Event::Text(_) | Event::Decl(_) | Event::DocType(_) | Event::GeneralRef(_) => {}
                }
            }
            prop_assert_eq!(depth, 1);
        }
    }
}
