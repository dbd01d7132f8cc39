//! However a stream is cut, the same frames come out of it. The first byte says where it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_sip::{Frame, Framer, FramerLimits};

fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else { return };
    let whole = frames(stream.chunks(stream.len().max(1)));
    let pieces = frames(stream.chunks(usize::from(piece).max(1)));
    assert_eq!(whole, pieces);
});

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut framer = Framer::new(FramerLimits::default());
    let mut frames = Vec::new();
    for piece in pieces {
        framer.buffer_mut().extend_from_slice(piece);
        while let Some(frame) = framer.next_frame() {
            frames.push(describe(&frame));
        }
    }
    frames
}

fn describe(frame: &Frame) -> String {
    match frame {
        Frame::Message(message) => format!("message {:?}", message.bytes()),
        Frame::KeepAlivePing => "ping".to_owned(),
        Frame::Refused { message, reason } => format!("refused {reason} {:?}", message.bytes()),
        Frame::Lost { answer, reason } => {
            format!("lost {reason} {:?}", answer.as_ref().map(|(message, status)| (message.bytes(), *status)))
        }
    }
}
