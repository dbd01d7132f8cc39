//! Bytes that releases wrote, kept in files, and the comparison with what the code writes now.
//!
//! Owns how a golden file looks: the name of a value, and below it its bytes in hexadecimal. Files of a released format are
//! never written again; those of the format of the next release are, by running the tests with `TANDEM_WRITE_GOLDEN` set.
//! For tests alone: whatever is not as it should be panics.
#![allow(
    clippy::unwrap_used,
    reason = "a golden file that cannot be read fails the test"
)]

use std::path::Path;

/// One value by its name, and its bytes.
pub type Sample = (String, Vec<u8>);

/// Compares `samples` with the file `{file}.txt` in `folder`.
///
/// # Panics
/// When they differ, or the file cannot be read.
#[track_caller]
pub fn check(folder: &Path, file: &str, released: bool, samples: &[Sample]) {
    let path = folder.join(format!("{file}.txt"));
    if !released && std::env::var_os("TANDEM_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, write(samples)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let golden = read(&text);
    let advice = if released {
        "this format is released and must stay as it is: give what is new the next number of Format, and write it in \
         that format only"
    } else {
        "this format is not released yet: run the test with TANDEM_WRITE_GOLDEN set, and name the change in the commit"
    };
    for (position, (name, bytes)) in samples.iter().enumerate() {
        let found = golden.get(position).map(|(name, bytes)| (name.as_str(), bytes));
        assert!(
            found == Some((name.as_str(), bytes)),
            "{name} is not what {file}.txt holds; {advice}\n now {}\nthen {}",
            hex(bytes),
            found.map_or_else(
                || "nothing".to_owned(),
                |(name, bytes)| format!("{} ({name})", hex(bytes))
            )
        );
    }
    let more = golden.get(samples.len()).map(|(name, _)| name);
    assert_eq!(more, None, "it is in {file}.txt and here no more; {advice}");
}

fn write(samples: &[Sample]) -> String {
    let mut text = String::new();
    for (name, bytes) in samples {
        text.push_str(name);
        text.push('\n');
        for line in bytes.chunks(32) {
            text.push_str(&format!("    {}\n", hex(line)));
        }
    }
    text
}

fn read(text: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("    "), samples.last_mut()) {
            (Some(digits), Some((_, bytes))) => {
                let pairs = digits
                    .as_bytes()
                    .chunks(2)
                    .map(|pair| std::str::from_utf8(pair).unwrap());
                bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()));
            }
            _ => samples.push((line.to_owned(), Vec::new())),
        }
    }
    samples
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_golden_file_is_read_as_it_was_written() {
        let samples = vec![
            ("one".to_owned(), (0..=255).collect()),
            ("two words".to_owned(), vec![7]),
            ("nothing".to_owned(), Vec::new()),
        ];
        assert_eq!(read(&write(&samples)), samples);
    }
}
