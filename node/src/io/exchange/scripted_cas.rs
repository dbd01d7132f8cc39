//! A CAS that says what it was told to say, for the client's tests.

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A CAS that answers the n-th request of the n-th connection as it was told, and then closes it.
pub(super) struct Scripted {
    pub(super) port: u16,
    seen: mpsc::UnboundedReceiver<Seen>,
}

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) connection: usize,
    pub(super) head: String,
    pub(super) body: String,
}

#[derive(Clone)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) then: Then,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Then {
    GoOn,
    Cut,
    Hang,
}

impl Scripted {
    pub(super) async fn start(scripts: Vec<Vec<Reply>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (report, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for (connection, script) in scripts.into_iter().enumerate() {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(play(connection, stream, script, report.clone()));
            }
        });
        Self { port, seen }
    }

    /// What has been asked so far: exactly so much.
    pub(super) fn take<const COUNT: usize>(&mut self) -> [Seen; COUNT] {
        let mut all = Vec::new();
        while let Ok(seen) = self.seen.try_recv() {
            all.push(seen);
        }
        all.try_into().unwrap()
    }
}

async fn play(
    connection: usize,
    mut stream: TcpStream,
    script: Vec<Reply>,
    report: mpsc::UnboundedSender<Seen>,
) {
    let mut buffer = Vec::new();
    for reply in script {
        let Some((head, body)) = read_request(&mut stream, &mut buffer).await else {
            return;
        };
        let _ = report.send(Seen {
            connection,
            head,
            body,
        });
        if stream.write_all(reply.text.as_bytes()).await.is_err() || reply.then == Then::Cut {
            return;
        }
        if reply.then == Then::Hang {
            // Until the client goes.
            let _ = stream.read_u8().await;
        }
        if reply.text.contains("Connection: close") {
            return;
        }
    }
    // What is not in the script is not asked; a client may keep its connection.
    let _ = stream.read_u8().await;
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = field_of(head, "content-length").map_or(0, |length| length.parse().unwrap());
            if rest.len() >= length {
                buffer.clear();
                return Some((head.to_owned(), rest.to_owned()));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn field_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(found.1)
}

impl Seen {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        field_of(&self.head, name)
    }

    /// Of NTLM.
    pub(super) fn message_type(&self) -> Option<u8> {
        let (_, message) = self.field("authorization")?.split_once(' ')?;
        BASE64_STANDARD.decode(message).ok()?.get(8).copied()
    }
}

impl Reply {
    pub(super) fn with(mut self, field: &str) -> Self {
        self.text = self.text.replacen("\r\n", &format!("\r\n{field}\r\n"), 1);
        self
    }
}

pub(super) fn reply(status: u16, field: &str, body: &str) -> Reply {
    let field = if field.is_empty() { "X-Nothing: 0" } else { field };
    let length = body.len();
    Reply {
        text: format!("HTTP/1.1 {status} Scripted\r\n{field}\r\nContent-Length: {length}\r\n\r\n{body}"),
        then: Then::GoOn,
    }
}

pub(super) fn refusal() -> Reply {
    reply(401, "WWW-Authenticate: NTLM", "go away")
}

pub(super) fn challenge() -> Reply {
    challenge_as("NTLM")
}

/// That of MS-NLMP §4.2.4.3.
pub(super) fn challenge_as(scheme: &str) -> Reply {
    let message = "TlRMTVNTUAACAAAADAAMADgAAAAzgoriASNFZ4mrze8AAAAAAAAAACQAJABEAAAABgBwFwAAAA9TAGUAcgB2AGUAcgACAAwARABv\
                   AG0AYQBpAG4AAQAMAFMAZQByAHYAZQByAAAAAAA=";
    reply(401, &format!("WWW-Authenticate: {scheme} {message}"), "more")
}

pub(super) fn unsubscribed() -> Reply {
    let message = "<UnsubscribeResponseMessage ResponseClass=\"Success\"><ResponseCode>NoError</ResponseCode>\
                   </UnsubscribeResponseMessage>";
    let body =
        format!("<UnsubscribeResponse><ResponseMessages>{message}</ResponseMessages></UnsubscribeResponse>");
    reply(200, "Content-Type: text/xml", &envelope(&body))
}

pub(super) fn fault(code: &str) -> Reply {
    let body = format!("<s:Fault><faultcode>a:{code}</faultcode><faultstring>No.</faultstring></s:Fault>");
    reply(500, "Content-Type: text/xml", &envelope(&body))
}

pub(super) fn stream_document(status: &str) -> String {
    let message = format!(
        "<GetStreamingEventsResponseMessage ResponseClass=\"Success\"><ResponseCode>NoError</ResponseCode>\
         <ConnectionStatus>{status}</ConnectionStatus></GetStreamingEventsResponseMessage>"
    );
    envelope(&format!(
        "<GetStreamingEventsResponse><ResponseMessages>{message}</ResponseMessages></GetStreamingEventsResponse>"
    ))
}

fn envelope(body: &str) -> String {
    let namespace = "http://schemas.xmlsoap.org/soap/envelope/";
    format!("<s:Envelope xmlns:s=\"{namespace}\"><s:Body>{body}</s:Body></s:Envelope>")
}

pub(super) const CUT: Reply = Reply {
    text: String::new(),
    then: Then::Cut,
};
pub(super) const HANG: Reply = Reply {
    text: String::new(),
    then: Then::Hang,
};
