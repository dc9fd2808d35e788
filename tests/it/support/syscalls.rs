//! The system calls by which a program changes, syncs or looks at files, and where they name them.

use nix::libc;

use super::tracer::Counted;

/// Where a call names the file that it is about.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The argument of this number is a descriptor.
    Descriptor(usize),
    /// The argument of this number is a path.
    Path(usize),
    /// This argument is the descriptor of a directory, and the next one a path below it.
    At(usize),
}

/// A system call.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    number: i64,
    pub name: &'static str,
    pub place: Place,
    pub counted: Counted,
    pub flags: Option<Flags>,
}

/// Where the flags of an `open` are, which tell whether it may change something.
#[derive(Clone, Copy, Debug)]
pub enum Flags {
    /// They are the argument of this number.
    In(usize),
    /// They begin what the argument of this number points to.
    At(usize),
}

impl Syscall {
    pub fn of(number: i64) -> Option<&'static Self> {
        ALL.iter().find(|call| call.number == number)
    }

    /// What an `open` with these flags is.
    pub fn counted_with(&self, flags: u64) -> Counted {
        let changing = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
        if flags as i32 & changing == 0 { Looks } else { self.counted }
    }
}

const fn call(number: i64, name: &'static str, place: Place, counted: Counted) -> Syscall {
    Syscall { number, name, place, counted, flags: None }
}

const fn open(number: i64, name: &'static str, place: Place, flags: Flags) -> Syscall {
    Syscall { number, name, place, counted: Changes, flags: Some(flags) }
}

use Counted::{Changes, Looks, Syncs};
use Place::{At, Descriptor, Path};

const ALL: &[Syscall] = &[
    call(libc::SYS_write, "write", Descriptor(0), Changes),
    call(libc::SYS_pwrite64, "pwrite64", Descriptor(0), Changes),
    call(libc::SYS_writev, "writev", Descriptor(0), Changes),
    call(libc::SYS_pwritev, "pwritev", Descriptor(0), Changes),
    call(libc::SYS_pwritev2, "pwritev2", Descriptor(0), Changes),
    call(libc::SYS_ftruncate, "ftruncate", Descriptor(0), Changes),
    call(libc::SYS_truncate, "truncate", Path(0), Changes),
    call(libc::SYS_fallocate, "fallocate", Descriptor(0), Changes),
    call(libc::SYS_copy_file_range, "copy_file_range", Descriptor(2), Changes),
    call(libc::SYS_sendfile, "sendfile", Descriptor(0), Changes),
    call(libc::SYS_fsync, "fsync", Descriptor(0), Syncs),
    call(libc::SYS_fdatasync, "fdatasync", Descriptor(0), Syncs),
    call(libc::SYS_sync_file_range, "sync_file_range", Descriptor(0), Syncs),
    call(libc::SYS_syncfs, "syncfs", Descriptor(0), Syncs),
    open(libc::SYS_open, "open", Path(0), Flags::In(1)),
    open(libc::SYS_openat, "openat", At(0), Flags::In(2)),
    call(libc::SYS_creat, "creat", Path(0), Changes),
    open(libc::SYS_openat2, "openat2", At(0), Flags::At(2)),
    call(libc::SYS_mkdir, "mkdir", Path(0), Changes),
    call(libc::SYS_mkdirat, "mkdirat", At(0), Changes),
    call(libc::SYS_rmdir, "rmdir", Path(0), Changes),
    call(libc::SYS_unlink, "unlink", Path(0), Changes),
    call(libc::SYS_unlinkat, "unlinkat", At(0), Changes),
    call(libc::SYS_rename, "rename", Path(0), Changes),
    call(libc::SYS_renameat, "renameat", At(0), Changes),
    call(libc::SYS_renameat2, "renameat2", At(0), Changes),
    call(libc::SYS_link, "link", Path(1), Changes),
    call(libc::SYS_linkat, "linkat", At(2), Changes),
    call(libc::SYS_symlink, "symlink", Path(1), Changes),
    call(libc::SYS_symlinkat, "symlinkat", At(1), Changes),
    call(libc::SYS_chmod, "chmod", Path(0), Changes),
    call(libc::SYS_fchmod, "fchmod", Descriptor(0), Changes),
    call(libc::SYS_fchmodat, "fchmodat", At(0), Changes),
    call(libc::SYS_chown, "chown", Path(0), Changes),
    call(libc::SYS_lchown, "lchown", Path(0), Changes),
    call(libc::SYS_fchown, "fchown", Descriptor(0), Changes),
    call(libc::SYS_fchownat, "fchownat", At(0), Changes),
    call(libc::SYS_utimensat, "utimensat", At(0), Changes),
    call(libc::SYS_setxattr, "setxattr", Path(0), Changes),
    call(libc::SYS_fsetxattr, "fsetxattr", Descriptor(0), Changes),
    call(libc::SYS_read, "read", Descriptor(0), Looks),
    call(libc::SYS_pread64, "pread64", Descriptor(0), Looks),
    call(libc::SYS_readv, "readv", Descriptor(0), Looks),
    call(libc::SYS_preadv, "preadv", Descriptor(0), Looks),
    call(libc::SYS_getdents64, "getdents64", Descriptor(0), Looks),
    call(libc::SYS_statx, "statx", At(0), Looks),
    call(libc::SYS_newfstatat, "newfstatat", At(0), Looks),
    call(libc::SYS_fstat, "fstat", Descriptor(0), Looks),
    call(libc::SYS_lseek, "lseek", Descriptor(0), Looks),
];
