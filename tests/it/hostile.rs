//! Whole repositories that somebody made to do harm, through every command: nothing outside a target is touched,
//! nothing panics, hangs or takes the machine's memory.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use vecsnap::format::content::{Content, Root};
use vecsnap::format::limits::{CHUNK_SIZE, NODE_SLOTS};
use vecsnap::format::list_node::ListNode;
use vecsnap::format::manifest::{SourceKind, SourceState};
use vecsnap::format::pack::BlobKind;
use vecsnap::format::table::{Entry, EntryKind};
use vecsnap::id::BlobId;
use vecsnap::store::BlobFault;

use crate::support::chained::Made;
use crate::support::hostile::{Hostile, STAMP, ThroughLinks, bytes_of, entry, file, one_chunk, small};
use crate::support::noise;

/// What a command may say of a repository that is not sound: done, failed, not valid, refused, damaged.
const REFUSED: [i32; 5] = [0, 1, 3, 5, 7];

fn own() -> Entry {
    entry(b"", EntryKind::Directory, 0o755)
}

fn link(path: &[u8], target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.into()), 0o777)
}

#[test]
fn tables_with_paths_that_lead_out() {
    let deep = vec![b"d".as_slice(); 1000].join(&b'/');
    let long = vec![b'x'; 255];
    for path in [
        &b".."[..],
        b"../outside/precious",
        b"/tmp/vecsnap-escaped",
        b"a\0b",
        b"a/../../outside/new",
        b".",
        b"a//b",
        &deep,
        &long,
    ] {
        let mut hostile = Hostile::new();
        let entries = [own(), entry(path, small(&mut hostile.repository, "escape"), 0o644)];
        hostile.snapshot(&bytes_of(&entries));
        hostile.survives(&format!("the path {}", path.escape_ascii()), &REFUSED);
    }
    assert!(!std::path::Path::new("/tmp/vecsnap-escaped").exists());
}

#[test]
fn tables_that_lead_through_links_or_name_things_twice() {
    type Attack = fn(&mut Hostile) -> Vec<Entry>;
    let attacks: [(&str, Attack); 7] = [
        ("a file through a link", |hostile| {
            let outside = hostile.path().join("outside").display().to_string();
            vec![own(), link(b"l", &outside), entry(b"l/precious", small(&mut hostile.repository, "x"), 0o644)]
        }),
        ("a link, then a directory of its name", |hostile| {
            let outside = hostile.path().join("outside").display().to_string();
            vec![
                own(),
                link(b"l", &outside),
                entry(b"l", EntryKind::Directory, 0o755),
                entry(b"l/precious", small(&mut hostile.repository, "x"), 0o644),
            ]
        }),
        ("a link in place of the tree", |hostile| {
            let outside = hostile.path().join("outside").display().to_string();
            vec![link(b"", &outside), entry(b"precious", small(&mut hostile.repository, "x"), 0o644)]
        }),
        ("a name twice", |hostile| {
            vec![
                own(),
                entry(b"x", small(&mut hostile.repository, "x"), 0o644),
                entry(b"x", small(&mut hostile.repository, "y"), 0o644),
            ]
        }),
        ("a file below a file", |hostile| {
            vec![
                own(),
                entry(b"x", small(&mut hostile.repository, "x"), 0o644),
                entry(b"x/y", small(&mut hostile.repository, "y"), 0o644),
            ]
        }),
        ("only a file without a path", |hostile| vec![entry(b"", small(&mut hostile.repository, "x"), 0o644)]),
        ("nothing", |_| Vec::new()),
    ];
    for (what, attack) in attacks {
        let mut hostile = Hostile::new();
        let entries = attack(&mut hostile);
        hostile.snapshot(&bytes_of(&entries));
        hostile.survives(what, &REFUSED);
    }
}

#[test]
fn sound_tables_with_all_that_a_file_system_may_refuse() {
    let mut hostile = Hostile::new();
    let mut entries = vec![own()];
    let mut add = |path: &[u8], kind: EntryKind, change: fn(&mut Entry)| {
        let mut entry = entry(path, kind, 0o644);
        change(&mut entry);
        entries.push(entry);
    };
    add(b"\x1b[2J\n\r\xff", small(&mut hostile.repository, "a"), |_| {});
    add(b"absolute", EntryKind::Symlink(b"/etc".to_vec()), |_| {});
    add(b"far", small(&mut hostile.repository, "b"), |entry| entry.modified.seconds = i64::MAX);
    add(b"long ago", small(&mut hostile.repository, "c"), |entry| entry.modified.seconds = i64::MIN);
    add(b"nobody", small(&mut hostile.repository, "d"), |entry| (entry.uid, entry.gid) = (u32::MAX, u32::MAX - 1));
    add(b"setuid", small(&mut hostile.repository, "e"), |entry| entry.mode = 0o7777);
    let long_target = vec![b't'; 4096];
    add(b"to far away", EntryKind::Symlink(long_target), |_| {});
    hostile.snapshot(&bytes_of(&entries));
    hostile.survives("what a file system may refuse", &REFUSED);
    let deep: Vec<Entry> =
        (0..500).map(|depth| entry(&vec![b"d".as_slice(); depth].join(&b'/'), EntryKind::Directory, 0o755)).collect();
    let mut hostile = Hostile::new();
    hostile.snapshot(&bytes_of(&deep));
    hostile.survives("500 directories in one another", &REFUSED);
}

#[test]
fn sources_that_are_not_what_their_kind_calls_for() {
    attack_sources(Tier::Slice);
}

#[test]
#[ignore = "60 snapshots, a minute or two"]
fn long_sources_that_are_not_what_their_kind_calls_for() {
    attack_sources(Tier::All);
}

/// How many of the cases are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    /// One in five, of every kind.
    Slice,
    All,
}

impl Tier {
    fn takes(self, number: usize) -> bool {
        self == Tier::All || number.is_multiple_of(5)
    }
}

fn attack_sources(tier: Tier) {
    let mut number = 0;
    for name in ["db", "registry", "chroma", "other"] {
        for kind in [SourceKind::Sqlite, SourceKind::File, SourceKind::Tree] {
            for shape in 0..5 {
                number += 1;
                if !tier.takes(number + number / 5) {
                    continue;
                }
                let mut hostile = Hostile::new();
                let one = entry(b"one", small(&mut hostile.repository, "one"), 0o644);
                let entries = match shape {
                    0 => vec![own()],
                    1 => vec![link(b"one", "../../outside/precious")],
                    2 => vec![one.clone(), entry(b"two", one.kind.clone(), 0o644)],
                    3 => vec![one.clone(), entry(b"one-wal", one.kind.clone(), 0o644)],
                    _ => vec![entry(b"one", EntryKind::Directory, 0o755)],
                };
                let mut record = hostile.record(name, kind, &bytes_of(&entries));
                (record.files, record.bytes) = (u64::MAX, u64::MAX);
                if shape == 3 {
                    record.state = SourceState::CapturedRaw;
                }
                let second = hostile.record("second", SourceKind::Tree, b"");
                hostile.snapshot_of(vec![record, second], |_| {});
                hostile.survives(&format!("{name} as {kind:?} of shape {shape}"), &REFUSED);
            }
        }
    }
}

/// A file of a snapshot whose tree of blobs is not what it should be, or too much of a good thing.
fn with_content(what: &str, make: impl FnOnce(&mut Hostile) -> Content) {
    let mut hostile = Hostile::new();
    let content = make(&mut hostile);
    hostile.snapshot(&bytes_of(&[own(), entry(b"data", file(content), 0o644)]));
    hostile.survives(what, &REFUSED);
}

fn node(hostile: &mut Hostile, depth: u8, slots: Vec<Option<BlobId>>) -> BlobId {
    let bytes = ListNode { depth, slots }.encode().unwrap();
    hostile.repository.whole(BlobKind::ListNode, &bytes)
}

#[test]
fn lists_that_do_not_fit_their_place() {
    let two = 2 * CHUNK_SIZE as u64;
    with_content("a node with too many slots", |hostile| {
        let chunk = hostile.repository.whole(BlobKind::Chunk, &noise::bytes("c", CHUNK_SIZE));
        Content { length: two, root: Root::Node { depth: 1, id: node(hostile, 1, vec![Some(chunk); 3]) } }
    });
    with_content("a node of another depth", |hostile| {
        let chunk = hostile.repository.whole(BlobKind::Chunk, &noise::bytes("c", CHUNK_SIZE));
        Content { length: two, root: Root::Node { depth: 1, id: node(hostile, 2, vec![Some(chunk); 2]) } }
    });
    with_content("a chunk in place of a node", |hostile| {
        let chunk = hostile.repository.whole(BlobKind::Chunk, &noise::bytes("c", CHUNK_SIZE));
        Content { length: two, root: Root::Node { depth: 1, id: chunk } }
    });
    with_content("a node in place of a chunk", |hostile| {
        let id = node(hostile, 1, vec![None; 2]);
        one_chunk(45, id)
    });
    with_content("chunks too short and too long", |hostile| {
        let short = hostile.repository.whole(BlobKind::Chunk, b"short");
        let long = hostile.repository.whole(BlobKind::Chunk, &noise::bytes("c", CHUNK_SIZE));
        Content { length: two - 1, root: Root::Node { depth: 1, id: node(hostile, 1, vec![Some(short), Some(long)]) } }
    });
    with_content("bytes that are no node", |hostile| {
        let id = hostile.repository.whole(BlobKind::ListNode, &noise::bytes("no node", 500));
        Content { length: two, root: Root::Node { depth: 1, id } }
    });
    with_content("a chunk that no pack holds", |_| one_chunk(5, BlobId::of_chunk(b"nowhere")));
}

#[test]
fn files_that_claim_to_be_huge() {
    with_content("the longest file, all of it a hole", |hostile| {
        let length = i64::MAX as u64;
        let slots = Content::slots(length).div_ceil(128_u64.pow(6)) as usize;
        Content { length, root: Root::Node { depth: 7, id: node(hostile, 7, vec![None; slots]) } }
    });
    for depth in [4_u8, 7] {
        with_content(&format!("128^{depth} chunks out of {depth} nodes"), |hostile| {
            let mut child = hostile.repository.whole(BlobKind::Chunk, &noise::bytes("c", CHUNK_SIZE));
            for level in 1..depth {
                child = node(hostile, level, vec![Some(child); NODE_SLOTS]);
            }
            let slots = if depth == 7 { 31 } else { NODE_SLOTS };
            let length = (slots as u64 * 128_u64.pow(u32::from(depth) - 1)) * CHUNK_SIZE as u64;
            let id = node(hostile, depth, vec![Some(child); slots]);
            Content { length, root: Root::Node { depth, id } }
        });
    }
}

#[test]
fn manifests_that_claim_what_cannot_be() {
    let mut hostile = Hostile::new();
    let records = (0..60).map(|number| {
        let mut record = hostile.record(&format!("source {number}"), SourceKind::Tree, &bytes_of(&[own()]));
        (record.files, record.bytes, record.writer_blocked_microseconds) = (u64::MAX, u64::MAX, u64::MAX);
        record.started.seconds = i64::MIN;
        record
    });
    let records = records.collect();
    hostile.snapshot_of(records, |_| {});
    hostile.survives("sixty sources of 2^64 bytes", &REFUSED);
    for name in [&b"..\0\0\0"[..], b"/etc/", b"a/b/c"] {
        let mut hostile = Hostile::new();
        let record = hostile.record("hhhhh", SourceKind::Tree, &bytes_of(&[own()]));
        hostile.snapshot_of(vec![record], |payload| {
            let at = payload.windows(5).position(|window| window == b"hhhhh").unwrap();
            payload[at..at + 5].copy_from_slice(name);
        });
        hostile.survives(&format!("a source named {}", name.escape_ascii()), &REFUSED);
    }
}

#[test]
fn packs_that_are_bombs() {
    let mut hostile = Hostile::new();
    // 8 MiB of zeros in each frame, out of a few hundred bytes.
    for frame in 0..40_u8 {
        for number in 0..128_u8 {
            let mut chunk = vec![0; CHUNK_SIZE];
            (chunk[0], chunk[1]) = (frame, number);
            hostile.repository.whole(BlobKind::Chunk, &chunk);
        }
        hostile.repository.end_frame(vecsnap::format::compression::Codec::Zstd);
    }
    let id = |frame, number| {
        let mut chunk = vec![0; CHUNK_SIZE];
        (chunk[0], chunk[1]) = (frame, number);
        Some(BlobId::of_chunk(&chunk))
    };
    // One chunk of each frame in turn, so that no cache helps.
    let slots: Vec<_> = (0..120_u8).map(|number| id(number % 40, number)).collect();
    let root = node(&mut hostile, 1, slots);
    let content = Content { length: 120 * CHUNK_SIZE as u64, root: Root::Node { depth: 1, id: root } };
    hostile.snapshot(&bytes_of(&[own(), entry(b"data", file(content), 0o644)]));
    hostile.survives("frames that grow ten thousandfold", &REFUSED);
}

#[test]
fn a_pack_with_bytes_between_its_header_and_its_frames_is_left_out() {
    let mut made = Made::new();
    made.repository.stray(b"gap");
    made.repository.whole(BlobKind::Chunk, b"abc");
    made.repository.end_pack();
    assert_eq!(made.read(b"abc"), Err(BlobFault::Missing));
}

#[test]
fn special_files_in_place_of_those_of_the_repository() {
    attack_places(Tier::Slice);
}

#[test]
#[ignore = "75 repositories, a minute or two"]
fn long_special_files_in_place_of_those_of_the_repository() {
    attack_places(Tier::All);
}

fn attack_places(tier: Tier) {
    let mut number = 0;
    let places = [
        "repository.json",
        "snapshots/20260406T180000Z/manifest",
        "snapshots/20260406T180000Z/backup-metadata.json",
        "snapshots/20260406T180000Z",
        "snapshots",
        "packs",
        "tmp",
        "intents",
        "lock",
        "live.lock",
        "cleanup.lock",
        "index.sqlite",
        "drills.jsonl",
        "validations.jsonl",
        "restores.jsonl",
        "damaged",
    ];
    for place in places {
        for thing in ["pipe", "link out", "link to nothing", "directory", "empty file"] {
            number += 1;
            if !tier.takes(number + number / 5) {
                continue;
            }
            let mut hostile = Hostile::new();
            let small = entry(b"small", small(&mut hostile.repository, "small"), 0o644);
            hostile.snapshot(&bytes_of(&[own(), small]));
            // What is left behind by a crashed run may be removed; what a link leads to may not.
            let abandoned = hostile.path().join("outside/Abandoned123");
            fs::create_dir(&abandoned).unwrap();
            fs::write(abandoned.join("owner.lock"), "").unwrap();
            let moved_out = hostile.path().join("outside").join(STAMP);
            fs::create_dir(&moved_out).unwrap();
            fs::write(moved_out.join("manifest"), "").unwrap();
            let path = hostile.root().join(place);
            if path.is_dir() {
                fs::rename(&path, hostile.path().join("outside").join("moved")).unwrap();
            } else if path.exists() {
                fs::remove_file(&path).unwrap();
            }
            match thing {
                "pipe" => nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap(),
                "link out"
                    if place.ends_with(".json")
                        || place.ends_with("manifest")
                        || place.contains('.')
                        || place == "lock" =>
                {
                    symlink(hostile.path().join("outside/precious"), &path).unwrap();
                }
                "link out" => symlink(hostile.path().join("outside"), &path).unwrap(),
                "link to nothing" => symlink(hostile.path().join("outside/nothing"), &path).unwrap(),
                "directory" => fs::create_dir(&path).unwrap(),
                _ => fs::write(&path, "").unwrap(),
            }
            // Its owner may keep a part of the repository elsewhere.
            let through_links = if thing.starts_with("link") { ThroughLinks::NewNames } else { ThroughLinks::Nothing };
            let what = format!("{thing} in place of {place} ({STAMP})");
            hostile.survives_with(&what, &[0, 1, 2, 3, 5, 6, 7], through_links);
        }
    }
}
