//! What takes part in a comparison.

use std::path::Path;

use super::measure::Run;
use super::states;

/// A tool that keeps states of a live directory and gives them back.
pub(crate) trait Contender {
    /// Its name in tables.
    fn name(&self) -> String;

    /// Begins anew with an empty repository below `home`, an empty directory. Tells whether it can take part.
    fn begin(&mut self, home: &Path) -> bool;

    /// Keeps the present state of `live` under a name; `None` if the tool failed.
    fn create(&mut self, live: &Path, state: &str) -> Option<Run>;

    /// Gives a state back into `target`, which may hold another one if the tool can restore in place.
    fn restore(&mut self, state: &str, target: &Path) -> Option<Run>;

    /// Where what it stores stands.
    fn repository(&self) -> &Path;

    /// Bytes it has stored.
    fn stored(&self) -> u64 {
        states::stored_bytes(self.repository())
    }
}
