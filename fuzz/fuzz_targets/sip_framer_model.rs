//! The framer says what the slow framer says, after every piece. The first byte says how the stream is cut, the second
//! how tight the limits are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_sip::framer_model::{Outcome, read};
use tandem_sip::{Framer, FramerLimits};

fuzz_target!(|input: &[u8]| {
    let &[piece, tightness, ref stream @ ..] = input else { return };
    let limits = limits(tightness);
    let mut framer = Framer::new(limits);
    let mut outcomes = Vec::new();
    let mut received = 0;
    for piece in stream.chunks(usize::from(piece).max(1)) {
        received += piece.len();
        framer.buffer_mut().extend_from_slice(piece);
        while let Some(frame) = framer.next_frame() {
            outcomes.push(Outcome::from(&frame));
        }
        let expected = read(&stream[..received], &limits);
        assert_eq!(outcomes, expected.outcomes);
        assert_eq!(framer.phase(), expected.phase);
    }
});

/// Zero leaves the defaults; anything else makes bounds that a fuzzer's short inputs reach.
fn limits(tightness: u8) -> FramerLimits {
    let bound = usize::from(tightness);
    match bound {
        0 => FramerLimits::default(),
        _ => FramerLimits {
            start_line_bytes_max: 16 + bound,
            header_line_bytes_max: 16 + bound,
            head_bytes_max: 32 + 3 * bound,
            header_count_max: 1 + bound / 8,
            body_bytes_max: bound / 4,
        },
    }
}
