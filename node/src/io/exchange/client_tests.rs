//! The client against a scripted CAS: what a real one does only now and then.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, RootCertStore};
use tandem_cluster::{CasEndpoint, CasGateway, CasId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{ClientOptions, EwsClient, OpenStream, PerformRequest, Transport};
use super::scripted_cas::{
    CUT, HANG, Reply, Scripted, Then, challenge, challenge_as, fault, refusal, reply, stream_document,
    unsubscribed,
};
use super::streaming::StreamHandle;
use crate::calendar::{Input, StreamEnd, StreamId};
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::credential::{Account, Authentication, Credential, NtlmVersions, OAuthClient, Secret};
use tandem_exchange::ews::{Answer, Failure, Mailbox, Operation, StreamPart, SubscriptionId};

#[tokio::test]
async fn an_account_is_proved_once_for_a_connection() {
    let mut world = World::new(NTLM, vec![vec![challenge(), unsubscribed(), unsubscribed()]]).await;
    world.succeeds().await;
    world.succeeds().await;
    let [first, proof, second] = world.cas.take();
    assert_eq!((first.message_type(), first.body.len()), (Some(1), 0));
    assert_eq!(proof.message_type(), Some(3));
    assert!(proof.body.contains("Unsubscribe"));
    assert_eq!(second.field("authorization"), None);
    assert_eq!(world.client.counters().logins.get(), 1);
}

#[tokio::test]
async fn a_handshake_that_is_cut_in_the_middle_begins_again_once() {
    let cut = challenge().with("Connection: close");
    let scripts = vec![vec![cut.clone()], vec![challenge(), unsubscribed()]];
    let world = World::new(NTLM, scripts).await;
    world.succeeds().await;
    let world = World::new(
        NTLM,
        vec![vec![cut.clone()], vec![cut], vec![challenge(), unsubscribed()]],
    )
    .await;
    assert!(matches!(world.fails().await, Failure::Unreachable(_)));
}

#[tokio::test]
async fn a_connection_that_was_forgotten_is_proved_again() {
    let script = vec![
        challenge(),
        unsubscribed(),
        refusal(),
        challenge(),
        unsubscribed(),
    ];
    let mut world = World::new(NTLM, vec![script]).await;
    world.succeeds().await;
    world.succeeds().await;
    let types = world.cas.take::<5>().map(|seen| seen.message_type());
    assert_eq!(types, [Some(1), Some(3), None, Some(1), Some(3)]);
}

#[tokio::test]
async fn a_refused_account_is_told_and_not_tried_again() {
    let mut world = World::new(NTLM, vec![vec![challenge(), refusal()]; 3]).await;
    let Failure::Unauthorized(reason) = world.fails().await else {
        panic!("it was refused");
    };
    assert!(
        reason.contains("CONTOSO\\svc") && !reason.contains(PASSWORD),
        "{reason}"
    );
    assert_eq!(world.cas.take::<2>()[1].message_type(), Some(3));
    assert_eq!(world.client.counters().logins_refused.get(), 1);
}

#[tokio::test]
async fn requests_that_wait_together_try_a_wrong_password_once() {
    for (authentication, script) in [
        (NTLM, vec![challenge(), refusal()]),
        (Authentication::Basic, vec![refusal()]),
    ] {
        let world = World::new(authentication, vec![script; 8]).await;
        let all = futures::future::join_all((0..8).map(|_| world.fails())).await;
        assert!(
            all.iter()
                .all(|failure| matches!(failure, Failure::Unauthorized(_)))
        );
        assert_eq!(world.client.counters().logins.get(), 1);
    }
}

#[tokio::test]
async fn negotiate_is_taken_where_ntlm_is_not_offered_and_basic_where_that_is_allowed() {
    let only_negotiate = reply(401, "WWW-Authenticate: Negotiate", "");
    let script = vec![only_negotiate, challenge_as("Negotiate"), unsubscribed()];
    let mut world = World::new(NTLM, vec![script]).await;
    world.succeeds().await;
    let [_, second, third] = world.cas.take();
    for seen in [second, third] {
        assert!(seen.field("authorization").unwrap().starts_with("Negotiate "));
    }

    let only_basic = || reply(401, "WWW-Authenticate: Basic realm=\"mail\"", "");
    let script = vec![only_basic(), unsubscribed(), unsubscribed()];
    let mut world = World::new(NEGOTIATED, vec![script]).await;
    world.succeeds().await;
    world.succeeds().await;
    let [_, second, third] = world.cas.take();
    for seen in [second, third] {
        assert!(seen.field("authorization").unwrap().starts_with("Basic "));
    }

    let world = World::new(NTLM, vec![vec![only_basic()]]).await;
    let Failure::Unauthorized(reason) = world.fails().await else {
        panic!("there is no common scheme");
    };
    assert!(reason.contains("takes Basic, not NTLM or Negotiate"), "{reason}");
    assert_eq!(world.client.counters().logins.get(), 0);
}

#[tokio::test]
async fn trouble_in_front_of_the_cas_is_not_the_accounts() {
    let busy = reply(503, "Retry-After: 7", "");
    let world = World::new(NTLM, vec![vec![busy]]).await;
    let expected = Failure::Http {
        status: 503,
        retry_after: Some(Duration::from_secs(7)),
    };
    assert_eq!(world.fails().await, expected);
}

#[tokio::test]
async fn a_broken_connection_repeats_what_does_no_harm_twice() {
    let scripts = || vec![vec![unsubscribed(), CUT], vec![unsubscribed()]];
    let world = World::new(Authentication::Basic, scripts()).await;
    world.succeeds().await;
    world.succeeds().await;
    assert_eq!(world.client.counters().repeated.get(), 1);

    let world = World::new(Authentication::Basic, scripts()).await;
    world.succeeds().await;
    let subscribe = Operation::SubscribePull { timeout: 30 };
    let performed = world.perform(subscribe, AffinityKey::None).await;
    assert!(matches!(performed, Err(Failure::Unreachable(_))), "{performed:?}");
}

#[tokio::test]
async fn cookies_stay_with_their_group_until_they_are_forgotten() {
    let sets = unsubscribed().with("Set-Cookie: X-BackEndOverrideCookie=mbx1; path=/");
    let script = vec![sets, unsubscribed(), unsubscribed(), unsubscribed()];
    let mut world = World::new(Authentication::Basic, vec![script]).await;
    let group = AffinityKey::Group(7);
    for affinity in [group.clone(), group.clone(), AffinityKey::None] {
        world.perform(unsubscribe(), affinity).await.unwrap();
    }
    world.client.forget_affinity(&cas_id(), &group);
    world.perform(unsubscribe(), group).await.unwrap();
    let seen = world.cas.take::<4>();
    let cookies = seen.each_ref().map(|seen| seen.field("cookie"));
    assert_eq!(cookies, [None, Some("X-BackEndOverrideCookie=mbx1"), None, None]);
    let prefers = seen
        .each_ref()
        .map(|seen| seen.field("x-preferserveraffinity").is_some());
    assert_eq!(prefers, [true, true, false, true]);
    assert!(
        seen.iter()
            .all(|seen| seen.field("x-anchormailbox") == Some("ana@lab.test"))
    );
    assert!(seen.iter().all(|seen| seen.field("accept-encoding").is_none()));
}

#[tokio::test]
async fn an_old_cas_is_asked_in_its_own_words() {
    let script = vec![fault("ErrorInvalidServerVersion"), unsubscribed(), unsubscribed()];
    let mut world = World::new(Authentication::Basic, vec![script]).await;
    world.succeeds().await;
    world.succeeds().await;
    let seen = world.cas.take::<3>();
    let has = |version: &str| seen.each_ref().map(|seen| seen.body.contains(version));
    assert_eq!(has("\"Exchange2013\""), [true, false, false]);
    assert_eq!(has("\"Exchange2010_SP2\""), [false, true, true]);
}

#[tokio::test]
async fn answers_are_bounded_in_size_and_time() {
    let world = World::new(
        Authentication::Basic,
        vec![vec![reply(200, "", &"x".repeat(20_000))]],
    )
    .await;
    assert_eq!(world.fails().await, Failure::TooLarge);
    let world = World::new(Authentication::Basic, vec![vec![HANG]]).await;
    let request = PerformRequest {
        timeout: Duration::from_millis(50),
        ..world.request(unsubscribe(), AffinityKey::None)
    };
    assert_eq!(world.client.perform(request).await.result, Err(Failure::TimedOut));
}

#[tokio::test]
async fn another_credential_never_uses_the_connections_of_the_former() {
    let script = || vec![challenge(), unsubscribed()];
    let mut world = World::new(NTLM, vec![script(), script()]).await;
    world.succeeds().await;
    world.credential.store(Arc::new(credential(NTLM)));
    world.succeeds().await;
    let connections = world.cas.take::<4>().map(|seen| seen.connection);
    assert_eq!(connections, [0, 0, 1, 1]);
}

#[tokio::test]
async fn a_cas_that_is_gone_answers_nothing() {
    let world = World::new(Authentication::Basic, vec![]).await;
    world.client.set_cas(&[]);
    assert!(matches!(world.fails().await, Failure::Unreachable(_)));
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_after_it_was_refused() {
    let token = |value| {
        reply(
            200,
            "",
            &format!("{{\"access_token\":\"{value}\",\"expires_in\":3600}}"),
        )
    };
    let mut issuer = Scripted::start(vec![vec![token("first")], vec![token("second")]]).await;
    let oauth = Authentication::OAuth(OAuthClient {
        client_id: "app".to_owned(),
        client_secret: Secret::new(PASSWORD.to_owned()),
        token_url: format!("http://127.0.0.1:{}/tenant/token", issuer.port),
        scope: OAuthClient::EXCHANGE_ONLINE_SCOPE.to_owned(),
    });
    let script = vec![unsubscribed(), unsubscribed(), refusal()];
    let mut world = World::new(oauth, vec![script, vec![unsubscribed()]]).await;
    world.succeeds().await;
    world.succeeds().await;
    assert!(matches!(world.fails().await, Failure::Unauthorized(_)));
    world.succeeds().await;
    let shown = world.cas.take::<4>();
    let shown = shown.each_ref().map(|seen| seen.field("authorization"));
    let (first, second) = (Some("Bearer first"), Some("Bearer second"));
    assert_eq!(shown, [first, first, first, second]);
    let [asked, _] = issuer.take();
    assert!(asked.head.starts_with("POST /tenant/token "), "{}", asked.head);
    assert!(asked.body.contains("grant_type=client_credentials"));
}

#[tokio::test]
async fn a_refusing_issuer_is_not_asked_by_every_request() {
    let refused = reply(401, "", "{\"error\":\"invalid_client\"}");
    let issuer = Scripted::start(vec![vec![refused]]).await;
    let oauth = Authentication::OAuth(OAuthClient {
        client_id: "app".to_owned(),
        client_secret: Secret::new(PASSWORD.to_owned()),
        token_url: format!("http://127.0.0.1:{}/token", issuer.port),
        scope: "mail".to_owned(),
    });
    let world = World::new(oauth, vec![]).await;
    for _ in 0..3 {
        let failure = world.fails().await;
        assert_eq!(failure, Failure::Unauthorized("invalid_client: ".to_owned()));
    }
}

#[tokio::test]
async fn a_stream_is_forwarded_part_by_part_until_the_cas_closes_it() {
    let documents = [stream_document("OK"), stream_document("Closed")].concat();
    let mut world = World::new(Authentication::Basic, vec![vec![reply(200, "", &documents)]]).await;
    let mut stream = world.open_stream();
    assert_eq!(stream.next().await, part(StreamPart::Opened));
    assert_eq!(stream.next().await, part(StreamPart::Closed));
    assert_eq!(stream.next().await, ended(StreamEnd::Closed));
    assert!(world.cas.take::<1>()[0].body.contains("GetStreamingEvents"));
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_a_broken_one_reported() {
    let opened = reply(200, "", &stream_document("OK"));
    let endless = Reply {
        text: opened.text.replace("Content-Length: ", "X-Length: "),
        then: Then::Hang,
    };
    let world = World::new(Authentication::Basic, vec![vec![endless.clone()]]).await;
    let mut stream = world.open_stream_for(Duration::from_millis(50));
    assert_eq!(stream.next().await, part(StreamPart::Opened));
    assert_eq!(stream.next().await, ended(StreamEnd::Silent));

    let broken = Reply {
        text: opened.text.replace("Content-Length: ", "Content-Length: 9"),
        then: Then::Cut,
    };
    let world = World::new(Authentication::Basic, vec![vec![broken]]).await;
    let mut stream = world.open_stream();
    assert_eq!(stream.next().await, part(StreamPart::Opened));
    let end = stream.next().await;
    assert!(
        matches!(
            &end,
            Input::StreamEnded {
                end: StreamEnd::Failed(Failure::Unreachable(_)),
                ..
            }
        ),
        "{end:?}"
    );

    let world = World::new(Authentication::Basic, vec![vec![endless]]).await;
    let mut stream = world.open_stream();
    assert_eq!(stream.next().await, part(StreamPart::Opened));
    stream.handle = None;
    assert_eq!(stream.next().await, ended(StreamEnd::Closed));
}

#[tokio::test]
async fn a_stream_that_is_refused_says_why() {
    let world = World::new(Authentication::Basic, vec![vec![fault("ErrorServerBusy")]]).await;
    let mut stream = world.open_stream();
    let Input::StreamEnded {
        end: StreamEnd::Failed(Failure::Response { code, .. }),
        ..
    } = stream.next().await
    else {
        panic!("it was refused");
    };
    assert_eq!(code.0, "ErrorServerBusy");
}

/// A client and the CAS it knows.
struct World {
    client: EwsClient,
    credential: Arc<ArcSwap<Credential>>,
    cas: Scripted,
}

impl World {
    async fn new(authentication: Authentication, scripts: Vec<Vec<Reply>>) -> Self {
        let cas = Scripted::start(scripts).await;
        let credential = Arc::new(ArcSwap::from_pointee(credential(authentication)));
        let options = ClientOptions {
            transport: Transport::Plain,
            answer_bytes_max: 10_000,
            ..ClientOptions::default()
        };
        let client = EwsClient::new(options, Arc::new(no_tls), credential.clone());
        client.set_cas(&[CasGateway {
            id: cas_id(),
            eligible: true,
            broken_for: Default::default(),
            endpoint: CasEndpoint {
                host: "127.0.0.1".to_owned(),
                port: cas.port,
                ..CasEndpoint::of(&cas_id())
            },
        }]);
        Self {
            client,
            credential,
            cas,
        }
    }

    async fn succeeds(&self) {
        let performed = self.perform(unsubscribe(), AffinityKey::None).await;
        assert_eq!(performed, Ok(Answer::Unsubscribed));
    }

    async fn fails(&self) -> Failure {
        self.perform(unsubscribe(), AffinityKey::None).await.unwrap_err()
    }

    async fn perform(&self, operation: Operation, affinity: AffinityKey) -> Result<Answer, Failure> {
        self.client
            .perform(self.request(operation, affinity))
            .await
            .result
    }

    fn request(&self, operation: Operation, affinity: AffinityKey) -> PerformRequest {
        PerformRequest {
            cas: cas_id(),
            operation,
            impersonate: Some(Mailbox("ana@lab.test".to_owned())),
            affinity,
            timeout: PATIENCE,
        }
    }

    fn open_stream(&self) -> Stream {
        self.open_stream_for(PATIENCE)
    }

    fn open_stream_for(&self, read_timeout: Duration) -> Stream {
        let (sender, inputs) = mpsc::channel(8);
        let open = OpenStream {
            stream: STREAM,
            cas: cas_id(),
            subscriptions: vec![SubscriptionId("JgB".to_owned())],
            anchor: Mailbox("ana@lab.test".to_owned()),
            affinity: AffinityKey::None,
            connection_timeout: 30,
            read_timeout,
        };
        Stream {
            handle: Some(self.client.open_stream(open, sender)),
            inputs,
        }
    }
}

struct Stream {
    handle: Option<StreamHandle>,
    inputs: mpsc::Receiver<Input>,
}

impl Stream {
    async fn next(&mut self) -> Input {
        timeout(PATIENCE, self.inputs.recv()).await.unwrap().unwrap()
    }
}

fn part(part: StreamPart) -> Input {
    Input::StreamPart { stream: STREAM, part }
}

fn ended(end: StreamEnd) -> Input {
    Input::StreamEnded { stream: STREAM, end }
}

fn unsubscribe() -> Operation {
    Operation::Unsubscribe {
        subscription: SubscriptionId("JgB".to_owned()),
    }
}

fn credential(authentication: Authentication) -> Credential {
    Credential {
        account: Account::parse("CONTOSO\\svc").unwrap(),
        password: Secret::new(PASSWORD.to_owned()),
        authentication,
    }
}

fn cas_id() -> CasId {
    CasId("cas-1".to_owned())
}

fn no_tls(_: &CasEndpoint) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty());
    Arc::new(config.with_no_client_auth())
}

const NTLM: Authentication = Authentication::Ntlm(NtlmVersions::V2Only);
const NEGOTIATED: Authentication = Authentication::Negotiated(NtlmVersions::V2Only);
const PASSWORD: &str = "S3cret-Pass!";
const PATIENCE: Duration = Duration::from_secs(10);
const STREAM: StreamId = StreamId(1);
