//! Values of any number as bytes, a bounded piece at a time.
//!
//! Owns what is still to be written, and where writing has got to. Does not own what is written. What always holds: all pieces
//! together are what postcard makes of the values at once, and a piece is longer than [`PIECE_BYTES`] by one row at most.

use std::collections::VecDeque;

use serde::Serialize;

use super::LayoutError;

/// What is still to be written of a state. See [`super::ClusterState::encoded`].
pub struct Pieces<'a> {
    parts: VecDeque<Part<'a>>,
}

/// Appends the next row; false when there is none.
type Part<'a> = Box<dyn FnMut(&mut Vec<u8>) -> Result<bool, postcard::Error> + Send + 'a>;

impl<'a> Pieces<'a> {
    pub(super) fn beginning_with(first: u8) -> Self {
        let mut pieces = Self {
            parts: VecDeque::new(),
        };
        pieces.add(first);
        pieces
    }

    pub(super) fn add(&mut self, value: impl Serialize + Send + 'a) {
        let mut value = Some(value);
        self.parts.push_back(Box::new(move |bytes| match value.take() {
            Some(value) => append(&value, bytes),
            None => Ok(false),
        }));
    }

    /// The first `len` of the rows of a table, behind their number.
    pub(super) fn add_rows<T: Serialize>(&mut self, len: usize, rows: impl Iterator<Item = T> + Send + 'a) {
        self.add(len);
        let mut rows = rows.take(len);
        self.parts.push_back(Box::new(move |bytes| match rows.next() {
            Some(row) => append(&row, bytes),
            None => Ok(false),
        }));
    }

    /// Appends the next piece, of about [`PIECE_BYTES`]; false when nothing is left to be written.
    pub fn append_next(&mut self, bytes: &mut Vec<u8>) -> Result<bool, LayoutError> {
        let end = bytes.len() + PIECE_BYTES;
        while bytes.len() < end {
            let Some(part) = self.parts.front_mut() else {
                return Ok(false);
            };
            if !part(bytes)? {
                self.parts.pop_front();
            }
        }
        Ok(true)
    }
}

fn append(value: &impl Serialize, bytes: &mut Vec<u8>) -> Result<bool, postcard::Error> {
    postcard::to_io(value, bytes)?;
    Ok(true)
}

/// Little enough to be encoded within some milliseconds.
pub const PIECE_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_make_up_the_whole() {
        let rows: Vec<(u64, String)> = (0..100_000)
            .map(|number| (number, format!("row {number}")))
            .collect();
        let mut pieces = Pieces::beginning_with(3);
        pieces.add_rows(rows.len(), rows.iter());
        pieces.add("the end");
        let (mut whole, mut piece, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            piece.clear();
            let goes_on = pieces.append_next(&mut piece).unwrap();
            lengths.push(piece.len());
            whole.extend_from_slice(&piece);
            if !goes_on {
                break;
            }
        }
        assert_eq!(lengths.len(), 2);
        assert!(
            (PIECE_BYTES..PIECE_BYTES + 32).contains(&lengths[0]),
            "{lengths:?}"
        );
        assert_eq!(whole, postcard::to_allocvec(&(3_u8, &rows, "the end")).unwrap());
    }
}
