use base64::Engine as _;

use super::*;
use crate::peers::exchange::document::{Element, MESSAGES, Namespace, SOAP, TYPES};
use crate::peers::exchange::mail_store::{Condition, Status};

struct Lab {
    servers: Servers,
    start: Instant,
}

impl Lab {
    fn new() -> Self {
        let account = Account::new(&["svc@lab.test"], "right");
        let names = ["cas1".to_owned(), "cas2".to_owned()];
        let mut servers = Servers::new(&names, Timing::default(), account);
        servers
            .store_mut()
            .add("ana@lab.test", &["a.smith@lab.test"], "mbx1");
        servers.store_mut().add("bob@lab.test", &[], "mbx2");
        Self {
            servers,
            start: Instant::now(),
        }
    }

    fn ask(&mut self, cas: usize, who: &str, operation: &str) -> (u16, Element) {
        self.ask_with(cas, &head("right"), who, operation)
    }

    fn ask_with(&mut self, cas: usize, head: &Head, who: &str, operation: &str) -> (u16, Element) {
        let request = Request::read(&envelope("Exchange2013", who, operation));
        let reply = self.servers.request(cas, head, &request, self.start);
        self.servers.finished(cas);
        match reply {
            Reply::Answer { status, body, .. } => (status, Element::parse(&body).unwrap()),
            Reply::Stream { first, .. } => (200, Element::parse(&first).unwrap()),
            Reply::Hang | Reply::CutOff { .. } => panic!("no answer"),
        }
    }
}

fn head(password: &str) -> Head {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("svc@lab.test:{password}"));
    Head {
        authorization: Some(format!("Basic {encoded}")),
        ..Head::default()
    }
}

fn envelope(version: &str, who: &str, operation: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"{SOAP}\" xmlns:t=\"{TYPES}\" xmlns:m=\"{MESSAGES}\"><s:Header>\
         <t:RequestServerVersion Version=\"{version}\"/><t:ExchangeImpersonation><t:ConnectingSID>\
         <t:PrimarySmtpAddress>{who}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header>\
         <s:Body>{operation}</s:Body></s:Envelope>"
    )
}

/// The text of the first element of that name, wherever it stands.
fn text(element: &Element, name: &str) -> Option<String> {
    if element.name == name {
        return Some(element.text.clone());
    }
    element.children.iter().find_map(|child| text(child, name))
}

const SUBSCRIBE_PUSH: &str = "<m:Subscribe><m:PushSubscriptionRequest><t:FolderIds>\
    <t:DistinguishedFolderId Id=\"calendar\"/></t:FolderIds><t:EventTypes><t:EventType>CreatedEvent</t:EventType>\
    </t:EventTypes><t:StatusFrequency>1</t:StatusFrequency><t:URL>http://10.0.0.1/</t:URL></m:PushSubscriptionRequest>\
    </m:Subscribe>";
const SUBSCRIBE: &str = "<m:Subscribe><m:StreamingSubscriptionRequest><t:FolderIds>\
    <t:DistinguishedFolderId Id=\"calendar\"/></t:FolderIds><t:EventTypes><t:EventType>CreatedEvent</t:EventType>\
    </t:EventTypes></m:StreamingSubscriptionRequest></m:Subscribe>";
const FOLDER: &str = "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:FolderIds>\
    <t:DistinguishedFolderId Id=\"calendar\"/></m:FolderIds></m:GetFolder>";

fn stream(id: &str) -> String {
    format!(
        "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>{id}</t:SubscriptionId></m:SubscriptionIds>\
         <m:ConnectionTimeout>30</m:ConnectionTimeout></m:GetStreamingEvents>"
    )
}

#[test]
fn a_subscription_is_known_to_the_server_that_granted_it_and_is_heard_when_its_stream_stands() {
    let mut lab = Lab::new();
    let (_, answer) = lab.ask(0, "ana@lab.test", SUBSCRIBE);
    let id = text(&answer, "SubscriptionId").unwrap();
    assert!(lab.servers.heard().is_empty());
    let (_, elsewhere) = lab.ask(1, "ana@lab.test", &stream(&id));
    assert_eq!(
        text(&elsewhere, "ResponseCode").unwrap(),
        "ErrorSubscriptionNotFound"
    );
    assert_eq!(text(&elsewhere, "ErrorSubscriptionIds").as_deref(), Some(""));
    let (_, opened) = lab.ask(0, "ana@lab.test", &stream(&id));
    assert_eq!(text(&opened, "ConnectionStatus").unwrap(), "OK");
    assert_eq!(lab.servers.users_per_cas(), [1, 0]);
    lab.servers.died(0);
    assert_eq!(lab.servers.users_per_cas(), [0, 0]);
    assert_eq!(lab.servers.violations(), [""; 0]);
}

#[test]
fn without_cookie_or_anchor_a_stream_reaches_the_wrong_mailbox_server() {
    let mut lab = Lab::new();
    let (_, answer) = lab.ask(0, "ana@lab.test", SUBSCRIBE);
    let id = text(&answer, "SubscriptionId").unwrap();
    let (_, astray) = lab.ask(0, "bob@lab.test", &stream(&id));
    assert_eq!(
        text(&astray, "ResponseCode").unwrap(),
        "ErrorSubscriptionNotFound"
    );
    let with_cookie = Head {
        back_end: Some("mbx1~1942".to_owned()),
        ..head("right")
    };
    let (_, opened) = lab.ask_with(0, &with_cookie, "bob@lab.test", &stream(&id));
    assert_eq!(text(&opened, "ConnectionStatus").unwrap(), "OK");
}

#[test]
fn an_event_goes_out_on_the_stream() {
    let mut lab = Lab::new();
    let (_, answer) = lab.ask(0, "ana@lab.test", SUBSCRIBE);
    lab.ask(
        0,
        "ana@lab.test",
        &stream(&text(&answer, "SubscriptionId").unwrap()),
    );
    let meeting = Appointment::new(0, 3600, Status::Busy);
    lab.servers.create("ANA@lab.test", meeting, lab.start, 1).unwrap();
    let outputs = lab.servers.take_outputs();
    let [
        Output::Say {
            document,
            is_last: false,
            ..
        },
    ] = outputs.as_slice()
    else {
        panic!("{outputs:?}")
    };
    assert!(text(&Element::parse(document).unwrap(), "CreatedEvent").is_some());
}

#[test]
fn addresses_and_conditions_have_their_codes() {
    let mut lab = Lab::new();
    let code = |lab: &mut Lab, who: &str| {
        let (status, answer) = lab.ask(0, who, FOLDER);
        (status, text(&answer, "ResponseCode").unwrap())
    };
    assert_eq!(code(&mut lab, "ana@lab.test"), (200, "NoError".to_owned()));
    let not_primary = (500, "ErrorNonPrimarySmtpAddress".to_owned());
    assert_eq!(code(&mut lab, "a.smith@lab.test"), not_primary);
    assert_eq!(
        code(&mut lab, "who@lab.test"),
        (500, "ErrorNonExistentMailbox".to_owned())
    );
    for (condition, wanted) in [
        (Condition::Gone, "ErrorNonExistentMailbox"),
        (Condition::ImpersonationDenied, "ErrorImpersonateUserDenied"),
        (Condition::Moving, "ErrorMailboxMoveInProgress"),
    ] {
        lab.servers.store_mut().set_condition("bob@lab.test", condition);
        assert_eq!(code(&mut lab, "bob@lab.test"), (500, wanted.to_owned()));
    }
}

#[test]
fn mistakes_are_violations_and_a_new_version_is_none() {
    let mut lab = Lab::new();
    lab.servers.cas_mut(0).newest = Version::Exchange2010Sp2;
    let (status, answer) = lab.ask(0, "ana@lab.test", FOLDER);
    assert_eq!(
        (status, text(&answer, "ResponseCode").unwrap()),
        (500, "ErrorInvalidServerVersion".to_owned())
    );
    assert_eq!(lab.servers.violations().len(), 0);
    let (_, answer) = lab.ask(1, "ana@lab.test", "<m:Subscribe/>");
    assert!(answer.is(Namespace::Soap, "Envelope"));
    assert_eq!(lab.servers.violations().len(), 1);
}

#[test]
fn a_wrong_password_is_answered_before_anything_is_read() {
    let mut lab = Lab::new();
    let request = Err(Refusal {
        code: "ErrorSchemaValidation",
        text: "an empty body, as NTLM begins".to_owned(),
    });
    let reply = lab.servers.request(0, &head("wrong"), &request, lab.start);
    assert!(matches!(reply, Reply::Answer { status: 401, .. }), "{reply:?}");
    assert_eq!(lab.servers.account.wrong_attempts(), 1);
    assert_eq!(lab.servers.violations(), [""; 0]);
}

#[test]
fn who_comes_during_a_back_off_is_counted() {
    let mut lab = Lab::new();
    let back_off = Duration::from_secs(5);
    lab.servers
        .cas_mut(0)
        .fail(Fault::always(Effect::Busy { back_off }).times(1));
    let (status, answer) = lab.ask(0, "ana@lab.test", FOLDER);
    assert_eq!(status, 500);
    assert_eq!(text(&answer, "Value").unwrap(), "5000");
    lab.ask(0, "ana@lab.test", FOLDER);
    assert_eq!(lab.servers.all()[0].record().during_back_off, 1);
    assert_eq!(
        lab.servers.all()[0].record().requests[&OperationName::GetFolder],
        2
    );
}

#[test]
fn who_ends_the_only_subscription_of_a_mailbox_is_noted() {
    let mut lab = Lab::new();
    for cas in [0, 0, 1] {
        let (status, _) = lab.ask(cas, "ana@lab.test", SUBSCRIBE_PUSH);
        assert_eq!(status, 200);
    }
    let subscriptions: Vec<(usize, String)> = (0..2)
        .flat_map(|cas| {
            lab.servers.all()[cas]
                .active()
                .map(move |active| (cas, active.subscription))
        })
        .collect();
    assert_eq!(subscriptions.len(), 3);
    let later = lab.start + Duration::from_secs(1);
    lab.servers.tick(later);
    for (cas, subscription) in subscriptions {
        assert_eq!(lab.servers.given_up_since(lab.start), [""; 0]);
        let answer = CallbackAnswer::Unsubscribe;
        lab.servers.callback_answered(cas, &subscription, &answer, later);
    }
    assert_eq!(lab.servers.given_up_since(lab.start), ["ana@lab.test"]);
    assert_eq!(
        lab.servers.given_up_since(later + Duration::from_millis(1)),
        [""; 0]
    );
}
