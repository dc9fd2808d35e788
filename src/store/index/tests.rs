use std::fs;

use super::*;
use crate::format::compression::Codec;
use crate::format::content::Content;
use crate::format::manifest::Verdict;
use crate::format::pack::{BlobKind, Encoding, Frame, Record};

fn pack(number: u8) -> PackFile {
    PackFile { id: PackId::from_bytes([number; 32]), size: u64::from(number) + 100 }
}

fn footer(contents: &[&[u8]]) -> Footer {
    let records = contents.iter().map(|content| Record {
        id: BlobId::of_chunk(content),
        kind: BlobKind::Chunk,
        length: 1,
        frame: 0,
        offset: 0,
        payload_length: 1,
        encoding: Encoding::Whole,
    });
    Footer { frames: vec![Frame::new(0, 1, 1, 1, Codec::Raw)], records: records.collect() }
}

#[test]
fn places_are_those_of_packs_that_exist() {
    let index = Index::open_private().unwrap();
    index.reconcile(&[pack(1), pack(2)]).unwrap();
    index.adopt(&pack(1), &footer(&[b"a", b"b"])).unwrap();
    index.adopt(&pack(2), &footer(&[b"b"])).unwrap();
    let b = BlobId::of_chunk(b"b");
    assert_eq!(index.places(&b).unwrap().len(), 2);
    assert_eq!(index.with_prefix(&b.prefix(), 8).unwrap(), [b]);
    assert_eq!(index.reconcile(&[pack(2)]).unwrap(), []);
    assert_eq!(index.places(&b).unwrap(), [RecordPlace { pack: pack(2), record: 0 }]);
    assert!(!index.contains(&BlobId::of_chunk(b"a")).unwrap());
    index.forget(&[pack(2).id]).unwrap();
    assert!(!index.contains(&b).unwrap());
}

#[test]
fn a_pack_of_another_size_is_adopted_again() {
    let index = Index::open_private().unwrap();
    index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
    let resized = PackFile { size: 7, ..pack(1) };
    assert_eq!(index.reconcile(&[resized]).unwrap(), [resized]);
    assert!(!index.contains(&BlobId::of_chunk(b"a")).unwrap());
}

#[test]
fn garbage_truncation_and_other_schemas_begin_a_new_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let fill = |path: &Path| {
        let index = Index::open(path).unwrap();
        assert_eq!(index.reconcile(&[pack(1)]).unwrap(), [pack(1)]);
        index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
    };
    fill(&path);
    assert_eq!(Index::open(&path).unwrap().reconcile(&[pack(1)]).unwrap(), []);
    fs::write(&path, b"garbage, not a database at all").unwrap();
    fill(&path);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..5000]).unwrap();
    fill(&path);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    fill(&path);
    assert!(Index::open(&path).unwrap().contains(&BlobId::of_chunk(b"a")).is_ok());
}

#[test]
fn many_may_begin_the_index_at_once_and_only_the_owner_may_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    std::thread::scope(|scope| {
        for number in 1..9 {
            let path = &path;
            scope.spawn(move || Index::open(path).unwrap().adopt(&pack(number), &footer(&[&[number]])).unwrap());
        }
    });
    let all: Vec<_> = (1..9).map(pack).collect();
    assert_eq!(Index::open(&path).unwrap().reconcile(&all).unwrap(), []);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// Lets an index be of another boot of the machine.
fn age(path: &Path) {
    Connection::open(path).unwrap().execute("UPDATE begun SET boot = 'an earlier one'", []).unwrap();
}

#[test]
fn an_index_of_an_earlier_boot_is_begun_anew_but_what_was_unreadable_stays_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let index = Index::open(&path).unwrap();
    index.adopt(&pack(1), &footer(&[b"a", b"b"])).unwrap();
    index.mark_whole(&[Content::EMPTY], index.loss_mark().unwrap()).unwrap();
    index.distrust(&[BlobId::of_chunk(b"a").prefix()]).unwrap();
    drop(index);
    assert_eq!(Index::open(&path).unwrap().reconcile(&[pack(1)]).unwrap(), [], "of the same boot it is kept");
    age(&path);
    let index = Index::open(&path).unwrap();
    assert_eq!(index.reconcile(&[pack(1)]).unwrap(), [pack(1)]);
    assert!(!index.is_whole(&Content::EMPTY));
    index.adopt(&pack(1), &footer(&[b"a", b"b"])).unwrap();
    assert!(!index.contains(&BlobId::of_chunk(b"a")).unwrap() && index.contains(&BlobId::of_chunk(b"b")).unwrap());
}

#[test]
fn many_may_find_the_index_of_an_earlier_boot_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    for _ in 0..5 {
        Index::open(&path).unwrap().adopt(&pack(99), &footer(&[b"old"])).unwrap();
        age(&path);
        std::thread::scope(|scope| {
            for number in 1..9 {
                let path = &path;
                scope.spawn(move || Index::open(path).unwrap().adopt(&pack(number), &footer(&[&[number]])).unwrap());
            }
        });
        let all: Vec<_> = (1..9).map(pack).collect();
        assert_eq!(Index::open(&path).unwrap().reconcile(&all).unwrap(), [], "somebody's index was removed");
    }
}

#[test]
fn a_content_is_whole_until_a_pack_is_lost() {
    let index = Index::open_private().unwrap();
    index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
    index.adopt(&pack(2), &footer(&[b"b"])).unwrap();
    assert!(!index.is_whole(&Content::EMPTY));
    index.mark_whole(&[Content::EMPTY], index.loss_mark().unwrap()).unwrap();
    index.reconcile(&[pack(1), pack(2), pack(3)]).unwrap();
    assert!(index.is_whole(&Content::EMPTY));
    index.reconcile(&[pack(1), pack(3)]).unwrap();
    assert!(!index.is_whole(&Content::EMPTY));
}

#[test]
fn nothing_is_marked_as_whole_that_may_have_been_lost_since_it_was_looked_into() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let (index, other) = (Index::open(&path).unwrap(), Index::open(&path).unwrap());
    index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
    index.adopt(&pack(2), &footer(&[b"b"])).unwrap();
    let is_marked = |lose: &dyn Fn()| {
        let since = index.loss_mark().unwrap();
        lose();
        index.mark_whole(&[Content::EMPTY], since).unwrap();
        index.is_whole(&Content::EMPTY)
    };
    assert!(!is_marked(&|| drop(other.reconcile(&[pack(1)]).unwrap())), "another process missed a pack");
    assert!(!is_marked(&|| other.forget(&[pack(2).id]).unwrap()), "another process removed it");
    assert!(!is_marked(&|| other.distrust(&[BlobId::of_chunk(b"a").prefix()]).unwrap()));
    assert!(!is_marked(&|| index.distrust(&[BlobId::of_chunk(b"a").prefix()]).unwrap()));
    assert!(!is_marked(&|| index.forget(&[pack(2).id]).unwrap()));
    assert!(is_marked(&|| index.adopt(&pack(3), &footer(&[b"c"])).unwrap()));
    index.distrust(&[]).unwrap();
    assert!(!index.is_whole(&Content::EMPTY));
    assert!(!is_marked(&|| drop(index.reconcile(&[pack(3)]).unwrap())));
}

#[test]
fn a_file_found_damaged_at_a_look_up_is_removed_and_the_next_one_is_whole() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let contents: Vec<Vec<u8>> = (0..5000_u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let footer = footer(&contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
    Index::open(&path).unwrap().adopt(&pack(1), &footer).unwrap();
    let length = fs::metadata(&path).unwrap().len() as usize;
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&vec![0xa5; length - 40_960], 40_960).unwrap();
    let index = Index::open(&path).unwrap();
    index.reconcile(&[pack(1)]).unwrap();
    let fault = contents.iter().find_map(|content| index.places(&BlobId::of_chunk(content)).err()).unwrap();
    assert!(fault.to_string().contains("run the command again"), "{fault}");
    assert!(!path.exists());
    assert_eq!(Index::open(&path).unwrap().reconcile(&[pack(1)]).unwrap(), [pack(1)]);
}

#[test]
fn a_distrusted_blob_counts_as_absent_until_it_is_stored_again() {
    let index = Index::open_private().unwrap();
    index.adopt(&pack(1), &footer(&[b"a", b"b"])).unwrap();
    let before = index.loss_mark().unwrap();
    index.mark_whole(&[Content::EMPTY], before).unwrap();
    let (a, b) = (BlobId::of_chunk(b"a"), BlobId::of_chunk(b"b"));
    index.distrust(&[a.prefix()]).unwrap();
    assert!(!index.contains(&a).unwrap() && index.contains(&b).unwrap());
    assert!(!index.is_whole(&Content::EMPTY));
    index.mark_whole(&[Content::EMPTY], before).unwrap();
    assert!(!index.is_whole(&Content::EMPTY), "it may hold the one that cannot be read");
    index.mark_whole(&[Content::EMPTY], index.loss_mark().unwrap()).unwrap();
    assert!(index.is_whole(&Content::EMPTY), "it was looked into since");
    assert_eq!(index.places(&a).unwrap().len(), 1, "its record may still be tried");
    index.adopt(&pack(1), &footer(&[b"a", b"b"])).unwrap();
    assert!(!index.contains(&a).unwrap(), "the same footer proves nothing");
    index.adopt_new(&pack(2), &footer(&[b"a"])).unwrap();
    assert!(index.contains(&a).unwrap());
}

#[test]
fn verdicts_are_kept_by_content_and_question() {
    let index = Index::open_private().unwrap();
    assert_eq!(index.verdict(Question::Integrity, &Content::EMPTY), None);
    index.record_verdict(Question::Integrity, &Content::EMPTY, &Verdict::Failed("page 3".into())).unwrap();
    assert_eq!(index.verdict(Question::Integrity, &Content::EMPTY), Some(Verdict::Failed("page 3".into())));
    assert_eq!(index.verdict(Question::Json, &Content::EMPTY), None);
    index.record_verdict(Question::Json, &Content::EMPTY, &Verdict::Ok).unwrap();
    assert_eq!(index.verdict(Question::Json, &Content::EMPTY), Some(Verdict::Ok));
}

#[test]
fn of_many_packs_those_that_can_be_read_are_adopted() {
    let index = Index::open_private().unwrap();
    let all = [pack(1), pack(2), pack(3)];
    let read = |pack: &PackFile| Ok((pack.id != all[1].id).then(|| footer(&[&[pack.id.as_bytes()[0]], b"shared"])));
    index.adopt_all(&all, read).unwrap();
    assert_eq!(index.reconcile(&all).unwrap(), [pack(2)]);
    assert_eq!(index.places(&BlobId::of_chunk(b"shared")).unwrap().len(), 2);
    assert!(index.contains(&BlobId::of_chunk(&[3])).unwrap() && !index.contains(&BlobId::of_chunk(&[2])).unwrap());
    assert!(index.adopt_all(&all, |_| Err(Error::Failed("gone".into()))).is_err());
}

#[test]
fn an_index_that_cannot_be_read_is_named_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let index = Index::open(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("DROP TABLE blobs").unwrap();
    let error = index.places(&BlobId::of_chunk(b"a")).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_process_that_stands_still_while_it_opens_the_index_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let stopped = fs::File::open(directory.path()).unwrap();
    stopped.lock().unwrap();
    let refused = open_or_begin(&path, std::time::Duration::from_millis(30)).unwrap_err();
    assert!(matches!(&refused, Error::Busy(cause) if cause.contains("index.sqlite")), "{refused}");
    assert!(!refused.to_string().contains("--lock-wait"), "that wait is fixed: {refused}");
    drop(stopped);
    assert!(open_or_begin(&path, std::time::Duration::ZERO).is_ok());
}
