//! The only door to sources, to targets, and to what must be durable; also locks, scratch space and SQLite files.
//!
//! Everything above this room reaches those only through it, so the promises about durability, about following no
//! symlink and about not disturbing a live database are kept (and can be checked) in one place. Private temporary
//! files, which need none of that, are made where they are used.

pub mod boot;
pub mod durable;
pub mod held;
pub mod holes;
pub mod lease;
pub mod local;
pub mod lock;
pub mod mount;
pub mod processes;
pub mod read;
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
