//! Making durable what the targets hold before anything is written.
//!
//! Invariant: before the first write, all that a plan leaves alone, since it looks right, survives a crash: a service,
//! or a restore that was killed, may have written it without a sync. Whole file systems are made durable, each once.
//! That is done before the verification stages anything, which would only have to be flushed too; but what a killed
//! restore left may become durable only once its intent is, so a resumed one comes to it later.

use std::collections::HashSet;

use super::job::Job;
use crate::disk::target::TargetRoot;
use crate::error::Result;

/// The file systems that were made durable.
#[derive(Debug, Default)]
pub(super) struct Settled {
    devices: HashSet<u64>,
}

impl Settled {
    /// Those of the targets that are there, unless a killed restore may have written them.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn before_verification(job: &Job) -> Result<Self> {
        let mut settled = Self::default();
        if job.pending.is_none() {
            for task in &job.tasks {
                task.target.open()?.map_or(Ok(()), |root| settled.settle(&root))?;
            }
        }
        Ok(settled)
    }

    /// Makes the file system of a target durable, if that is still to be done.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn settle(&mut self, root: &TargetRoot) -> Result<()> {
        match root.stat(b"")? {
            Some(stat) if self.devices.insert(stat.device) => root.sync_file_system(),
            _ => Ok(()),
        }
    }
}
