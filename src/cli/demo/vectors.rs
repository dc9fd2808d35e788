//! The files of one segment as Chroma writes them: an HNSW graph whose level 0 holds nearly all the bytes.
//!
//! A level-0 record is the number of links, 32 links, the vector and a label. A new vector is appended, and up to 16
//! neighbours of its topic, anywhere in the file, get a link to it: that is what makes a vector store hard to back up.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::random::Random;
use crate::error::{Error, Result};
use crate::progress::Progress;

const DIMENSIONS: usize = 384;
const LINKS: usize = 32;
const NEIGHBOURS: usize = 16;
const TOPICS: u32 = 300;
/// Bytes of a level-0 record.
pub(super) const RECORD_BYTES: u64 = (4 + LINKS * 4 + DIMENSIONS * 4 + 8) as u64;
/// Bytes that the pickle of ids holds for each vector.
const PICKLE_BYTES: usize = 24;

/// The directory of a segment.
pub(super) struct Segment {
    directory: PathBuf,
}

impl Segment {
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes so many vectors of all topics.
    pub(super) fn make(&self, vectors: u32, random: &mut Random, progress: &dyn Progress) -> Result<()> {
        fs::create_dir_all(&self.directory).map_err(Error::io("create the directory", &self.directory))?;
        let path = self.file("data_level0.bin");
        let write_error = || Error::io("write", &path);
        let mut level0 = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(write_error())?);
        for number in 0..vectors {
            progress.check()?;
            let known = u64::from(number.max(1));
            let links: Vec<u32> = (0..NEIGHBOURS).filter_map(|_| u32::try_from(random.below(known)).ok()).collect();
            level0.write_all(&record(number, &links, random)).map_err(write_error())?;
            progress.advance(RECORD_BYTES);
        }
        level0.flush().map_err(write_error())?;
        let header: Vec<u8> = (0..25).flat_map(|_| random.below(1000).to_le_bytes().into_iter().take(4)).collect();
        write(&self.file("header.bin"), &header)?;
        write(&self.file("link_lists.bin"), &vec![0; usize::try_from(vectors).unwrap_or_default() / 4])?;
        self.write_lengths_and_ids(vectors)
    }

    /// Adds vectors on a few topics to the `before` that are there, and links their neighbours to them.
    pub(super) fn append(&self, before: u32, added: u32, random: &mut Random) -> Result<()> {
        let path = self.file("data_level0.bin");
        let level0 = OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?;
        let place = |number: u32| u64::from(number) * RECORD_BYTES;
        let topics = [3, 58, 111, 190, 271];
        let members: Vec<u32> = (0..before).filter(|number| topics.contains(&topic_of(*number))).collect();
        for number in before..before + added {
            let neighbours: Vec<u32> = (0..NEIGHBOURS).filter_map(|_| random.pick(&members)).collect();
            level0
                .write_all_at(&record(number, &neighbours, random), place(number))
                .map_err(Error::io("write", &path))?;
            for neighbour in neighbours {
                let slot = 4 + 4 * random.below(LINKS as u64);
                level0
                    .write_all_at(&number.to_le_bytes(), place(neighbour) + slot)
                    .map_err(Error::io("write", &path))?;
            }
        }
        self.write_lengths_and_ids(before + added)
    }

    fn write_lengths_and_ids(&self, vectors: u32) -> Result<()> {
        let lengths: Vec<u8> = (0..vectors).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
        write(&self.file("length.bin"), &lengths)?;
        let ids: String = (0..vectors).map(|number| format!("{number:08x}{:0>16}", number ^ 0x5a5a)).collect();
        write(&self.file("index_metadata.pickle"), ids.as_bytes())
    }
}

/// Bytes of a whole segment of so many vectors, about.
pub(super) fn segment_bytes(vectors: u32) -> u64 {
    u64::from(vectors) * (RECORD_BYTES + PICKLE_BYTES as u64 + 4)
}

/// Which topic a vector belongs to: vectors of one topic are spread over the whole file.
fn topic_of(number: u32) -> u32 {
    ((number.wrapping_mul(2_654_435_761) >> 7) & 0xffff) % TOPICS
}

fn record(label: u32, links: &[u32], random: &mut Random) -> Vec<u8> {
    let mut record = Vec::with_capacity(usize::try_from(RECORD_BYTES).unwrap_or_default());
    record.extend(u32::try_from(links.len()).unwrap_or_default().to_le_bytes());
    let slots = links.iter().copied().chain(std::iter::repeat(0)).take(LINKS);
    record.extend(slots.flat_map(u32::to_le_bytes));
    record.extend((0..DIMENSIONS).flat_map(|_| random.coordinate().to_le_bytes()));
    record.extend(u64::from(label).to_le_bytes());
    record
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn an_append_adds_records_and_edits_links_all_over_the_file_but_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let segment = Segment::at(root.path().join("segment"));
        let mut random = Random::new(1);
        segment.make(3000, &mut random, &Silent).unwrap();
        let before = fs::read(segment.file("data_level0.bin")).unwrap();
        assert_eq!(before.len() as u64, 3000 * RECORD_BYTES);

        segment.append(3000, 30, &mut random).unwrap();
        let after = fs::read(segment.file("data_level0.bin")).unwrap();
        assert_eq!(after.len() as u64, 3030 * RECORD_BYTES);
        let changed: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        assert!(changed.len() > 20 && changed.len() <= 30 * NEIGHBOURS * 4, "{}", changed.len());
        let record = RECORD_BYTES as usize;
        assert!(changed.iter().all(|at| (4..4 + LINKS * 4).contains(&(at % record))), "more than links changed");
        assert!(changed.iter().any(|at| at / record < 1000) && changed.iter().any(|at| at / record > 2000));
    }

    #[test]
    fn the_estimate_of_a_segment_is_close() {
        let root = tempfile::tempdir().unwrap();
        let segment = Segment::at(root.path().to_path_buf());
        segment.make(1000, &mut Random::new(1), &Silent).unwrap();
        let real: u64 = fs::read_dir(root.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(real.abs_diff(segment_bytes(1000)) < real / 100, "{real}");
    }
}
