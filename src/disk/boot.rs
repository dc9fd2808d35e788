//! Which boot of the machine this is.
//!
//! What a process wrote without a sync is whole for every later process of the same boot, even if it was killed; a loss
//! of power may have torn it. So files that are never synced are trusted within the boot that wrote them.

/// The kernel's number for the time since the machine started; `None` where the kernel does not tell.
pub fn boot_id() -> Option<String> {
    let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = told.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same() {
        assert_eq!(boot_id(), boot_id());
        assert!(boot_id().is_none_or(|id| id.len() == 36));
    }
}
