//! Validating a snapshot as scripts know it: from its directory down to its last byte.
//!
//! Invariant: a snapshot is valid only without a single error, and every error begins with the code that scripts look
//! for. What keeps a closer look from making sense (no directory, no readable description) ends the validation there.
//! Works on a repository that cannot be written, and changes nothing but kept verdicts.

pub mod all;
pub mod record;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::impact::{self, HurtSnapshot};
use crate::disk::LocalStorage;
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::progress::Progress;
use crate::restore::verify::{SourceVerification, Verification, VerifyOptions, verify};
use crate::store::snapshots::{self, ManifestFault, ManifestResult, MetadataState};
use crate::store::{Repository, SnapshotFormat, SnapshotListing, layout};

/// Why an old full copy is not validated.
pub const FULL_COPY: &str =
    "full_copy: this snapshot is a full copy by the tool that vecsnap replaced; `import` (to come) takes it in";

/// What is known of a snapshot after validating it.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Its name.
    pub name: String,
    /// The path of its directory.
    pub path: PathBuf,
    /// Whether that directory exists.
    pub exists: bool,
    /// What was found in its sources; `None` if they were not looked at.
    pub sources: Option<Verification>,
    /// What is wrong; empty for a valid snapshot.
    pub errors: Vec<String>,
    /// The other snapshots that the same damage hurts.
    pub also_hurt: Vec<HurtSnapshot>,
    /// Its description; `None` if the validation ended before it was read.
    pub metadata: Option<Value>,
}

impl Validation {
    fn of(path: PathBuf, name: String) -> Self {
        let (sources, errors, also_hurt, metadata) = (None, Vec::new(), Vec::new(), None);
        Self { name, path, exists: false, sources, errors, also_hurt, metadata }
    }

    /// Whether the snapshot can be restored as it was captured.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether a source is undamaged; `None` where the snapshot does not hold it or it was not looked at.
    pub fn source_ok(&self, name: &str) -> Option<bool> {
        let source = self.sources.as_ref()?.source(name)?;
        (source.captured || !source.is_valid()).then(|| SourceVerification::is_valid(source))
    }
}

/// Validates the snapshot `name` below `root`; `repository` is the one there, if there is one.
///
/// # Errors
/// What keeps the validation from running: see [`verify`].
pub fn validate(
    root: &Path,
    repository: Option<&Repository>,
    name: &str,
    options: VerifyOptions,
    progress: &dyn Progress,
) -> Result<Validation> {
    let mut validation = Validation::of(layout::snapshot_directory(root, name), name.into());
    let Some(listing) = snapshots::find(&LocalStorage::new(root, None), name)? else {
        validation.errors.push("snapshot_directory_missing".into());
        return Ok(validation);
    };
    look_at(&listing, repository, &mut validation, &mut |manifest| match repository {
        Some(repository) => verify(repository, manifest, options, progress),
        None => Ok(Verification::default()),
    })?;
    if let (Some(repository), Some(sources)) = (repository, &validation.sources)
        && !sources.lost_blobs.is_empty()
    {
        let lost: Vec<_> = sources.lost_blobs.iter().copied().collect();
        validation.also_hurt = impact::others_hurt(repository, name, &lost, progress)?;
    }
    Ok(validation)
}

/// Looks at a snapshot's directory and, if it makes sense, at its content, which `examine` does.
fn look_at(
    listing: &SnapshotListing,
    repository: Option<&Repository>,
    validation: &mut Validation,
    examine: &mut dyn FnMut(&Manifest) -> Result<Verification>,
) -> Result<()> {
    validation.exists = true;
    validation.errors.extend(listing.metadata.fault());
    let MetadataState::Parsed(metadata) = &listing.metadata else { return Ok(()) };
    validation.metadata = Some(metadata.clone());
    if listing.format == SnapshotFormat::FullCopy {
        validation.errors.push(FULL_COPY.into());
        return Ok(());
    }
    let Some(repository) = repository else {
        validation.errors.push("manifest_corrupt: the repository that it belongs to is not there".into());
        return Ok(());
    };
    match manifest_of(listing, repository)? {
        Err(fault) => validation.errors.push(fault.to_string()),
        Ok(manifest) => {
            let verification = examine(&manifest)?;
            for warning in verification.warnings() {
                tracing::warn!(snapshot = %listing.name, "{warning}");
            }
            validation.errors.extend(verification.errors());
            validation.sources = Some(verification);
        }
    }
    Ok(())
}

/// The manifest in a snapshot's directory, whose name may be no stamp.
fn manifest_of(listing: &SnapshotListing, repository: &Repository) -> Result<ManifestResult> {
    if let Some(stamp) = listing.stamp() {
        return snapshots::read_manifest(repository, stamp);
    }
    let name = format!("{}/{}/{}", layout::SNAPSHOTS, listing.name, layout::MANIFEST);
    Ok(Err(match repository.storage().size(&name)? {
        Some(_) => ManifestFault::Corrupt("the directory's name is no stamp; give it its old name back".into()),
        None => ManifestFault::Missing,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::progress::Silent;
    use crate::restore::verify::Depth;
    use crate::restore::verify::fixture::{Source, create, database, snapshot};
    use crate::store::verdicts::Recheck;

    const STAMP: &str = "20260406T180000Z";
    const FULL: VerifyOptions = VerifyOptions { depth: Depth::Full, recheck: Recheck::IfUnknown };

    fn made() -> (tempfile::TempDir, Repository) {
        let directory = tempfile::tempdir().unwrap();
        let image = database(&directory.path().join("live.db"));
        let repository = create(directory.path());
        let registry = Source { name: "registry", files: &[("r.json", b"{}")] };
        snapshot(&repository, STAMP, &[Source { name: "db", files: &[("live.db", &image)] }, registry]);
        (directory, repository)
    }

    fn errors(repository: &Repository, name: &str) -> Vec<String> {
        let validation = validate(repository.root(), Some(repository), name, FULL, &Silent).unwrap();
        assert_eq!(validation.is_valid(), validation.errors.is_empty());
        validation.errors
    }

    #[test]
    fn a_valid_snapshot_says_so_of_each_source_it_holds() {
        let (_directory, repository) = made();
        let validation = validate(repository.root(), Some(&repository), STAMP, FULL, &Silent).unwrap();
        assert!(validation.exists && validation.is_valid(), "{validation:?}");
        let ok = ["db", "registry", "chroma"].map(|name| validation.source_ok(name));
        assert_eq!(ok, [Some(true), Some(true), None]);
    }

    #[test]
    fn what_is_missing_or_broken_around_the_content_has_its_exact_word() {
        let (_directory, repository) = made();
        let snapshot = layout::snapshot_directory(repository.root(), STAMP);
        assert_eq!(errors(&repository, "20200101T000000Z"), ["snapshot_directory_missing"]);
        let manifest = fs::read(snapshot.join(layout::MANIFEST)).unwrap();
        fs::write(snapshot.join(layout::MANIFEST), &manifest[..manifest.len() - 1]).unwrap();
        assert!(errors(&repository, STAMP)[0].starts_with("manifest_corrupt: "));
        fs::remove_file(snapshot.join(layout::MANIFEST)).unwrap();
        assert_eq!(errors(&repository, STAMP), ["manifest_missing"]);
        fs::write(snapshot.join(layout::METADATA), b"{").unwrap();
        assert!(errors(&repository, STAMP)[0].starts_with("metadata_invalid_json: EOF"));
        fs::remove_file(snapshot.join(layout::METADATA)).unwrap();
        assert_eq!(errors(&repository, STAMP), ["metadata_missing"]);
        let other = layout::snapshot_directory(repository.root(), "20270101T000000Z");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(layout::METADATA), br#"{"format": "vecsnap"}"#).unwrap();
        fs::write(other.join(layout::MANIFEST), &manifest).unwrap();
        assert_eq!(
            errors(&repository, "20270101T000000Z"),
            ["manifest_corrupt: it is the manifest of another snapshot"]
        );
    }

    #[test]
    fn a_full_copy_is_told_apart_in_a_sentence_even_without_a_repository() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("snapshots").join(STAMP);
        fs::create_dir_all(copy.join("db")).unwrap();
        fs::write(copy.join(layout::METADATA), br#"{"db_snapshot_path": "/x"}"#).unwrap();
        let validation = validate(directory.path(), None, STAMP, FULL, &Silent).unwrap();
        assert_eq!(validation.errors, [FULL_COPY]);
        assert!(FULL_COPY.contains("import"));
    }
}
