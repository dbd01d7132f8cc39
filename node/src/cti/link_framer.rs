//! ECMA-323 Annex J: XML in frames of an 8-octet header, over TCP.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// TCP bytes → frames. After a framing error it gives nothing more: nobody knows where the next frame begins.
#[derive(Debug, Default)]
pub struct LinkFramer {
    buffer: BytesMut,
    failed: bool,
}

/// One CSTA document and the invoke id before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 0 to 9999.
    pub invoke_id: u16,
    pub body: Bytes,
}

/// The peer's fault; the link cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FramingError {
    #[error("format indicator {0:#06x} is not plain XML")]
    UnknownFormat(u16),
    #[error("a frame of {0} octets is shorter than its header")]
    TooShort(u16),
    #[error("invoke id is not four digits")]
    InvokeIdNotDigits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a document of {bytes} bytes does not fit a frame")]
pub struct FrameTooLarge {
    pub bytes: usize,
}

impl LinkFramer {
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.failed {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole frame; `None` until there is one.
    pub fn next_frame(&mut self) -> Option<Result<Frame, FramingError>> {
        if self.failed || self.buffer.len() < HEADER_BYTES {
            return None;
        }
        let result = self.take_frame().transpose()?;
        self.failed = result.is_err();
        Some(result)
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, FramingError> {
        let mut header = &self.buffer[..HEADER_BYTES];
        let format = header.get_u16();
        if format != FORMAT_PLAIN_XML {
            return Err(FramingError::UnknownFormat(format));
        }
        let length = header.get_u16();
        if usize::from(length) < HEADER_BYTES {
            return Err(FramingError::TooShort(length));
        }
        let invoke_id = invoke_id(header).ok_or(FramingError::InvokeIdNotDigits)?;
        if self.buffer.len() < usize::from(length) {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(usize::from(length));
        frame.advance(HEADER_BYTES);
        Ok(Some(Frame {
            invoke_id,
            body: frame.freeze(),
        }))
    }
}

impl Frame {
    /// The frame as it goes over the wire. `invoke_id` is below 10,000.
    pub fn write(invoke_id: u16, document: &str) -> Result<Bytes, FrameTooLarge> {
        let too_large = FrameTooLarge {
            bytes: document.len(),
        };
        let length = u16::try_from(HEADER_BYTES + document.len()).map_err(|_| too_large)?;
        let mut bytes = BytesMut::with_capacity(usize::from(length));
        bytes.put_u16(FORMAT_PLAIN_XML);
        bytes.put_u16(length);
        bytes.put_slice(format!("{:04}", invoke_id % INVOKE_IDS).as_bytes());
        bytes.put_slice(document.as_bytes());
        Ok(bytes.freeze())
    }
}

fn invoke_id(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |id, digit| {
        digit.is_ascii_digit().then(|| id * 10 + u16::from(digit - b'0'))
    })
}

/// The invoke id of events.
pub const EVENT_INVOKE_ID: u16 = 9999;
const INVOKE_IDS: u16 = 10_000;
const HEADER_BYTES: usize = 8;
const FORMAT_PLAIN_XML: u16 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(bytes: &[u8], piece: usize) -> Vec<Result<Frame, FramingError>> {
        let mut framer = LinkFramer::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            framer.push(piece);
            frames.extend(std::iter::from_fn(|| framer.next_frame()));
        }
        frames
    }

    #[test]
    fn the_length_counts_bytes_and_includes_the_header() {
        let frame = Frame::write(7, "<ü/>").unwrap();
        assert_eq!(&frame[..], b"\0\0\0\x0d0007<\xc3\xbc/>");
    }

    #[test]
    fn a_frame_of_the_greatest_length_is_read_and_one_byte_more_is_not_written() {
        let document = "x".repeat(65_527);
        let written = Frame::write(9999, &document).unwrap();
        assert_eq!(
            frames(&written, 4096),
            [Ok(Frame {
                invoke_id: 9999,
                body: document.into()
            })]
        );
        assert_eq!(
            Frame::write(1, &"x".repeat(65_528)),
            Err(FrameTooLarge { bytes: 65_528 })
        );
    }

    #[test]
    fn a_bad_header_is_named_and_ends_the_reading() {
        assert_eq!(
            frames(b"\x3c\x3fxml ver", 9),
            [Err(FramingError::UnknownFormat(0x3c3f))]
        );
        assert_eq!(
            frames(b"\0\0\0\x070001\0\0\0\x080001", 99),
            [Err(FramingError::TooShort(7))]
        );
        assert_eq!(
            frames(b"\0\0\0\x0800 1", 8),
            [Err(FramingError::InvokeIdNotDigits)]
        );
    }

    proptest! {
        #[test]
        fn frames_are_the_same_wherever_the_stream_is_cut(
            documents in prop::collection::vec((0_u16..10_000, "[<>a-zü]{0,80}"), 0..8),
            piece in 1_usize..50,
        ) {
            let stream: Vec<u8> = documents
                .iter()
                .flat_map(|(id, document)| Frame::write(*id, document).unwrap())
                .collect();
            let expected: Vec<_> = documents
                .into_iter()
                .map(|(invoke_id, document)| Ok(Frame { invoke_id, body: document.into() }))
                .collect();
            prop_assert_eq!(frames(&stream, piece), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, piece in 1_usize..50) {
            frames(&bytes, piece);
        }
    }
}
