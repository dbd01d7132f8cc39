//! The small files of a data directory, each replaced whole.
//!
//! ```text
//! format u8 | crc32 u32 of all but these four bytes | content (postcard)
//! ```

use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use tandem_cluster::Format;

use super::whole_file;
use tandem_runtime::io::environment::files::Files;

/// Replaces the file: durable when this returns, and after a crash at any point either the old content or the new.
pub(super) async fn replace(
    files: Arc<dyn Files>,
    name: &'static str,
    content: &impl Serialize,
) -> io::Result<()> {
    let bytes = write(content)?;
    let job_files = files.clone();
    whole_file::run_apart(&*files, "raft-small-file", async move {
        whole_file::replace(&*job_files, name, &bytes).await
    })
    .await
}

/// The file's content; `None` when there is no such file.
pub(super) fn load<T: DeserializeOwned>(files: &dyn Files, name: &'static str) -> io::Result<Option<T>> {
    let Some(bytes) = files.read(name)? else {
        return Ok(None);
    };
    let read = read(&bytes).map_err(|problem| {
        let text = format!("{name} {problem}; nothing was changed");
        io::Error::new(io::ErrorKind::InvalidData, text)
    });
    read.map(Some)
}

pub(super) fn write(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(content, vec![FORMAT, 0, 0, 0, 0]).map_err(io::Error::other)?;
    let checksum = checksum(&bytes).to_le_bytes();
    bytes[1..5].copy_from_slice(&checksum);
    Ok(bytes)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let damaged =
        || "is damaged: restore it, or empty the directory and run `tandem-node cluster replace`".to_owned();
    let stored = bytes.get(1..5).ok_or_else(damaged)?;
    if checksum(bytes).to_le_bytes() != stored {
        return Err(damaged());
    }
    let foreign = || {
        let (written, newest) = (Format(u16::from(bytes[0])), Format::NEWEST);
        format!("is written in {written}; this program reads up to {newest}: start the release that wrote it")
    };
    if bytes[0] != FORMAT {
        return Err(foreign());
    }
    match postcard::take_from_bytes(&bytes[5..]) {
        Ok((content, [])) => Ok(content),
        Ok(_) | Err(_) => Err(foreign()),
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..1]);
    hasher.update(&bytes[5..]);
    hasher.finalize()
}

/// These files are new in release 0.2.
const FORMAT: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_damaged_or_foreign() {
        let bytes = write(&(7_u64, "text".to_owned())).unwrap();
        assert_eq!(read::<(u64, String)>(&bytes), Ok((7, "text".to_owned())));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            let told = read::<(u64, String)>(&damaged).unwrap_err();
            assert!(told.contains("is damaged"), "byte {position}: {told}");
            assert!(
                read::<(u64, String)>(&bytes[..position]).is_err(),
                "length {position}"
            );
        }
        let told = read::<u64>(&bytes).unwrap_err();
        assert!(
            told.contains("this program reads up to"),
            "trailing bytes: {told}"
        );
        let mut later = bytes;
        later[0] = 3;
        let checksum = checksum(&later).to_le_bytes();
        later[1..5].copy_from_slice(&checksum);
        let told = read::<(u64, String)>(&later).unwrap_err();
        assert!(told.contains("written in format 3 (a later release)"), "{told}");
    }
}
