//! What a restore may do inside its target, and that it never gets out of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::*;
use crate::disk::stat::FileKind;
use crate::error::Error;

fn target() -> (TempDir, TargetRoot) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("inside")).unwrap();
    let root = TargetRoot::open(&directory.path().join("inside")).unwrap();
    (directory, root)
}

#[test]
fn a_file_is_changed_in_place() {
    let (_directory, root) = target();
    fs::write(root.path().join("file"), vec![1; 20_000]).unwrap();
    let inode = fs::metadata(root.path().join("file")).unwrap().ino();
    let file = root.open_file(b"file").unwrap();
    assert_eq!(file.stat().unwrap().size, 20_000, "opening truncated the file");
    file.write_block(4096, &[2; 4096]).unwrap();
    file.punch_hole(8192, 4096).unwrap();
    file.write_zeros(12_288, 100).unwrap();
    file.set_length(12_388).unwrap();
    file.sync().unwrap();
    let mut expected = vec![1; 4096];
    expected.extend([2; 4096]);
    expected.extend([0; 4196]);
    assert_eq!(fs::read(root.path().join("file")).unwrap(), expected);
    assert_eq!(fs::metadata(root.path().join("file")).unwrap().ino(), inode);
    let mut buffer = [9; 100];
    assert_eq!(file.read_at(12_380, &mut buffer).unwrap(), 8);
    assert!(root.read_file(b"file").unwrap().write_block(0, b"x").is_err());
}

#[test]
fn a_punched_hole_takes_no_space() {
    let (_directory, root) = target();
    let file = root.create_file(b"file", 0o600).unwrap();
    file.write_block(0, &vec![1; 1 << 20]).unwrap();
    file.sync().unwrap();
    file.punch_hole(0, u64::MAX).unwrap();
    assert_eq!(file.stat().unwrap().size, 1 << 20);
    assert!(file.stat().unwrap().allocated < 1 << 19);
}

#[test]
fn names_and_links_never_lead_out() {
    let (directory, root) = target();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    symlink("../outside", root.path().join("link")).unwrap();
    symlink("../outside/secret", root.path().join("file")).unwrap();
    for name in [&b"../outside/secret"[..], b"/etc/passwd", b"link/../file", b"a//b", b"./file", b"a/", b"a\0b", b".."]
    {
        assert!(matches!(root.open_file(name), Err(Error::Failed(_))), "{name:?}");
        assert!(root.create_file(name, 0o600).is_err() && root.remove_tree(name).is_err(), "{name:?}");
    }
    for name in [&b"link/secret"[..], b"file"] {
        assert!(root.open_file(name).is_err(), "{name:?}");
        assert!(root.set_mode(name, 0o777).is_err(), "{name:?}");
    }
    assert!(root.list(b"link").is_err() && root.create_file(b"link/new", 0o600).is_err());
    root.remove_file(b"link/secret").unwrap();
    assert!(root.create_file(b"file", 0o600).is_err());
    root.set_mtime(b"file", 0).unwrap();
    assert!(root.walk(b"link/secret", OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()).is_err());
    root.remove_tree(b"link").unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::metadata(outside.join("secret")).unwrap().permissions().mode() & 0o777, 0o644);
    assert_ne!(fs::metadata(outside.join("secret")).unwrap().mtime(), 0);
}

#[test]
fn trees_are_made_listed_and_removed() {
    let (_directory, root) = target();
    root.create_directory(b"d", 0o750).unwrap();
    root.create_directory(b"d/\xff", 0o700).unwrap();
    drop(root.create_file(b"d/\xff/file", 0o444).unwrap());
    root.create_symlink(b"d/link", b"anywhere").unwrap();
    root.sync_directory(b"d").unwrap();
    assert_eq!(root.read_link(b"d/link").unwrap(), b"anywhere");
    let listed = root.list(b"d").unwrap();
    let kinds: Vec<_> = listed.iter().map(|entry| (entry.name.as_slice(), entry.stat.kind)).collect();
    assert_eq!(kinds, [(&b"link"[..], FileKind::Symlink), (b"\xff", FileKind::Directory)]);
    assert_eq!(root.stat(b"d").unwrap().unwrap().mode, 0o750);
    assert_eq!(root.stat(b"d/\xff/file").unwrap().unwrap().mode, 0o444);
    assert_eq!(root.stat(b"d/\xff/file/below").unwrap(), None);
    assert!(root.remove_directory(b"d").is_err(), "it is not empty");
    root.remove_tree(b"d").unwrap();
    root.remove_tree(b"d").unwrap();
    assert!(root.list(b"").unwrap().is_empty());
    assert!(root.remove_tree(b"").is_err(), "the root itself was removed");
}

#[test]
fn metadata_is_set_on_the_name_itself() {
    let (_directory, root) = target();
    drop(root.create_file(b"file", 0o600).unwrap());
    let before = root.stat(b"file").unwrap().unwrap();
    assert_eq!(root.set_owner(b"file", before.uid, before.gid).unwrap(), OwnerChange::Done);
    root.set_mode(b"file", 0o2640).unwrap();
    root.set_mtime(b"file", -1_500_000_000).unwrap();
    let after = root.stat(b"file").unwrap().unwrap();
    assert_eq!((after.mode, after.mtime), (0o2640, -1_500_000_000));
    if !rustix::process::geteuid().is_root() {
        assert_eq!(root.set_owner(b"file", 0, 0).unwrap(), OwnerChange::NotPermitted);
    }
}

#[test]
fn links_are_counted_and_pipes_are_not_opened() {
    let (_directory, root) = target();
    drop(root.create_file(b"file", 0o600).unwrap());
    fs::hard_link(root.path().join("file"), root.path().join("second")).unwrap();
    assert_eq!(root.stat(b"file").unwrap().unwrap().links, 2);
    let pipe = root.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(matches!(root.open_file(b"pipe"), Err(Error::Failed(_))));
    assert!(!root.is_mount_point(b"file").unwrap());
}
