//! Making one batch after another on all cores while the one before it is taken.
//!
//! Invariants: batches are taken in their order, on the calling thread, and at most two exist at a time. Storing goes
//! in the order of a file, so one thread does it; without this all cores would wait for it after each batch.

use super::reading::Steadiness;
use crate::error::Result;

/// Makes a batch of each of `parts` and gives it to `take`, which may end it.
///
/// # Errors
/// Those of `make` and `take`; what was being made meanwhile is dropped.
pub(super) fn make_ahead<P: Send, B: Send>(
    parts: impl IntoIterator<Item = P>,
    make: impl Fn(P) -> Result<B> + Sync,
    mut take: impl FnMut(B) -> Result<Steadiness>,
) -> Result<Steadiness> {
    let mut parts = parts.into_iter();
    let mut made = None;
    loop {
        let (part, ready) = (parts.next(), made.take());
        if part.is_none() && ready.is_none() {
            return Ok(Steadiness::Same);
        }
        let taken = rayon::in_place_scope(|scope| {
            if let Some(part) = part {
                scope.spawn(|_| made = Some(make(part)));
            }
            ready.map_or(Ok(Steadiness::Same), |batch| take(batch?))
        })?;
        if taken == Steadiness::Changed {
            return Ok(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::error::Error;

    #[test]
    fn batches_are_taken_in_their_order_and_one_is_made_ahead() {
        let (begun, mut taken) = (AtomicU32::new(0), Vec::new());
        let make = |part: u32| {
            begun.fetch_max(part, Ordering::SeqCst);
            Ok(part * 10)
        };
        let take = |batch: u32| {
            let next = (batch / 10 + 1).min(20);
            let patience = Instant::now() + Duration::from_secs(60);
            while begun.load(Ordering::SeqCst) < next {
                assert!(Instant::now() < patience, "batch {next} is not made ahead");
                std::thread::yield_now();
            }
            assert!(begun.load(Ordering::SeqCst) == next, "two exist at most");
            taken.push(batch);
            Ok(Steadiness::Same)
        };
        assert_eq!(make_ahead(1..=20, make, take).unwrap(), Steadiness::Same);
        assert_eq!(taken, (1..=20).map(|part| part * 10).collect::<Vec<_>>());
    }

    #[test]
    fn it_ends_where_either_side_says_so() {
        let until = |end: u32| move |batch| Ok(if batch == end { Steadiness::Changed } else { Steadiness::Same });
        assert_eq!(make_ahead(1..=20, Ok, until(7)).unwrap(), Steadiness::Changed);
        assert_eq!(make_ahead(1..=20, Ok, until(21)).unwrap(), Steadiness::Same);
        assert_eq!(make_ahead(0..0_u32, Ok, until(0)).unwrap(), Steadiness::Same);
        let fails = |part: u32| if part == 5 { Err(Error::Failed("no five".into())) } else { Ok(part) };
        let mut taken = Vec::new();
        let failed = make_ahead(1..=20, fails, |batch| {
            taken.push(batch);
            Ok(Steadiness::Same)
        });
        assert!(failed.is_err());
        assert_eq!(taken, [1, 2, 3, 4], "what was made before is taken, nothing after it");
    }
}
