use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::save::capturing::tests::with_capturing;
use crate::save::file;
use crate::store::{Access, BlobReader, LockWait, Repository};

const WAIT: LockWait = LockWait(Duration::from_secs(1));

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn store_bytes(directory: &Path, bytes: &[u8], previous: Option<Content>, effort: Effort) -> Content {
    let repository = Repository::open_or_create(directory, WAIT).unwrap();
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), bytes).unwrap();
    let outcome = with_capturing(&repository, effort, |capturing| {
        file::store(capturing, source.as_file(), source.path(), bytes.len() as u64, previous).unwrap()
    });
    let ReadOutcome::Stored(stored) = outcome else { panic!("{outcome:?}") };
    stored.content
}

fn assert_holds(directory: &Path, bytes: &[u8]) {
    let repository = Repository::open(directory, Access::Read, WAIT).unwrap().unwrap();
    let mut reader = BlobReader::new(&repository);
    for chunk in bytes.chunks(CHUNK_SIZE) {
        assert_eq!(&*reader.chunk(&BlobId::of_chunk(chunk)).unwrap().unwrap(), chunk);
    }
}

fn stored_bytes(directory: &Path) -> u64 {
    let repository = Repository::open(directory, Access::Read, WAIT).unwrap().unwrap();
    crate::store::packs::list(repository.storage()).unwrap().iter().map(|pack| pack.size).sum()
}

#[test]
fn whatever_changed_comes_back_at_every_effort_and_content_that_moved_costs_little() {
    let old = noise(1, 200 * CHUNK_SIZE + 777);
    let mut new = old.clone();
    for chunk in 0..180 {
        // A page moves here from the next chunk but one, where something else takes its place.
        let from = (chunk + 2) * CHUNK_SIZE + 12_288;
        new.copy_within(from..from + 4096, chunk * CHUNK_SIZE + 12_288);
        new[chunk * CHUNK_SIZE + 40_000] ^= 1;
    }
    new.extend(noise(2, 3 * CHUNK_SIZE));
    let mut costs = Vec::new();
    for effort in [Effort::Fast, Effort::Normal, Effort::Max] {
        let directory = tempfile::tempdir().unwrap();
        let first = store_bytes(directory.path(), &old, None, effort);
        let before = stored_bytes(directory.path());
        let second = store_bytes(directory.path(), &new, Some(first), effort);
        assert_eq!(second.length, new.len() as u64);
        assert_holds(directory.path(), &new);
        costs.push(stored_bytes(directory.path()) - before);
    }
    let [fast, normal, max] = costs[..] else { panic!() };
    assert!(fast > 180 * 4096 && max < 300_000 && normal < fast, "{costs:?}");
}

/// What a repository that holds a file grows by when the file has changed.
fn cost_of_change(old: &[u8], new: &[u8]) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let first = store_bytes(directory.path(), old, None, Effort::Normal);
    cost_of_next(directory.path(), first, new).0
}

/// The same of a further change, and what is stored then.
fn cost_of_next(directory: &Path, previous: Content, new: &[u8]) -> (u64, Content) {
    let before = stored_bytes(directory);
    let content = store_bytes(directory, new, Some(previous), Effort::Normal);
    assert_eq!(content.length, new.len() as u64);
    assert_holds(directory, new);
    (stored_bytes(directory) - before, content)
}

#[test]
fn entries_of_one_length_that_move_on_by_one_cost_little() {
    // As a set of ids in a pickle: what frames each of them lies at equal offsets after it has moved.
    let entry = |number: u32| {
        let hash = blake3::hash(&number.to_le_bytes());
        let id = u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap()) % 50_000;
        format!("X\x0c\0\0\0doc-{id:08}q\x01M.")
    };
    let map = |leaves_out: &dyn Fn(u32) -> bool| -> Vec<u8> {
        (0..20_000).filter(|number| !leaves_out(*number)).flat_map(|number| entry(number).into_bytes()).collect()
    };
    let (some, all) = (map(&|number| number % 100 == 7), map(&|_| false));
    for (old, new) in [(&some, &all), (&all, &some)] {
        let cost = cost_of_change(old, new);
        assert!(cost < 10_000, "{cost} bytes for 200 entries of {}", entry(0).len());
    }
}

#[test]
fn content_that_is_copied_out_of_places_that_stay_as_they_are_is_found_there() {
    let old = noise(1, 120 * CHUNK_SIZE);
    let mut new = old.clone();
    // Half of the file is merged into its beginning and stays behind as it was.
    for page in 0..300 {
        let from = 60 * CHUNK_SIZE + page * 8192;
        new.copy_within(from..from + 4096, page * 4096);
    }
    let cost = cost_of_change(&old, &new);
    assert!(cost < 30_000, "{cost} bytes for 1.2 MB that the file has already");
}

#[test]
fn what_is_merged_out_of_pages_that_stay_in_chunks_that_change_is_found_there() {
    let old = noise(1, 60 * CHUNK_SIZE);
    // Each chunk changes at its beginning, and a page from its middle stands at the end of the file as well.
    let mut new = old.clone();
    new.chunks_mut(CHUNK_SIZE).for_each(|chunk| chunk[0] ^= 1);
    new.extend(old.chunks(CHUNK_SIZE).flat_map(|chunk| &chunk[20_000..24_096]));
    let cost = cost_of_change(&old, &new);
    assert!(cost < 20_000, "{cost} bytes for 246 KB that the file has already");
}

#[test]
fn what_is_merged_out_of_a_few_neighbours_is_found_in_a_small_file() {
    let old = noise(1, 100 * CHUNK_SIZE);
    // No chunk from 49 to 55 is in a probe, since these take every eighth.
    let new = [&old, &old[49 * CHUNK_SIZE + 100..56 * CHUNK_SIZE - 100]].concat();
    let cost = cost_of_change(&old, &new);
    assert!(cost < 20_000, "{cost} bytes for 458 KB that the file has already");
}

#[test]
fn what_is_cut_off_and_moves_forward_costs_little() {
    let old = noise(1, 300 * CHUNK_SIZE);
    // As VACUUM does it: what stood at the end takes the place of what was deleted, and the file ends earlier.
    let mut new = old.clone();
    let moved = old.len() - 100 * CHUNK_SIZE - 8192;
    new.copy_within(moved.., 20 * CHUNK_SIZE + 4096);
    new.truncate(moved);
    let cost = cost_of_change(&old, &new);
    assert!(cost < 40_000, "{cost} bytes for 6.5 MB that the previous version had at its end");
}

#[test]
fn what_gave_way_to_chunks_of_an_older_version_is_found_where_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let oldest = noise(1, 40 * CHUNK_SIZE);
    let mut old = oldest.clone();
    old[10 * CHUNK_SIZE..30 * CHUNK_SIZE].copy_from_slice(&noise(2, 20 * CHUNK_SIZE));
    // Chunks of the oldest version come back at other places, and what stood there moves on by a page.
    let mut new = old.clone();
    new[20 * CHUNK_SIZE..30 * CHUNK_SIZE].copy_from_slice(&oldest[10 * CHUNK_SIZE..20 * CHUNK_SIZE]);
    new[10 * CHUNK_SIZE + 4096..20 * CHUNK_SIZE].copy_from_slice(&old[20 * CHUNK_SIZE..30 * CHUNK_SIZE - 4096]);
    let first = store_bytes(directory.path(), &oldest, None, Effort::Normal);
    let second = store_bytes(directory.path(), &old, Some(first), Effort::Normal);
    let (cost, _) = cost_of_next(directory.path(), second, &new);
    assert!(cost < 20_000, "{cost} bytes for 651 KB that the previous version had");
}

#[test]
fn pages_that_move_again_and_again_cost_as_little_as_the_first_time() {
    const PAGE: usize = 4096;
    let directory = tempfile::tempdir().unwrap();
    let mut file = noise(1, 64 * CHUNK_SIZE);
    let mut content = store_bytes(directory.path(), &file, None, Effort::Normal);
    let mut costs = Vec::new();
    for version in 0..6 {
        // Each page goes to another chunk than its neighbours, and each tenth one changes a little.
        let pages: Vec<Vec<u8>> = file.chunks(PAGE).map(<[u8]>::to_vec).collect();
        let moved = (0..pages.len()).map(|page| &pages[(page * 389 + version * 57) % pages.len()][..]);
        file = moved.collect::<Vec<_>>().concat();
        for page in (version..pages.len()).step_by(10) {
            file[page * PAGE + 300..][..20].copy_from_slice(&noise(page as u8 ^ version as u8, 20));
        }
        let (cost, next) = cost_of_next(directory.path(), content, &file);
        content = next;
        costs.push(cost);
    }
    assert!(costs.iter().all(|cost| *cost < 2 * costs[0]), "{costs:?}");
}

#[test]
fn the_same_change_is_stored_in_the_same_bytes() {
    let old = noise(1, 200 * CHUNK_SIZE);
    let mut new = old.clone();
    new.copy_within(50 * CHUNK_SIZE.., 0);
    let directory = tempfile::tempdir().unwrap();
    let first = store_bytes(directory.path(), &old, None, Effort::Normal);
    let packs = || {
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(directory.path().join(".")).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        store_bytes(copy.path(), &new, Some(first), Effort::Normal);
        let repository = Repository::open(copy.path(), Access::Read, WAIT).unwrap().unwrap();
        crate::store::packs::list(repository.storage()).unwrap().iter().map(|pack| pack.id).collect::<HashSet<_>>()
    };
    assert_eq!(packs(), packs());
}

/// Identifies a file with the content `new` whose previous version is `old`, and gives what is under way to `go_on`.
fn with_identified(directory: &Path, old: &[u8], new: &[u8], go_on: impl FnOnce(Increment<'_, '_, '_, '_>, &File)) {
    let first = store_bytes(directory, old, None, Effort::Normal);
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), new).unwrap();
    let repository = Repository::open_or_create(directory, WAIT).unwrap();
    with_capturing(&repository, Effort::Normal, |capturing| {
        let file = SourceSlots { file: source.as_file(), path: source.path(), length: new.len() as u64, chunks: None };
        let previous = capturing.version(first).unwrap();
        let mut increment = Increment::begin(capturing, file, previous).unwrap();
        assert_eq!(file.identify(&mut |slots| increment.take(slots)).unwrap(), Steadiness::Same);
        go_on(increment, source.as_file());
        // What is read anew is stored, also what was met before.
        source.as_file().write_all_at(new, 0).unwrap();
        let previous = capturing.version(first).unwrap();
        assert!(matches!(store(capturing, file, previous).unwrap(), ReadOutcome::Stored(_)));
    });
    drop(repository);
    assert_holds(directory, new);
}

#[test]
fn content_that_was_away_for_a_moment_is_not_stored_with_the_differences_of_what_stood_there() {
    let directory = tempfile::tempdir().unwrap();
    let old = noise(1, 40 * CHUNK_SIZE);
    let mut new = old.clone();
    new[5 * CHUNK_SIZE..6 * CHUNK_SIZE].copy_from_slice(&noise(3, CHUNK_SIZE));
    new[5 * CHUNK_SIZE + 20_000..5 * CHUNK_SIZE + 60_000].copy_from_slice(&old[5 * CHUNK_SIZE + 20_000..][..40_000]);
    with_identified(directory.path(), &old, &new, |mut increment, source| {
        std::thread::sleep(Duration::from_millis(50));
        let mut changed = std::mem::take(&mut increment.changed);
        // The chunk's beginning is that of the previous version just while it is compared.
        source.write_all_at(&old[5 * CHUNK_SIZE..][..9000], 5 * CHUNK_SIZE as u64).unwrap();
        assert_eq!(increment.compare(&mut changed).unwrap(), Steadiness::Same);
        source.write_all_at(&new[5 * CHUNK_SIZE..][..9000], 5 * CHUNK_SIZE as u64).unwrap();
        assert_eq!(increment.store(&mut changed).unwrap(), Steadiness::Changed);
    });
}

#[test]
fn a_file_that_changes_between_two_readings_is_noticed_and_nothing_of_it_counts_as_stored() {
    let directory = tempfile::tempdir().unwrap();
    let old = noise(1, 40 * CHUNK_SIZE);
    let mut new = old.clone();
    new[5 * CHUNK_SIZE + 9..5 * CHUNK_SIZE + 9000].copy_from_slice(&noise(3, 8991));
    with_identified(directory.path(), &old, &new, |mut increment, source| {
        source.write_all_at(b"later", 5 * CHUNK_SIZE as u64 + 100).unwrap();
        assert_eq!(increment.flush().unwrap(), Steadiness::Changed);
    });
}
