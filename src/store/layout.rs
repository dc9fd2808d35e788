//! The names of everything in a repository: format-spec.md §16.

use std::path::{Path, PathBuf};

use crate::id::PackId;

/// The readable description of the repository.
pub const REPOSITORY: &str = "repository.json";
/// The directory of packs.
pub const PACKS: &str = "packs";
/// The directory of snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// The directory of intents.
pub const INTENTS: &str = "intents";
/// The intent of the restore under way.
pub const INTENT: &str = "intents/restore.json";
/// The intent of putting the state before a restore back.
pub const UNDO_INTENT: &str = "intents/undo.json";
/// The outcomes of drills, one JSON object a line.
pub const DRILLS: &str = "drills.jsonl";
/// The outcomes of validations, one JSON object a line.
pub const VALIDATIONS: &str = "validations.jsonl";
/// The restores that came to their end, one JSON object a line.
pub const RESTORES: &str = "restores.jsonl";
/// Packs that were found damaged and set aside.
pub const DAMAGED: &str = "damaged";
/// The derived index.
pub const INDEX: &str = "index.sqlite";
/// Scratch directories of runs.
pub const TMP: &str = "tmp";
/// Held shared by whoever reads or writes blobs, exclusively while packs are deleted or set aside.
pub const LOCK: &str = "lock";
/// Held exclusively by a restore, shared by a create while it captures.
pub const LIVE_LOCK: &str = "live.lock";
/// Held by a cleanup or a repair.
pub const CLEANUP_LOCK: &str = "cleanup.lock";
/// A snapshot's commit point.
pub const MANIFEST: &str = "manifest";
/// A snapshot's readable description.
pub const METADATA: &str = "backup-metadata.json";

/// What a repository has at its top. The index has sidecars beside it, but only once there is a repository.
pub const AT_THE_TOP: [&str; 13] = [
    REPOSITORY,
    PACKS,
    SNAPSHOTS,
    INTENTS,
    DRILLS,
    VALIDATIONS,
    RESTORES,
    DAMAGED,
    INDEX,
    TMP,
    LOCK,
    LIVE_LOCK,
    CLEANUP_LOCK,
];

/// The name of a pack's file.
pub fn pack(id: &PackId) -> String {
    let hex = id.to_string();
    format!("{PACKS}/{}/{hex}.pack", hex.get(..2).unwrap_or_default())
}

/// The name of a damaged pack that was set aside for the `number`th time.
pub fn damaged_pack(id: &PackId, number: u32) -> String {
    format!("{DAMAGED}/{id}.{number}.pack")
}

/// The pack whose file has this name inside its directory.
pub fn pack_id(directory: &str, file: &str) -> Option<PackId> {
    let id: PackId = file.strip_suffix(".pack")?.parse().ok()?;
    file.starts_with(directory).then_some(id).filter(|_| directory.len() == 2)
}

/// The directory of a snapshot.
pub fn snapshot_directory(root: &Path, name: &str) -> PathBuf {
    root.join(SNAPSHOTS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_names_lead_back_to_their_ids_and_strangers_to_none() {
        let id = PackId::from_bytes([0xab; 32]);
        let name = pack(&id);
        assert!(name.starts_with("packs/ab/abab") && name.ends_with(".pack"));
        let file = name.rsplit('/').next().unwrap();
        assert_eq!(pack_id("ab", file), Some(id));
        assert_eq!(pack_id("cd", file), None);
        assert_eq!(pack_id("ab", "README"), None);
        assert_eq!(pack_id("", file), None);
    }
}
