//! How many connections there are at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts connections up to a bound.
#[derive(Clone)]
pub(crate) struct Limit {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// A place that is given back when it's dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Limit {
    pub(crate) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// Takes a place, if one is left.
    pub(crate) fn take(&self) -> Option<Place> {
        let more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Place(Arc::clone(&self.taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_that_is_given_back_can_be_taken_again() {
        let limit = Limit::new(1);
        let place = limit.take();
        assert!(place.is_some());
        assert!(limit.take().is_none());
        drop(place);
        assert!(limit.take().is_some());
    }
}
