//! What can be wrong with a message, by what follows from it: a refusal and no more, or a closed connection.

use std::fmt;

/// Why a message whose framing is intact must not be passed on. A request is answered, and the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    StartLineMalformed,
    VersionNotSupported,
    HeaderMalformed,
    /// `Content_Length`, or a folded line that reads like a length header: somebody hopes to be read in two ways.
    ContentLengthLookAlike,
    HeaderDuplicate,
    HeaderMissing,
    AddressMalformed,
    ViaMalformed,
    CSeqMalformed,
    CSeqMethodMismatch,
}

impl RefusalReason {
    /// All of them, for metrics that want every label from the start.
    pub const ALL: [Self; 10] = [
        Self::StartLineMalformed,
        Self::VersionNotSupported,
        Self::HeaderMalformed,
        Self::ContentLengthLookAlike,
        Self::HeaderDuplicate,
        Self::HeaderMissing,
        Self::AddressMalformed,
        Self::ViaMalformed,
        Self::CSeqMalformed,
        Self::CSeqMethodMismatch,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::StartLineMalformed => "start_line_malformed",
            Self::VersionNotSupported => "version_not_supported",
            Self::HeaderMalformed => "header_malformed",
            Self::ContentLengthLookAlike => "content_length_look_alike",
            Self::HeaderDuplicate => "header_duplicate",
            Self::HeaderMissing => "header_missing",
            Self::AddressMalformed => "address_malformed",
            Self::ViaMalformed => "via_malformed",
            Self::CSeqMalformed => "cseq_malformed",
            Self::CSeqMethodMismatch => "cseq_method_mismatch",
        }
    }

    /// The status to refuse a request with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::VersionNotSupported => 505,
            Self::StartLineMalformed
            | Self::HeaderMalformed
            | Self::ContentLengthLookAlike
            | Self::HeaderDuplicate
            | Self::HeaderMissing
            | Self::AddressMalformed
            | Self::ViaMalformed
            | Self::CSeqMalformed
            | Self::CSeqMethodMismatch => 400,
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::StartLineMalformed => "the start line is malformed",
            Self::VersionNotSupported => "the SIP version is not 2.0",
            Self::HeaderMalformed => "a header line is malformed",
            Self::ContentLengthLookAlike => "something looks like a second Content-Length",
            Self::HeaderDuplicate => "a header that may stand once stands twice",
            Self::HeaderMissing => "Via, From, To, Call-ID or CSeq is missing",
            Self::AddressMalformed => "From or To is malformed",
            Self::ViaMalformed => "the top Via is malformed",
            Self::CSeqMalformed => "CSeq is malformed",
            Self::CSeqMethodMismatch => "the CSeq method is not the request's",
        })
    }
}

/// Why nobody can say any more where the next message begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FramingError {
    NotSip,
    TlsOnPlainPort,
    /// A start line with the rest of an earlier body before it.
    LeftoverBytes,
    StartLineTooLong,
    HeaderLineTooLong,
    HeadTooLarge,
    TooManyHeaders,
    BodyTooLarge,
    ContentLengthMissing,
    ContentLengthMalformed,
    ContentLengthDuplicate,
}

impl FramingError {
    /// All of them, for metrics that want every label from the start.
    pub const ALL: [Self; 11] = [
        Self::NotSip,
        Self::TlsOnPlainPort,
        Self::LeftoverBytes,
        Self::StartLineTooLong,
        Self::HeaderLineTooLong,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::BodyTooLarge,
        Self::ContentLengthMissing,
        Self::ContentLengthMalformed,
        Self::ContentLengthDuplicate,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotSip => "not_sip",
            Self::TlsOnPlainPort => "tls_on_plain_port",
            Self::LeftoverBytes => "leftover_bytes",
            Self::StartLineTooLong => "start_line_too_long",
            Self::HeaderLineTooLong => "header_line_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::BodyTooLarge => "body_too_large",
            Self::ContentLengthMissing => "content_length_missing",
            Self::ContentLengthMalformed => "content_length_malformed",
            Self::ContentLengthDuplicate => "content_length_duplicate",
        }
    }

    /// The status of the last answer before the connection closes.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::StartLineTooLong | Self::HeaderLineTooLong | Self::HeadTooLarge | Self::BodyTooLarge => 513,
            Self::NotSip
            | Self::TlsOnPlainPort
            | Self::LeftoverBytes
            | Self::TooManyHeaders
            | Self::ContentLengthMissing
            | Self::ContentLengthMalformed
            | Self::ContentLengthDuplicate => 400,
        }
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotSip => "this is not SIP",
            Self::TlsOnPlainPort => "TLS on a port without TLS",
            Self::LeftoverBytes => "bytes beyond the declared body stand before the start line",
            Self::StartLineTooLong => "the start line is too long",
            Self::HeaderLineTooLong => "a header is too long",
            Self::HeadTooLarge => "the head is too large",
            Self::TooManyHeaders => "there are too many headers",
            Self::BodyTooLarge => "the body is too large",
            Self::ContentLengthMissing => "Content-Length is missing",
            Self::ContentLengthMalformed => "Content-Length is malformed",
            Self::ContentLengthDuplicate => "Content-Length stands more than once",
        })
    }
}
