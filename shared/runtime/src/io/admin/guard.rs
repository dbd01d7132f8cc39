//! Which requests are a person's or a program's own doing, and not that of a web page somebody happens to look at.
//!
//! A page of any site may have a browser send requests here: by a name that leads to loopback, or as a form. So a request
//! must name one of our hosts; and one that may change something must be JSON and must not come from elsewhere, as far as its
//! headers tell (Fetch Metadata, RFC 6454).

use std::net::IpAddr;

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};

use super::AdminResponse;

/// Names under which the admin listener may be asked for, besides those of loopback.
#[derive(Debug, Clone, Default)]
pub struct HostNames(Vec<String>);

impl HostNames {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn has(&self, host: &str) -> bool {
        let address = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        address.is_ok_and(|address| address.is_loopback())
            || host.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// Whether the request may be answered; otherwise the answer that says what is wrong with it.
pub(super) fn check(method: &Method, headers: &HeaderMap, names: &HostNames) -> Result<(), AdminResponse> {
    let refused = |status, text: String| Err(AdminResponse::error(status, &text));
    let host = text(headers, &HOST);
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let Some(authority) = authority.filter(|authority| names.has(authority.host())) else {
        let host = host.unwrap_or_default();
        return refused(
            StatusCode::MISDIRECTED_REQUEST,
            format!(
                "{host:?} is no name of this listener: ask by a loopback name, or add it to `names` in [admin]"
            ),
        );
    };
    if is_safe(method) {
        return Ok(());
    }
    let site = text(headers, &SEC_FETCH_SITE).unwrap_or("none");
    if !matches!(site, "none" | "same-origin") {
        return refused(
            StatusCode::FORBIDDEN,
            format!("a page of another site sent this ({site})"),
        );
    }
    if headers.contains_key(ORIGIN) && !is_origin(text(headers, &ORIGIN), &authority) {
        let origin = text(headers, &ORIGIN).unwrap_or_default();
        return refused(StatusCode::FORBIDDEN, format!("a page of {origin:?} sent this"));
    }
    if !text(headers, &CONTENT_TYPE).is_some_and(is_json) {
        return refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a request that changes something needs `Content-Type: application/json`".to_owned(),
        );
    }
    Ok(())
}

/// RFC 9110 §9.2.1.
pub(super) fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_origin(origin: Option<&str>, ours: &Authority) -> bool {
    let uri = origin.and_then(|origin| origin.parse::<Uri>().ok());
    uri.is_some_and(|uri| uri.authority().is_some_and(|theirs| theirs == ours))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(method: &Method, headers: &[(&str, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let names = HostNames::new(["tandem-1.example.com".to_owned()]);
        check(method, &map, &names)
            .err()
            .map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn only_hosts_of_ours_are_answered() {
        for (host, refused) in [
            ("localhost:8081", None),
            ("LocalHost", None),
            ("127.0.0.1:8081", None),
            ("127.9.9.9", None),
            ("[::1]:9000", None),
            ("Tandem-1.example.com:8081", None),
            ("192.0.2.1:8081", Some(421)),
            ("rebound.example.com:8081", Some(421)),
            ("localhost.example.com", Some(421)),
            ("", Some(421)),
        ] {
            assert_eq!(status(&Method::GET, &[("host", host)]), refused, "{host}");
        }
        assert_eq!(status(&Method::GET, &[]), Some(421));
    }

    type Case<'a> = (&'a [(&'a str, &'a str)], Option<u16>);

    #[test]
    fn what_changes_something_is_json_and_comes_from_no_other_page() {
        let host = ("host", "localhost:8081");
        let json = ("content-type", "application/json");
        let cases: [Case<'_>; 12] = [
            (&[host, json], None),
            (&[host, ("content-type", "Application/JSON; charset=utf-8")], None),
            (&[host], Some(415)),
            (&[host, ("content-type", "text/plain")], Some(415)),
            (
                &[host, ("content-type", "application/x-www-form-urlencoded")],
                Some(415),
            ),
            (&[host, json, ("origin", "http://localhost:8081")], None),
            (&[host, json, ("origin", "http://localhost:9999")], Some(403)),
            (&[host, json, ("origin", "http://evil.example.com")], Some(403)),
            (&[host, json, ("origin", "null")], Some(403)),
            (&[host, json, ("sec-fetch-site", "same-origin")], None),
            (&[host, json, ("sec-fetch-site", "cross-site")], Some(403)),
            (&[host, json, ("sec-fetch-site", "same-site")], Some(403)),
        ];
        for (headers, refused) in cases {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                assert_eq!(status(&method, headers), refused, "{method} {headers:?}");
            }
            assert_eq!(status(&Method::GET, headers), None, "reading needs none of that");
        }
    }

    proptest! {
        #[test]
        fn whatever_headers_hold_is_taken(
            host in "[ -~]{0,40}", origin in "[ -~]{0,40}", content_type in "[ -~]{0,40}",
        ) {
            let headers = [("host", &*host), ("origin", &*origin), ("content-type", &*content_type)];
            let _ = status(&Method::POST, &headers);
        }
    }
}
