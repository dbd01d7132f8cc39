//! What members say to each other: frames on a stream.
//!
//! ```text
//! length u32 (of the rest) | version u8 | kind u8 | request id u64 | body (postcard)
//! ```
//! The one who connected asks, the other answers with the same request id, in any order.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use tandem_cluster::Format;

/// Defines the kinds with their numbers on the wire, once.
macro_rules! kinds {
    ($($(#[$documentation:meta])* $kind:ident = $number:literal,)*) => {
        /// What a frame's body is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Kind {
            $($(#[$documentation])* $kind = $number,)*
        }

        impl Kind {
            fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// The first frame of a connection: a [`Hello`].
    Hello = 1,
    Append = 2,
    Vote = 3,
    PreVote = 4,
    TransferLeader = 5,
    /// A [`SnapshotChunk`].
    Snapshot = 6,
    /// A [`ForwardedProposal`].
    Propose = 7,
    /// A [`StatusQuestion`]: the answer is a [`PeerStatus`].
    Status = 8,
    /// The third and last frame of a greeting: a [`Reach`], told after the welcome was heard.
    Reach = 9,
    /// An [`AdministrationRequest`] for the leader.
    Administer = 10,
    Answer = 128,
    /// In place of an answer; the connection ends.
    Refused = 129,
    /// In place of an answer: a [`Declined`]. The connection goes on.
    Declined = 130,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) request: u64,
    pub(super) body: Bytes,
}

impl Frame {
    pub(super) fn write(&self, to: &mut BytesMut) {
        // Bodies are made by `encode`, which keeps to the limit.
        let length = HEADER_REST_BYTES + self.body.len();
        to.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        to.extend_from_slice(&[VERSION, self.kind as u8]);
        to.extend_from_slice(&self.request.to_le_bytes());
        to.extend_from_slice(&self.body);
    }

    /// Takes the first whole frame off `buffer`.
    fn take(buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        let Some(length) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if !(HEADER_REST_BYTES..=HEADER_REST_BYTES + BODY_BYTES_MAX).contains(&length) {
            return Err(invalid("a frame of impossible length"));
        }
        if buffer.len() < 4 + length {
            buffer.reserve((4 + length - buffer.len()).min(READ_BYTES_MAX));
            return Ok(None);
        }
        buffer.advance(4);
        let mut frame = buffer.split_to(length).freeze();
        let version = frame.get_u8();
        if version != VERSION {
            return Err(another_version(version));
        }
        let kind = Kind::from_number(frame.get_u8()).ok_or_else(|| invalid("a frame of unknown kind"))?;
        Ok(Some(Self {
            kind,
            request: frame.get_u64_le(),
            body: frame,
        }))
    }
}

/// Reads frames; cancelling a read loses nothing.
pub(super) struct FrameReader<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + Unpin> FrameReader<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(16 << 10),
        }
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// The next frame. The end of the stream is an error: no connection here ends in order.
    pub(super) async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer)? {
                return Ok(frame);
            }
            self.buffer.reserve(READ_BYTES_MIN);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite> FrameReader<S> {
    /// Parts the two directions; what was read ahead is kept.
    pub(super) fn split(self) -> (FrameReader<ReadHalf<S>>, WriteHalf<S>) {
        let (stream, writer) = tokio::io::split(self.stream);
        let buffer = self.buffer;
        (FrameReader { stream, buffer }, writer)
    }
}

pub(super) fn encode(content: &impl Serialize) -> io::Result<Bytes> {
    let bytes = postcard::to_stdvec(content).map_err(io::Error::other)?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "a message is larger than a frame takes",
        ));
    }
    Ok(bytes.into())
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn another_version(version: u8) -> io::Error {
    let (theirs, ours) = (Format(u16::from(version)), Format(u16::from(VERSION)));
    let text = format!("the peer speaks {theirs}, this member {ours}: run the same release on both");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The number of the format, as on disk.
const VERSION: u8 = 2;
const READ_BYTES_MIN: usize = 4 << 10;
/// Memory follows what has arrived, not what a length promises.
const READ_BYTES_MAX: usize = 256 << 10;
const HEADER_REST_BYTES: usize = 10;
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        frame.write(&mut bytes);
        bytes
    }

    fn sample() -> Frame {
        Frame {
            kind: Kind::Append,
            request: 7,
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn a_frame_is_taken_when_all_of_it_is_there() {
        let bytes = written(&sample());
        for length in 0..bytes.len() {
            let mut partial = BytesMut::from(&bytes[..length]);
            assert_eq!(Frame::take(&mut partial).unwrap(), None);
            assert_eq!(partial, bytes[..length]);
        }
        let mut two = written(&sample());
        two.extend_from_slice(&bytes);
        assert_eq!(Frame::take(&mut two).unwrap(), Some(sample()));
        assert_eq!(Frame::take(&mut two).unwrap(), Some(sample()));
        assert!(two.is_empty());
    }

    #[test]
    fn impossible_lengths_versions_and_kinds_are_refused() {
        for (position, value) in [(3, 0xff), (0, 3), (4, 9), (5, 77)] {
            let mut bytes = written(&sample());
            bytes[position] = value;
            assert!(Frame::take(&mut bytes).is_err(), "byte {position}");
        }
    }

    #[test]
    fn every_kind_has_its_number_back() {
        for number in 0..=u8::MAX {
            if let Some(kind) = Kind::from_number(number) {
                assert_eq!(kind as u8, number);
            }
        }
    }
}
