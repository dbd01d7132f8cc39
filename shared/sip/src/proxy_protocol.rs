//! PROXY protocol, version 2: who is behind a connection between front end and node.
//!
//! What travels beyond the addresses stands in TLVs:
//!
//! | type | name | value |
//! |---|---|---|
//! | 0x02 | PP2_TYPE_AUTHORITY | server name expected in the certificate at the end of an outbound connection |
//! | 0x03 | PP2_TYPE_CRC32C | checksum of the whole header; written always, checked when present |
//! | 0x04 | PP2_TYPE_NOOP | ignored |
//! | 0x05 | PP2_TYPE_UNIQUE_ID | random 128-bit id of the client connection |
//! | 0x20 | PP2_TYPE_SSL | present: the client spoke TLS; holds the CN of its verified certificate |
//! | 0xE0 | subject alternative name | one DNS name or URI of the verified certificate; one TLV for each |
//! | 0xE2 | host name | of the listener that the client connected to: shown to clients instead of its address |
//! | 0xE1 | purpose | one byte: 0 pair (also when absent), 1 re-sent requests, 2 outbound |
//!
//! Other types are skipped. Owns no sockets: [`ProxyHeader::parse`] is called again when more bytes have come.
//! What always holds: a header is at most [`HEADER_BYTES_MAX`] long, and no length is believed beyond it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::host_name::is_host_name;

/// The first bytes of a connection between front end and node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The sender speaks for itself: a probe.
    Local,
    Proxied(ProxiedConnection),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedConnection {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to; for [`Purpose::Outbound`], where to connect to.
    pub destination: SocketAddr,
    pub transport: Transport,
    pub connection_id: Option<[u8; 16]>,
    /// From the verified certificate of a TLS client.
    pub peer: Option<PeerIdentity>,
    pub purpose: Purpose,
    /// What clients are shown instead of `destination`'s address. A host name: [`crate::host_name::is_host_name`].
    pub host_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: Option<String>,
    pub subject_alternative_names: Vec<String>,
}

impl PeerIdentity {
    /// All of them, the common name last.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let names = self.subject_alternative_names.iter().chain(&self.common_name);
        names.map(String::as_str).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// One client connection's pair.
    Pair,
    /// Requests sent again after their node died; carries answers only.
    Resent,
    /// From a node: connect to the destination on its behalf.
    Outbound { server_name: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// So far this is the beginning of a header.
    Incomplete,
    Complete {
        header: ProxyHeader,
        length: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyProtocolError {
    #[error("the connection does not begin with a PROXY protocol version 2 header")]
    SignatureMissing,
    #[error("PROXY protocol version or command {0:#04x} is not supported")]
    CommandUnsupported(u8),
    #[error("address family or protocol {0:#04x} is not supported: TCP over IPv4 or IPv6 is")]
    FamilyUnsupported(u8),
    #[error("a header of {0} bytes is over the limit of {HEADER_BYTES_MAX}")]
    TooLong(usize),
    #[error("the header is too short for its addresses")]
    AddressesTruncated,
    #[error("TLV {0:#04x} is truncated")]
    TlvTruncated(u8),
    #[error("TLV {0:#04x} is malformed")]
    TlvMalformed(u8),
    #[error("TLV {0:#04x} stands more than once")]
    TlvDuplicate(u8),
    #[error("the checksum does not match")]
    ChecksumMismatch,
}

impl ProxyHeader {
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let (command, family, payload) = match self {
            Self::Local => (COMMAND_LOCAL, FAMILY_UNSPECIFIED, Vec::new()),
            Self::Proxied(connection) => connection.write_payload(),
        };
        let mut header = Vec::with_capacity(FIXED_BYTES + payload.len() + CHECKSUM_TLV_BYTES);
        header.extend_from_slice(SIGNATURE);
        header.extend_from_slice(&[command, family]);
        let length = payload.len() + CHECKSUM_TLV_BYTES;
        header.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        header.extend_from_slice(&payload);
        put_tlv(&mut header, TLV_CRC32C, &[0; 4]);
        let checksum = crc32c(&header);
        let at = header.len() - 4;
        header[at..].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    /// Reads a header from the beginning of a stream. Strict: this end is told who is trusted by it.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
        let compared = bytes.len().min(SIGNATURE.len());
        if bytes[..compared] != SIGNATURE[..compared] {
            return Err(ProxyProtocolError::SignatureMissing);
        }
        let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED_BYTES) else {
            return Ok(Parsed::Incomplete);
        };
        let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if length > HEADER_BYTES_MAX {
            return Err(ProxyProtocolError::TooLong(length));
        }
        if !matches!(command, COMMAND_LOCAL | COMMAND_PROXY) {
            return Err(ProxyProtocolError::CommandUnsupported(command));
        }
        let Some(whole) = bytes.get(..length) else {
            return Ok(Parsed::Incomplete);
        };
        let header = match command {
            COMMAND_LOCAL => Self::Local,
            _ => Self::Proxied(parse_connection(family, whole)?),
        };
        Ok(Parsed::Complete { header, length })
    }
}

impl ProxiedConnection {
    fn write_payload(&self) -> (u8, u8, Vec<u8>) {
        let mut payload = Vec::with_capacity(256);
        let family = put_addresses(&mut payload, self.source, self.destination);
        if let Some(id) = &self.connection_id {
            put_tlv(&mut payload, TLV_UNIQUE_ID, id);
        }
        if self.transport == Transport::Tls {
            put_tlv(&mut payload, TLV_SSL, &ssl_value(self.peer.as_ref()));
        }
        let purpose = match &self.purpose {
            Purpose::Pair => PURPOSE_PAIR,
            Purpose::Resent => PURPOSE_RESENT,
            Purpose::Outbound { server_name } => {
                if let Some(name) = server_name {
                    put_tlv(&mut payload, TLV_AUTHORITY, name.as_bytes());
                }
                PURPOSE_OUTBOUND
            }
        };
        put_tlv(&mut payload, TLV_PURPOSE, &[purpose]);
        if let Some(name) = &self.host_name {
            put_tlv(&mut payload, TLV_HOST_NAME, name.as_bytes());
        }
        put_names(&mut payload, self.peer.as_ref());
        (COMMAND_PROXY, family, payload)
    }
}

/// As many names as fit: a certificate may hold more than a header.
fn put_names(payload: &mut Vec<u8>, peer: Option<&PeerIdentity>) {
    for name in peer.iter().flat_map(|peer| &peer.subject_alternative_names) {
        let needed = FIXED_BYTES + payload.len() + TLV_HEADER_BYTES + name.len() + CHECKSUM_TLV_BYTES;
        if needed <= HEADER_BYTES_MAX {
            put_tlv(payload, TLV_SUBJECT_ALTERNATIVE_NAME, name.as_bytes());
        }
    }
}

fn put_addresses(payload: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) -> u8 {
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            payload.extend_from_slice(&source.octets());
            payload.extend_from_slice(&destination.octets());
            FAMILY_TCP_IPV4
        }
        // A mixed pair travels as IPv6, mapped; the reader turns it back.
        (source, destination) => {
            payload.extend_from_slice(&to_ipv6(source).octets());
            payload.extend_from_slice(&to_ipv6(destination).octets());
            FAMILY_TCP_IPV6
        }
    };
    payload.extend_from_slice(&source.port().to_be_bytes());
    payload.extend_from_slice(&destination.port().to_be_bytes());
    family
}

fn to_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// A value that is too long is left out: cut off, a name would be another name.
fn put_tlv(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if let Some(length) = u16::try_from(value.len())
        .ok()
        .filter(|&length| length <= TLV_VALUE_BYTES_MAX)
    {
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(value);
    }
}

/// PP2_TYPE_SSL: which certificate the client showed, whether it verified (0: yes), and its CN within.
fn ssl_value(peer: Option<&PeerIdentity>) -> Vec<u8> {
    let (client, verify) = match peer {
        Some(_) => (SSL_CLIENT_SSL | SSL_CLIENT_CERTIFICATE, 0_u32),
        None => (SSL_CLIENT_SSL, 1),
    };
    let mut value = vec![client];
    value.extend_from_slice(&verify.to_be_bytes());
    // Within PP2_TYPE_SSL, which has to fit as a whole.
    let fits = |name: &&String| name.len() <= usize::from(TLV_VALUE_BYTES_MAX) / 2;
    if let Some(name) = peer.and_then(|peer| peer.common_name.as_ref()).filter(fits) {
        put_tlv(&mut value, TLV_SSL_COMMON_NAME, name.as_bytes());
    }
    value
}

fn parse_connection(family: u8, whole: &[u8]) -> Result<ProxiedConnection, ProxyProtocolError> {
    let payload = &whole[FIXED_BYTES..];
    let (source, destination, tlvs) = match family {
        FAMILY_TCP_IPV4 => parse_addresses::<4>(payload),
        FAMILY_TCP_IPV6 => parse_addresses::<16>(payload),
        other => return Err(ProxyProtocolError::FamilyUnsupported(other)),
    }
    .ok_or(ProxyProtocolError::AddressesTruncated)?;
    let mut found = Tlvs::default();
    let mut rest = tlvs;
    while let Some((kind, value, behind)) = split_tlv(rest)? {
        if kind == TLV_CRC32C {
            check_checksum(whole, value)?;
        }
        found.take(kind, value)?;
        rest = behind;
    }
    Ok(found.into_connection(source, destination))
}

trait FromOctets {
    fn into_ip(self) -> IpAddr;
}

impl FromOctets for [u8; 4] {
    fn into_ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl FromOctets for [u8; 16] {
    fn into_ip(self) -> IpAddr {
        Ipv6Addr::from(self).to_canonical()
    }
}

type Addresses<'a> = (SocketAddr, SocketAddr, &'a [u8]);

fn parse_addresses<const OCTETS: usize>(payload: &[u8]) -> Option<Addresses<'_>>
where
    [u8; OCTETS]: FromOctets,
{
    let (source, rest) = payload.split_first_chunk::<OCTETS>()?;
    let (destination, rest) = rest.split_first_chunk::<OCTETS>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, rest) = rest.split_first_chunk::<2>()?;
    let source = SocketAddr::new(source.into_ip(), u16::from_be_bytes(*source_port));
    let destination = SocketAddr::new(destination.into_ip(), u16::from_be_bytes(*destination_port));
    Some((source, destination, rest))
}

type Tlv<'a> = (u8, &'a [u8], &'a [u8]);

/// Type, value, and what stands behind.
fn split_tlv(bytes: &[u8]) -> Result<Option<Tlv<'_>>, ProxyProtocolError> {
    let Some((&kind, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let truncated = ProxyProtocolError::TlvTruncated(kind);
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(truncated)?;
    let (value, behind) = rest
        .split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or(truncated)?;
    Ok(Some((kind, value, behind)))
}

#[derive(Default)]
struct Tlvs {
    connection_id: Option<[u8; 16]>,
    authority: Option<String>,
    ssl: Option<Ssl>,
    purpose: Option<u8>,
    host_name: Option<String>,
    subject_alternative_names: Vec<String>,
}

struct Ssl {
    verified: bool,
    common_name: Option<String>,
}

impl Tlvs {
    fn take(&mut self, kind: u8, value: &[u8]) -> Result<(), ProxyProtocolError> {
        let malformed = ProxyProtocolError::TlvMalformed(kind);
        match kind {
            TLV_UNIQUE_ID => {
                let id = value.try_into().map_err(|_| malformed)?;
                put_once(&mut self.connection_id, id, kind)
            }
            TLV_AUTHORITY => put_once(&mut self.authority, text(value, kind)?, kind),
            TLV_SSL => put_once(&mut self.ssl, parse_ssl(value)?, kind),
            TLV_PURPOSE => match value {
                &[purpose @ PURPOSE_PAIR..=PURPOSE_OUTBOUND] => put_once(&mut self.purpose, purpose, kind),
                _ => Err(malformed),
            },
            TLV_HOST_NAME => {
                let name = text(value, kind)?;
                // It goes into messages as it is.
                if !is_host_name(&name) {
                    return Err(malformed);
                }
                put_once(&mut self.host_name, name, kind)
            }
            TLV_SUBJECT_ALTERNATIVE_NAME => {
                self.subject_alternative_names.push(text(value, kind)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn into_connection(self, source: SocketAddr, destination: SocketAddr) -> ProxiedConnection {
        let transport = if self.ssl.is_some() {
            Transport::Tls
        } else {
            Transport::Tcp
        };
        // Names count only when the certificate that holds them has verified.
        let peer = self.ssl.filter(|ssl| ssl.verified).map(|ssl| PeerIdentity {
            common_name: ssl.common_name,
            subject_alternative_names: self.subject_alternative_names,
        });
        let purpose = match self.purpose {
            Some(PURPOSE_RESENT) => Purpose::Resent,
            Some(PURPOSE_OUTBOUND) => Purpose::Outbound {
                server_name: self.authority,
            },
            _ => Purpose::Pair,
        };
        ProxiedConnection {
            source,
            destination,
            transport,
            connection_id: self.connection_id,
            peer,
            purpose,
            host_name: self.host_name,
        }
    }
}

fn put_once<T>(place: &mut Option<T>, value: T, kind: u8) -> Result<(), ProxyProtocolError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ProxyProtocolError::TlvDuplicate(kind)),
    }
}

fn text(value: &[u8], kind: u8) -> Result<String, ProxyProtocolError> {
    String::from_utf8(value.to_vec()).map_err(|_| ProxyProtocolError::TlvMalformed(kind))
}

fn parse_ssl(value: &[u8]) -> Result<Ssl, ProxyProtocolError> {
    let malformed = ProxyProtocolError::TlvMalformed(TLV_SSL);
    let (&client, rest) = value.split_first().ok_or(malformed)?;
    let (verify, mut rest) = rest.split_first_chunk::<4>().ok_or(malformed)?;
    let shown = client & (SSL_CLIENT_CERTIFICATE | SSL_CLIENT_CERTIFICATE_EARLIER) != 0;
    let mut common_name = None;
    while let Some((kind, value, behind)) = split_tlv(rest)? {
        if kind == TLV_SSL_COMMON_NAME {
            put_once(&mut common_name, text(value, kind)?, kind)?;
        }
        rest = behind;
    }
    Ok(Ssl {
        verified: shown && *verify == [0; 4],
        common_name,
    })
}

/// The checksum covers the whole header with its own four bytes taken as zero.
fn check_checksum(whole: &[u8], value: &[u8]) -> Result<(), ProxyProtocolError> {
    let written: [u8; 4] = value
        .try_into()
        .map_err(|_| ProxyProtocolError::TlvMalformed(TLV_CRC32C))?;
    let at = value.as_ptr().addr() - whole.as_ptr().addr();
    let mut zeroed = whole.to_vec();
    zeroed[at..at + 4].fill(0);
    if crc32c(&zeroed) == u32::from_be_bytes(written) {
        Ok(())
    } else {
        Err(ProxyProtocolError::ChecksumMismatch)
    }
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), bit by bit: a header is short, and comes once per connection.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut register = u32::MAX;
    for &byte in bytes {
        register ^= u32::from(byte);
        for _ in 0..8 {
            register = if register & 1 == 1 {
                (register >> 1) ^ CASTAGNOLI_REVERSED
            } else {
                register >> 1
            };
        }
    }
    !register
}

/// Longest header, its fixed part included, that is written or read.
pub const HEADER_BYTES_MAX: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;
const TLV_HEADER_BYTES: usize = 3;
const CHECKSUM_TLV_BYTES: usize = TLV_HEADER_BYTES + 4;
/// With this bound, addresses and all TLVs but the alternative names always fit.
const TLV_VALUE_BYTES_MAX: u16 = 1024;

const COMMAND_LOCAL: u8 = 0x20;
const COMMAND_PROXY: u8 = 0x21;
const FAMILY_UNSPECIFIED: u8 = 0x00;
const FAMILY_TCP_IPV4: u8 = 0x11;
const FAMILY_TCP_IPV6: u8 = 0x21;

const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_COMMON_NAME: u8 = 0x22;
const TLV_SUBJECT_ALTERNATIVE_NAME: u8 = 0xE0;
const TLV_PURPOSE: u8 = 0xE1;
const TLV_HOST_NAME: u8 = 0xE2;

const SSL_CLIENT_SSL: u8 = 0x01;
const SSL_CLIENT_CERTIFICATE: u8 = 0x02;
const SSL_CLIENT_CERTIFICATE_EARLIER: u8 = 0x04;

const PURPOSE_PAIR: u8 = 0;
const PURPOSE_RESENT: u8 = 1;
const PURPOSE_OUTBOUND: u8 = 2;

const CASTAGNOLI_REVERSED: u32 = 0x82F6_3B78;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn connection() -> ProxiedConnection {
        ProxiedConnection {
            source: "192.0.2.7:50123".parse().unwrap(),
            destination: "192.0.2.1:5062".parse().unwrap(),
            transport: Transport::Tls,
            connection_id: Some(*b"0123456789abcdef"),
            peer: Some(PeerIdentity {
                common_name: Some("ocs.example.com".to_owned()),
                subject_alternative_names: vec!["ocs.example.com".to_owned(), "pool.example.com".to_owned()],
            }),
            purpose: Purpose::Pair,
            host_name: None,
        }
    }

    fn read_back(header: &ProxyHeader) -> ProxyHeader {
        let bytes = header.write();
        match ProxyHeader::parse(&bytes).unwrap() {
            Parsed::Complete { header, length } if length == bytes.len() => header,
            other @ (Parsed::Incomplete | Parsed::Complete { .. }) => panic!("{other:?}"),
        }
    }

    /// A header with these TLVs and no checksum.
    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[COMMAND_PROXY, FAMILY_TCP_IPV4]);
        header.extend_from_slice(&u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes());
        header.extend_from_slice(&[192, 0, 2, 7, 192, 0, 2, 1, 0xc3, 0xcb, 0x13, 0xc4]);
        header.extend_from_slice(tlvs);
        header
    }

    fn connection_of(bytes: &[u8]) -> ProxiedConnection {
        match ProxyHeader::parse(bytes) {
            Ok(Parsed::Complete {
                header: ProxyHeader::Proxied(connection),
                ..
            }) => connection,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_checksum_is_the_castagnoli_one() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        let outbound = |server_name| ProxiedConnection {
            purpose: Purpose::Outbound { server_name },
            ..connection()
        };
        let headers = [
            ProxyHeader::Local,
            ProxyHeader::Proxied(connection()),
            ProxyHeader::Proxied(ProxiedConnection {
                purpose: Purpose::Resent,
                ..connection()
            }),
            ProxyHeader::Proxied(outbound(None)),
            ProxyHeader::Proxied(ProxiedConnection {
                host_name: Some("rcc.example.com".to_owned()),
                ..connection()
            }),
            ProxyHeader::Proxied(outbound(Some("ocs.example.com".to_owned()))),
            ProxyHeader::Proxied(ProxiedConnection {
                peer: None,
                connection_id: None,
                ..connection()
            }),
            ProxyHeader::Proxied(ProxiedConnection {
                source: "[2001:db8::7]:50123".parse().unwrap(),
                destination: "[2001:db8::1]:5060".parse().unwrap(),
                transport: Transport::Tcp,
                peer: None,
                ..connection()
            }),
        ];
        for header in headers {
            assert_eq!(read_back(&header), header);
        }
    }

    #[test]
    fn a_mixed_pair_of_addresses_survives() {
        let mixed = ProxiedConnection {
            source: "[2001:db8::7]:1".parse().unwrap(),
            ..connection()
        };
        assert_eq!(
            read_back(&ProxyHeader::Proxied(mixed.clone())),
            ProxyHeader::Proxied(mixed)
        );
    }

    #[test]
    fn a_header_may_come_byte_by_byte() {
        let bytes = ProxyHeader::Proxied(connection()).write();
        for end in 0..bytes.len() {
            assert_eq!(ProxyHeader::parse(&bytes[..end]), Ok(Parsed::Incomplete), "{end}");
        }
        let length = bytes.len();
        let followed = [bytes, b"INVITE".to_vec()].concat();
        assert!(
            matches!(ProxyHeader::parse(&followed), Ok(Parsed::Complete { length: found, .. }) if found == length)
        );
    }

    #[test]
    fn what_does_not_begin_a_header_is_refused_at_its_first_byte() {
        let missing = Err(ProxyProtocolError::SignatureMissing);
        assert_eq!(ProxyHeader::parse(b"I"), missing);
        assert_eq!(ProxyHeader::parse(b"\r\n\r\nINVITE"), missing);
        assert_eq!(
            ProxyHeader::parse(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n"),
            missing
        );
    }

    #[test]
    fn a_declared_length_is_believed_up_to_the_limit_only() {
        let mut header = with_tlvs(&[]);
        header[14..16].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(
            ProxyHeader::parse(&header),
            Err(ProxyProtocolError::TooLong(0xffff + 16))
        );
    }

    #[test]
    fn other_versions_commands_and_families_are_refused() {
        let mut header = with_tlvs(&[]);
        header[12] = 0x11;
        assert_eq!(
            ProxyHeader::parse(&header),
            Err(ProxyProtocolError::CommandUnsupported(0x11))
        );
        header[12] = 0x22;
        assert_eq!(
            ProxyHeader::parse(&header),
            Err(ProxyProtocolError::CommandUnsupported(0x22))
        );
        header[12] = COMMAND_PROXY;
        for family in [0x00, 0x12, 0x22, 0x31] {
            header[13] = family;
            assert_eq!(
                ProxyHeader::parse(&header),
                Err(ProxyProtocolError::FamilyUnsupported(family))
            );
        }
        header[13] = FAMILY_TCP_IPV6;
        assert_eq!(
            ProxyHeader::parse(&header),
            Err(ProxyProtocolError::AddressesTruncated)
        );
    }

    #[test]
    fn a_header_without_tlvs_is_a_plain_pair() {
        let plain = ProxiedConnection {
            transport: Transport::Tcp,
            connection_id: None,
            peer: None,
            ..connection()
        };
        assert_eq!(
            connection_of(&with_tlvs(&[])),
            ProxiedConnection {
                destination: "192.0.2.1:5060".parse().unwrap(),
                ..plain
            }
        );
        assert_eq!(
            connection_of(&with_tlvs(&[0x04, 0, 1, 9, 0xEF, 0, 0])).purpose,
            Purpose::Pair
        );
    }

    #[test]
    fn broken_tlvs_are_refused() {
        let cases: [(&[u8], ProxyProtocolError); 12] = [
            (&[0xE2, 0, 0], ProxyProtocolError::TlvMalformed(0xE2)),
            (b"\xE2\0\x05a\r\nb.", ProxyProtocolError::TlvMalformed(0xE2)),
            (&[0x05], ProxyProtocolError::TlvTruncated(0x05)),
            (&[0x05, 0, 16, 1], ProxyProtocolError::TlvTruncated(0x05)),
            (&[0x05, 0, 1, 1], ProxyProtocolError::TlvMalformed(0x05)),
            (&[0x02, 0, 1, 0xff], ProxyProtocolError::TlvMalformed(0x02)),
            (&[0x20, 0, 2, 1, 0], ProxyProtocolError::TlvMalformed(0x20)),
            (
                &[0x20, 0, 6, 1, 0, 0, 0, 0, 0x22],
                ProxyProtocolError::TlvTruncated(0x22),
            ),
            (&[0xE1, 0, 1, 3], ProxyProtocolError::TlvMalformed(0xE1)),
            (&[0xE1, 0, 0], ProxyProtocolError::TlvMalformed(0xE1)),
            (
                &[0xE1, 0, 1, 1, 0xE1, 0, 1, 1],
                ProxyProtocolError::TlvDuplicate(0xE1),
            ),
            (&[0x03, 0, 4, 1, 2, 3, 4], ProxyProtocolError::ChecksumMismatch),
        ];
        for (tlvs, expected) in cases {
            assert_eq!(ProxyHeader::parse(&with_tlvs(tlvs)), Err(expected), "{tlvs:?}");
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = ProxyHeader::Proxied(connection()).write();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = ProxyHeader::parse(&flipped);
            // LOCAL holds no claim; a longer length waits for bytes that never come; a checksum TLV can be hidden
            // by a flip in its own type, and then nothing else has changed.
            let harmless = match &read {
                Err(_)
                | Ok(
                    Parsed::Incomplete
                    | Parsed::Complete {
                        header: ProxyHeader::Local,
                        ..
                    },
                ) => true,
                Ok(Parsed::Complete { header, .. }) => *header == ProxyHeader::Proxied(connection()),
            };
            assert!(harmless, "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn names_of_a_certificate_that_did_not_verify_do_not_count() {
        let tlvs = [
            &[0x20, 0, 9, 3, 0, 0, 0, 1, 0x22, 0, 1, b'x'][..],
            &[0xE0, 0, 1, b'y'],
        ]
        .concat();
        let connection = connection_of(&with_tlvs(&tlvs));
        assert_eq!((connection.transport, connection.peer), (Transport::Tls, None));
    }

    #[test]
    fn a_certificate_with_too_many_names_still_fits() {
        let mut many = connection();
        let names: Vec<String> = (0..500)
            .map(|number| format!("host{number}.example.com"))
            .collect();
        many.peer = Some(PeerIdentity {
            common_name: Some("x".repeat(2000)),
            subject_alternative_names: names,
        });
        assert!(ProxyHeader::Proxied(many.clone()).write().len() <= HEADER_BYTES_MAX);
        let ProxyHeader::Proxied(read) = read_back(&ProxyHeader::Proxied(many)) else {
            panic!("local")
        };
        let peer = read.peer.unwrap();
        assert_eq!(peer.common_name, None);
        assert!(peer.subject_alternative_names.len() > 100);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(tlvs in proptest::collection::vec(any::<u8>(), 0..80), family: u8, command: u8) {
            let mut header = with_tlvs(&tlvs);
            let _ = ProxyHeader::parse(&header);
            header[12] = command;
            header[13] = family;
            let _ = ProxyHeader::parse(&header);
            let _ = ProxyHeader::parse(&tlvs);
        }
    }
}
