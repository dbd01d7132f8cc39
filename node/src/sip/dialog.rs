//! RFC 3261 §12: from an opening INVITE to a dialog, and our own requests inside it.

use bytes::Bytes;
use tandem_cluster::{DialogRecord, SessionKey};
use tandem_sip::{Headers, Method, NameAddr, Request, Uri};
use thiserror::Error;

/// Why an INVITE makes no dialog. The client's fault: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DialogError {
    #[error("From is no address")]
    From,
    #[error("Contact is missing or no address")]
    Contact,
}

/// Who opens a session, as its From says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The URI, as received.
    pub uri: String,
    /// The user part of a SIP URI.
    pub user: Option<String>,
    /// Microsoft's endpoint id, which names the client's installation.
    pub endpoint_id: Option<String>,
}

impl Caller {
    pub fn of(from: &str) -> Result<Self, DialogError> {
        let address = NameAddr::parse(from).map_err(|_| DialogError::From)?;
        let user = match Uri::parse(&address.uri) {
            Ok(Uri::Sip(sip)) => sip.user.clone(),
            Ok(Uri::Tel(_) | Uri::Other(_)) | Err(_) => None,
        };
        Ok(Self {
            endpoint_id: address
                .params
                .get("epid")
                .filter(|epid| !epid.is_empty())
                .map(ToOwned::to_owned),
            user,
            uri: address.uri,
        })
    }
}

/// The dialog that `invite` opens; `local_target` is the Contact that its 200 will show.
pub fn dialog_of(invite: &Request, local_target: String) -> Result<DialogRecord, DialogError> {
    let headers = &invite.headers;
    let remote_identity = headers.get("From").unwrap_or_default().into_owned();
    let remote_uri = NameAddr::parse(&remote_identity)
        .map_err(|_| DialogError::From)?
        .uri;
    Ok(DialogRecord {
        call_id: headers.get("Call-ID").unwrap_or_default().into_owned(),
        local_identity: headers.get("To").unwrap_or_default().into_owned(),
        remote_identity,
        remote_uri,
        route_set: owned(headers.get_all("Record-Route")),
        remote_target: remote_target(headers).ok_or(DialogError::Contact)?,
        local_target,
    })
}

/// The URI of the first Contact.
#[must_use]
pub fn remote_target(headers: &Headers) -> Option<String> {
    let contact = headers.get_all("Contact").into_iter().next()?;
    NameAddr::parse(&contact).ok().map(|address| address.uri)
}

/// A request of ours inside the dialog (RFC 3261 §12.2.1.1).
#[must_use]
pub fn request(
    dialog: &DialogRecord,
    key: &SessionKey,
    method: Method,
    cseq: u32,
    via: &str,
    body: Option<(&str, Bytes)>,
) -> Request {
    let (uri, routes) = request_uri_and_routes(dialog);
    let mut headers = Headers::new();
    headers.append("Via", via);
    for route in routes {
        headers.append("Route", route);
    }
    headers.append("From", format!("{};tag={key}", dialog.local_identity));
    headers.append("To", &dialog.remote_identity);
    headers.append("Call-ID", &dialog.call_id);
    headers.append("CSeq", format!("{cseq} {method}"));
    headers.append("Max-Forwards", "70");
    headers.append("Contact", format!("<{}>", dialog.local_target));
    headers.append("User-Agent", USER_AGENT);
    let mut content = Bytes::new();
    if let Some((content_type, body)) = body {
        headers.append("Content-Disposition", CONTENT_DISPOSITION);
        headers.append("Content-Type", content_type);
        content = body;
    }
    Request {
        method,
        uri,
        headers,
        body: content,
    }
}

/// The URI of the hop that a request of ours goes to first.
#[must_use]
pub fn next_hop(dialog: &DialogRecord) -> String {
    dialog
        .route_set
        .first()
        .and_then(|route| NameAddr::parse(route).ok())
        .map_or_else(|| dialog.remote_target.clone(), |route| route.uri)
}

/// Loose routing leaves the remote target in the Request-URI; a first hop without `lr` is a strict router, which
/// finds its own URI there and the remote target at the end of the routes.
fn request_uri_and_routes(dialog: &DialogRecord) -> (String, Vec<String>) {
    let Some(first) = dialog.route_set.first() else {
        return (dialog.remote_target.clone(), Vec::new());
    };
    let hop = NameAddr::parse(first).map_or_else(|_| first.clone(), |route| route.uri);
    let loose = match Uri::parse(&hop) {
        Ok(Uri::Sip(sip)) => sip.params.contains("lr"),
        Ok(Uri::Tel(_) | Uri::Other(_)) | Err(_) => true,
    };
    if loose {
        return (dialog.remote_target.clone(), dialog.route_set.clone());
    }
    let rest = dialog.route_set.iter().skip(1).cloned();
    (hop, rest.chain([format!("<{}>", dialog.remote_target)]).collect())
}

fn owned(values: Vec<std::borrow::Cow<'_, str>>) -> Vec<String> {
    values.into_iter().map(std::borrow::Cow::into_owned).collect()
}

/// How every CSTA body is marked, in both directions.
pub const CONTENT_DISPOSITION: &str = "signal;handling=required";
/// What the node calls itself.
pub const USER_AGENT: &str = concat!("Tandem/", env!("CARGO_PKG_VERSION"));
