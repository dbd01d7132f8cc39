//! The replicated state as bytes: a number for the layout, then the tables.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ClusterState;
use super::pieces::Pieces;
use crate::format::Format;
use crate::membership::{ClusterIdentity, RaftId};
use tandem_planted::{Bug, planted};

impl ClusterState {
    /// As bytes, for members that read `format`: in the layout of that format, or in a later one if the state holds what
    /// only that can hold. The pieces follow each other without a gap.
    #[must_use]
    pub fn encoded(&self, format: Format) -> Pieces<'_> {
        let additions = Additions {
            format: self.format,
            removed_members: (*self.removed_members).clone(),
            identity: self.identity,
            expired_before_ms: self.expired_before_ms,
        };
        // What only tells the time may be left out: the next entry tells it again.
        let timeless = Additions {
            expired_before_ms: 0,
            ..additions.clone()
        };
        let layout = if timeless == Additions::default() {
            layout_of(format)
        } else {
            layout_of(format).max(LAYOUT_RELEASE_0_2)
        };
        let mut pieces = Pieces::beginning_with(layout);
        self.add_tables(&mut pieces);
        if layout >= LAYOUT_RELEASE_0_2 {
            pieces.add(additions);
        }
        pieces
    }

    /// In the order of the fields, as [`Self::decode`] reads them.
    fn add_tables<'a>(&'a self, pieces: &mut Pieces<'a>) {
        let Self {
            limits,
            nodes,
            sessions,
            owned,
            openings,
            openings_by_age,
            intents,
            intents_by_age,
            settings,
            assignments,
            gateways,
            next_gateway,
            calendar_enabled,
            presence,
            watchers,
            format: _,
            identity: _,
            expired_before_ms: _,
            removed_members: _,
        } = self;
        let kept = |len: usize| {
            if planted(Bug::SnapshotWithoutIntents) {
                0
            } else {
                len
            }
        };
        pieces.add(limits);
        pieces.add(nodes);
        pieces.add_rows(sessions.len(), sessions.iter());
        pieces.add(owned.len());
        for (owner, keys) in owned {
            pieces.add(owner);
            pieces.add_rows(keys.len(), keys.iter());
        }
        pieces.add_rows(kept(openings.len()), openings.iter());
        pieces.add_rows(kept(openings_by_age.len()), openings_by_age.iter());
        pieces.add_rows(kept(intents.len()), intents.iter());
        pieces.add_rows(kept(intents_by_age.len()), intents_by_age.iter());
        pieces.add(settings);
        pieces.add_rows(assignments.len(), assignments.iter());
        pieces.add(gateways);
        pieces.add(next_gateway);
        pieces.add_rows(calendar_enabled.len(), calendar_enabled.iter());
        pieces.add_rows(presence.len(), presence.iter());
        pieces.add_rows(watchers.len(), watchers.iter());
    }

    /// As bytes in one piece.
    #[cfg(test)]
    pub(crate) fn encode(&self, format: Format) -> Result<Vec<u8>, LayoutError> {
        let (mut pieces, mut bytes) = (self.encoded(format), Vec::new());
        while pieces.append_next(&mut bytes)? {}
        Ok(bytes)
    }

    /// Reads the whole of what [`Self::encoded`] gave, in a program that reads formats up to `newest`.
    pub fn decode(bytes: &[u8], newest: Format) -> Result<Self, LayoutError> {
        let (&layout, rest) = bytes.split_first().ok_or(LayoutError::Empty)?;
        let reads = layout_of(newest);
        if layout < LAYOUT_RELEASE_0_1 {
            return Err(LayoutError::TooOld { layout, reads });
        }
        if layout > reads {
            return Err(LayoutError::TooNew { layout, reads });
        }
        let unknown = |_| LayoutError::NotUnderstood { layout };
        let (mut state, mut rest): (Self, &[u8]) = postcard::take_from_bytes(rest).map_err(unknown)?;
        if layout >= LAYOUT_RELEASE_0_2 {
            let (additions, left): (Additions, &[u8]) = postcard::take_from_bytes(rest).map_err(unknown)?;
            state.format = additions.format;
            state.removed_members = Arc::new(additions.removed_members);
            state.identity = additions.identity;
            state.expired_before_ms = additions.expired_before_ms;
            rest = left;
        }
        if rest.is_empty() {
            Ok(state)
        } else {
            Err(LayoutError::NotUnderstood { layout })
        }
    }
}

/// What release 0.2 added to the state. A field of a later release goes behind these, with a new number of the layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Additions {
    format: Format,
    removed_members: BTreeSet<RaftId>,
    identity: Option<ClusterIdentity>,
    expired_before_ms: u64,
}

/// Why bytes are no state that this program can go on with.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("the state in the snapshot is empty")]
    Empty,
    #[error(
        "the state in the snapshot was written before release 0.1 (layout {layout}; this program reads layouts \
         {LAYOUT_RELEASE_0_1} to {reads}): start the cluster with empty data directories, or go back to the version \
         that wrote it"
    )]
    TooOld { layout: u8, reads: u8 },
    #[error(
        "the state in the snapshot was written by a later release (layout {layout}; this program reads layouts \
         {LAYOUT_RELEASE_0_1} to {reads}): start the release that wrote it; nothing was changed"
    )]
    TooNew { layout: u8, reads: u8 },
    #[error(
        "the state in the snapshot has layout {layout} and holds what this program does not know: start the release \
         that wrote it; nothing was changed"
    )]
    NotUnderstood { layout: u8 },
    #[error("the state cannot be written")]
    Encoding(#[from] postcard::Error),
}

/// A snapshot whose bytes cannot be used is faulty data to whoever reads it from a disk or a connection.
impl From<LayoutError> for io::Error {
    fn from(error: LayoutError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The layout in which a state is written for members that read `format`.
fn layout_of(format: Format) -> u8 {
    if format >= Format::RELEASE_0_2 {
        LAYOUT_RELEASE_0_2
    } else {
        LAYOUT_RELEASE_0_1
    }
}

/// Layout 1 was never released.
const LAYOUT_RELEASE_0_1: u8 = 2;
const LAYOUT_RELEASE_0_2: u8 = 3;

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        apply_all, assign, cluster_of, gateways, key, opened, small_limits, watched,
    };
    use super::*;
    use crate::command::Command;
    use crate::node::NodeId;
    use crate::session::{Epoch, IntentOperation, RequestKey};

    fn state() -> ClusterState {
        let mut state = cluster_of(3);
        apply_all(&mut state, (0..9).map(|number| opened(1 + number % 3, number)));
        state
    }

    fn additions() -> Vec<Command> {
        let id = RaftId::new(7, NodeId(2));
        let format = Format::RELEASE_0_2;
        let identity = ClusterIdentity(7);
        vec![
            Command::MemberRemoved { id },
            Command::ClusterIdentified { identity },
            Command::FormatFinalised { format },
        ]
    }

    #[test]
    fn a_state_is_the_same_in_either_layout() {
        for format in [Format::RELEASE_0_1, Format::RELEASE_0_2] {
            let bytes = state().encode(format).unwrap();
            assert_eq!(bytes[0], layout_of(format));
            assert_eq!(
                ClusterState::decode(&bytes, Format::RELEASE_0_2).unwrap(),
                state()
            );
        }
    }

    /// The fields are written one by one; they are read as the compiler lays them out.
    #[test]
    fn tables_are_written_as_they_are_declared() {
        let mut state = state();
        let intent = |cseq| Command::Intent {
            key: key(1, 0),
            epoch: Epoch::FIRST,
            request: RequestKey {
                top_via: "via".to_owned(),
                cseq,
            },
            operation: IntentOperation::AnswerCall {
                call_id: "1".to_owned(),
            },
            decided_at_ms: 5,
        };
        apply_all(
            &mut state,
            [gateways(&["a", "b"]), assign(0..9), intent(1), intent(2)],
        );
        apply_all(
            &mut state,
            (0..9).map(|number| watched(1 + number % 3, 50 + number)),
        );
        let bytes = state.encode(Format::RELEASE_0_1).unwrap();
        assert_eq!(bytes[1..], postcard::to_allocvec(&state).unwrap());
    }

    #[test]
    fn what_the_old_layout_cannot_hold_is_written_in_the_new_one() {
        for command in additions() {
            let mut state = state();
            apply_all(&mut state, [command]);
            let bytes = state.encode(Format::RELEASE_0_1).unwrap();
            assert_eq!(bytes[0], LAYOUT_RELEASE_0_2);
            assert_eq!(ClusterState::decode(&bytes, Format::NEWEST).unwrap(), state);
            let refused = ClusterState::decode(&bytes, Format::RELEASE_0_1).unwrap_err();
            let named = "written by a later release (layout 3; this program reads layouts 2 to 2)";
            assert!(refused.to_string().contains(named), "{refused}");
        }
    }

    #[test]
    fn bytes_of_another_layout_and_bytes_left_over_are_refused_by_name() {
        let mut bytes = ClusterState::new(small_limits()).encode(Format::NEWEST).unwrap();
        let refused = |bytes: &[u8]| {
            ClusterState::decode(bytes, Format::NEWEST)
                .unwrap_err()
                .to_string()
        };
        bytes.push(0);
        assert!(refused(&bytes).contains("layout 3 and holds what this program does not know"));
        bytes.truncate(bytes.len() - 2);
        assert!(refused(&bytes).contains("layout 3 and holds what this program does not know"));
        bytes[0] = 4;
        assert!(refused(&bytes).contains("layout 4; this program reads layouts 2 to 3"));
        bytes[0] = 1;
        assert!(refused(&bytes).contains("before release 0.1 (layout 1;"));
        assert!(refused(&[]).contains("empty"));
    }
}
