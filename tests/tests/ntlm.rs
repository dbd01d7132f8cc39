//! The client before a server that others wrote: Apache with mod_auth_gssapi and gss-ntlmssp (CAL-1).
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::prelude::{BASE64_STANDARD, Engine};
use tandem_certificate::read_bundle;
use tandem_cluster::{CasEndpoint, CasGateway, CasId};
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::credential::{Account, Authentication, Credential, NtlmVersions, Secret};
use tandem_exchange::ews::{Answer, Failure, Operation, SubscriptionId};
use tandem_exchange::ntlm::{self, FileTime, Proof};
use tandem_node::io::exchange::client::{ClientOptions, EwsClient, PerformRequest, Transport};
use tandem_node::io::exchange::trust::CasTrust;
use tandem_tests::peers::apache::{Apache, Visit};
use tandem_tests::peers::authority::Chain;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test]
async fn one_handshake_serves_many_requests_plain_and_over_tls() {
    for transport in [Transport::Plain, Transport::Tls] {
        let Some(world) = World::start().await else { return };
        let client = world.client(transport, NTLM, PASSWORD);
        for _ in 0..REQUESTS {
            assert_eq!(perform(&client).await, Ok(Answer::Unsubscribed), "{transport:?}");
        }
        assert_eq!(client.counters().connections_opened.get(), 1);
        assert_eq!(client.counters().logins.get(), 1);
        let visits = world.apache.visits(1 + REQUESTS).await;
        let (challenged, served) = visits.split_first().unwrap();
        assert_eq!((challenged.status, challenged.earlier), (401, 0));
        assert_eq!(served.len(), REQUESTS);
        for (visit, earlier) in served.iter().zip(1..) {
            let expected = Visit {
                status: 200,
                earlier,
                user: Some("CONTOSO\\svc-presence".to_owned()),
            };
            assert_eq!(*visit, expected);
        }
    }
}

#[tokio::test]
async fn requests_side_by_side_have_a_connection_each() {
    let Some(world) = World::start().await else { return };
    let client = world.client(Transport::Tls, NTLM, PASSWORD);
    for _ in 0..3 {
        let all = futures::future::join_all((0..8).map(|_| perform(&client))).await;
        assert!(
            all.iter().all(|result| *result == Ok(Answer::Unsubscribed)),
            "{all:?}"
        );
    }
    assert!(client.counters().logins.get() <= 8);
    assert_eq!(client.counters().logins_refused.get(), 0);
}

#[tokio::test]
async fn a_wrong_password_is_refused_once_and_not_tried_again() {
    let Some(world) = World::start().await else { return };
    let client = world.client(Transport::Tls, NTLM, "wrong");
    let all = futures::future::join_all((0..8).map(|_| perform(&client))).await;
    for result in all {
        assert!(matches!(result, Err(Failure::Unauthorized(_))), "{result:?}");
    }
    assert_eq!(client.counters().logins.get(), 1);
    let visits = world.apache.visits(2).await;
    assert!(visits.iter().all(|visit| visit.status == 401));
}

#[tokio::test]
async fn version_1_is_accepted_when_it_is_allowed() {
    let Some(world) = World::start().await else { return };
    let only = Authentication::Ntlm(NtlmVersions::V1Only);
    let client = world.client(Transport::Plain, only, PASSWORD);
    assert_eq!(perform(&client).await, Ok(Answer::Unsubscribed));
}

#[tokio::test]
async fn the_best_that_is_offered_is_taken() {
    let Some(world) = World::start().await else { return };
    let best = Authentication::Negotiated(NtlmVersions::V2Only);
    let client = world.client(Transport::Tls, best, PASSWORD);
    assert_eq!(perform(&client).await, Ok(Answer::Unsubscribed));
    let visits = world.apache.visits(2).await;
    assert_eq!(visits[1].user.as_deref(), Some("CONTOSO\\svc-presence"));
}

#[tokio::test]
async fn a_password_may_have_any_letters() {
    let Some(world) = World::start().await else { return };
    let client = world.client_of(Transport::Plain, "CONTOSO\\jorg", NTLM, "pässwörd");
    assert_eq!(perform(&client).await, Ok(Answer::Unsubscribed));
}

/// The messages as they are, under the other name.
#[tokio::test]
async fn negotiate_takes_the_messages_of_ntlm_unwrapped() {
    let Some(world) = World::start().await else { return };
    let stream = TcpStream::connect(("127.0.0.1", world.apache.http_port))
        .await
        .unwrap();
    let mut stream = BufReader::new(stream);
    let first = ask(&mut stream, &ntlm::negotiate()).await;
    assert_eq!(first.status, 401);
    let challenge = first.message.unwrap();
    let (account, password) = (Account::parse(ACCOUNT).unwrap(), Secret::new(PASSWORD.to_owned()));
    let proof = Proof {
        account: &account,
        password: &password,
        versions: NtlmVersions::V2Only,
        workstation: "TANDEM",
        service: None,
        client_nonce: [7; 8],
        now: FileTime::from_unix(Duration::ZERO),
    };
    let proof = ntlm::authenticate(&proof, &ntlm::negotiate(), &challenge).unwrap();
    assert_eq!(ask(&mut stream, &proof).await.status, 200);
}

struct Heard {
    status: u16,
    message: Option<Vec<u8>>,
}

async fn ask(stream: &mut BufReader<TcpStream>, message: &[u8]) -> Heard {
    let authorization = BASE64_STANDARD.encode(message);
    let request = format!(
        "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: localhost\r\nAuthorization: Negotiate {authorization}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Heard {
        status: 0,
        message: None,
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        match line.trim_end().split_once(' ') {
            Some(("HTTP/1.1", rest)) => heard.status = rest[..3].parse().unwrap(),
            Some(("Content-Length:", value)) => length = value.parse().unwrap(),
            Some(("WWW-Authenticate:", value)) => {
                let token = value.strip_prefix("Negotiate ");
                heard.message = heard
                    .message
                    .or_else(|| token.map(|token| BASE64_STANDARD.decode(token).unwrap()));
            }
            Some(_) => {}
            None => break,
        }
    }
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    heard
}

struct World {
    apache: Apache,
    chain: Chain,
    trust: TempDir,
}

impl World {
    /// `None`: not on this machine.
    async fn start() -> Option<Self> {
        if !Apache::is_installed() {
            return None;
        }
        let chain = Chain::new();
        let leaf = chain.issue("", &["localhost", "127.0.0.1"]);
        let users = format!(
            "CONTOSO:svc-presence:{PASSWORD}\nCONTOSO:jörg:pässwörd\nCONTOSO:jorg:pässwörd\nCONTOSO:jorg2:a €\nCONTOSO:jörg3:abc\nCONTOSO:jorg4:a b\nLAB:svc@lab.test:upn\nlab.test:svc5:upn\n"
        );
        Some(Self {
            apache: Apache::start(&leaf, &users, UNSUBSCRIBED).await,
            chain,
            trust: TempDir::new().unwrap(),
        })
    }

    fn client(&self, transport: Transport, authentication: Authentication, password: &str) -> EwsClient {
        self.client_of(transport, ACCOUNT, authentication, password)
    }

    fn client_of(
        &self,
        transport: Transport,
        account: &str,
        authentication: Authentication,
        password: &str,
    ) -> EwsClient {
        let store = CasTrust::open(self.trust.path()).unwrap();
        store
            .add(&read_bundle(self.chain.root.pem.as_bytes()).unwrap())
            .unwrap();
        let credential = Credential {
            account: Account::parse(account).unwrap(),
            password: Secret::new(password.to_owned()),
            authentication,
        };
        let options = ClientOptions {
            transport,
            ..ClientOptions::default()
        };
        let client = EwsClient::new(
            options,
            Arc::new(store),
            Arc::new(ArcSwap::from_pointee(credential)),
        );
        client.set_cas(&[CasGateway {
            id: cas(),
            eligible: true,
            broken_for: Default::default(),
            endpoint: CasEndpoint {
                host: "127.0.0.1".to_owned(),
                port: match transport {
                    Transport::Plain => self.apache.http_port,
                    Transport::Tls => self.apache.https_port,
                },
                ..CasEndpoint::of(&cas())
            },
        }]);
        client
    }
}

async fn perform(client: &EwsClient) -> Result<Answer, Failure> {
    let request = PerformRequest {
        cas: cas(),
        operation: Operation::Unsubscribe {
            subscription: SubscriptionId("JgB".to_owned()),
        },
        impersonate: None,
        affinity: AffinityKey::None,
        timeout: Duration::from_secs(20),
    };
    client.perform(request).await.result
}

fn cas() -> CasId {
    CasId("cas-1".to_owned())
}

const ACCOUNT: &str = "CONTOSO\\svc-presence";
const PASSWORD: &str = "S3cret-Pass!";
const NTLM: Authentication = Authentication::Ntlm(NtlmVersions::V2Only);
const REQUESTS: usize = 20;
const UNSUBSCRIBED: &str = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
    <UnsubscribeResponse><ResponseMessages><UnsubscribeResponseMessage ResponseClass=\"Success\">\
    <ResponseCode>NoError</ResponseCode></UnsubscribeResponseMessage></ResponseMessages></UnsubscribeResponse>\
    </s:Body></s:Envelope>";
