//! PROXY protocol, version 2.
