//! The PROXY protocol header that opens every connection between front end and node.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use tandem_sip::proxy_protocol::{Parsed, ProxyHeader, ProxyProtocolError};

/// Reads the header, and hands on the bytes that came behind it. `None` when the peer closes without a byte: that
/// is a probe and no mistake (LB-1).
///
/// # Errors
/// When what comes is no header, or does not come in time.
pub async fn read_proxy_header<R: AsyncRead + Unpin>(
    stream: &mut R,
    timeout: Duration,
) -> Result<Option<(ProxyHeader, BytesMut)>, ProxyHeaderError> {
    tokio::time::timeout(timeout, read(stream, READ_BYTES))
        .await
        .map_err(|_| ProxyHeaderError::Overdue(timeout))?
}

/// As [`read_proxy_header`], and not a byte beyond the header, for a stream on which something else begins behind it.
///
/// # Errors
/// When what comes is no header, or does not come in time.
pub async fn read_proxy_header_alone<R: AsyncRead + Unpin>(
    stream: &mut R,
    timeout: Duration,
) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    // A byte at a time: this is done once for a connection.
    let read = tokio::time::timeout(timeout, read(stream, 1)).await;
    let header = read.map_err(|_| ProxyHeaderError::Overdue(timeout))??;
    Ok(header.map(|(header, _)| header))
}

#[derive(Debug, Error)]
pub enum ProxyHeaderError {
    #[error(transparent)]
    Malformed(#[from] ProxyProtocolError),
    #[error("no whole PROXY protocol header within {0:?}")]
    Overdue(Duration),
    #[error("the connection ended within the PROXY protocol header")]
    Truncated,
    #[error("reading the PROXY protocol header failed")]
    Failed(#[from] io::Error),
}

async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    at_once: usize,
) -> Result<Option<(ProxyHeader, BytesMut)>, ProxyHeaderError> {
    let mut bytes = BytesMut::with_capacity(READ_BYTES);
    loop {
        match stream.read_buf(&mut (&mut bytes).limit(at_once)).await {
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) => return Err(ProxyHeaderError::Truncated),
            // A probe that resets instead of closing.
            Err(error) if bytes.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        // `parse` believes no length beyond its own limit, so the buffer stays below that plus one read.
        match ProxyHeader::parse(&bytes)? {
            Parsed::Incomplete => bytes.reserve(READ_BYTES),
            Parsed::Complete { header, length } => {
                let rest = bytes.split_off(length);
                return Ok(Some((header, rest)));
            }
        }
    }
}

const READ_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_bytes_behind_the_header_are_handed_on() {
        let (mut peer, mut stream) = tokio::io::duplex(4096);
        peer.write_all(&ProxyHeader::Local.write()).await.unwrap();
        peer.write_all(b"OPTIONS").await.unwrap();
        let (header, rest) = read_proxy_header(&mut stream, SECOND).await.unwrap().unwrap();
        assert_eq!(header, ProxyHeader::Local);
        assert_eq!(&rest[..], b"OPTIONS");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_no_mistake_and_half_a_header_is_one() {
        let (peer, mut stream) = tokio::io::duplex(64);
        drop(peer);
        assert!(read_proxy_header(&mut stream, SECOND).await.unwrap().is_none());

        let (mut peer, mut stream) = tokio::io::duplex(64);
        peer.write_all(&ProxyHeader::Local.write()[..10]).await.unwrap();
        drop(peer);
        let truncated = read_proxy_header(&mut stream, SECOND).await;
        assert!(
            matches!(truncated, Err(ProxyHeaderError::Truncated)),
            "{truncated:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_header_is_refused_and_silence_ends_at_the_deadline() {
        let (mut peer, mut stream) = tokio::io::duplex(64);
        peer.write_all(b"INVITE sip:").await.unwrap();
        let malformed = read_proxy_header(&mut stream, SECOND).await;
        assert!(
            matches!(malformed, Err(ProxyHeaderError::Malformed(_))),
            "{malformed:?}"
        );

        let (_peer, mut stream) = tokio::io::duplex(64);
        let overdue = read_proxy_header(&mut stream, SECOND).await;
        assert!(
            matches!(overdue, Err(ProxyHeaderError::Overdue(_))),
            "{overdue:?}"
        );
    }
}
