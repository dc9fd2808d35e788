//! Whether a blob is known to be there, with all that its record needs, without reading any content.

use super::search::Search;
use super::{BlobFault, BlobReader, Found, PREFIX_MATCHES, tolerable};
use crate::error::Result;
use crate::format::pack::{BlobKind, Encoding};
use crate::id::{BlobId, BlobPrefix};

impl BlobReader<'_> {
    /// Whether footers record this chunk, and all bases that its record needs; reads no content. Where they do not,
    /// [`BlobReader::blamed`] names what is in the way.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn look_up_chunk(&mut self, id: &BlobId) -> Result<std::result::Result<(), BlobFault>> {
        self.look_up(id, BlobKind::Chunk)
    }

    /// As [`BlobReader::look_up_chunk`], for a blob of either kind.
    ///
    /// # Errors
    /// As [`BlobReader::look_up_chunk`].
    pub fn look_up(&mut self, id: &BlobId, kind: BlobKind) -> Result<std::result::Result<(), BlobFault>> {
        let mut search = Search::default();
        let recorded = self.knows(id, Some(kind), &mut search)?;
        self.blamed = search.culprits();
        Ok(match recorded {
            Recorded::Readable => Ok(()),
            Recorded::Nowhere => Err(BlobFault::Missing),
            Recorded::InVain => Err(BlobFault::Corrupt(search.account(id))),
        })
    }

    fn knows(&mut self, id: &BlobId, kind: Option<BlobKind>, search: &mut Search) -> Result<Recorded> {
        if self.known.get(id).is_some() {
            return Ok(Recorded::Readable);
        }
        if search.is_vain(id) {
            return Ok(Recorded::InVain);
        }
        let mark = search.mark();
        let mut recorded = Recorded::Nowhere;
        for place in self.repository.index().places(id)? {
            let found = match self.find(&place, id) {
                Ok(Some(found)) if kind.is_none_or(|kind| kind == found.record.kind) => found,
                Ok(_) => continue,
                Err(error) => {
                    recorded = Recorded::InVain;
                    search.blame(id.prefix(), tolerable(error)?);
                    continue;
                }
            };
            let tried = search.mark();
            if let Err(end) = search.try_record(place) {
                search.blame_end(id, end, self.describe(&found, end.text()));
            } else if self.knows_bases(&found, search)? {
                search.forget_culprits(mark);
                self.known.put(*id, ());
                return Ok(Recorded::Readable);
            }
            search.forget_records(tried);
            recorded = Recorded::InVain;
        }
        if recorded == Recorded::Nowhere {
            search.blame(id.prefix(), format!("blob {id}, which no pack holds"));
        } else {
            search.tried_in_vain(id, mark);
        }
        Ok(recorded)
    }

    fn knows_bases(&mut self, found: &Found, search: &mut Search) -> Result<bool> {
        let Encoding::Delta { bases, .. } = &found.record.encoding else { return Ok(true) };
        if let Err(end) = search.descend(&found.record.id) {
            search.blame_end(&found.record.id, end, self.describe(found, end.text()));
            return Ok(false);
        }
        let mut all = true;
        for prefix in bases {
            all = all && self.knows_one_of(prefix, search)?;
        }
        search.ascend();
        Ok(all)
    }

    fn knows_one_of(&mut self, prefix: &BlobPrefix, search: &mut Search) -> Result<bool> {
        let candidates = self.repository.index().with_prefix(prefix, PREFIX_MATCHES)?;
        if candidates.is_empty() {
            search.blame(*prefix, format!("blob {prefix}…, which no pack holds"));
        }
        for id in candidates {
            if self.knows(&id, None, search)? == Recorded::Readable {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What footers say of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// A record of it has all that it needs.
    Readable,
    /// There are records, but none that has.
    InVain,
    /// There is none.
    Nowhere,
}
