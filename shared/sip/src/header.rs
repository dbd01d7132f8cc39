//! Headers in order: names in their long canonical form, values as received.

use std::borrow::Cow;

use bytes::Bytes;

use super::syntax::{split_list, to_text, trim, unfold};

/// The headers of one message. Look-ups ignore case and know the compact names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    name: Cow<'static, str>,
    /// Trimmed; else byte for byte as received, folding included.
    value: Bytes,
}

impl Headers {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of that name as text: unfolded, and read as Latin-1 where it is no UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get_bytes(name).map(to_text)
    }

    /// The first value of that name as received.
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        self.named(name).next().map(|header| &header.value[..])
    }

    /// Every value of that name in order; comma lists are split where the header is a list.
    #[must_use]
    pub fn get_all(&self, name: &str) -> Vec<Cow<'_, str>> {
        let canonical = canonical_name(name);
        let is_list = LISTS.contains(&&*canonical);
        let values = self.named(&canonical).map(|header| &header.value[..]);
        if is_list {
            values.flat_map(split_list).map(to_text).collect()
        } else {
            values.map(to_text).collect()
        }
    }

    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// Whether a list header names `token`, as in `Supported: timer`.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.get_all(name)
            .iter()
            .any(|value| value.eq_ignore_ascii_case(token))
    }

    /// Adds a line behind the others. Line ends in the value become spaces.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.entries.push(Header {
            name: canonical_name(name),
            value: one_line(value.as_ref()),
        });
    }

    /// Replaces every line of that name by one, where the first of them stood.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name = canonical_name(name);
        let header = Header {
            value: one_line(value.as_ref()),
            name,
        };
        match self
            .entries
            .iter()
            .position(|entry| entry.name.eq_ignore_ascii_case(&header.name))
        {
            None => self.entries.push(header),
            Some(first) => {
                let name = header.name.clone();
                self.entries[first] = header;
                let mut number = 0;
                self.entries.retain(|entry| {
                    number += 1;
                    number <= first + 1 || !entry.name.eq_ignore_ascii_case(&name)
                });
            }
        }
    }

    pub fn remove(&mut self, name: &str) {
        let name = canonical_name(name);
        self.entries
            .retain(|entry| !entry.name.eq_ignore_ascii_case(&name));
    }

    /// Name and value of every line, in order, the value as received.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries
            .iter()
            .map(|header| (&*header.name, &header.value[..]))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Copies every line of that name, byte for byte.
    pub fn copy_from(&mut self, other: &Self, name: &str) {
        self.entries.extend(other.named(name).cloned());
    }

    /// As received: whoever calls this has cut the value out of a header that ended there.
    pub(super) fn append_received(&mut self, name: &[u8], value: Bytes) {
        let name = canonical_name(&String::from_utf8_lossy(name));
        self.entries.push(Header { name, value });
    }

    /// Adds to the first value of that name, which else stays as received.
    pub(super) fn extend_value(&mut self, name: &str, suffix: &str) {
        let name = canonical_name(name);
        if let Some(header) = self
            .entries
            .iter_mut()
            .find(|header| header.name.eq_ignore_ascii_case(&name))
        {
            header.value = [&header.value[..], suffix.as_bytes()].concat().into();
        }
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Header> {
        let name = canonical_name(name).into_owned();
        self.entries
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(&name))
    }
}

/// No value of ours may begin a line of its own.
fn one_line(value: &[u8]) -> Bytes {
    let unfolded = unfold(trim(value));
    unfolded
        .iter()
        .map(|&byte| if byte == b'\r' { b' ' } else { byte })
        .collect()
}

/// The long name as the standards spell it; a name that we do not know stays as it is.
fn canonical_name(name: &str) -> Cow<'static, str> {
    let known = match name.as_bytes() {
        [letter] => {
            let letter = letter.to_ascii_lowercase();
            COMPACT
                .iter()
                .find(|(compact, _)| *compact == letter)
                .map(|(_, long)| *long)
        }
        _ => LONG.iter().find(|long| long.eq_ignore_ascii_case(name)).copied(),
    };
    known.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

/// RFC 3261 §7.3.3 and the registry of header fields.
const COMPACT: &[(u8, &str)] = &[
    (b'a', "Accept-Contact"),
    (b'b', "Referred-By"),
    (b'c', "Content-Type"),
    (b'd', "Request-Disposition"),
    (b'e', "Content-Encoding"),
    (b'f', "From"),
    (b'i', "Call-ID"),
    (b'j', "Reject-Contact"),
    (b'k', "Supported"),
    (b'l', "Content-Length"),
    (b'm', "Contact"),
    (b'n', "Identity-Info"),
    (b'o', "Event"),
    (b'r', "Refer-To"),
    (b's', "Subject"),
    (b't', "To"),
    (b'u', "Allow-Events"),
    (b'v', "Via"),
    (b'x', "Session-Expires"),
    (b'y', "Identity"),
];

const LONG: &[&str] = &[
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Allow",
    "Allow-Events",
    "Authorization",
    "Call-ID",
    "Contact",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "CSeq",
    "Date",
    "Event",
    "Expires",
    "From",
    "Max-Forwards",
    "Min-Expires",
    "Min-SE",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Require",
    "Reason",
    "Record-Route",
    "Refer-To",
    "Referred-By",
    "Require",
    "Retry-After",
    "Route",
    "Server",
    "Session-Expires",
    "Subject",
    "Subscription-State",
    "Supported",
    "Timestamp",
    "To",
    "Unsupported",
    "User-Agent",
    "Via",
    "Warning",
    "WWW-Authenticate",
];

/// Headers whose value is a comma list (RFC 3261 §7.3.1), as far as anyone here reads them so.
const LISTS: &[&str] = &[
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Allow",
    "Allow-Events",
    "Contact",
    "Content-Encoding",
    "Proxy-Require",
    "Record-Route",
    "Require",
    "Route",
    "Supported",
    "Unsupported",
    "Via",
    "Warning",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_length() {
        let mut headers = Headers::new();
        headers.append("i", "c1");
        headers.append("content-TYPE", "application/csta+xml");
        headers.append("ms-keep-alive", "UAC;hop-hop=yes");
        assert_eq!(headers.get("Call-ID").as_deref(), Some("c1"));
        assert_eq!(headers.get("c").as_deref(), Some("application/csta+xml"));
        assert_eq!(headers.get("MS-Keep-Alive").as_deref(), Some("UAC;hop-hop=yes"));
        let names: Vec<&str> = headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Call-ID", "Content-Type", "ms-keep-alive"]);
    }

    #[test]
    fn lists_are_split_and_other_commas_are_not() {
        let mut headers = Headers::new();
        headers.append("Route", "<sip:a;x=1,2>, \"b, c\" <sip:b>");
        headers.append("Route", "<sip:c>");
        headers.append("Supported", "timer,, gruu ,");
        headers.append("Date", "Sun, 22 Nov 2026 03:00:00 GMT");
        assert_eq!(
            headers.get_all("route"),
            ["<sip:a;x=1,2>", "\"b, c\" <sip:b>", "<sip:c>"]
        );
        assert_eq!(headers.get_all("k"), ["timer", "gruu"]);
        assert_eq!(headers.get_all("Date").len(), 1);
        assert!(headers.lists("Supported", "Timer") && !headers.lists("Require", "timer"));
    }

    #[test]
    fn setting_replaces_every_line_where_the_first_stood() {
        let mut headers = Headers::new();
        for (name, value) in [("Via", "1"), ("To", "2"), ("Via", "3"), ("Extra", "4")] {
            headers.append(name, value);
        }
        headers.set("v", "5");
        headers.set("Expires", "6");
        let lines: Vec<(&str, &[u8])> = headers.iter().collect();
        assert_eq!(
            lines,
            [
                ("Via", &b"5"[..]),
                ("To", b"2"),
                ("Extra", b"4"),
                ("Expires", b"6")
            ]
        );
        headers.remove("VIA");
        assert_eq!(headers.len(), 3);
        assert!(!headers.contains("Via"));
    }

    #[test]
    fn a_value_of_ours_cannot_begin_a_line() {
        let mut headers = Headers::new();
        headers.append("Subject", "a\r\nEvil: b\rc");
        assert_eq!(headers.get_bytes("Subject"), Some(&b"a Evil: b c"[..]));
    }
}
