//! A disk that forgets: what the real binary does to its files is watched, and then cut off at every moment.
//!
//! The binary runs under strace in a real directory; its system calls become [events](change::Event) of a
//! [`Disk`](disk::Disk). A crash at a moment keeps what was synced by then and, of the rest, whatever
//! [`Survival`](outcome::Survival) says; the result is written into a real directory, where the binary must cope.

pub mod change;
pub mod disk;
pub mod outcome;
mod process;
pub mod random;
mod system_call;
pub mod volume;

pub use disk::Disk;
pub use outcome::Survival;
pub use random::Random;
pub use volume::Volume;
