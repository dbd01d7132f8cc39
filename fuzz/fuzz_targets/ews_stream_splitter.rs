//! However a stream of documents is cut, the same documents come out of it. The first byte says where it is cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tandem_exchange::ews::{SplitError, StreamSplitter};

fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else {
        return;
    };
    let whole = documents(stream.chunks(stream.len().max(1)));
    let pieces = documents(stream.chunks(usize::from(piece).max(1)));
    assert_eq!(whole, pieces);
});

fn documents<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Bytes, SplitError>> {
    let mut splitter = StreamSplitter::new(DOCUMENT_BYTES_MAX);
    let mut documents = Vec::new();
    for piece in pieces {
        splitter.push(piece);
        documents.extend(std::iter::from_fn(|| splitter.next_document()));
    }
    documents
}

const DOCUMENT_BYTES_MAX: usize = 300;
