//! The few lexical rules that every reader of SIP text shares (RFC 3261 §25.1), over bytes and without allocating.

/// A quoted string or an angle bracket that never closes: where a value ends cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Cuts LWS, line ends of folding included, off both ends.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|&byte| !is_white(byte))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|&byte| !is_white(byte))
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}

pub(super) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
        )
}

/// Where `wanted` first stands outside quoted strings and angle brackets.
pub(super) fn find_outside(bytes: &[u8], wanted: u8) -> Result<Option<usize>, Unbalanced> {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == wanted {
            return Ok(Some(at));
        }
        at = match byte {
            b'"' => after_quoted(bytes, at)?,
            b'<' => after_bracket(bytes, at)?,
            _ => at + 1,
        };
    }
    Ok(None)
}

/// Just behind the quoted string that opens at `open`.
pub(super) fn after_quoted(bytes: &[u8], open: usize) -> Result<usize, Unbalanced> {
    let mut at = open + 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return Err(Unbalanced),
        }
    }
}

/// Just behind the `>` for the `<` at `open`. Nothing nests: a URI holds neither.
pub(super) fn after_bracket(bytes: &[u8], open: usize) -> Result<usize, Unbalanced> {
    memchr::memchr(b'>', &bytes[open..])
        .map(|length| open + length + 1)
        .ok_or(Unbalanced)
}

/// The parts of a comma list, trimmed, empty ones left out. A list that does not balance is one part.
pub(super) fn split_list(bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Ok(Some(comma)) = find_outside(rest, b',') {
        parts.push(trim(&rest[..comma]));
        rest = &rest[comma + 1..];
    }
    parts.push(trim(rest));
    parts.retain(|part| !part.is_empty());
    parts
}

/// The value of a `;`-separated parameter. `None` when it is absent; `Some(b"")` when it stands without a value.
pub(super) fn parameter<'a>(parameters: &'a [u8], name: &[u8]) -> Result<Option<&'a [u8]>, Unbalanced> {
    let mut rest = parameters;
    loop {
        let end = find_outside(rest, b';')?;
        let (found, value) = name_and_value(&rest[..end.unwrap_or(rest.len())]);
        if found.eq_ignore_ascii_case(name) {
            return Ok(Some(value.unwrap_or(b"")));
        }
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(None),
        }
    }
}

/// `name = value`, either side trimmed.
pub(super) fn name_and_value(parameter: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', parameter) {
        Some(equals) => (trim(&parameter[..equals]), Some(trim(&parameter[equals + 1..]))),
        None => (trim(parameter), None),
    }
}

/// Splits a From-like value into the address and the header parameters behind it (without the first `;`).
///
/// Without angle brackets every `;` belongs to the header (RFC 3261 §20.10); within them, or within a quoted
/// display name, none does.
pub(super) fn split_address(value: &[u8]) -> Result<(&[u8], &[u8]), Unbalanced> {
    let Some(end) = find_outside(value, b';')? else {
        return Ok((trim(value), b""));
    };
    Ok((trim(&value[..end]), &value[end + 1..]))
}

/// Text for a human or a comparison: folding becomes one space, bytes that are not UTF-8 are read as Latin-1.
pub(super) fn to_text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    let unfolded = unfold(bytes);
    match unfolded {
        std::borrow::Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => from_latin_1(bytes).into(),
        },
        std::borrow::Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(error) => from_latin_1(error.as_bytes()).into(),
        },
    }
}

fn from_latin_1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// RFC 3261 §7.3.1: a line end and the white space that follows it mean one space.
pub(super) fn unfold(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if memchr::memchr(b'\n', bytes).is_none() {
        return bytes.into();
    }
    let mut unfolded = Vec::with_capacity(bytes.len());
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if number == 0 {
            unfolded.extend_from_slice(line.trim_ascii_end());
        } else {
            unfolded.push(b' ');
            unfolded.extend_from_slice(trim(line));
        }
    }
    unfolded.into()
}
