//! The OPTIONS requests (RFC 3261 §11) of keepalive checks, which nodes answer with the same code as clients' requests.

use std::net::SocketAddr;

use bytes::Bytes;
use tandem_sip::RawMessage;

/// The OPTIONS requests on one connection of the front end.
#[derive(Debug)]
pub struct OptionsCheck {
    call_id: String,
    own: SocketAddr,
    node: SocketAddr,
    /// The CSeq number of the latest request.
    number: u32,
}

impl OptionsCheck {
    /// For a connection from `own` to `node`; `chance` is random and makes the Call-ID unique.
    #[must_use]
    pub fn new(own: SocketAddr, node: SocketAddr, chance: u64) -> Self {
        Self {
            call_id: format!("{chance:016x}"),
            own,
            node,
            number: 0,
        }
    }

    /// The next request.
    pub fn request(&mut self) -> Bytes {
        self.number = self.number.wrapping_add(1);
        let Self {
            call_id,
            own,
            node,
            number,
        } = self;
        let text = format!(
            "OPTIONS sip:{node} SIP/2.0\r\nVia: SIP/2.0/TCP {own};branch=z9hG4bK{call_id}{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{own}>;tag={call_id}\r\nTo: <sip:{node}>\r\nCall-ID: {call_id}\r\n\
             CSeq: {number} OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        text.into()
    }

    /// Whether a message is a final answer to the latest request. Its status does not matter: a node that refuses is alive.
    #[must_use]
    pub fn is_answered_by(&self, message: &RawMessage) -> bool {
        message.status().is_some_and(|status| status >= 200)
            && message.call_id() == self.call_id.as_bytes()
            && message.cseq_number() == self.number
    }
}

#[cfg(test)]
mod tests {
    use tandem_sip::write_answer;

    use super::*;

    fn check() -> OptionsCheck {
        let address = |host: u8| ([192, 0, 2, host], 5060).into();
        OptionsCheck::new(address(1), address(2), 7)
    }

    fn answer(request: &Bytes, status: u16) -> RawMessage {
        let request = RawMessage::parse(request.clone()).unwrap();
        RawMessage::parse(write_answer(&request, status, "Whatever", "tag", &[])).unwrap()
    }

    #[test]
    fn any_final_answer_to_the_latest_request_will_do() {
        let mut check = check();
        let first = check.request();
        assert!(check.is_answered_by(&answer(&first, 200)));
        assert!(check.is_answered_by(&answer(&first, 503)));
        assert!(!check.is_answered_by(&answer(&first, 100)));
        let second = check.request();
        assert!(!check.is_answered_by(&answer(&first, 200)), "late");
        assert!(check.is_answered_by(&answer(&second, 405)));
    }

    #[test]
    fn requests_are_well_formed_between_ipv6_addresses_too() {
        let address = |host| (std::net::Ipv6Addr::new(0xfd86, 0, 0, 0, 0, 0, 0, host), 5060).into();
        let mut check = OptionsCheck::new(address(1), address(2), 7);
        let request = RawMessage::parse(check.request()).unwrap();
        assert_eq!(request.method(), Some(&b"OPTIONS"[..]));
        assert!(request.may_be_answered());
    }
}
