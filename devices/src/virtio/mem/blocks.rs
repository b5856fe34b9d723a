//! Which blocks of a region are plugged.

use serde::{Deserialize, Serialize};

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Run {
    /// Returns the number after the last; `None` when there's no such number.
    fn end(self) -> Option<u64> {
        self.first.checked_add(self.count)
    }
}

/// What is plugged of some blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugged {
    All,
    None,
    Some,
}

/// One bit for each block.
#[derive(Clone, Debug)]
pub(super) struct Blocks(Vec<bool>);

impl Blocks {
    /// Makes `count` blocks, of which none is plugged.
    pub(super) fn new(count: u64) -> Self {
        Self(vec![false; usize::try_from(count).unwrap_or_default()])
    }

    /// Tells how much of a run is plugged; `None` when it isn't within the region.
    pub(super) fn state(&self, run: Run) -> Option<Plugged> {
        let blocks = self.0.get(range(run)?)?;
        let plugged = blocks.iter().filter(|plugged| **plugged).count();
        Some(match plugged {
            0 => Plugged::None,
            count if count == blocks.len() => Plugged::All,
            _ => Plugged::Some,
        })
    }

    /// Plugs or unplugs a run. Blocks outside the region are left out.
    pub(super) fn set(&mut self, run: Run, plugged: bool) {
        if let Some(blocks) = range(run).and_then(|range| self.0.get_mut(range)) {
            blocks.fill(plugged);
        }
    }

    /// Counts the plugged blocks.
    pub(super) fn plugged(&self) -> u64 {
        let count = self.0.iter().filter(|plugged| **plugged).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Lists the plugged blocks.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut next: u64 = 0;
        let mut runs = Vec::new();
        for chunk in self.0.chunk_by(|a, b| a == b) {
            let count = u64::try_from(chunk.len()).unwrap_or_default();
            if chunk.first() == Some(&true) {
                runs.push(Run { first: next, count });
            }
            next = next.saturating_add(count);
        }
        runs
    }
}

fn range(run: Run) -> Option<std::ops::Range<usize>> {
    let (first, end) = (usize::try_from(run.first).ok()?, usize::try_from(run.end()?).ok()?);
    Some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_was_plugged_and_not_unplugged() {
        let mut blocks = Blocks::new(8);
        blocks.set(Run { first: 1, count: 6 }, true);
        blocks.set(Run { first: 3, count: 1 }, false);
        let expected = [Run { first: 1, count: 2 }, Run { first: 4, count: 3 }];
        assert_eq!((blocks.runs(), blocks.plugged()), (expected.to_vec(), 5));
        let state = |first, count| blocks.state(Run { first, count });
        assert_eq!(state(1, 2), Some(Plugged::All));
        assert_eq!(state(0, 2), Some(Plugged::Some));
        assert_eq!(state(3, 1), Some(Plugged::None));
    }

    #[test]
    fn blocks_outside_the_region_have_no_state_and_can_not_be_plugged() {
        let mut blocks = Blocks::new(8);
        for (first, count) in [(8, 1), (7, 2), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(blocks.state(Run { first, count }), None);
            blocks.set(Run { first, count }, true);
        }
        assert_eq!(blocks.plugged(), 0);
    }
}
