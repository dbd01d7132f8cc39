//! Equal shares: who has more than its share, who lacks some, and what goes from one to the other.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What each has beyond its share, or lacks. The two sums are equal.
#[derive(Debug)]
pub(super) struct Shares<K> {
    surplus: BTreeMap<K, usize>,
    deficit: BTreeMap<K, usize>,
}

impl<K: Ord + Clone> Shares<K> {
    /// Of what each has now. Those that have most keep what cannot be divided.
    pub(super) fn of(counts: impl IntoIterator<Item = (K, usize)>) -> Self {
        let mut counts: Vec<(K, usize)> = counts.into_iter().collect();
        counts.sort_by(|(left, few), (right, many)| many.cmp(few).then_with(|| left.cmp(right)));
        let total: usize = counts.iter().map(|(_, count)| count).sum();
        let holders = counts.len().max(1);
        let (mut surplus, mut deficit) = (BTreeMap::new(), BTreeMap::new());
        for (place, (holder, count)) in counts.into_iter().enumerate() {
            let share = total / holders + usize::from(place < total % holders);
            if count > share {
                surplus.insert(holder, count - share);
            } else if count < share {
                deficit.insert(holder, share - count);
            }
        }
        Self { surplus, deficit }
    }

    pub(super) fn givers(&self) -> Vec<K> {
        self.surplus.keys().cloned().collect()
    }

    pub(super) fn gives(&self, holder: &K) -> bool {
        self.surplus.contains_key(holder)
    }

    pub(super) fn lacks(&self, holder: &K) -> bool {
        self.deficit.contains_key(holder)
    }

    /// Whoever lacks most; of several, the first.
    pub(super) fn neediest(&self) -> Option<K> {
        let lacking = self.deficit.iter();
        let neediest = lacking.max_by_key(|&(holder, lacking)| (lacking, Reverse(holder)));
        neediest.map(|(holder, _)| holder.clone())
    }

    /// One goes from somebody with more than its share to somebody with less.
    pub(super) fn give(&mut self, from: &K, to: &K) {
        one_less(&mut self.surplus, from);
        one_less(&mut self.deficit, to);
    }
}

fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, holder: &K) {
    if let Some(count) = counts.get_mut(holder) {
        *count -= 1;
        if *count == 0 {
            counts.remove(holder);
        }
    }
}
