//! The intent of the restore under way: format-spec.md §14.
//!
//! Invariant: while an intent stands, the live files may be half old and half new, so whoever captures or restores them
//! asks [`pending`] first, holding the live lock. Going back is recorded as an intent of its own, which names the
//! pre-restore snapshot twice (as what is restored and as the way back) and counts before that of the restore it
//! undoes: so an interruption at any point leaves a record of what was being done last.

use std::io::Write;

use super::layout;
use super::repository::Repository;
use crate::disk::{ObjectKind, Published, Storage};
use crate::error::{Error, Result};
use crate::format::intent::Intent;
use crate::id::Stamp;

const INTENT_LIMIT: u64 = 1024 * 1024;

/// The intent of the restore that was interrupted, if there is one.
///
/// # Errors
/// [`Error::Damaged`] for an intent that cannot be understood; I/O errors.
pub fn pending(repository: &Repository) -> Result<Option<Intent>> {
    pending_in(repository.storage())
}

/// [`pending`], without a repository that is open.
///
/// # Errors
/// Those of [`pending`].
pub fn pending_in(storage: &dyn Storage) -> Result<Option<Intent>> {
    let names = names(storage)?;
    let Some(name) = names.iter().find(|name| *name == layout::UNDO_INTENT).or(names.first()) else {
        return Ok(None);
    };
    let bytes = storage.read(name, INTENT_LIMIT)?;
    Intent::parse(&bytes).map(Some).map_err(|fault| {
        let path = storage.root().join(name);
        Error::damaged(path, format!("{fault}; remove it only if the live files are known to be whole"))
    })
}

/// Refuses to go on while a restore is unfinished.
///
/// # Errors
/// [`Error::Refused`] that names the ways on; those of [`pending`].
pub fn refuse_pending(repository: &Repository) -> Result<()> {
    match pending(repository)? {
        None => Ok(()),
        Some(intent) => Err(Error::Refused(format!(
            "the restore of {} that began at {} is unfinished, so the live files may be half old and half new; {}",
            intent.stamp,
            intent.started_at,
            ways_on(intent.pre_restore_snapshot.and_then(|stamp| stamp.parse().ok()))
        ))),
    }
}

/// What can be done about an unfinished restore.
pub fn ways_on(way_back: Option<Stamp>) -> &'static str {
    if way_back.is_some() {
        "stop the service, then finish it with `vecsnap restore --resume --confirm-service-stopped`, or go back with \
         `vecsnap restore --undo --confirm-service-stopped`"
    } else {
        "stop the service, then finish it with `vecsnap restore --resume --confirm-service-stopped`"
    }
}

/// Makes an intent durable; that of a restore must be the only one, that of going back may join it.
///
/// # Errors
/// I/O errors; nothing may then be written into the targets.
pub fn publish(repository: &Repository, intent: &Intent) -> Result<()> {
    let name = if intent.is_undo() { layout::UNDO_INTENT } else { layout::INTENT };
    let path = repository.root().join(name);
    let mut bytes = serde_json::to_vec_pretty(intent)
        .map_err(|error| Error::Failed(format!("the intent {} cannot be written: {error}", path.display())))?;
    bytes.push(b'\n');
    let mut object = repository.storage().create()?;
    object.write_all(&bytes).map_err(Error::io("write", &path))?;
    object.sync()?;
    match object.publish(name)? {
        Published::New => Ok(()),
        Published::AlreadyThere => {
            Err(Error::Refused(format!("another restore left the intent {}; {}", path.display(), ways_on(None))))
        }
    }
}

/// On return, the intents that stand survive a crash.
///
/// # Errors
/// I/O errors; nothing may then be written into the targets.
pub fn confirm(repository: &Repository) -> Result<()> {
    repository.storage().sync_directory(layout::INTENTS)
}

/// Removes every intent, durably: the targets are whole again.
///
/// # Errors
/// I/O errors.
pub fn clear(repository: &Repository) -> Result<()> {
    let names = names(repository.storage())?;
    let delete = |name: &String| repository.storage().delete(name);
    let sync = || repository.storage().sync_directory(layout::INTENTS);
    // The intent of going back goes last, once the other one is gone durably: what a crash leaves is what was done
    // last.
    let (undo, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| *name == layout::UNDO_INTENT);
    others.iter().copied().try_for_each(delete)?;
    if !others.is_empty() && !undo.is_empty() {
        sync()?;
    }
    undo.into_iter().try_for_each(delete)?;
    sync()
}

fn names(storage: &dyn Storage) -> Result<Vec<String>> {
    let objects = storage.list(layout::INTENTS)?;
    let files = objects.into_iter().filter(|object| object.kind == ObjectKind::File);
    Ok(files.map(|object| format!("{}/{}", layout::INTENTS, object.name)).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::LockWait;

    fn intent(stamp: &str, before: Option<&str>) -> Intent {
        Intent {
            format_version: 1,
            stamp: stamp.into(),
            pre_restore_snapshot: before.map(Into::into),
            started_at: "2026-04-07T08:00:01.000000+00:00".into(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn going_back_counts_before_the_restore_and_clearing_leaves_none() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(directory.path(), LockWait(Duration::ZERO)).unwrap();
        assert_eq!(pending(&repository).unwrap(), None);
        refuse_pending(&repository).unwrap();
        let restore = intent("20260406T180000Z", Some("20260407T080000Z"));
        publish(&repository, &restore).unwrap();
        assert_eq!(pending(&repository).unwrap(), Some(restore.clone()));
        assert!(matches!(publish(&repository, &restore), Err(Error::Refused(_))));
        let undo = intent("20260407T080000Z", Some("20260407T080000Z"));
        publish(&repository, &undo).unwrap();
        assert_eq!(pending(&repository).unwrap(), Some(undo));
        let refused = refuse_pending(&repository).unwrap_err().to_string();
        assert!(refused.contains("--resume") && refused.contains("--undo"), "{refused}");
        clear(&repository).unwrap();
        publish(&repository, &intent("20260406T180000Z", None)).unwrap();
        let refused = refuse_pending(&repository).unwrap_err().to_string();
        assert!(refused.contains("--resume") && !refused.contains("--undo"), "there is no way back: {refused}");
        clear(&repository).unwrap();
        assert_eq!(pending(&repository).unwrap(), None);
    }

    #[test]
    fn an_intent_that_cannot_be_understood_stops_everything() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(directory.path(), LockWait(Duration::ZERO)).unwrap();
        std::fs::write(directory.path().join(layout::INTENT), b"{").unwrap();
        assert!(matches!(refuse_pending(&repository), Err(Error::Damaged { .. })));
    }
}
