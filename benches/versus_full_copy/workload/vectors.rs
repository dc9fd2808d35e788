//! The files of an HNSW index: records with links, lengths, upper levels, a header, and the pickle of ids.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::TOPICS;
use super::random::Random;

const DIMENSIONS: usize = 384;
/// Links of a record on the lowest level.
const LINKS: usize = 32;
/// Neighbours that a new record is linked to, and that are linked to it.
const NEIGHBOURS: usize = 16;
const LINK_BYTES: usize = 4 + LINKS * 4;
const RECORD: usize = LINK_BYTES + DIMENSIONS * 4 + 8;
/// Set in the count of links of a deleted record.
const DELETED: u32 = 1 << 16;

/// The vectors, their links in memory.
#[derive(Debug)]
pub(super) struct Vectors {
    segment: PathBuf,
    centres: Vec<Vec<f32>>,
    /// Labels on each topic.
    members: Vec<Vec<u32>>,
    topic_of: Vec<u32>,
    /// Per label: how many links, then the links.
    links: Vec<[u32; LINKS + 1]>,
    deleted: BTreeSet<u32>,
    /// What has to be written: records whose links changed, and those with a vector that is not on disk.
    edited: BTreeSet<u32>,
    unwritten: Vec<(u32, Vec<f32>)>,
}

impl Vectors {
    pub(super) fn new(segment: PathBuf, random: &mut Random) -> Self {
        let centre = |_| (0..DIMENSIONS).map(|_| random.normal()).collect();
        Self {
            segment,
            centres: (0..TOPICS).map(centre).collect(),
            members: vec![Vec::new(); TOPICS as usize],
            topic_of: Vec::new(),
            links: Vec::new(),
            deleted: BTreeSet::new(),
            edited: BTreeSet::new(),
            unwritten: Vec::new(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.links.len() as u32
    }

    /// Adds a vector on one of the topics and returns it.
    pub(super) fn insert(&mut self, topics: Range<u32>, random: &mut Random) -> Vec<f32> {
        let (label, topic) = (self.count(), topics.start + random.below(topics.end - topics.start));
        self.links.push([0; LINKS + 1]);
        self.topic_of.push(topic);
        self.place(label, random);
        self.members[topic as usize].push(label);
        let vector = self.near(topic, random);
        self.unwritten.push((label, vector.clone()));
        vector
    }

    /// Moves a vector within its topic and links it anew.
    pub(super) fn update(&mut self, label: u32, random: &mut Random) -> Vec<f32> {
        self.place(label, random);
        let vector = self.near(self.topic_of[label as usize], random);
        self.unwritten.push((label, vector.clone()));
        vector
    }

    /// Marks a record as deleted, as hnswlib does.
    pub(super) fn delete(&mut self, label: u32) {
        self.links[label as usize][0] |= DELETED;
        self.deleted.insert(label);
        self.edited.insert(label);
    }

    fn near(&self, topic: u32, random: &mut Random) -> Vec<f32> {
        let centre = &self.centres[topic as usize];
        let mut vector: Vec<f32> = centre.iter().map(|coordinate| coordinate + 0.7 * random.normal()).collect();
        let length = vector.iter().map(|coordinate| coordinate * coordinate).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|coordinate| *coordinate /= length);
        vector
    }

    /// Links a record and members of its topic with each other.
    fn place(&mut self, label: u32, random: &mut Random) {
        let members = &self.members[self.topic_of[label as usize] as usize];
        if members.is_empty() {
            return;
        }
        let mut own = [0; LINKS + 1];
        for slot in 1..=NEIGHBOURS {
            let neighbour = members[random.below(members.len() as u32) as usize];
            own[0] += 1;
            own[slot] = neighbour;
            let theirs = &mut self.links[neighbour as usize];
            let count = (theirs[0] & 0xffff) as usize;
            if count < LINKS {
                theirs[0] += 1;
                theirs[count + 1] = label;
            } else {
                theirs[1 + random.below(LINKS as u32) as usize] = label;
            }
            self.edited.insert(neighbour);
        }
        self.links[label as usize] = own;
    }

    /// Brings the files up to date: edited links in place, new records at the end.
    pub(super) fn write(&mut self) {
        let open =
            |name: &str| OpenOptions::new().create(true).truncate(false).write(true).open(self.segment.join(name));
        let level0 = open("data_level0.bin").unwrap();
        let at = |label: u32| u64::from(label) * RECORD as u64;
        for (label, vector) in self.unwritten.drain(..) {
            let mut record = links_of(&self.links[label as usize]);
            record.extend(vector.iter().flat_map(|coordinate| coordinate.to_le_bytes()));
            record.extend(u64::from(label).to_le_bytes());
            level0.write_all_at(&record, at(label)).unwrap();
            self.edited.remove(&label);
        }
        for label in std::mem::take(&mut self.edited) {
            level0.write_all_at(&links_of(&self.links[label as usize]), at(label)).unwrap();
        }
        let count = self.count();
        let mut header = [0_u32; 25];
        (header[2], header[4], header[5]) = (count, RECORD as u32, LINK_BYTES as u32);
        fs::write(self.segment.join("header.bin"), bytes_of(header)).unwrap();
        fs::write(self.segment.join("length.bin"), bytes_of((0..count).map(|_| 1.0_f32.to_bits()))).unwrap();
        fs::write(self.segment.join("link_lists.bin"), self.upper_levels()).unwrap();
        let mut pickle = std::io::BufWriter::new(fs::File::create(self.segment.join("index_metadata.pickle")).unwrap());
        self.write_pickle(&mut pickle);
        pickle.flush().unwrap();
    }

    /// One record in 16 has links on a level above.
    fn upper_levels(&self) -> Vec<u8> {
        let mut lists = Vec::new();
        for (label, links) in self.links.iter().enumerate() {
            if label % 16 == 7 {
                lists.extend(68_u32.to_le_bytes());
                lists.extend(bytes_of(links[..17].iter().copied()));
            } else {
                lists.extend(0_u32.to_le_bytes());
            }
        }
        lists
    }

    /// Dictionaries from ids to labels and back; the numbers by which a pickle refers to an earlier string shift when
    /// an id before it goes.
    fn write_pickle(&self, pickle: &mut impl Write) {
        let alive = || (0..self.count()).filter(|label| !self.deleted.contains(label)).zip(0_u32..);
        pickle.write_all(b"\x80\x04}(").unwrap();
        for (label, _) in alive() {
            pickle.write_all(b"\x8c\x0c").unwrap();
            write!(pickle, "doc-{label:08}").unwrap();
            pickle.write_all(b"\x94J").unwrap();
            pickle.write_all(&label.to_le_bytes()).unwrap();
        }
        for (label, memo) in alive() {
            for (opcode, number) in [(b'J', label), (b'j', memo), (b'j', memo), (b'J', label + 1)] {
                pickle.write_all(&[opcode]).unwrap();
                pickle.write_all(&number.to_le_bytes()).unwrap();
            }
        }
        pickle.write_all(b"u.").unwrap();
    }
}

fn links_of(links: &[u32; LINKS + 1]) -> Vec<u8> {
    bytes_of(links.iter().copied())
}

fn bytes_of(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}
