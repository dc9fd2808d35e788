//! The HNSW files of one segment, and whether they agree with one another.
//!
//! hnswlib writes them in place and one after the other: `header.bin` with the count of elements and the bytes of each,
//! `data_level0.bin` with the elements, `length.bin` with four bytes for each, `link_lists.bin`; then Chroma writes the
//! list of ids, `index_metadata.pickle`. A service that dies in between, or a copy made in between, leaves files of
//! different moments. Files laid out for the capacity of the index instead of its count are an older way, and sound. An
//! index that was only begun (a query does that) has all its files but the list of ids, and nothing of worth in them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::pickle;
use super::suspicion::Suspicion;
use crate::disk::held::{SourceOpen, open_source};
use crate::disk::stat::{FileKind, lstat};
use crate::error::{Error, Result};

const HEADER: &str = "header.bin";
const LEVEL0: &str = "data_level0.bin";
const LENGTHS: &str = "length.bin";
const PICKLE: &str = "index_metadata.pickle";
/// The layout that is understood: the first field of a header.
const LAYOUT: u32 = 1;
/// Bytes of a length.
const LENGTH_BYTES: u64 = 4;

/// What the files of a segment say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SegmentFiles {
    /// There is no index: the segment was never persisted.
    None,
    /// They are of a layout that is not known here.
    UnknownLayout,
    /// There is no list of ids: if the database says so too, the segment was begun and never persisted.
    Begun { elements: u64, suspicions: Vec<Suspicion> },
    /// So many elements, deleted ones included, and where the files disagree.
    Index { elements: u64, suspicions: Vec<Suspicion> },
}

/// The fields of a header that are needed.
struct Header {
    capacity: u64,
    elements: u64,
    element_bytes: u64,
}

enum HeaderRead {
    Header(Header),
    TooShort,
    UnknownLayout,
}

/// Looks into the files of the segment in `directory`.
///
/// # Errors
/// I/O errors; a file that vanishes meanwhile is a missing one.
pub(super) fn examine(directory: &Path, segment: &str) -> Result<SegmentFiles> {
    let Some(bytes) = start_of(&directory.join(HEADER), 64)? else { return Ok(SegmentFiles::None) };
    let header = match header(&bytes) {
        HeaderRead::Header(header) => header,
        HeaderRead::UnknownLayout => return Ok(SegmentFiles::UnknownLayout),
        HeaderRead::TooShort => {
            let suspicions = vec![Suspicion::BadHeader { segment: segment.into() }];
            return Ok(SegmentFiles::Index { elements: 0, suspicions });
        }
    };
    let mut suspicions = Vec::new();
    for (file, bytes_each) in [(LEVEL0, header.element_bytes), (LENGTHS, LENGTH_BYTES)] {
        let expected = header.elements.saturating_mul(bytes_each);
        let accepted = [expected, header.capacity.saturating_mul(bytes_each)];
        match lstat(&directory.join(file))? {
            Some(stat) if stat.kind == FileKind::File && accepted.contains(&stat.size) => {}
            Some(stat) => {
                suspicions.push(Suspicion::WrongSize { segment: segment.into(), file, bytes: stat.size, expected });
            }
            None => suspicions.push(Suspicion::Missing { segment: segment.into(), file }),
        }
    }
    let elements = header.elements;
    let Some(start) = start_of(&directory.join(PICKLE), pickle::START)? else {
        suspicions.push(Suspicion::Missing { segment: segment.into(), file: PICKLE });
        return Ok(SegmentFiles::Begun { elements, suspicions });
    };
    match pickle::integer_after(&start, "total_elements_added") {
        Some(total) if total != elements => {
            suspicions.push(Suspicion::WrongTotal { segment: segment.into(), total, elements });
        }
        // A pickle of another shape proves nothing either way.
        Some(_) | None => {}
    }
    Ok(SegmentFiles::Index { elements, suspicions })
}

/// `u32` layout, then `u64`s: offset of level 0, capacity, elements, bytes of an element.
fn header(bytes: &[u8]) -> HeaderRead {
    let Some((layout, fields)) = bytes.split_first_chunk::<4>() else { return HeaderRead::TooShort };
    if u32::from_le_bytes(*layout) != LAYOUT {
        return HeaderRead::UnknownLayout;
    }
    let (fields, _) = fields.as_chunks::<8>();
    match fields {
        [_offset, capacity, elements, element_bytes, ..] => {
            let [capacity, elements, element_bytes] =
                [capacity, elements, element_bytes].map(|field| u64::from_le_bytes(*field));
            HeaderRead::Header(Header { capacity, elements, element_bytes })
        }
        _ => HeaderRead::TooShort,
    }
}

/// The first bytes of a regular file; `None` if there is none.
fn start_of(path: &Path, most: usize) -> Result<Option<Vec<u8>>> {
    if lstat(path)?.is_none_or(|stat| stat.kind != FileKind::File) {
        return Ok(None);
    }
    let read = |file: &File| {
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        Ok(Some(bytes))
    };
    match open_source(path) {
        Ok(SourceOpen::File(source)) => read(source.file()),
        Ok(SourceOpen::HeldBySqlite) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes a segment as hnswlib and Chroma do.
    pub(in crate::save::chroma) fn write(directory: &Path, elements: u64) {
        const ELEMENT: u64 = 1676;
        std::fs::create_dir_all(directory).unwrap();
        let mut header = 1_u32.to_le_bytes().to_vec();
        for field in [0, 65_536, elements, ELEMENT] {
            header.extend(field.to_le_bytes());
        }
        header.resize(100, 7);
        let total = u32::try_from(elements).unwrap().to_le_bytes();
        let pickle =
            [b"\x80\x03}(X\x14\x00\x00\x00total_elements_addedJ".as_slice(), &total, b"X\x0a\x00\x00\x00max_seq_idNu."];
        let zeros = |length: u64| vec![0; usize::try_from(length).unwrap()];
        for (file, bytes) in [
            (HEADER, header),
            (LEVEL0, zeros(elements * ELEMENT)),
            (LENGTHS, zeros(elements * LENGTH_BYTES)),
            ("link_lists.bin", zeros(12)),
            (PICKLE, pickle.concat()),
        ] {
            std::fs::write(directory.join(file), bytes).unwrap();
        }
    }

    fn suspicions(directory: &Path) -> Vec<String> {
        match examine(directory, "s").unwrap() {
            SegmentFiles::Index { suspicions, .. } | SegmentFiles::Begun { suspicions, .. } => {
                suspicions.iter().map(Suspicion::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_that_agree_raise_no_suspicion_and_each_that_does_not_is_named() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 50);
        assert_eq!(examine(root.path(), "s").unwrap(), SegmentFiles::Index { elements: 50, suspicions: Vec::new() });
        for (file, code) in [(LEVEL0, "wrong_size"), (LENGTHS, "wrong_size"), (PICKLE, "wrong_total")] {
            write(root.path(), 50);
            let other = tempfile::tempdir().unwrap();
            write(other.path(), 51);
            std::fs::copy(other.path().join(file), root.path().join(file)).unwrap();
            let found = suspicions(root.path());
            assert!(found.len() == 1 && found[0].starts_with(code) && found[0].contains(file), "{found:?}");
            std::fs::remove_file(root.path().join(file)).unwrap();
            assert!(suspicions(root.path())[0].starts_with("missing: "));
        }
        std::fs::write(root.path().join(HEADER), b"\x01\x00\x00\x00short").unwrap();
        assert!(suspicions(root.path())[0].starts_with("bad_header: "));
    }

    /// Reads so many headers of random length whose fields are bounds of something.
    fn attack(cases: u64) {
        let mut state = 1_u64;
        let mut random = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 31) % end
        };
        let bounds = [0, 1, 1676, 65_536, u64::from(u32::MAX), 1 << 53, i64::MAX as u64, u64::MAX];
        let (mut read, mut sums) = (0_u64, 0_u64);
        for _ in 0..cases {
            let mut bytes = (random(3) as u32).to_le_bytes().to_vec();
            (0..5).for_each(|_| bytes.extend(bounds[random(8) as usize].wrapping_add(random(3)).to_le_bytes()));
            bytes.truncate(random(50) as usize);
            match header(&bytes) {
                HeaderRead::Header(Header { capacity, elements, element_bytes }) => {
                    assert!(bytes.len() >= 36 && bytes.starts_with(&LAYOUT.to_le_bytes()));
                    sums ^= elements.saturating_mul(element_bytes) ^ capacity;
                    read += 1;
                }
                HeaderRead::TooShort => assert!(bytes.len() < 36),
                HeaderRead::UnknownLayout => assert!(!bytes.starts_with(&LAYOUT.to_le_bytes())),
            }
        }
        assert!(read > 0 && read < cases);
        eprintln!("HNSW header: {cases} cases, {read} read ({sums:x})");
    }

    #[test]
    fn hostile_headers_are_read_or_refused() {
        attack(20_000);
    }

    #[test]
    #[ignore = "10^7 cases, some seconds in a release build"]
    fn long_hostile_headers_are_read_or_refused() {
        attack(10_000_000);
    }

    #[test]
    fn sizes_beyond_all_numbers_are_wrong_sizes() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 50);
        let mut header = LAYOUT.to_le_bytes().to_vec();
        (0..4).for_each(|_| header.extend(u64::MAX.to_le_bytes()));
        std::fs::write(root.path().join(HEADER), header).unwrap();
        assert!(suspicions(root.path()).iter().any(|found| found.starts_with("wrong_size")));
    }

    #[test]
    fn files_for_the_whole_capacity_are_sound() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 3);
        for (file, bytes_each) in [(LEVEL0, 1676), (LENGTHS, 4)] {
            File::create(root.path().join(file)).unwrap().set_len(65_536 * bytes_each).unwrap();
        }
        assert_eq!(suspicions(root.path()), Vec::<String>::new());
    }

    #[test]
    fn no_index_and_another_layout_prove_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(examine(root.path(), "s").unwrap(), SegmentFiles::None);
        std::fs::write(root.path().join(HEADER), [9; 100]).unwrap();
        assert_eq!(examine(root.path(), "s").unwrap(), SegmentFiles::UnknownLayout);
    }
}
