//! Requests as a strict server takes them: the schema's order, its namespaces and its bounds.
//!
//! Whatever is refused here is the client's mistake and stands in the violations; a version that is too new is not.

use std::collections::BTreeSet;

use super::document::{Element, Namespace};
use super::mail_store::EventKind;

pub use super::operation::{Impersonation, Operation, OperationName, Version, Wanted};

use Namespace::{Messages, Soap, Types};

/// One request, whole and by the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub version: Version,
    pub impersonation: Option<Impersonation>,
    pub operation: Operation,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A code of EWS.
    pub code: &'static str,
    pub text: String,
}

impl Request {
    /// Reads an envelope.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let envelope = Element::parse(text).map_err(schema)?;
        if !envelope.is(Soap, "Envelope") {
            return Err(schema(format!("{} is no s:Envelope", envelope.label())));
        }
        envelope.sequence(Soap, &["Header", "Body"]).map_err(schema)?;
        let header = envelope.child(Soap, "Header");
        let version = header.map_or(Ok(Version::Exchange2007), version)?;
        let body = envelope.required(Soap, "Body").map_err(schema)?;
        let [operation] = body.children.as_slice() else {
            return Err(schema(format!("s:Body has {} children", body.children.len())));
        };
        let impersonation = header.map_or(Ok(None), impersonation)?;
        one_mailbox(operation, impersonation.as_ref().map(Impersonation::address))?;
        let request = Self {
            version,
            impersonation,
            operation: operation_of(operation)?,
        };
        request.check_version(header, operation)?;
        Ok(request)
    }

    /// What the version that was asked for has not got yet.
    fn check_version(&self, header: Option<&Element>, operation: &Element) -> Result<(), Refusal> {
        let is_streaming = match &self.operation {
            Operation::Subscribe { wanted, .. } => *wanted == Wanted::Streaming,
            Operation::GetStreamingEvents { .. } => true,
            Operation::GetEvents { .. }
            | Operation::Unsubscribe { .. }
            | Operation::FindItem { .. }
            | Operation::GetUserAvailability { .. }
            | Operation::GetFolder { .. } => false,
        };
        let too_old = |what: &str| Err(schema(format!("{what} is unknown to {:?}", self.version)));
        if is_streaming && self.version < Version::Exchange2010Sp1 {
            return too_old(&operation.label());
        }
        if let Operation::Subscribe { events, .. } = &self.operation
            && events.contains(&EventKind::FreeBusyChanged)
            && self.version < Version::Exchange2010Sp1
        {
            return too_old("FreeBusyChangedEvent");
        }
        let has_zone = header.is_some_and(|header| header.child(Types, "TimeZoneContext").is_some());
        if has_zone && self.version < Version::Exchange2010 {
            return too_old("t:TimeZoneContext");
        }
        Ok(())
    }
}

fn schema(text: impl Into<String>) -> Refusal {
    Refusal {
        code: "ErrorSchemaValidation",
        text: text.into(),
    }
}

fn refused(code: &'static str, text: impl Into<String>) -> Refusal {
    Refusal {
        code,
        text: text.into(),
    }
}

fn version(header: &Element) -> Result<Version, Refusal> {
    for child in &header.children {
        if child.namespace != Types {
            return Err(schema(format!("{} stands in s:Header", child.label())));
        }
    }
    let Some(version) = header.child(Types, "RequestServerVersion") else {
        return Ok(Version::Exchange2007);
    };
    let name = version.attribute("Version").unwrap_or_default();
    Version::of(name).ok_or_else(|| {
        refused(
            "ErrorInvalidServerVersion",
            format!("there is no version {name:?}"),
        )
    })
}

fn impersonation(header: &Element) -> Result<Option<Impersonation>, Refusal> {
    let Some(element) = header.child(Types, "ExchangeImpersonation") else {
        return Ok(None);
    };
    let invalid = |text: String| refused("ErrorInvalidExchangeImpersonationHeaderData", text);
    let connecting = element.required(Types, "ConnectingSID").map_err(invalid)?;
    let [identity] = connecting.children.as_slice() else {
        return Err(refused(
            "ErrorMoreThanOneAccessModeSpecified",
            "t:ConnectingSID holds exactly one identity",
        ));
    };
    let text = identity.text.clone();
    match (identity.namespace, identity.name.as_str()) {
        (Types, "PrimarySmtpAddress") => Ok(Some(Impersonation::PrimarySmtpAddress(text))),
        (Types, "SmtpAddress") => Ok(Some(Impersonation::SmtpAddress(text))),
        (Types, "PrincipalName") => Ok(Some(Impersonation::PrincipalName(text))),
        _ => Err(invalid(format!("{} is no identity", identity.label()))),
    }
}

fn operation_of(element: &Element) -> Result<Operation, Refusal> {
    if element.namespace != Messages {
        return Err(schema(format!("{} is no operation", element.label())));
    }
    match element.name.as_str() {
        "Subscribe" => subscribe(element),
        "GetEvents" => get_events(element),
        "GetStreamingEvents" => get_streaming_events(element),
        "Unsubscribe" => unsubscribe(element),
        "FindItem" => find_item(element),
        "GetUserAvailabilityRequest" => get_user_availability(element),
        "GetFolder" => get_folder(element),
        other => Err(schema(format!("m:{other} is not known here"))),
    }
}

fn subscribe(element: &Element) -> Result<Operation, Refusal> {
    let [request] = element.children.as_slice() else {
        return Err(schema("m:Subscribe holds exactly one request"));
    };
    let last: &[&str] = match (request.namespace, request.name.as_str()) {
        (Messages, "PushSubscriptionRequest") => &["Watermark", "StatusFrequency", "URL", "CallerData"],
        (Messages, "PullSubscriptionRequest") => &["Watermark", "Timeout"],
        (Messages, "StreamingSubscriptionRequest") => &[],
        _ => return Err(schema(format!("{} is no subscription", request.label()))),
    };
    let order: Vec<_> = ["FolderIds", "EventTypes"].iter().chain(last).copied().collect();
    request.sequence(Types, &order).map_err(schema)?;
    the_calendar(request.required(Types, "FolderIds").map_err(schema)?)?;
    let events = event_types(request.required(Types, "EventTypes").map_err(schema)?)?;
    let wanted = match request.name.as_str() {
        "PushSubscriptionRequest" => push(request)?,
        "PullSubscriptionRequest" => Wanted::Pull {
            timeout_minutes: minutes(request, "Timeout", 1440)?,
        },
        _ => Wanted::Streaming,
    };
    let watermark = request
        .child(Types, "Watermark")
        .map(|element| element.text.clone());
    Ok(Operation::Subscribe {
        wanted,
        events,
        watermark,
    })
}

fn push(request: &Element) -> Result<Wanted, Refusal> {
    let url = request.required(Types, "URL").map_err(schema)?.text.clone();
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    let is_printable = url.bytes().all(|byte| byte.is_ascii_graphic());
    let has_host = url.parse::<hyper::Uri>().is_ok_and(|uri| uri.host().is_some());
    if !is_web || !is_printable || !has_host || url.len() >= URL_LENGTH_MAX {
        let text = format!("{url:?} is no address to call back");
        return Err(refused("ErrorInvalidPushSubscriptionUrl", text));
    }
    Ok(Wanted::Push {
        status_frequency_minutes: minutes(request, "StatusFrequency", 1440)?,
        url,
    })
}

fn minutes(element: &Element, name: &str, most: u32) -> Result<u32, Refusal> {
    let minutes = element.required(Types, name).map_err(schema)?;
    minutes.number(1, most).map_err(schema)
}

fn event_types(element: &Element) -> Result<BTreeSet<EventKind>, Refusal> {
    if element.children.is_empty() {
        return Err(schema("t:EventTypes is empty"));
    }
    let kinds = element.children.iter().map(|child| {
        let kind = EventKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == child.text);
        kind.filter(|_| child.is(Types, "EventType"))
            .ok_or_else(|| schema(format!("{} {:?} cannot be subscribed", child.label(), child.text)))
    });
    kinds.collect()
}

/// Presence wants one folder, and by its distinguished name: folder names are local.
fn the_calendar(folders: &Element) -> Result<(), Refusal> {
    let [folder] = folders.children.as_slice() else {
        return Err(schema(format!("{} names no single folder", folders.label())));
    };
    if !folder.is(Types, "DistinguishedFolderId") || folder.attribute("Id") != Some("calendar") {
        return Err(schema(format!("{} is not the calendar", folder.label())));
    }
    Ok(())
}

/// Delegates cannot subscribe: a folder is of the impersonated mailbox or of none.
fn one_mailbox(element: &Element, own: Option<&str>) -> Result<(), Refusal> {
    if element.is(Types, "DistinguishedFolderId")
        && let Some(mailbox) = element.child(Types, "Mailbox")
    {
        let address = required_text(mailbox, Types, "EmailAddress")?;
        if own.is_none_or(|own| !own.eq_ignore_ascii_case(&address)) {
            let text = format!("a folder of {address}");
            return Err(refused("ErrorInvalidSubscriptionRequest", text));
        }
    }
    element
        .children
        .iter()
        .try_for_each(|child| one_mailbox(child, own))
}

fn get_events(element: &Element) -> Result<Operation, Refusal> {
    element
        .sequence(Messages, &["SubscriptionId", "Watermark"])
        .map_err(schema)?;
    Ok(Operation::GetEvents {
        subscription: required_text(element, Messages, "SubscriptionId")?,
        watermark: required_text(element, Messages, "Watermark")?,
    })
}

/// The ids are in the namespace of types: alone of all operations.
fn get_streaming_events(element: &Element) -> Result<Operation, Refusal> {
    element
        .sequence(Messages, &["SubscriptionIds", "ConnectionTimeout"])
        .map_err(schema)?;
    let ids = element.required(Messages, "SubscriptionIds").map_err(schema)?;
    let wrong = ids
        .children
        .iter()
        .find(|child| !child.is(Types, "SubscriptionId"));
    if let Some(wrong) = wrong {
        return Err(schema(format!("{} stands in m:SubscriptionIds", wrong.label())));
    }
    let subscriptions: Vec<_> = ids.children.iter().map(|child| child.text.clone()).collect();
    if !(1..=SUBSCRIPTIONS_MAX).contains(&subscriptions.len()) {
        return Err(refused(
            "ErrorInvalidRequest",
            format!("{} subscriptions on one stream", subscriptions.len()),
        ));
    }
    let timeout = element.required(Messages, "ConnectionTimeout").map_err(schema)?;
    Ok(Operation::GetStreamingEvents {
        subscriptions,
        minutes: timeout.number(1, 30).map_err(schema)?,
    })
}

fn unsubscribe(element: &Element) -> Result<Operation, Refusal> {
    element.sequence(Messages, &["SubscriptionId"]).map_err(schema)?;
    Ok(Operation::Unsubscribe {
        subscription: required_text(element, Messages, "SubscriptionId")?,
    })
}

fn find_item(element: &Element) -> Result<Operation, Refusal> {
    if element.attribute("Traversal") != Some("Shallow") {
        return Err(schema(
            "a CalendarView is looked through with Traversal=\"Shallow\"",
        ));
    }
    element
        .sequence(Messages, &["ItemShape", "CalendarView", "ParentFolderIds"])
        .map_err(schema)?;
    let shape = element.required(Messages, "ItemShape").map_err(schema)?;
    the_calendar(element.required(Messages, "ParentFolderIds").map_err(schema)?)?;
    let view = element.required(Messages, "CalendarView").map_err(schema)?;
    let time = |name: &str| {
        let text = view.attribute(name).unwrap_or_default();
        instant(text).ok_or_else(|| schema(format!("{name}={text:?} is no time with a zone")))
    };
    let (from, until) = (time("StartDate")?, time("EndDate")?);
    if until < from {
        return Err(refused(
            "ErrorCalendarEndDateIsEarlierThanStartDate",
            "the view ends before it begins",
        ));
    }
    if until - from > VIEW_SECONDS_MAX {
        return Err(refused("ErrorCalendarViewRangeTooBig", "more than two years"));
    }
    let entries = view.attribute("MaxEntriesReturned").map(str::parse::<usize>);
    let entries_max = match entries {
        None => ENTRIES_MAX,
        Some(Ok(entries)) if entries > 0 => entries.min(ENTRIES_MAX),
        Some(_) => return Err(schema("MaxEntriesReturned is no number above 0")),
    };
    Ok(Operation::FindItem {
        from,
        until,
        entries_max,
        properties: item_properties(shape)?,
    })
}

/// Only what presence needs: neither subject nor place nor body ever leaves Exchange.
fn item_properties(shape: &Element) -> Result<Vec<String>, Refusal> {
    shape
        .sequence(
            Types,
            &[
                "BaseShape",
                "IncludeMimeContent",
                "BodyType",
                "AdditionalProperties",
            ],
        )
        .map_err(schema)?;
    let base = required_text(shape, Types, "BaseShape")?;
    if base != "IdOnly" {
        return Err(refused(
            "ErrorInvalidRequest",
            format!("BaseShape {base} asks for more than presence needs"),
        ));
    }
    let Some(additional) = shape.child(Types, "AdditionalProperties") else {
        return Ok(Vec::new());
    };
    let properties = additional.children.iter().map(|child| {
        let name = child.attribute("FieldURI").unwrap_or_default();
        if child.is(Types, "FieldURI") && PROPERTIES.contains(&name) {
            Ok(name.to_owned())
        } else {
            Err(refused(
                "ErrorInvalidPropertyRequest",
                format!("{} {name:?} is not what presence needs", child.label()),
            ))
        }
    });
    properties.collect()
}

fn get_user_availability(element: &Element) -> Result<Operation, Refusal> {
    let names: Vec<_> = element.children.iter().map(Element::label).collect();
    if names != ["t:TimeZone", "m:MailboxDataArray", "t:FreeBusyViewOptions"] {
        return Err(schema(format!("{} holds {names:?}", element.label())));
    }
    let zone = element.required(Types, "TimeZone").map_err(schema)?;
    zone.sequence(Types, &["Bias", "StandardTime", "DaylightTime"])
        .map_err(schema)?;
    for name in ["StandardTime", "DaylightTime"] {
        let rule = zone.required(Types, name).map_err(schema)?;
        let order = ["Bias", "Time", "DayOrder", "Month", "DayOfWeek", "Year"];
        rule.sequence(Types, &order).map_err(schema)?;
        for needed in &order[..5] {
            rule.required(Types, needed).map_err(schema)?;
        }
        if rule.child(Types, "Bias").is_some_and(|bias| bias.text != "0") {
            return Err(schema("a zone other than UTC is not simulated"));
        }
    }
    if required_text(zone, Types, "Bias")? != "0" {
        return Err(schema("a zone other than UTC is not simulated"));
    }
    let array = element.required(Messages, "MailboxDataArray").map_err(schema)?;
    let mailboxes = array
        .children
        .iter()
        .map(mailbox_data)
        .collect::<Result<Vec<_>, _>>()?;
    if mailboxes.len() > MAILBOXES_MAX {
        return Err(refused(
            "ErrorMailboxDataArrayTooBig",
            format!("{} mailboxes", mailboxes.len()),
        ));
    }
    let options = element.required(Types, "FreeBusyViewOptions").map_err(schema)?;
    let order = ["TimeWindow", "MergedFreeBusyIntervalInMinutes", "RequestedView"];
    options.sequence(Types, &order).map_err(schema)?;
    let (from, until) = time_window(options.required(Types, "TimeWindow").map_err(schema)?)?;
    Ok(Operation::GetUserAvailability {
        mailboxes,
        from,
        until,
    })
}

fn mailbox_data(element: &Element) -> Result<String, Refusal> {
    if !element.is(Types, "MailboxData") {
        return Err(schema(format!(
            "{} stands in m:MailboxDataArray",
            element.label()
        )));
    }
    element
        .sequence(Types, &["Email", "AttendeeType", "ExcludeConflicts"])
        .map_err(schema)?;
    element.required(Types, "AttendeeType").map_err(schema)?;
    let email = element.required(Types, "Email").map_err(schema)?;
    email
        .sequence(Types, &["Name", "Address", "RoutingType"])
        .map_err(schema)?;
    required_text(email, Types, "Address")
}

/// Local times, so without an offset; where clients write one it is taken at its word.
fn time_window(element: &Element) -> Result<(i64, i64), Refusal> {
    element
        .sequence(Types, &["StartTime", "EndTime"])
        .map_err(schema)?;
    let time = |name: &str| {
        let text = required_text(element, Types, name)?;
        let time = instant(&text).or_else(|| instant(&format!("{text}Z")));
        time.ok_or_else(|| schema(format!("t:{name} {text:?} is no time")))
    };
    let (from, until) = (time("StartTime")?, time("EndTime")?);
    if until <= from || until - from > WINDOW_SECONDS_MAX {
        return Err(refused("ErrorTimeIntervalTooBig", "a window of 0 to 42 days"));
    }
    Ok((from, until))
}

fn get_folder(element: &Element) -> Result<Operation, Refusal> {
    element
        .sequence(Messages, &["FolderShape", "FolderIds"])
        .map_err(schema)?;
    the_calendar(element.required(Messages, "FolderIds").map_err(schema)?)?;
    let shape = element.required(Messages, "FolderShape").map_err(schema)?;
    shape
        .sequence(Types, &["BaseShape", "AdditionalProperties"])
        .map_err(schema)?;
    required_text(shape, Types, "BaseShape")?;
    let additional = shape.child(Types, "AdditionalProperties");
    let children = additional.map_or(&[][..], |element| &element.children);
    let tags = children
        .iter()
        .filter(|child| child.is(Types, "ExtendedFieldURI"));
    Ok(Operation::GetFolder {
        tags: tags
            .filter_map(|tag| tag.attribute("PropertyTag").map(str::to_owned))
            .collect(),
    })
}

fn required_text(element: &Element, namespace: Namespace, name: &str) -> Result<String, Refusal> {
    let text = element.required(namespace, name).map_err(schema)?.text.clone();
    match text.is_empty() {
        false => Ok(text),
        true => Err(schema(format!("{name} in {} is empty", element.label()))),
    }
}

/// RFC 3339, so with a zone.
pub(super) fn instant(text: &str) -> Option<i64> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    Some(time.unix_timestamp())
}

const URL_LENGTH_MAX: usize = 2083;
const SUBSCRIPTIONS_MAX: usize = 200;
const MAILBOXES_MAX: usize = 100;
/// Two years and a leap day.
const VIEW_SECONDS_MAX: i64 = 731 * 86_400;
const WINDOW_SECONDS_MAX: i64 = 42 * 86_400;
const ENTRIES_MAX: usize = 1000;
const PROPERTIES: [&str; 11] = [
    "calendar:Start",
    "calendar:End",
    "calendar:LegacyFreeBusyStatus",
    "calendar:IsAllDayEvent",
    "calendar:IsCancelled",
    "calendar:MyResponseType",
    "calendar:CalendarItemType",
    "calendar:StartTimeZone",
    "calendar:EndTimeZone",
    "calendar:MeetingTimeZone",
    "item:Sensitivity",
];

#[cfg(test)]
mod tests {
    use super::super::document::{MESSAGES, SOAP, TYPES};
    use super::*;

    fn read(version: &str, operation: &str) -> Result<Request, Refusal> {
        Request::read(&format!(
            "<s:Envelope xmlns:s=\"{SOAP}\" xmlns:t=\"{TYPES}\" xmlns:m=\"{MESSAGES}\"><s:Header>\
             <t:RequestServerVersion Version=\"{version}\"/><t:ExchangeImpersonation><t:ConnectingSID>\
             <t:PrimarySmtpAddress>ana@lab.test</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation>\
             </s:Header><s:Body>{operation}</s:Body></s:Envelope>"
        ))
    }

    fn code(version: &str, operation: &str) -> &'static str {
        read(version, operation).unwrap_err().code
    }

    const FOLDER: &str = "<t:FolderIds><t:DistinguishedFolderId Id=\"calendar\"/></t:FolderIds>";
    const EVENTS: &str = "<t:EventTypes><t:EventType>CreatedEvent</t:EventType></t:EventTypes>";

    fn push(rest: &str) -> String {
        format!("<m:Subscribe><m:PushSubscriptionRequest>{rest}</m:PushSubscriptionRequest></m:Subscribe>")
    }

    #[test]
    fn a_push_subscription_is_read() {
        let rest =
            format!("{FOLDER}{EVENTS}<t:StatusFrequency>60</t:StatusFrequency><t:URL>https://gw:1/x</t:URL>");
        let request = read("Exchange2013", &push(&rest)).unwrap();
        assert_eq!(request.version, Version::Exchange2013);
        assert_eq!(request.impersonation.unwrap().address(), "ana@lab.test");
        let wanted = Operation::Subscribe {
            wanted: Wanted::Push {
                status_frequency_minutes: 60,
                url: "https://gw:1/x".to_owned(),
            },
            events: [EventKind::Created].into(),
            watermark: None,
        };
        assert_eq!(request.operation, wanted);
    }

    #[test]
    fn what_breaks_the_schema_is_refused() {
        let url = "<t:URL>https://gw:1/x</t:URL>";
        let frequency = "<t:StatusFrequency>60</t:StatusFrequency>";
        let wrong = [
            format!("{EVENTS}{FOLDER}{frequency}{url}"),
            format!("{FOLDER}{EVENTS}{url}{frequency}"),
            format!("{FOLDER}{EVENTS}<t:StatusFrequency>0</t:StatusFrequency>{url}"),
            format!("{FOLDER}{EVENTS}<t:StatusFrequency>1441</t:StatusFrequency>{url}"),
            format!("{FOLDER}{EVENTS}<m:StatusFrequency>60</m:StatusFrequency>{url}"),
            format!("{FOLDER}<t:EventTypes/>{frequency}{url}"),
            format!(
                "{FOLDER}<t:EventTypes><t:EventType>StatusEvent</t:EventType></t:EventTypes>{frequency}{url}"
            ),
            format!("{EVENTS}{frequency}{url}"),
        ];
        for rest in wrong {
            assert_eq!(
                code("Exchange2013", &push(&rest)),
                "ErrorSchemaValidation",
                "{rest}"
            );
        }
        let too_long = "x".repeat(URL_LENGTH_MAX);
        for url in [
            "gw:1/x",
            "ftp://gw/x",
            "https:///x",
            "https://gw/a b",
            &format!("https://gw/{too_long}"),
        ] {
            let rest = format!("{FOLDER}{EVENTS}{frequency}<t:URL>{url}</t:URL>");
            assert_eq!(
                code("Exchange2013", &push(&rest)),
                "ErrorInvalidPushSubscriptionUrl",
                "{url}"
            );
        }
    }

    #[test]
    fn streaming_ids_are_types_and_at_most_two_hundred() {
        let stream = |ids: &str| {
            format!(
                "<m:GetStreamingEvents><m:SubscriptionIds>{ids}</m:SubscriptionIds>\
                 <m:ConnectionTimeout>30</m:ConnectionTimeout></m:GetStreamingEvents>"
            )
        };
        let good = "<t:SubscriptionId>a</t:SubscriptionId>";
        assert!(read("Exchange2013", &stream(&good.repeat(200))).is_ok());
        assert_eq!(
            code("Exchange2013", &stream(&good.repeat(201))),
            "ErrorInvalidRequest"
        );
        let wrong = stream("<m:SubscriptionId>a</m:SubscriptionId>");
        assert_eq!(code("Exchange2013", &wrong), "ErrorSchemaValidation");
        assert_eq!(code("Exchange2010", &stream(good)), "ErrorSchemaValidation");
    }

    #[test]
    fn the_vocabulary_of_versions_is_closed() {
        let rest = format!(
            "<m:Subscribe><m:StreamingSubscriptionRequest>{FOLDER}{EVENTS}</m:StreamingSubscriptionRequest></m:Subscribe>"
        );
        assert!(read("Exchange2010_SP1", &rest).is_ok());
        assert_eq!(code("Exchange2010SP1", &rest), "ErrorInvalidServerVersion");
        assert_eq!(code("Exchange2007_SP1", &rest), "ErrorSchemaValidation");
    }

    #[test]
    fn a_view_wants_its_order_its_bounds_and_nothing_private() {
        let find = |property: &str, end: &str| {
            format!(
                "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape>\
                 <t:AdditionalProperties><t:FieldURI FieldURI=\"{property}\"/></t:AdditionalProperties></m:ItemShape>\
                 <m:CalendarView MaxEntriesReturned=\"5\" StartDate=\"2026-11-22T00:00:00Z\" EndDate=\"{end}\"/>\
                 <m:ParentFolderIds><t:DistinguishedFolderId Id=\"calendar\"/></m:ParentFolderIds></m:FindItem>"
            )
        };
        let good = find("calendar:Start", "2026-11-23T00:00:00Z");
        assert!(read("Exchange2013", &good).is_ok());
        let end = "2026-11-23T00:00:00Z";
        assert_eq!(
            code("Exchange2013", &find("item:Subject", end)),
            "ErrorInvalidPropertyRequest"
        );
        let late = find("calendar:Start", "2028-12-23T00:00:00Z");
        assert_eq!(code("Exchange2013", &late), "ErrorCalendarViewRangeTooBig");
        let local = find("calendar:Start", "2026-11-23T00:00:00");
        assert_eq!(code("Exchange2013", &local), "ErrorSchemaValidation");
    }

    #[test]
    fn availability_takes_a_hundred_mailboxes_and_a_window() {
        let ask = |count: usize, end: &str| {
            let rule = |month: u8| {
                format!(
                    "<t:Bias>0</t:Bias><t:Time>00:00:00</t:Time><t:DayOrder>1</t:DayOrder><t:Month>{month}</t:Month>\
                     <t:DayOfWeek>Sunday</t:DayOfWeek>"
                )
            };
            let mailbox = "<t:MailboxData><t:Email><t:Address>a@b</t:Address></t:Email>\
                           <t:AttendeeType>Required</t:AttendeeType><t:ExcludeConflicts>false</t:ExcludeConflicts></t:MailboxData>";
            format!(
                "<m:GetUserAvailabilityRequest><t:TimeZone><t:Bias>0</t:Bias><t:StandardTime>{}</t:StandardTime>\
                 <t:DaylightTime>{}</t:DaylightTime></t:TimeZone><m:MailboxDataArray>{}</m:MailboxDataArray>\
                 <t:FreeBusyViewOptions><t:TimeWindow><t:StartTime>2026-11-22T00:00:00</t:StartTime>\
                 <t:EndTime>{end}</t:EndTime></t:TimeWindow><t:MergedFreeBusyIntervalInMinutes>15\
                 </t:MergedFreeBusyIntervalInMinutes><t:RequestedView>FreeBusy</t:RequestedView>\
                 </t:FreeBusyViewOptions></m:GetUserAvailabilityRequest>",
                rule(1),
                rule(7),
                mailbox.repeat(count)
            )
        };
        assert!(read("Exchange2013", &ask(100, "2026-11-24T00:00:00")).is_ok());
        let too_many = ask(101, "2026-11-24T00:00:00");
        assert_eq!(code("Exchange2013", &too_many), "ErrorMailboxDataArrayTooBig");
        let date_alone = ask(1, "2026-11-24");
        assert_eq!(code("Exchange2013", &date_alone), "ErrorSchemaValidation");
    }
}
