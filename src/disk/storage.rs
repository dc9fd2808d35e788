//! The seam between a repository and its medium: whole, immutable objects.
//!
//! Invariant: an object that a reader can name is complete and never changes; it appears all at once and durably, or
//! not at all. The trait is this small so that a directory, an object store and a simulator of crashes can each stand
//! behind it. The comments on the methods are the durability contract; every implementation keeps them.
//!
//! Names are relative, `/`-separated and UTF-8, such as `packs/ab/abcd….pack`; a name that is empty, absolute, or
//! holds `.`, `..`, an empty component or a NUL byte is an [`Error::Usage`](crate::Error::Usage).

use std::io::Write;
use std::path::Path;

use crate::error::Result;

/// What a listed name is. Links, sockets, pipes and devices are never objects and are not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// An immutable object.
    File,
    /// A directory that may hold objects.
    Directory,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The last component of its name.
    pub name: String,
    /// Its length in bytes; 0 for a directory.
    pub size: u64,
    /// What it is.
    pub kind: ObjectKind,
}

/// What a publication found under the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Nothing: the object written is now there.
    New,
    /// An object; it was left as it is, and what was written is gone.
    AlreadyThere,
}

/// A medium of immutable objects below one root.
pub trait Storage: Send + Sync {
    /// The place of the root, for messages and for the lock files beside the objects.
    fn root(&self) -> &Path;

    /// The entries directly in `directory` (`""` is the root), sorted by name; none if it does not exist.
    ///
    /// Every object published before the call is listed; one published or deleted during it may or may not be.
    fn list(&self, directory: &str) -> Result<Vec<Object>>;

    /// The length of an object in bytes, or `None` if there is none (a directory is none).
    fn size(&self, name: &str) -> Result<Option<u64>>;

    /// The whole object. Longer than `limit` bytes = [`Error::Damaged`](crate::Error::Damaged); none of that name = an
    /// error for which [`is_not_found`](crate::Error::is_not_found) holds.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>>;

    /// Exactly `length` bytes from `offset`; an object that ends earlier = [`Error::Damaged`](crate::Error::Damaged).
    fn read_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>>;

    /// Begins an object without a name. Nothing of it can be seen, or survives the process, before it is published.
    fn create(&self) -> Result<Box<dyn ObjectWriter>>;

    /// Removes an object; none of that name is success. Durable only after [`sync_directory`](Self::sync_directory) on
    /// its directory, so that many deletions share one.
    fn delete(&self, name: &str) -> Result<()>;

    /// Gives an object the further name `aside` in another directory, if that is free; where the medium knows no second
    /// names, it moves there. On return (with either outcome) the name `aside` survives a crash; missing directories
    /// are made.
    fn set_aside(&self, name: &str, aside: &str) -> Result<Published>;

    /// On return, every name that was added to or removed from `directory` before the call survives a crash. Creating
    /// missing directories is not part of it: publication does that.
    fn sync_directory(&self, directory: &str) -> Result<()>;
}

/// An object being written. Dropping it unpublished leaves nothing behind.
pub trait ObjectWriter: Write + Send + Sync {
    /// Exactly `length` bytes from `offset` of what was written so far, from the medium rather than from a buffer of
    /// the writer; fewer there = [`Error::Damaged`](crate::Error::Damaged).
    fn read_back(&self, offset: u64, length: usize) -> Result<Vec<u8>>;

    /// On return, the bytes written so far survive a crash, once they have a name. An error means that they are lost:
    /// a second try would report success without having written them, so the caller must drop the object.
    fn sync(&mut self) -> Result<()>;

    /// Gives the object its name, if that is free; never replaces one.
    ///
    /// On return (with either outcome) the object of this name, its bytes and all directories above it survive a crash.
    /// Missing directories are made. After an error nothing is known: the name may be there or not, but if it is
    /// there its bytes are complete.
    fn publish(self: Box<Self>, name: &str) -> Result<Published>;

    /// Gives the object the name of another one, which is damaged and loses it; for whoever has set that one aside.
    ///
    /// At every moment the name is that of the old or of the new object. On return it is that of the new one, also
    /// after a crash.
    fn publish_over(self: Box<Self>, name: &str) -> Result<()>;
}
