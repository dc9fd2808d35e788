//! Many chunks at once, over packs made by hand: chains, damage, limits.

mod limits;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::format::compression::Codec;
use crate::format::delta::{self, Instruction};
use crate::format::limits::CHAIN_DEPTH;
use crate::format::pack::{self, BaseDistance, BlobKind, Encoding, Footer, Frame, Record};
use crate::id::PackId;
use crate::store::{LockWait, layout, packs};

const WAIT: LockWait = LockWait(Duration::from_secs(2));

/// A record to be put into a pack by hand: a content, and unless it is whole its bases and instructions.
type Handmade = (Vec<u8>, Option<(Vec<Vec<u8>>, Vec<Instruction>)>);

fn noise(seed: u32, length: usize) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|n| *blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
    blocks.take(length).collect()
}

fn whole(content: &[u8]) -> Handmade {
    (content.to_vec(), None)
}

/// A delta that copies all but the last eight bytes.
fn successor(base: &[u8], number: u64) -> Handmade {
    let kept = base.len() - 8;
    let content = [&base[..kept], &number.to_le_bytes()].concat();
    let steps = vec![Instruction::CopyAlong { length: kept as u32 }, Instruction::Literal { length: 8 }];
    (content, Some((vec![base.to_vec()], steps)))
}

fn payload_of(content: &[u8], bases: &[Vec<u8>], steps: &[Instruction]) -> Vec<u8> {
    let (mut literals, mut at) = (Vec::new(), 0);
    for step in steps {
        let (Instruction::Literal { length }
        | Instruction::CopyAlong { length }
        | Instruction::CopyFrom { length, .. }) = *step;
        if matches!(step, Instruction::Literal { .. }) {
            literals.extend_from_slice(&content[at..at + length as usize]);
        }
        at += length as usize;
    }
    let payload = delta::encode(steps, &literals);
    let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
    assert_eq!(delta::apply(&payload, &bases, content.len()).unwrap(), content);
    payload
}

fn write_pack(repository: &Repository, records: &[Handmade]) {
    let mut bytes = pack::encode_header(repository.header()).unwrap();
    let mut footer = Footer::default();
    for (number, (content, delta)) in (0..).zip(records) {
        let (payload, encoding) = match delta {
            None => (content.clone(), Encoding::Whole),
            Some((bases, steps)) => {
                let prefixes = bases.iter().map(|base| BlobId::of_chunk(base).prefix()).collect();
                let encoding = Encoding::Delta { bases: prefixes, id_table: false, distance: BaseDistance::One };
                (payload_of(content, bases, steps), encoding)
            }
        };
        let length = payload.len() as u32;
        footer.frames.push(Frame::new(bytes.len() as u64, length, length, 1, Codec::Raw));
        footer.records.push(Record {
            id: BlobId::of_chunk(content),
            kind: BlobKind::Chunk,
            length: content.len() as u32,
            frame: number,
            offset: 0,
            payload_length: length,
            encoding,
        });
        bytes.extend(payload);
    }
    end_pack(repository, bytes, &footer);
    repository.reindex().unwrap();
}

/// Ends a pack with its footer and writes it under its name.
fn end_pack(repository: &Repository, mut bytes: Vec<u8>, footer: &Footer) {
    bytes.extend(footer.encode(bytes.len() as u64).unwrap());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let path = repository.root().join(layout::pack(&PackId::of_hasher(&hasher)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn repository(root: &Path, records: &[Handmade]) -> Repository {
    let repository = Repository::open_or_create(root, WAIT).unwrap();
    write_pack(&repository, records);
    repository
}

fn wanted(content: &[u8]) -> WantedChunk {
    WantedChunk { id: BlobId::of_chunk(content), length: content.len() as u64 }
}

/// What comes out by id, and what does not.
fn read(bulk: &mut BulkReader<'_>, chunks: &[WantedChunk]) -> (HashMap<BlobId, Vec<u8>>, Vec<WantedChunk>) {
    bulk.want(chunks).unwrap();
    let came_out = Mutex::new(HashMap::new());
    let unread = bulk.read(&|id, bytes| {
        came_out.lock().insert(*id, bytes.to_vec());
        Ok(())
    });
    (came_out.into_inner(), unread.unwrap())
}

fn chain(length: u64) -> Vec<Handmade> {
    let mut records = vec![whole(&noise(1, 3000))];
    for number in 1..=length {
        records.push(successor(&records[records.len() - 1].0, number));
    }
    records
}

#[test]
fn every_version_of_a_long_chain_comes_out_and_what_is_kept_is_staged() {
    let directory = tempfile::tempdir().unwrap();
    let records = chain(100);
    let repository = repository(directory.path(), &records);
    let last = wanted(&records[100].0);
    let first = wanted(&records[0].0);
    let mut bulk = BulkReader::keeping(&repository, HashSet::from([last.id, first.id]));
    let chunks: Vec<_> = records.iter().map(|(content, _)| wanted(content)).collect();
    let (came_out, unread) = read(&mut bulk, &chunks);
    assert_eq!(unread, []);
    assert_eq!(came_out, records.iter().map(|(content, _)| (BlobId::of_chunk(content), content.clone())).collect());
    assert_eq!(bulk.staged().blob(&last.id, BlobKind::Chunk).unwrap(), records[100].0);
    assert_eq!(bulk.staged().blob(&first.id, BlobKind::Chunk).unwrap(), records[0].0, "recorded whole, and a base");
    assert_eq!(bulk.staged().blob(&chunks[50].id, BlobKind::Chunk), None, "nobody wanted it kept");
    let (came_out, unread) = read(&mut bulk, &chunks[7..9]);
    assert_eq!((came_out.len(), unread.len()), (2, 0), "a reader can be used again");
}

#[test]
fn of_long_chains_it_is_told_which_records_hold_each_byte() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = chain(60);
    // One that has half of its bytes from a short chain, and half from a long one.
    let other = noise(2, 3000);
    let copy = |length, base, offset| Instruction::CopyFrom { length, base, offset };
    let mixed = [&other[500..1500], &records[50].0[1000..]].concat();
    let bases = vec![other.clone(), records[50].0.clone()];
    let length = (mixed.len() - 1000) as u32;
    records.extend([whole(&other), (mixed, Some((bases, vec![copy(1000, 0, 500), copy(length, 1, 1000)])))]);
    let repository = repository(directory.path(), &records);
    let contents: HashMap<BlobId, &[u8]> =
        records.iter().map(|(content, _)| (BlobId::of_chunk(content), content.as_slice())).collect();
    let mut bulk = BulkReader::new(&repository);
    bulk.want(&records.iter().map(|(content, _)| wanted(content)).collect::<Vec<_>>()).unwrap();
    let told = Mutex::new(HashSet::new());
    let unread = bulk.read_with_holders(&|id, bytes, held| {
        if held.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        for run in held {
            assert_eq!(run.at, at, "there is no gap");
            let (start, length) = (run.offset as usize, run.length as usize);
            assert_eq!(contents[&run.holder][start..start + length], bytes[at as usize..at as usize + length]);
            at += run.length;
        }
        assert_eq!(at as usize, bytes.len());
        assert!(held.iter().all(|run| run.holder != *id || run.length <= 20), "only literals are its own");
        told.lock().insert(*id);
        Ok(())
    });
    assert_eq!(unread.unwrap(), []);
    let long = records[32..=60].iter().chain(&records[62..]).map(|(content, _)| BlobId::of_chunk(content));
    assert_eq!(told.into_inner(), long.collect());
}

#[test]
fn what_is_recorded_whole_is_staged_if_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let contents: Vec<Vec<u8>> = (0..6).map(|number| noise(number, 2000)).collect();
    let repository = repository(directory.path(), &contents.iter().map(|content| whole(content)).collect::<Vec<_>>());
    let chunks: Vec<_> = contents.iter().map(|content| wanted(content)).collect();
    let kept = [1, 2, 4];
    let mut bulk = BulkReader::keeping(&repository, kept.iter().map(|&number| chunks[number].id).collect());
    assert_eq!(read(&mut bulk, &chunks).0.len(), 6);
    for (number, content) in contents.iter().enumerate() {
        let staged = bulk.staged().blob(&chunks[number].id, BlobKind::Chunk);
        assert_eq!(staged.as_ref(), kept.contains(&number).then_some(content), "{number}");
    }
}

#[test]
fn a_whole_record_is_staged_only_for_deltas_that_need_others_too() {
    use super::order::{Order, Round};

    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (noise(1, 3000), noise(2, 3000));
    let (alone, on_top) = (successor(&one, 7), successor(&successor(&one, 7).0, 8));
    let content = [&one[..1000], &two[..1000]].concat();
    let copy = |base| Instruction::CopyFrom { length: 1000, base, offset: 0 };
    let both = (content, Some((vec![one.clone(), two.clone()], vec![copy(0), copy(1)])));
    let records = [whole(&one), whole(&two), alone, on_top.clone(), both.clone()];
    let repository = repository(directory.path(), &records);
    let order_for = |asked: &[&Handmade]| {
        let mut bulk = BulkReader::new(&repository);
        for (content, _) in asked {
            bulk.want(&[wanted(content)]).unwrap();
        }
        let order = Order::of(&bulk.plan);
        let staged = |content: &[u8]| {
            let numbered = (0..).zip(&bulk.plan.nodes);
            let found = numbered.into_iter().find(|(_, node)| node.id == BlobId::of_chunk(content));
            found.is_some_and(|(number, node)| order.staged(number, node).is_some())
        };
        let staged = records.each_ref().map(|(content, _)| staged(content));
        let frames = [Round::First, Round::Second].map(|round| order.tasks(&bulk.plan, round).len());
        (staged, frames)
    };
    assert_eq!(order_for(&[&on_top]), ([false, false, true, true, false], [2, 1]));
    assert_eq!(order_for(&[&both]), ([true, true, false, false, true], [1, 2]));
    assert_eq!(order_for(&[&on_top, &both]), ([true, true, true, true, true], [3, 2]));
    assert_eq!(order_for(&[&records[0]]), ([false; 5], [0, 1]), "handed out, and that is all");
}

#[test]
fn a_delta_that_is_wanted_and_also_a_base_of_one_with_several_is_handed_out_once() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (noise(1, 3000), noise(2, 3000));
    let alone = successor(&one, 7);
    let copy = |base| Instruction::CopyFrom { length: 1000, base, offset: 0 };
    let content = [&alone.0[..1000], &two[..1000]].concat();
    let both = (content, Some((vec![alone.0.clone(), two.clone()], vec![copy(0), copy(1)])));
    let repository = repository(directory.path(), &[whole(&one), whole(&two), alone.clone(), both.clone()]);
    let mut bulk = BulkReader::new(&repository);
    bulk.want(&[wanted(&alone.0), wanted(&both.0)]).unwrap();
    let handed_out = Mutex::new(Vec::new());
    let unread = bulk.read(&|id, _| {
        handed_out.lock().push(*id);
        Ok(())
    });
    assert_eq!(unread.unwrap(), []);
    let mut handed_out = handed_out.into_inner();
    handed_out.sort_unstable();
    let mut expected = [wanted(&alone.0).id, wanted(&both.0).id];
    expected.sort_unstable();
    assert_eq!(handed_out, expected);
}

#[test]
fn of_whole_records_only_what_deltas_need_is_staged() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two, three] = [1, 2, 3].map(|seed| noise(seed, 3000));
    let copy = |base, offset, length| Instruction::CopyFrom { length, base, offset };
    let below = [&one[100..400], &two[500..600]].concat();
    let below = (below, Some((vec![one.clone(), two.clone()], vec![copy(0, 100, 300), copy(1, 500, 100)])));
    // Bytes 150 to 250 of the first through the delta below, 2,000 of it to 2,010 besides, and nothing of the third.
    let above = [&one[150..250], &one[2000..2010], &two[500..600]].concat();
    let bases = vec![below.0.clone(), one.clone(), two.clone(), three.clone()];
    let steps = vec![copy(0, 50, 100), copy(1, 2000, 10), copy(2, 500, 100)];
    let above = (above, Some((bases, steps)));
    let records = [whole(&one), whole(&two), whole(&three), below.clone(), above.clone()];
    let repository = repository(directory.path(), &records);
    let payloads = [&below, &above].map(|(content, delta)| {
        let (bases, steps) = delta.as_ref().unwrap();
        payload_of(content, bases, steps).len() as u64
    });
    let mut bulk = BulkReader::new(&repository);
    let (came_out, unread) = read(&mut bulk, &[wanted(&above.0)]);
    assert_eq!((came_out.into_values().collect::<Vec<_>>(), unread), (vec![above.0], vec![]));
    // The two counts of a draft, and its three runs.
    let draft = 2 * 8 + 3 * 16;
    assert_eq!(bulk.staged().used(), payloads.iter().sum::<u64>() + draft + (2010 - 150) + 100);
}

#[test]
fn a_damaged_record_takes_those_with_it_that_need_it_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let [other, lone] = [noise(7, 500), noise(8, 500)];
    let mut records = chain(3);
    records.push(whole(&other));
    let repository = repository(directory.path(), &records);
    write_pack(&repository, &[whole(&lone)]);
    let packs = packs::list(repository.storage()).unwrap();
    for pack in packs.iter().map(|pack| directory.path().join(layout::pack(&pack.id))) {
        let mut bytes = fs::read(&pack).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == &records[0].0[..64]) {
            bytes[at] ^= 1;
            fs::write(pack, bytes).unwrap();
        }
    }
    let mut bulk = BulkReader::keeping(&repository, HashSet::new());
    let absent = wanted(b"in no pack");
    let too_long = WantedChunk { length: 501, ..wanted(&lone) };
    let chain: Vec<_> = records[..4].iter().map(|(content, _)| wanted(content)).collect();
    let (came_out, mut unread) = read(&mut bulk, &[&chain[..], &[wanted(&other), absent, too_long]].concat());
    assert_eq!(came_out.into_keys().collect::<Vec<_>>(), [wanted(&other).id]);
    let mut expected = [&chain[..], &[absent, too_long]].concat();
    unread.sort_by_key(|chunk| chunk.id);
    expected.sort_by_key(|chunk| chunk.id);
    assert_eq!(unread, expected);
}

/// Two records that no content could have: their payloads lead back to each other.
fn write_circle(repository: &Repository, one: &Handmade, two: &Handmade) {
    for (content, delta) in [one, two] {
        let (bases, steps) = delta.as_ref().unwrap();
        let payload = delta::encode(steps, &[]);
        let mut bytes = pack::encode_header(repository.header()).unwrap();
        let length = payload.len() as u32;
        let frames = vec![Frame::new(bytes.len() as u64, length, length, 1, Codec::Raw)];
        let bases = bases.iter().map(|base| BlobId::of_chunk(base).prefix()).collect();
        let record = Record {
            id: BlobId::of_chunk(content),
            kind: BlobKind::Chunk,
            length: content.len() as u32,
            frame: 0,
            offset: 0,
            payload_length: length,
            encoding: Encoding::Delta { bases, id_table: false, distance: BaseDistance::One },
        };
        bytes.extend(payload);
        let footer = Footer { frames, records: vec![record] };
        end_pack(repository, bytes, &footer);
    }
    repository.reindex().unwrap();
}

/// A stretch of the next content: from which earlier content (none: new bytes), from where, how long.
type Stretch = (Option<prop::sample::Index>, prop::sample::Index, usize);

/// Contents each of which is spliced from earlier ones and new bytes.
fn spliced(plans: &[Vec<Stretch>]) -> Vec<Handmade> {
    let mut records = vec![whole(&noise(1, 5000)), whole(&noise(2, 700))];
    for (number, plan) in (0_u32..).zip(plans) {
        let (mut content, mut bases, mut steps) = (noise(100 + number, 9), Vec::new(), vec![]);
        steps.push(Instruction::Literal { length: 9 });
        for (from, start, length) in plan {
            let Some(from) = from else {
                content.extend(noise(content.len() as u32, *length));
                steps.push(Instruction::Literal { length: *length as u32 });
                continue;
            };
            let base = &records[from.index(records.len())].0;
            let start = start.index(base.len());
            let taken = &base[start..base.len().min(start + length)];
            let number = bases.iter().position(|known| known == base).unwrap_or_else(|| {
                bases.push(base.clone());
                bases.len() - 1
            });
            let length = taken.len() as u32;
            steps.push(Instruction::CopyFrom { length, base: number as u32, offset: start as u32 });
            content.extend_from_slice(taken);
        }
        records.push((content, Some((bases, steps))));
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_is_spliced_from_whatever_comes_out(
        plans in prop::collection::vec(prop::collection::vec((any::<Option<prop::sample::Index>>(), any::<prop::sample::Index>(), 1_usize..2000), 0..3), 1..9),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let records = spliced(&plans);
        let repository = repository(directory.path(), &records);
        let mut bulk = BulkReader::keeping(&repository, HashSet::new());
        let chunks: Vec<_> = records.iter().map(|(content, _)| wanted(content)).collect();
        let (came_out, unread) = read(&mut bulk, &chunks);
        prop_assert_eq!(unread, []);
        for (content, _) in &records {
            prop_assert_eq!(came_out.get(&BlobId::of_chunk(content)), Some(content));
        }
    }
}

#[test]
fn readers_share_frames_of_deltas_and_of_small_files_as_far_as_there_is_room() {
    let root = tempfile::tempdir().unwrap();
    let base = noise(1, 2000);
    let changed = successor(&base, 1);
    let repository = repository(root.path(), &[whole(&base), changed.clone()]);
    let kept = DecodedFrames::default();
    let one_frame = DecodedFrames::with_limit(2000);
    for frames in [&kept, &one_frame] {
        let (came_out, unread) = read(&mut BulkReader::sharing(&repository, frames), &[wanted(&changed.0)]);
        assert_eq!((came_out.len(), unread), (1, vec![]));
    }
    for pack in packs::list(repository.storage()).unwrap() {
        let path = packs::path(repository.storage(), &pack.id);
        let footer = packs::read_footer(repository.storage(), repository.header(), &pack).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        for frame in footer.frames {
            bytes[frame.offset as usize..][..frame.stored_length as usize].fill(0);
        }
        fs::write(&path, bytes).unwrap();
    }
    let (came_out, unread) = read(&mut BulkReader::sharing(&repository, &kept), &[wanted(&changed.0), wanted(&base)]);
    assert_eq!((&came_out[&wanted(&base).id], &came_out[&wanted(&changed.0).id]), (&base, &changed.0));
    assert_eq!(unread, []);
    let (came_out, unread) = read(&mut BulkReader::sharing(&repository, &one_frame), &[wanted(&changed.0)]);
    assert_eq!((came_out.len(), unread.len()), (0, 1), "there was no room for the frame of the whole record");
}
