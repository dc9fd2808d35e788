//! What the integration tests share: a made-up runtime, the binary, pictures of directories, damage.

pub mod chained;
pub mod chroma;
pub mod command;
pub mod damage;
pub mod handmade;
pub mod hostile;
#[cfg(target_arch = "x86_64")]
pub mod image;
pub mod mount;
pub mod noise;
pub mod packs;
pub mod random;
pub mod runtime;
pub mod seed;
mod selftest;
pub mod simulated_disk;
#[cfg(target_arch = "x86_64")]
pub mod stage;
#[cfg(target_arch = "x86_64")]
pub mod syscalls;
#[cfg(target_arch = "x86_64")]
pub mod tracer;
pub mod tree_state;
pub mod vector_store;
pub mod wounds;

#[allow(unused_imports)]
pub use command::{Outcome, Vecsnap};
pub use runtime::{Journal, Runtime};
pub use tree_state::TreeState;
pub use vector_store::VectorStore;
