//! The line URI with which a client names its phone:
//! `tel:DN;phone-context=dialstring[;device=NAME][;partition=NAME]`.

use std::fmt;

use tandem_sip::Uri;
use thiserror::Error;

/// A line URI, read and as it was written: the client wants it back byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LineUri {
    original: String,
    /// The DN, without visual separators.
    pub number: String,
    pub device: Option<String>,
    pub partition: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineUriError {
    #[error("the line URI is longer than {LINE_URI_BYTES_MAX} bytes")]
    TooLong,
    #[error("the line URI is not a tel: URI with a number")]
    NotTel,
    #[error("the line URI has a parameter \"{0}\" without a value")]
    EmptyParameter(&'static str),
}

impl LineUri {
    /// Parameters may come in any order and any case, others than ours are skipped, and phone-context may be missing:
    /// it says nothing that the directory does not know better.
    pub fn parse(text: &str) -> Result<Self, LineUriError> {
        if text.len() > LINE_URI_BYTES_MAX {
            return Err(LineUriError::TooLong);
        }
        let uri = Uri::parse(text).map_err(|_| LineUriError::NotTel)?;
        let uri = uri.as_tel().ok_or(LineUriError::NotTel)?;
        let number = uri.number.replace(VISUAL_SEPARATORS, "");
        if number.is_empty() {
            return Err(LineUriError::NotTel);
        }
        let parameter = |name| match uri.params.get(name) {
            Some("") => Err(LineUriError::EmptyParameter(name)),
            value => Ok(value.map(str::to_owned)),
        };
        Ok(Self {
            original: text.to_owned(),
            number,
            device: parameter("device")?,
            partition: parameter("partition")?,
        })
    }

    /// Exactly as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.original
    }
}

impl fmt::Display for LineUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.original)
    }
}

const LINE_URI_BYTES_MAX: usize = 512;
/// RFC 3966 §3.
const VISUAL_SEPARATORS: [char; 4] = ['-', '.', '(', ')'];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let uri = LineUri::parse(text).unwrap();
        assert_eq!(uri.as_str(), text);
        (uri.number, uri.device, uri.partition)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_line_uri_names_a_number_and_perhaps_a_device_and_a_partition() {
        assert_eq!(
            parts("tel:4711;phone-context=dialstring"),
            ("4711".to_owned(), None, None)
        );
        assert_eq!(
            parts("tel:4711;phone-context=dialstring;device=SEP0002FD3BB5C5;partition=myPartition"),
            ("4711".to_owned(), some("SEP0002FD3BB5C5"), some("myPartition"))
        );
    }

    #[test]
    fn order_and_case_of_the_parameters_mean_nothing() {
        assert_eq!(
            parts("TEL:4711;Partition=p;DEVICE=SEP1;Phone-Context=dialstring"),
            ("4711".to_owned(), some("SEP1"), some("p"))
        );
    }

    #[test]
    fn other_forms_in_use_are_read_as_far_as_they_go() {
        assert_eq!(parts("tel:+1-425-555.0100;ext=50100").0, "+14255550100");
    }

    #[test]
    fn what_names_no_line_is_refused_with_the_reason() {
        assert_eq!(LineUri::parse("sip:4711@example.com"), Err(LineUriError::NotTel));
        assert_eq!(LineUri::parse("4711"), Err(LineUriError::NotTel));
        assert_eq!(LineUri::parse("tel:;device=SEP1"), Err(LineUriError::NotTel));
        assert_eq!(
            LineUri::parse("tel:4711;device="),
            Err(LineUriError::EmptyParameter("device"))
        );
        assert_eq!(
            LineUri::parse(&format!("tel:{}", "1".repeat(600))),
            Err(LineUriError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_the_original_is_kept(text in "(tel:)?[ -~ü;=]{0,60}") {
            if let Ok(uri) = LineUri::parse(&text) {
                prop_assert_eq!(uri.as_str(), text);
            }
        }
    }
}
