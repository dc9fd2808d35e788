//! Drills: restoring into a scratch directory to prove that it would work.
//!
//! Invariant: a drill counts as passed only if every restored file was read again and has the snapshot's bytes, every
//! database image passes the integrity check anew (kept verdicts do not count), and the registry parses. The live files
//! are not touched, each outcome becomes one line of `drills.jsonl` (format-spec.md §14.2), and only then, whatever
//! happens, the scratch copy is removed.

mod copy;
mod proof;

use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::manifest::{CHROMA, Manifest, SnapshotKind};
use crate::id::Stamp;
use crate::progress::Progress;
use crate::restore::{InvalidPolicy, OwnerPolicy, export, gate};
use crate::store::{Repository, layout, outcomes, snapshots};

use copy::ScratchCopy;

/// The outcome of one drill, as `drills.jsonl` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// When it began, RFC 3339, UTC.
    pub at: String,
    /// The snapshot.
    pub stamp: String,
    /// Whether it passed.
    pub ok: bool,
    /// The scratch directory.
    pub scratch: PathBuf,
    /// What went wrong.
    pub errors: Vec<String>,
    /// How long it took, in seconds.
    pub duration_s: f64,
}

/// Drills the named snapshot or, without a name, the newest one and, if that is another, the newest one with Chroma.
///
/// # Errors
/// [`Error::NotValid`] if there is no snapshot; [`Error::Failed`] if `scratch` has too little room; I/O errors of the
/// scratch directory; [`Error::Failed`] if a copy cannot be removed, once all outcomes are recorded. What is wrong with
/// a snapshot is in its outcome.
pub fn drill(
    repository: &Repository,
    named: Option<Stamp>,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Drill>> {
    let stamps = match named {
        Some(stamp) => vec![stamp],
        None => candidates(repository)?,
    };
    let mut drills = Vec::with_capacity(stamps.len());
    let mut removed = Ok(());
    for stamp in stamps {
        let (drill, copy) = drill_one(repository, stamp, scratch, progress)?;
        if let Err(cause) = outcomes::append(repository, layout::DRILLS, &drill) {
            tracing::warn!(%cause, "the outcome of the drill could not be recorded");
        }
        drills.push(drill);
        removed = removed.and(copy.map_or(Ok(()), ScratchCopy::remove));
    }
    removed.map(|()| drills)
}

fn candidates(repository: &Repository) -> Result<Vec<Stamp>> {
    let newest = snapshots::latest(repository.storage())?.and_then(|listing| listing.stamp());
    let newest = newest.ok_or_else(|| {
        Error::NotValid("there is no snapshot to drill yet; take one with `vecsnap create --chroma`".into())
    })?;
    let holds_chroma = |manifest: &Manifest| {
        manifest.kind == SnapshotKind::Ordinary && manifest.source(CHROMA).is_some_and(|source| source.is_captured())
    };
    let with_chroma = snapshots::manifests(repository)?.into_iter().rev().find(holds_chroma);
    let with_chroma = with_chroma.and_then(|manifest| manifest.stamp()).filter(|stamp| *stamp != newest);
    Ok(std::iter::once(newest).chain(with_chroma).collect())
}

/// The outcome, and the copy, which must outlive its record.
fn drill_one(
    repository: &Repository,
    stamp: Stamp,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<(Drill, Option<ScratchCopy>)> {
    let began = Instant::now();
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, false);
    let (errors, copy) = match gate::read_manifest(repository, stamp) {
        Ok(manifest) => {
            let copy = ScratchCopy::make(&manifest, stamp, scratch)?;
            (restore_and_prove(repository, &manifest, stamp, &copy.restored(), progress)?, Some(copy))
        }
        Err(Error::NotValid(cause)) => (vec![cause], None),
        Err(error) => return Err(error),
    };
    let duration_s = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let scratch = scratch.to_path_buf();
    Ok((Drill { at, stamp: stamp.to_string(), ok: errors.is_empty(), scratch, errors, duration_s }, copy))
}

/// Restores the snapshot into `directory`, which is made, and returns what is wrong with the result.
fn restore_and_prove(
    repository: &Repository,
    manifest: &Manifest,
    stamp: Stamp,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let report = export(repository, stamp, directory, OwnerPolicy::Skip, InvalidPolicy::Refuse, progress)?;
    let mut errors: Vec<String> =
        report.unreadable.iter().map(|file| format!("{}: {}", shown(&file.path, directory), file.cause)).collect();
    if errors.is_empty() {
        errors.extend(proof::prove(repository, manifest, directory, progress)?);
    }
    Ok(errors)
}

/// A path in the scratch copy as seen from its top.
fn shown(path: &Path, directory: &Path) -> String {
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::progress::Silent;
    use crate::restore::verify::fixture::{Source, create, database, noise, snapshot};
    use crate::restore::verify::{Depth, VerifyOptions, verify};
    use crate::store::verdicts::Recheck;

    const OLD: &str = "20260406T180000Z";
    const NEW: &str = "20260407T180000Z";

    struct Made {
        directory: TempDir,
        repository: Repository,
        vectors: Vec<u8>,
    }

    fn made() -> Made {
        let directory = TempDir::new().unwrap();
        let image = database(&directory.path().join("live.db"));
        let repository = create(&directory.path().join("repo"));
        let vectors = noise(1, 1_000_000);
        let databases: &[(&str, &[u8])] = &[("live.db", &image)];
        let db = || Source { name: "db", files: databases };
        let registry = || Source { name: "registry", files: &[("registry.json", b"{\"projects\": []}")] };
        let files: &[(&str, &[u8])] = &[("chroma.sqlite3", &image), ("data_level0.bin", &vectors), ("empty", b"")];
        snapshot(&repository, OLD, &[db(), registry(), Source { name: "chroma", files }]);
        snapshot(&repository, NEW, &[db(), registry()]);
        fs::create_dir(directory.path().join("scratch")).unwrap();
        Made { directory, repository, vectors }
    }

    impl Made {
        fn drill(&self, named: Option<&str>) -> Vec<Drill> {
            let scratch = self.directory.path().join("scratch");
            let named = named.map(|stamp| stamp.parse().unwrap());
            let drills = drill(&self.repository, named, &scratch, &Silent).unwrap();
            assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "the scratch copy was left");
            drills
        }

        fn lines(&self) -> Vec<serde_json::Value> {
            let text = fs::read_to_string(self.repository.root().join(layout::DRILLS)).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    #[test]
    fn the_newest_snapshot_and_the_newest_with_chroma_are_proved_and_recorded() {
        let made = made();
        let drills = made.drill(None);
        assert_eq!(drills.iter().map(|drill| drill.stamp.as_str()).collect::<Vec<_>>(), [NEW, OLD]);
        assert!(drills.iter().all(|drill| drill.ok), "{drills:?}");
        assert_eq!(made.drill(Some(OLD)).len(), 1);
        let lines = made.lines();
        assert_eq!(lines.len(), 3);
        let keys: Vec<_> = lines[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["at", "stamp", "ok", "scratch", "errors", "duration_s"]);
    }

    #[test]
    fn verdicts_of_a_drill_are_kept_for_restores() {
        let directory = TempDir::new().unwrap();
        let sound = database(&directory.path().join("live.db"));
        let mut damaged = sound.clone();
        damaged[100..4096].fill(0xAA);
        let repository = create(&directory.path().join("repo"));
        let chroma: &[(&str, &[u8])] = &[("chroma.sqlite3", &damaged)];
        let sources = [Source { name: "db", files: &[("live.db", &sound)] }, Source { name: "chroma", files: chroma }];
        let manifest = snapshot(&repository, NEW, &sources);
        let content = VerifyOptions { depth: Depth::Content, recheck: Recheck::IfUnknown };
        assert!(verify(&repository, &manifest, content, &Silent).unwrap().is_valid(), "not known yet");
        let drills = drill(&repository, None, directory.path(), &Silent).unwrap();
        assert!(drills[0].errors[0].starts_with("db_integrity_check_failed: chroma/chroma.sqlite3: "), "{drills:?}");
        assert!(!verify(&repository, &manifest, content, &Silent).unwrap().is_valid());
    }

    #[test]
    fn damage_fails_the_drill_and_is_recorded() {
        let made = made();
        let root = made.repository.root();
        let packs = crate::store::packs::list(made.repository.storage()).unwrap();
        let needle = &made.vectors[500_000..500_064];
        let flipped = packs.iter().any(|pack| {
            let path = root.join(layout::pack(&pack.id));
            let mut bytes = fs::read(&path).unwrap();
            let Some(at) = bytes.windows(64).position(|window| window == needle) else { return false };
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            true
        });
        assert!(flipped);
        let drills = made.drill(None);
        assert_eq!(drills.iter().map(|drill| drill.ok).collect::<Vec<_>>(), [true, false]);
        assert!(drills[1].errors[0].starts_with("chroma/data_level0.bin: "), "{:?}", drills[1].errors);
        assert_eq!(made.lines()[1]["ok"], false);
    }

    #[test]
    fn a_restored_file_that_differs_in_any_way_is_named() {
        let made = made();
        let manifest = snapshots::read_manifest(&made.repository, OLD.parse().unwrap()).unwrap().unwrap();
        let directory = made.directory.path().join("copy");
        let stamp = OLD.parse().unwrap();
        export(&made.repository, stamp, &directory, OwnerPolicy::Skip, InvalidPolicy::Refuse, &Silent).unwrap();
        let prove = || proof::prove(&made.repository, &manifest, &directory, &Silent).unwrap();
        assert_eq!(prove(), [""; 0]);
        let vectors = directory.join("chroma/data_level0.bin");
        let mut bytes = made.vectors.clone();
        bytes[700_000] ^= 1;
        fs::write(&vectors, &bytes).unwrap();
        assert_eq!(prove(), ["chroma/data_level0.bin: it differs from the snapshot at byte 655360"]);
        fs::write(&vectors, &bytes[..999_999]).unwrap();
        assert_eq!(prove(), ["chroma/data_level0.bin: it is no file of 1000000 bytes"]);
        fs::write(&vectors, &made.vectors).unwrap();
        fs::remove_file(directory.join("chroma/empty")).unwrap();
        assert_eq!(prove(), ["chroma/empty: it was not restored"]);
    }

    #[test]
    fn a_snapshot_without_manifest_fails_and_no_snapshot_is_an_error() {
        let made = made();
        let snapshot = layout::snapshot_directory(made.repository.root(), NEW);
        fs::remove_file(snapshot.join(layout::MANIFEST)).unwrap();
        let drills = made.drill(None);
        assert!(!drills[0].ok && drills[0].errors[0].contains("manifest_missing"), "{drills:?}");
        let empty = TempDir::new().unwrap();
        let outcome = drill(&create(empty.path()), None, empty.path(), &Silent);
        assert!(matches!(outcome, Err(Error::NotValid(_))), "{outcome:?}");
    }
}
