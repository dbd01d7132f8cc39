//! However a CTI link's stream is cut, the same frames come out of it. The first byte says where it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_node::cti::{Frame, FramingError, LinkFramer};

fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else { return };
    let whole = frames(stream.chunks(stream.len().max(1)));
    let pieces = frames(stream.chunks(usize::from(piece).max(1)));
    assert_eq!(whole, pieces);
});

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Frame, FramingError>> {
    let mut framer = LinkFramer::default();
    let mut frames = Vec::new();
    for piece in pieces {
        framer.push(piece);
        frames.extend(std::iter::from_fn(|| framer.next_frame()));
    }
    frames
}
