//! `vecsnap init`: makes an empty repository; the first `create` does it too.

use serde_json::json;

use super::exit::Exit;
use super::session::Session;
use crate::error::{Error, Result};
use crate::store::{Access, Repository, repository};

/// Makes the repository unless there is one, and shows it.
///
/// # Errors
/// I/O errors; a damaged repository; bad usage, as where it would lie in a source that is named.
pub fn run(session: &Session<'_>) -> Result<Exit> {
    let root = session.repository()?;
    session.locations().sources().map_or(Ok(()), |live| live.check_apart_from(&root))?;
    let existed = Repository::open(&root, Access::Read, session.lock_wait())?.is_some();
    repository::create(&root)?;
    let repository = Repository::open(&root, Access::Read, session.lock_wait())?
        .ok_or_else(|| Error::Failed(format!("the repository {} vanished while it was made", root.display())))?;
    let document = json!({
        "path": repository.root().display().to_string(),
        "created": !existed,
        "repository_id": repository.header().repository.to_string(),
        "format_version": crate::format::limits::FORMAT_VERSION,
    });
    session.print(&document, Exit::Done)?;
    Ok(Exit::Done)
}
