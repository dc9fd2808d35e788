//! Chains at the limits of the format and beyond, and records that are not what they claim.

use super::*;

#[test]
fn chains_beyond_the_limits_and_circles_are_left_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = chain(CHAIN_DEPTH as u64 + 1);
    // Two that need each other.
    let [one, two] = [noise(20, 900), noise(21, 900)];
    let all = vec![Instruction::CopyFrom { length: 900, base: 0, offset: 0 }];
    let circle = |content: &[u8], base: &[u8]| (content.to_vec(), Some((vec![base.to_vec()], all.clone())));
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let deepest = records.pop().unwrap();
    write_pack(&repository, &records);
    write_pack(&repository, std::slice::from_ref(&deepest));
    let mut bulk = BulkReader::keeping(&repository, HashSet::new());
    let (came_out, unread) = read(&mut bulk, &[wanted(&deepest.0)]);
    assert_eq!((came_out.len(), unread), (0, vec![wanted(&deepest.0)]));
    let (came_out, _) = read(&mut bulk, &[wanted(&records[CHAIN_DEPTH].0)]);
    assert_eq!(came_out.len(), 1, "as deep as the format allows");
    write_circle(&repository, &circle(&one, &two), &circle(&two, &one));
    let (came_out, unread) = read(&mut bulk, &[wanted(&one), wanted(&two)]);
    assert_eq!((came_out.len(), unread.len()), (0, 2));
}

#[test]
fn records_that_bases_share_count_once_however_many_ways_lead_to_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = vec![whole(&noise(1, 600)), whole(&noise(2, 600))];
    let copy = |base, offset| Instruction::CopyFrom { length: 300, base, offset };
    // Two records a level, each made of both of the level below: there are 2^n ways and 2n records.
    for _ in 0..12 {
        let below = [&records[records.len() - 2].0, &records[records.len() - 1].0].map(Clone::clone);
        let crossed = |one: usize, other: usize| {
            let content = [&below[one][..300], &below[other][300..]].concat();
            (content, Some((below.to_vec(), vec![copy(one as u32, 0), copy(other as u32, 300)])))
        };
        records.extend([crossed(0, 1), crossed(1, 0)]);
    }
    // The contents alternate, so only the first four are distinct: number the levels to tell them apart.
    for (number, (content, delta)) in records.iter_mut().enumerate().skip(2) {
        content.extend_from_slice(&(number as u32).to_le_bytes());
        delta.as_mut().unwrap().1.push(Instruction::Literal { length: 4 });
    }
    for number in 4..records.len() {
        let below = number / 2 * 2 - 2;
        let bases = vec![records[below].0.clone(), records[below + 1].0.clone()];
        records[number].1.as_mut().unwrap().0 = bases;
    }
    let repository = repository(directory.path(), &records);
    let frames = DecodedFrames::default();
    let mut bulk = BulkReader::sharing(&repository, &frames);
    let top = wanted(&records[records.len() - 1].0);
    let counted = bulk.chain(&top.id).unwrap().unwrap().facts.records;
    assert!((25..=64).contains(&counted), "{counted} of 25, where each way counted makes 8,191");
    for mut bulk in [bulk, BulkReader::new(&repository)] {
        let (came_out, unread) = read(&mut bulk, &[top]);
        assert_eq!((came_out.len(), unread.len()), (1, 0));
    }
}

#[test]
fn a_chain_of_more_records_than_the_format_allows_is_left_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let copy = |base| Instruction::CopyFrom { length: 16, base, offset: 0 };
    let of = |bases: &[Handmade]| {
        let contents: Vec<Vec<u8>> = bases.iter().map(|base| base.0.clone()).collect();
        let content = contents.iter().flat_map(|content| &content[..16]).copied().collect();
        (content, Some((contents, (0..bases.len() as u32).map(copy).collect())))
    };
    // 64 bases with 17 or with 15 bases each: 1,153 records with the one on top, or 1,025, and one base fewer: 1,009.
    let families: Vec<Vec<Handmade>> =
        (0..64).map(|family| (0..17).map(|number| whole(&noise(family * 17 + number, 20))).collect()).collect();
    let tops = [(17, 64), (15, 64), (15, 63)].map(|(most, families_used)| {
        let middle: Vec<Handmade> = families[..families_used].iter().map(|family| of(&family[..most])).collect();
        (of(&middle), middle)
    });
    let mut records: Vec<Handmade> = families.iter().flatten().cloned().collect();
    records.extend(tops[0].1.iter().chain(&tops[1].1).cloned());
    records.extend(tops.iter().map(|(top, _)| top.clone()));
    let repository = repository(directory.path(), &records);
    let asked = tops.map(|(top, _)| wanted(&top.0));
    let (came_out, unread) = read(&mut BulkReader::new(&repository), &asked);
    assert_eq!(unread, asked[..2]);
    assert_eq!(came_out.len(), 1);
}

#[test]
fn a_record_that_claims_another_length_than_its_blob_has_is_unread() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path(), &[whole(&noise(1, 3000)), whole(&noise(2, 3000))]);
    // The id of no bytes, 100 of them, from beyond the end of a base: what leads nowhere must not be taken for nothing.
    let payload = delta::encode(&[Instruction::CopyFrom { length: 100, base: 0, offset: 2990 }], &[]);
    let bases = [1, 2].map(|seed| BlobId::of_chunk(&noise(seed, 3000)).prefix()).to_vec();
    let encoding = Encoding::Delta { bases, id_table: false, distance: BaseDistance::One };
    let mut bytes = pack::encode_header(repository.header()).unwrap();
    let length = payload.len() as u32;
    let frames = vec![Frame::new(bytes.len() as u64, length, length, 1, Codec::Raw)];
    let (id, kind) = (BlobId::of_chunk(b""), BlobKind::Chunk);
    let records = vec![Record { id, kind, length: 100, frame: 0, offset: 0, payload_length: length, encoding }];
    bytes.extend(payload);
    end_pack(&repository, bytes, &Footer { frames, records });
    repository.reindex().unwrap();
    let asked = WantedChunk { id, length: 100 };
    let (came_out, unread) = read(&mut BulkReader::new(&repository), &[asked]);
    assert_eq!((came_out.len(), unread), (0, vec![asked]));
}
