//! Whether anybody at all has a file open: asked by taking a write lease for a moment.
//!
//! The kernel grants a write lease only on a file that nothing else has open or mapped, wherever that is: in another
//! container, or hidden by `hidepid`. It does not say who. The lease is given back at once, since it would delay
//! others' opens; who opens the file in between breaks it, of which the kernel tells by a signal. That is made
//! `SIGURG`, which is ignored unless a program asks for it, instead of `SIGIO`, which would end this process. See
//! fcntl(2), "Leases".

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use nix::libc;
use nix::unistd::{Uid, setfsuid};
use rustix::fs::fstatfs;

/// File systems that grant leases as their servers please: NFS, CIFS and SMB2 (`linux/magic.h`).
const REMOTE: [u64; 3] = [0x6969, 0xff53_4d42, 0xfe53_4d42];

/// Chooses the signal by which a lease's end is told (`linux/fcntl.h`); the libc crate lacks it.
const F_SETSIG: libc::c_int = 10;

/// What a lease tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openers {
    /// Nobody but the asker has it open.
    None,
    /// Somebody has it open.
    Some,
    /// This cannot be asked: the file belongs to another user, or its file system has no leases.
    Unknown,
    /// A server holds the file, and processes of other machines may have it open.
    Remote,
}

/// Asks about a file that this process has open once, by the descriptor given.
pub fn openers(file: &File) -> Openers {
    let remote = fstatfs(file).is_ok_and(|system| REMOTE.contains(&(system.f_type as u64 & 0xffff_ffff)));
    if remote {
        return Openers::Remote;
    }
    if control(file, F_SETSIG, libc::SIGURG).is_err() {
        return Openers::Unknown;
    }
    let lease = || control(file, libc::F_SETLEASE, libc::F_WRLCK);
    let granted = match lease() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => as_owner(file, lease),
        granted => granted,
    };
    match granted {
        Ok(()) => {
            // Closing the descriptor would give it back too.
            let _ = control(file, libc::F_SETLEASE, libc::F_UNLCK);
            Openers::None
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Openers::Some,
        Err(_) => Openers::Unknown,
    }
}

/// Asks in the name of the file's owner, where this user may: root in a container usually lacks `CAP_LEASE`, but may
/// act as anyone. That concerns this thread alone, and only for the one question.
fn as_owner(file: &File, ask: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let own = setfsuid(Uid::from_raw(file.metadata()?.uid()));
    let outcome = ask();
    setfsuid(own);
    outcome
}

/// fcntl(2) with a number as its argument.
#[expect(
    unsafe_code,
    reason = "no crate wraps F_SETLEASE and F_SETSIG, and nothing else sees readers in other containers"
)]
fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and both commands take a number, so the kernel
    // reads and writes no memory of this process.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_second_reader_writer_or_mapping_is_noticed_and_gone_with_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let ask = || openers(&File::open(&path).unwrap());
        // A child that another test starts has the file open as well until it runs its own program.
        let is_soon_alone = || {
            (0..500).any(|_| {
                thread::sleep(Duration::from_millis(10));
                ask() == Openers::None
            })
        };
        assert!(is_soon_alone());
        let reader = File::open(&path).unwrap();
        assert_eq!(ask(), Openers::Some);
        drop(reader);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(ask(), Openers::Some);
        drop(writer);
        assert!(is_soon_alone());
        assert_eq!(openers(&File::open(root.path()).unwrap()), Openers::Unknown, "directories have no leases");
    }
}
