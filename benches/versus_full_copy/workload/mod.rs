//! A made-up runtime of the shape that a service with a Chroma store leaves on disk; the same in every run.
//!
//! What matters for an increment is kept: an insert into the vectors edits the link lists of up to 16 neighbours
//! anywhere in `data_level0.bin`; the texts are in SQLite with a trigram index, behind a queue that is emptied again;
//! the pickle of ids shifts when one is deleted; a small database and the registry change a little.

mod random;
mod texts;
mod vectors;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::random::Random;
use self::texts::Texts;
use self::vectors::Vectors;
use super::states;

/// Bytes on disk of one vector with its text and index, about.
const BYTES_PER_VECTOR: u64 = 4_300;
/// Documents that are in the queue at the same time.
const BATCH: u32 = 2_000;
/// Vectors are near the centre of one of so many topics.
const TOPICS: u32 = 300;
const SEGMENT: &str = "ca3d7305-f333-4c43-b997-90801a4616a5";

/// The made-up runtime in a directory.
pub(crate) struct Workload {
    root: PathBuf,
    random: Random,
    vectors: Vectors,
    texts: Texts,
}

impl Workload {
    /// Writes a runtime of about so many megabytes.
    pub(crate) fn make(root: &Path, megabytes: u64) -> Self {
        let segment = root.join("data/chroma").join(SEGMENT);
        for directory in [&segment, &root.join("data/db"), &root.join("config")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(root.join("config/project-registry.json"), registry(12)).unwrap();
        let mut random = Random::new(7);
        let (vectors, texts) = (Vectors::new(segment, &mut random), Texts::make(&root.join("data")));
        let mut workload = Self { root: root.to_path_buf(), random, vectors, texts };
        let count = (megabytes * 1_000_000 / BYTES_PER_VECTOR).max(1_000) as u32;
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH);
            workload.insert(batch, 0..TOPICS);
            left -= batch;
        }
        workload
    }

    /// Vectors there are, deleted ones included.
    pub(crate) fn count(&self) -> u32 {
        self.vectors.count()
    }

    /// Adds documents on some topics.
    pub(crate) fn insert(&mut self, count: u32, topics: Range<u32>) {
        let labels = self.vectors.count()..self.vectors.count() + count;
        let added: Vec<Vec<f32>> =
            labels.clone().map(|_| self.vectors.insert(topics.clone(), &mut self.random)).collect();
        self.vectors.write();
        self.texts.put(labels.zip(added), &mut self.random);
    }

    /// Gives documents anywhere another text and another vector.
    pub(crate) fn update(&mut self, count: u32) {
        let labels = self.sample(count);
        let moved: Vec<Vec<f32>> = labels.iter().map(|label| self.vectors.update(*label, &mut self.random)).collect();
        self.vectors.write();
        self.texts.put(labels.into_iter().zip(moved), &mut self.random);
    }

    /// Deletes documents anywhere.
    pub(crate) fn delete(&mut self, count: u32) {
        let labels = self.sample(count);
        labels.iter().for_each(|label| self.vectors.delete(*label));
        self.vectors.write();
        self.texts.delete(&labels);
    }

    /// A project more.
    pub(crate) fn change_registry(&mut self, projects: u32) {
        fs::write(self.root.join("config/project-registry.json"), registry(projects)).unwrap();
    }

    fn sample(&mut self, count: u32) -> Vec<u32> {
        let mut labels: Vec<u32> = (0..count).map(|_| self.random.below(self.vectors.count())).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }
}

fn registry(projects: u32) -> String {
    let entry = |number| serde_json::json!({ "id": format!("p{number:02}"), "aliases": [], "ingest_roots": ["vault"] });
    format!("{:#}\n", serde_json::json!({ "projects": (0..projects).map(entry).collect::<Vec<_>>() }))
}

/// The seven states that `states::in_directory` reads, of a runtime of about so many megabytes.
pub(crate) fn make_states(directory: &Path, megabytes: u64) {
    let live = directory.join("live");
    let mut workload = Workload::make(&live, megabytes);
    let percent = workload.count() / 100;
    let steps: [&dyn Fn(&mut Workload); 7] = [
        &|_| {},
        &|workload| workload.insert(percent, 0..4),
        &|workload| workload.insert(percent, 0..TOPICS),
        &|workload| workload.update(percent),
        &|workload| workload.delete(percent),
        &|workload| {
            workload.insert((percent / 10).max(1), 10..13);
            workload.change_registry(13);
        },
        &|_| {},
    ];
    for (number, step) in steps.iter().enumerate() {
        step(&mut workload);
        states::copy(&live, &directory.join(format!("s{number}")));
    }
    fs::remove_dir_all(live).unwrap();
}

/// Many states, each with so small a part of the vectors (in ten-thousandths) added and rewritten.
pub(crate) fn change_a_little(workload: &mut Workload, ten_thousandths: u32) {
    let count = (u64::from(workload.count()) * u64::from(ten_thousandths) / 10_000).max(2) as u32;
    workload.insert(count / 2, 0..TOPICS);
    workload.update(count - count / 2);
}
