//! NegotiateFlags, MS-NLMP §2.2.2.5.

pub(super) const UNICODE: u32 = 1;
pub(super) const REQUEST_TARGET: u32 = 1 << 2;
pub(super) const NTLM: u32 = 1 << 9;
/// Windows always offers it. It promises room for a signature, not a signature.
pub(super) const ALWAYS_SIGN: u32 = 1 << 15;
/// In version 1 it mixes a nonce of the client into the response.
pub(super) const EXTENDED_SESSION_SECURITY: u32 = 1 << 19;
pub(super) const TARGET_INFORMATION: u32 = 1 << 23;
pub(super) const VERSION: u32 = 1 << 25;
pub(super) const KEY_128: u32 = 1 << 29;
pub(super) const KEY_56: u32 = 1 << 31;

#[cfg(test)]
pub(super) const SIGN: u32 = 1 << 4;
#[cfg(test)]
pub(super) const SEAL: u32 = 1 << 5;
#[cfg(test)]
pub(super) const KEY_EXCHANGE: u32 = 1 << 30;

pub(super) const OFFERED: u32 =
    UNICODE | REQUEST_TARGET | NTLM | ALWAYS_SIGN | EXTENDED_SESSION_SECURITY | VERSION | KEY_128 | KEY_56;

/// Flags that the last message may have, if the challenge has them.
pub(super) const AGREED: u32 = OFFERED | TARGET_INFORMATION;
