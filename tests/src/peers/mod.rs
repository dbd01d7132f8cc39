//! The simulated peers: communicators behind an OCS, one PBX, and the CTI managers in front of it.
//!
//! Owns what the outside world says and the books that it keeps. Does not own any Tandem process, nor any
//! Tandem code but SIP framing. What a peer finds wrong stands in its violations and is never repaired: a
//! story asks for an empty list. The pure part of each peer (`switch`, `front_end`, `communicator`) has no
//! socket; `pbx`, `cti_manager` and `ocs` are their shells.

pub mod apache;
pub mod authority;
pub mod books;
pub mod communicator;
pub mod csta;
pub mod cti_manager;
pub mod exchange;
pub mod front_end;
pub mod line_protocol;
pub mod ocs;
pub mod openssl;
pub mod pbx;
pub mod presence_server;
pub mod sipp;
pub mod stranger;
pub mod switch;
pub mod violation;
pub mod watcher;

use std::time::Duration;

use tandem_runtime::io::environment::net::{Keepalive, TcpOptions};

/// For connections to a front end: one that has lost its power says nothing, and probes find that out within two seconds.
fn probing_options() -> TcpOptions {
    TcpOptions {
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(1),
            interval: Duration::from_secs(1),
            retries: Some(1),
        }),
        unacknowledged_max: Some(Duration::from_secs(2)),
    }
}
