//! The only door to files: immutable objects of a repository, locks, scratch space, SQLite files, and restore targets.
//!
//! Everything above this room names files only through it, so the promises about durability, about following no
//! symlink and about not disturbing a live database are kept (and can be checked) in one place.

pub mod boot;
pub mod durable;
pub mod held;
pub mod holes;
pub mod lease;
pub mod local;
pub mod lock;
pub mod mount;
pub mod processes;
pub mod record_lock;
pub mod scratch;
pub mod space;
pub mod sqlite;
pub mod stat;
pub mod storage;
pub mod target;

pub use local::LocalStorage;
pub use lock::{Acquired, FileLock, LockMode};
pub use scratch::ScratchDirectory;
pub use storage::{Object, ObjectKind, ObjectWriter, Published, Storage};
