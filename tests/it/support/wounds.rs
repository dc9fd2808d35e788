//! Rot: every class of bytes of a repository, and everything that may happen to them.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use vecsnap::format::content::Root;
use vecsnap::format::manifest::Manifest;
use vecsnap::format::pack::{BlobKind, END_BYTES, Encoding, Record};
use vecsnap::id::BlobId;

use super::damage::files_below;
use super::packs::Pack;

/// Bytes of one file that mean one thing.
#[derive(Clone, Debug)]
pub struct Place {
    pub class: &'static str,
    /// Below the repository.
    pub file: PathBuf,
    pub bytes: Range<u64>,
}

/// What happens to a place, or to the file that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wound {
    Flip,
    Zero,
    Garbage,
    /// The file ends in the middle of the place.
    Truncate,
    Append,
    /// The file of the same kind that comes next has its bytes, and the other way round.
    Swap,
    Empty,
    Delete,
    Directory,
    LinkToNothing,
    LinkToAnother,
}

impl Wound {
    pub const ALL: [Wound; 11] = [
        Wound::Flip,
        Wound::Zero,
        Wound::Garbage,
        Wound::Truncate,
        Wound::Append,
        Wound::Swap,
        Wound::Empty,
        Wound::Delete,
        Wound::Directory,
        Wound::LinkToNothing,
        Wound::LinkToAnother,
    ];

    /// Whether it is the same whatever place of the file is meant.
    pub fn is_of_file(self) -> bool {
        !matches!(self, Wound::Flip | Wound::Zero | Wound::Garbage | Wound::Truncate)
    }

    /// Inflicts it; `None` where it changes nothing (a swap without another file, zeros over zeros).
    pub fn inflict(self, repository: &Path, place: &Place) -> Option<()> {
        let path = repository.join(&place.file);
        let mut bytes = fs::read(&path).unwrap();
        let whole = bytes.clone();
        let range = place.bytes.start as usize..place.bytes.end as usize;
        match self {
            Wound::Flip => *bytes.get_mut((range.start + range.end) / 2)? ^= 1,
            Wound::Zero => bytes[range].fill(0),
            Wound::Garbage => bytes[range.clone()].copy_from_slice(&super::noise::bytes("rot", range.len())),
            Wound::Truncate => bytes.truncate((range.start + range.end) / 2),
            Wound::Append => bytes.extend(b"more"),
            Wound::Empty => bytes.clear(),
            Wound::Swap => {
                let other = another(repository, &place.file)?;
                fs::rename(&path, repository.join("swapped")).unwrap();
                fs::rename(&other, &path).unwrap();
                fs::rename(repository.join("swapped"), &other).unwrap();
                return Some(());
            }
            Wound::Delete => {
                fs::remove_file(&path).unwrap();
                return Some(());
            }
            Wound::Directory | Wound::LinkToNothing | Wound::LinkToAnother => {
                let other =
                    if self == Wound::LinkToAnother { another(repository, &place.file)? } else { "nothing".into() };
                fs::remove_file(&path).unwrap();
                match self {
                    Wound::Directory => fs::create_dir(&path).unwrap(),
                    _ => symlink(other, &path).unwrap(),
                }
                return Some(());
            }
        }
        if bytes == whole {
            return None;
        }
        fs::write(&path, bytes).unwrap();
        Some(())
    }
}

/// Another file of the same kind.
fn another(repository: &Path, file: &Path) -> Option<PathBuf> {
    let kind = file.components().next()?;
    let files = files_below(&repository.join(kind)).into_iter();
    let own = repository.join(file);
    let mut others: Vec<PathBuf> = files
        .filter(|other| *other != own && (other.file_name() == own.file_name() || kind.as_os_str() == "packs"))
        .collect();
    others.pop()
}

/// Every class of bytes that the repository has, in one or several files.
pub fn places(repository: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    for path in files_below(repository) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let file = path.strip_prefix(repository).unwrap().to_path_buf();
        let length = fs::metadata(&path).unwrap().len();
        let mut push = |class: &'static str, bytes: Range<u64>| {
            if !bytes.is_empty() || length == 0 {
                places.push(Place { class, file: file.clone(), bytes });
            }
        };
        match name.as_str() {
            "repository.json" => push("repository.json", 0..length),
            "manifest" => {
                push("manifest: head", 0..32);
                push("manifest: payload", 32..length - 32);
                push("manifest: checksum", length - 32..length);
            }
            "backup-metadata.json" => push("backup-metadata.json", 0..length),
            "index.sqlite" => {
                push("index: header", 0..100);
                push("index: pages", 4096.min(length - 1)..length);
            }
            "drills.jsonl" => push("drills.jsonl", 0..length),
            "validations.jsonl" => push("validations.jsonl", 0..length),
            "lock" | "live.lock" | "cleanup.lock" => push("lock file", 0..length),
            _ if name.ends_with(".pack") => of_pack(repository, &path, &mut push),
            _ => panic!("{} is of no class", path.display()),
        }
    }
    places
}

fn of_pack(repository: &Path, path: &Path, push: &mut impl FnMut(&'static str, Range<u64>)) {
    let pack = Pack::read(path);
    let tables = tables(repository);
    let (footer, length) = (pack.footer_place, pack.footer_place.offset + pack.footer_place.length + END_BYTES as u64);
    push("pack: header", 0..pack.footer.frames[0].offset);
    type IsOfClass<'a> = &'a dyn Fn(&Record) -> bool;
    let kinds: [(&'static str, &'static str, IsOfClass<'_>); 4] = [
        ("frame of whole chunks: head", "frame of whole chunks", &|record| {
            record.kind == BlobKind::Chunk && record.encoding == Encoding::Whole && !tables.contains(&record.id)
        }),
        ("frame of deltas: head", "frame of deltas", &|record| {
            record.kind == BlobKind::Chunk && record.encoding != Encoding::Whole && !tables.contains(&record.id)
        }),
        ("frame of list nodes: head", "frame of list nodes", &|record| record.kind == BlobKind::ListNode),
        ("frame of tables: head", "frame of tables", &|record| tables.contains(&record.id)),
    ];
    for (head, class, is_of_class) in kinds {
        if let Some(record) = pack.footer.records.iter().find(|record| is_of_class(record)) {
            let frame = &pack.footer.frames[record.frame as usize];
            let end = frame.offset + u64::from(frame.stored_length);
            push(head, frame.offset..(frame.offset + 6).min(end));
            push(class, (frame.offset + 6).min(end - 1)..end);
        }
    }
    push("footer: head", footer.offset..footer.offset + 32);
    push("footer: payload", footer.offset + 32..footer.offset + footer.length - 32);
    push("footer: checksum", footer.offset + footer.length - 32..footer.offset + footer.length);
    push("pack: end", length - END_BYTES as u64..length);
}

/// The chunks that hold the tables of all snapshots.
fn tables(repository: &Path) -> BTreeSet<BlobId> {
    let manifests = files_below(&repository.join("snapshots")).into_iter().filter(|path| path.ends_with("manifest"));
    let sources = manifests.flat_map(|path| Manifest::decode(&fs::read(path).unwrap()).unwrap().sources);
    let ids = sources.filter_map(|source| match source.table.root {
        Root::Chunk(id) | Root::Node { id, .. } => Some(id),
        Root::Empty => None,
    });
    ids.collect()
}
