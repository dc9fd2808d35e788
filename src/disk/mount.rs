//! Whether a path is where something is mounted.
//!
//! A mount point may be neither removed nor replaced, and one inside a restore target belongs to somebody else. The
//! kernel says so itself since Linux 5.8 (`STATX_ATTR_MOUNT_ROOT`); before, `/proc/self/mountinfo` does (proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The field of a line of `mountinfo` that holds the mount point.
const MOUNT_POINT_FIELD: usize = 4;

/// Whether something, a file or a directory, is mounted at the path. A symlink is not followed; a missing path is none.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Ok(_) | Err(Errno::NOSYS) => is_listed(path),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(Error::io("look at", path)(error.into())),
    }
}

fn is_listed(path: &Path) -> Result<bool> {
    let path = match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        resolved => resolved.map_err(Error::io("resolve", path))?,
    };
    let table = Path::new("/proc/self/mountinfo");
    let listing = std::fs::read(table).map_err(Error::io("read", table))?;
    Ok(mount_points(&listing).any(|point| point == path))
}

fn mount_points(listing: &[u8]) -> impl Iterator<Item = PathBuf> {
    listing.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(MOUNT_POINT_FIELD)?;
        Some(PathBuf::from(OsString::from_vec(unescape(field))))
    })
}

/// Undoes the kernel's escaping of blanks, newlines and backslashes as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_a_mount_point_and_its_directories_are_not() {
        for ask in [is_mount_point, is_listed] {
            assert!(ask(Path::new("/proc")).unwrap());
            assert!(!ask(Path::new("/proc/self/fd")).unwrap());
            assert!(!ask(Path::new("/no/such/path")).unwrap());
        }
    }

    #[test]
    fn escaped_blanks_and_backslashes_in_the_listing_are_read() {
        let listing =
            b"36 35 98:0 / /mnt/a\\040b\\134c rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:1 / /x\\9 rw - t n o\n";
        let points: Vec<_> = mount_points(listing).collect();
        assert_eq!(points, [PathBuf::from("/mnt/a b\\c"), PathBuf::from("/x\\9")]);
    }
}
