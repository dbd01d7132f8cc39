//! The certificates of a "degenerate" PKCS #7 message: signed data without signers (RFC 2315 §9.1, RFC 5652 §5.1).

/// The DER of each certificate in it, in its order; `None` when it is not such a message in DER.
pub(super) fn certificates(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let (content_info, _) = element_of(bytes, SEQUENCE)?;
    let (content_type, rest) = element_of(content_info.contents, OBJECT_IDENTIFIER)?;
    if content_type.contents != SIGNED_DATA {
        return None;
    }
    let (explicit, _) = element_of(rest, CONTEXT_0)?;
    let (signed_data, _) = element_of(explicit.contents, SEQUENCE)?;
    let (_version, rest) = element_of(signed_data.contents, INTEGER)?;
    let (_digest_algorithms, rest) = element_of(rest, SET)?;
    let (_content, rest) = element_of(rest, SEQUENCE)?;
    let Some((set, _)) = element_of(rest, CONTEXT_0) else {
        return Some(Vec::new());
    };
    Some(elements(set.contents))
}

/// Certificates are sequences; other choices of the set (attribute certificates) have tags of their own.
fn elements(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((element, rest)) = element(bytes) {
        if element.tag == SEQUENCE {
            found.push(element.whole);
        }
        bytes = rest;
    }
    found
}

struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    contents: &'a [u8],
}

fn element_of(bytes: &[u8], tag: u8) -> Option<(Element<'_>, &[u8])> {
    element(bytes).filter(|(element, _)| element.tag == tag)
}

/// X.690 §8.1 with definite lengths, as DER has them.
fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, after_tag) = bytes.split_first()?;
    let (&first, after_first) = after_tag.split_first()?;
    let (length, contents_on) = if first < 0x80 {
        (usize::from(first), after_first)
    } else {
        long_length(usize::from(first & 0x7f), after_first)?
    };
    let (contents, rest) = contents_on.split_at_checked(length)?;
    let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
    let element = Element { tag, whole, contents };
    Some((element, rest))
}

fn long_length(octets: usize, bytes: &[u8]) -> Option<(usize, &[u8])> {
    if octets == 0 || octets > 4 {
        return None;
    }
    let (digits, rest) = bytes.split_at_checked(octets)?;
    let length = digits.iter().try_fold(0_usize, |length, digit| {
        length.checked_mul(256)?.checked_add(usize::from(*digit))
    })?;
    Some((length, rest))
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xa0;
/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
