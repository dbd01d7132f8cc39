//! SIP as bytes and types (RFC 3261): no roles, no state beyond one message.
