//! Removing names from a target.

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::super::stat::FileKind;
use super::root::{Fault, TargetRoot};
use crate::error::{Error, Result};

/// What lets an owner list and change a directory.
const OWNERS: u32 = 0o700;

impl TargetRoot {
    /// Removes a file, symlink, pipe or socket (never what a link leads to); none there is success.
    pub fn remove_file(&self, name: &[u8]) -> Result<()> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes an empty directory; none there is success. The root itself is never removed.
    pub fn remove_directory(&self, name: &[u8]) -> Result<()> {
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    /// Removes whatever has this name with everything below it, following no link; none there is success.
    ///
    /// # Errors
    /// [`Error::Refused`], with nothing removed, if something is mounted at it or below it.
    pub fn remove_tree(&self, name: &[u8]) -> Result<()> {
        self.refuse_mounts(name)?;
        self.remove_below(name)
    }

    /// Lets the owner list and change all directories from this name on down, following no link: without that, an
    /// ordinary user cannot remove what lies in read-only ones. For copies of our own, since modes are not put back.
    pub fn make_removable(&self, name: &[u8]) -> Result<()> {
        let Some(stat) = self.stat(name)?.filter(|stat| stat.kind == FileKind::Directory) else { return Ok(()) };
        if stat.mode & OWNERS != OWNERS {
            self.set_mode(name, stat.mode | OWNERS)?;
        }
        self.list(name)?.iter().try_for_each(|entry| self.make_removable(&join(name, &entry.name)))
    }

    fn refuse_mounts(&self, name: &[u8]) -> Result<()> {
        if self.is_mount_point(name)? {
            let path = self.path_of(name);
            return Err(Error::Refused(format!(
                "something is mounted at {}, so it cannot be removed; unmount it",
                path.display()
            )));
        }
        match self.stat(name)? {
            Some(stat) if stat.kind == FileKind::Directory => {
                self.list(name)?.iter().try_for_each(|entry| self.refuse_mounts(&join(name, &entry.name)))
            }
            _ => Ok(()),
        }
    }

    fn remove_below(&self, name: &[u8]) -> Result<()> {
        match self.stat(name)? {
            Some(stat) if stat.kind == FileKind::Directory => {
                for entry in self.list(name)? {
                    self.remove_below(&join(name, &entry.name))?;
                }
                self.remove_directory(name)
            }
            Some(_) => self.remove_file(name),
            None => Ok(()),
        }
    }

    fn unlink(&self, name: &[u8], flags: AtFlags) -> Result<()> {
        if name.is_empty() {
            return Err(self.error("remove", name, Fault::BadName));
        }
        match self.at(name).and_then(|place| Ok(unlinkat(&place.directory, place.name(), flags)?)) {
            Err(Fault::System(Errno::NOENT | Errno::NOTDIR)) if self.stat(name)?.is_none() => Ok(()),
            outcome => outcome.map_err(|fault| self.error("remove", name, fault)),
        }
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    [directory, b"/", name].concat()
}
