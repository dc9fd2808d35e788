//! The search for one blob: which chains are being followed, and what was in the way.
//!
//! Invariants: a search does a bounded amount of work whatever the packs hold; what a record tried in vain cost and met
//! is forgotten when another record of the same blob leads on, so that blame falls only on blobs that stand in the way
//! of the one that was asked for. A blob is vain as long as no chain leads to it that avoids the blobs which wait for a
//! base. When one of these turns out to be vain too, those below it stay so: a chain to them through it would be one to
//! it. When it is found, or a limit ends the search below it, they are forgotten.

use std::collections::HashSet;

use crate::format::limits::{CHAIN_DEPTH, CHAIN_RECORDS};
use crate::id::{BlobId, BlobPrefix};
use crate::store::index::RecordPlace;

/// Most decodings for one blob, when caches are too small for its chain or a hostile chain branches without end.
const ATTEMPTS: usize = 16 * CHAIN_RECORDS;
/// Blobs blamed for one; the first ones, where there are more.
const MOST_BLAMED: usize = 256;
/// Blobs named in a text.
const MOST_NAMED: usize = 3;

/// A blob in the way, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Culprit {
    blob: BlobPrefix,
    cause: String,
}

/// Why no further record may be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeadEnd {
    /// The chain came back to a blob that waits for it.
    Circle,
    /// The chain is deeper than the format allows.
    TooDeep,
    /// It needs more records than the format allows.
    TooWide,
    /// So many records were tried that the search ends.
    GivenUp,
}

impl DeadEnd {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::GivenUp => "the search was given up after 16384 tries of records, and others may lead to it",
            Self::Circle => "its chain leads back to itself",
            Self::TooDeep => "its chain is deeper than the format allows",
            Self::TooWide => "its chain needs more records than the format allows",
        }
    }
}

/// How far a search was when it tried a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    records: usize,
    culprits: usize,
    vain: usize,
    limits: usize,
}

/// The search for one blob.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The blobs that wait for a base, outermost first.
    path: Vec<BlobId>,
    /// The distinct records that what is being rebuilt needs so far, in the order in which they were met.
    records: Vec<RecordPlace>,
    known: HashSet<RecordPlace>,
    /// Records tried so far, those tried again included.
    attempts: usize,
    culprits: Vec<Culprit>,
    /// The vain blobs, in the order in which they turned out to be.
    vain: Vec<BlobId>,
    known_vain: HashSet<BlobId>,
    /// How often a limit was in the way.
    limits: usize,
}

impl Search {
    pub(super) fn is_outermost(&self) -> bool {
        self.path.is_empty()
    }

    /// Notes that a record is decoded.
    pub(super) fn try_record(&mut self, place: RecordPlace) -> Result<(), DeadEnd> {
        self.attempts += 1;
        if self.known.insert(place) {
            self.records.push(place);
        }
        if self.attempts > ATTEMPTS {
            return Err(self.limit(DeadEnd::GivenUp));
        }
        if self.records.len() > CHAIN_RECORDS { Err(self.limit(DeadEnd::TooWide)) } else { Ok(()) }
    }

    fn limit(&mut self, end: DeadEnd) -> DeadEnd {
        self.limits += 1;
        end
    }

    /// Goes on to the bases of a delta of this blob.
    pub(super) fn descend(&mut self, blob: &BlobId) -> Result<(), DeadEnd> {
        if self.path.contains(blob) {
            return Err(DeadEnd::Circle);
        }
        if self.path.len() >= CHAIN_DEPTH {
            return Err(self.limit(DeadEnd::TooDeep));
        }
        self.path.push(*blob);
        Ok(())
    }

    /// Comes back from them.
    pub(super) fn ascend(&mut self) {
        self.path.pop();
    }

    pub(super) fn mark(&self) -> Mark {
        let (vain, limits) = (self.vain.len(), self.limits);
        Mark { records: self.records.len(), culprits: self.culprits.len(), vain, limits }
    }

    /// Forgets the records met since, which led nowhere.
    pub(super) fn forget_records(&mut self, mark: Mark) {
        for place in self.records.drain(mark.records.min(self.records.len())..) {
            self.known.remove(&place);
        }
    }

    /// Forgets what was in the way since, because there was another way.
    pub(super) fn forget_culprits(&mut self, mark: Mark) {
        self.culprits.truncate(mark.culprits);
        self.forget_vain(mark);
    }

    /// Whether it is known that nothing leads to this blob from here; what is in its way was blamed then.
    pub(super) fn is_vain(&self, blob: &BlobId) -> bool {
        self.known_vain.contains(blob)
    }

    /// Notes that none of a blob's records led to it since.
    pub(super) fn tried_in_vain(&mut self, blob: &BlobId, mark: Mark) {
        if self.limits != mark.limits {
            self.forget_vain(mark);
        } else if self.known_vain.insert(*blob) {
            self.vain.push(*blob);
        }
    }

    fn forget_vain(&mut self, mark: Mark) {
        for blob in self.vain.drain(mark.vain.min(self.vain.len())..) {
            self.known_vain.remove(&blob);
        }
    }

    /// Notes that a blob is in the way.
    pub(super) fn blame(&mut self, blob: BlobPrefix, cause: String) {
        if self.culprits.len() < MOST_BLAMED && self.culprits.iter().all(|culprit| culprit.blob != blob) {
            self.culprits.push(Culprit { blob, cause });
        }
    }

    /// Notes that a search went no further at this blob. A limit is that of the blob asked for: others may well be
    /// read.
    pub(super) fn blame_end(&mut self, blob: &BlobId, end: DeadEnd, cause: String) {
        let outermost = self.path.first().unwrap_or(blob);
        let blamed = if end == DeadEnd::Circle { blob } else { outermost };
        self.blame(blamed.prefix(), cause);
    }

    /// What is in the way of this blob, in a sentence.
    pub(super) fn account(&self, blob: &BlobId) -> String {
        let (own, others): (Vec<_>, Vec<_>) = self.culprits.iter().partition(|culprit| culprit.blob == blob.prefix());
        let own = own.iter().map(|culprit| culprit.cause.clone());
        let needed = others.iter().take(MOST_NAMED).map(|culprit| format!("blob {blob} needs {}", culprit.cause));
        let more = others.len().saturating_sub(MOST_NAMED);
        let more = (more > 0).then(|| format!("and {more} more that cannot be read"));
        own.chain(needed).chain(more).collect::<Vec<_>>().join("; ")
    }

    /// The blobs in the way.
    pub(super) fn culprits(&self) -> Vec<BlobPrefix> {
        self.culprits.iter().map(|culprit| culprit.blob).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;
    use crate::store::packs::PackFile;

    fn id(number: u32) -> BlobId {
        BlobId::of_chunk(&number.to_le_bytes())
    }

    fn place(record: u32) -> RecordPlace {
        RecordPlace { pack: PackFile { id: PackId::from_bytes([0; 32]), size: 1 }, record }
    }

    #[test]
    fn depth_and_circles_end_a_search() {
        let mut search = Search::default();
        for number in 0..CHAIN_DEPTH as u32 {
            assert_eq!(search.descend(&id(number)), Ok(()));
        }
        assert_eq!(search.descend(&id(1000)), Err(DeadEnd::TooDeep));
        assert_eq!(search.descend(&id(5)), Err(DeadEnd::Circle));
        search.blame_end(&id(1000), DeadEnd::TooDeep, "too deep".into());
        search.blame_end(&id(5), DeadEnd::Circle, "a circle".into());
        assert_eq!(search.culprits(), [id(0).prefix(), id(5).prefix()]);
        search.ascend();
        assert_eq!(search.descend(&id(1000)), Ok(()));
    }

    #[test]
    fn records_tried_in_vain_are_forgotten_but_not_the_work() {
        let mut search = Search::default();
        let mark = search.mark();
        for round in 0..16 {
            for number in 0..CHAIN_RECORDS as u32 {
                assert_eq!(search.try_record(place(number)), Ok(()), "round {round}");
            }
            search.forget_records(mark);
        }
        assert_eq!(search.try_record(place(0)), Err(DeadEnd::GivenUp));
        assert!(DeadEnd::GivenUp.text().contains(&ATTEMPTS.to_string()));
        let mut search = Search::default();
        (0..CHAIN_RECORDS as u32).for_each(|number| search.try_record(place(number)).unwrap());
        assert_eq!(search.try_record(place(3)), Ok(()));
        assert_eq!(search.try_record(place(u32::MAX)), Err(DeadEnd::TooWide));
    }

    #[test]
    fn vain_blobs_are_forgotten_with_a_blob_that_is_found_and_with_one_that_a_limit_ended() {
        let mut search = Search::default();
        search.tried_in_vain(&id(0), search.mark());
        let mark = search.mark();
        search.tried_in_vain(&id(1), mark);
        search.tried_in_vain(&id(2), mark);
        assert!([0, 1, 2].iter().all(|number| search.is_vain(&id(*number))));
        search.forget_culprits(mark);
        assert_eq!([0, 1, 2].map(|number| search.is_vain(&id(number))), [true, false, false]);
        search.tried_in_vain(&id(1), mark);
        (0..CHAIN_DEPTH as u32).for_each(|number| search.descend(&id(number)).unwrap());
        assert_eq!(search.descend(&id(1000)), Err(DeadEnd::TooDeep));
        search.tried_in_vain(&id(2), mark);
        assert_eq!([0, 1, 2].map(|number| search.is_vain(&id(number))), [true, false, false]);
    }

    #[test]
    fn the_account_names_each_culprit_once_and_few_of_many() {
        let mut search = Search::default();
        search.blame(id(0).prefix(), "blob 0 in a pack: it does not hash to its id".into());
        let mark = search.mark();
        search.blame(id(1).prefix(), "forgotten".into());
        search.forget_culprits(mark);
        for number in [2, 3, 2, 4, 5, 6] {
            search.blame(id(number).prefix(), format!("blob {number}"));
        }
        let expected = format!(
            "blob 0 in a pack: it does not hash to its id; blob {0} needs blob 2; blob {0} needs blob 3; blob {0} needs blob 4; \
             and 2 more that cannot be read",
            id(0)
        );
        assert_eq!(search.account(&id(0)), expected);
        assert_eq!(search.culprits().len(), 6);
    }
}
