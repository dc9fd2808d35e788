//! Where the repository and the sources are: a flag beats the environment, and nothing is guessed.
//!
//! Invariant: every path that leaves here is absolute, without having touched the disk (symlinks stay as they are).
//! An empty environment variable counts as unset, as a shell's `VAR=` usually means it.

use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};

use super::arguments::LocationArguments;
use crate::error::{Error, Result};
use crate::save::LiveSources;

/// Names the repository.
const BACKUP_DIR: &str = "ATOCORE_BACKUP_DIR";
/// Names the directory that holds the database and Chroma.
const DATA_DIR: &str = "ATOCORE_DATA_DIR";
/// Names the registry.
const REGISTRY_PATH: &str = "ATOCORE_PROJECT_REGISTRY_PATH";

/// Finds paths in the flags of a call and, where a flag is missing, in the environment.
pub struct Locations<'a, Lookup> {
    flags: &'a LocationArguments,
    lookup: Lookup,
}

impl<'a> Locations<'a, fn(&str) -> Option<OsString>> {
    /// With the environment of this process.
    pub fn of_this_process(flags: &'a LocationArguments) -> Self {
        Self { flags, lookup: |name| std::env::var_os(name) }
    }
}

impl<'a, Lookup: Fn(&str) -> Option<OsString>> Locations<'a, Lookup> {
    /// With an environment of the caller's own.
    pub fn new(flags: &'a LocationArguments, lookup: Lookup) -> Self {
        Self { flags, lookup }
    }

    /// The repository.
    ///
    /// # Errors
    /// [`Error::Usage`] when neither flag nor variable names it; so with every path here but that of Chroma.
    pub fn repository(&self) -> Result<PathBuf> {
        self.find(PathOption { what: "repository", flag: "--repo", variable: BACKUP_DIR, below: "" }, &self.flags.repo)
    }

    /// The database.
    pub fn database(&self) -> Result<PathBuf> {
        let place = PathOption { what: "database", flag: "--db", variable: DATA_DIR, below: "db/atocore.db" };
        self.find(place, &self.flags.db)
    }

    /// The registry, whether the file exists or not.
    pub fn registry(&self) -> Result<PathBuf> {
        let place = PathOption { what: "registry", flag: "--registry", variable: REGISTRY_PATH, below: "" };
        self.find(place, &self.flags.registry)
    }

    /// The Chroma directory, whether it exists or not; none is named where only database and registry matter, and
    /// whatever needs it says so.
    pub fn chroma(&self) -> Result<Option<PathBuf>> {
        let place = PathOption { what: "Chroma directory", flag: "--chroma-dir", variable: DATA_DIR, below: "chroma" };
        self.look(place, &self.flags.chroma_dir)
    }

    /// All live sources.
    pub fn sources(&self) -> Result<LiveSources> {
        Ok(LiveSources { db: self.database()?, registry: self.registry()?, chroma: self.chroma()? })
    }

    fn find(&self, place: PathOption, flag: &Option<PathBuf>) -> Result<PathBuf> {
        self.look(place, flag)?.ok_or_else(|| place.missing())
    }

    fn look(&self, place: PathOption, flag: &Option<PathBuf>) -> Result<Option<PathBuf>> {
        let from_environment =
            || (self.lookup)(place.variable).filter(|value| !value.is_empty()).map(|value| place.in_(&value));
        let path = flag.clone().or_else(from_environment);
        path.map(|path| absolute(&path).map_err(Error::io("find the present directory for", &path))).transpose()
    }
}

/// How a path can be given.
#[derive(Clone, Copy)]
struct PathOption {
    what: &'static str,
    flag: &'static str,
    variable: &'static str,
    /// What the variable's value is extended by; may be empty.
    below: &'static str,
}

impl PathOption {
    fn in_(&self, value: impl AsRef<Path>) -> PathBuf {
        let directory = value.as_ref();
        if self.below.is_empty() { directory.to_path_buf() } else { directory.join(self.below) }
    }

    fn missing(&self) -> Error {
        let PathOption { what, flag, variable, .. } = self;
        Error::Usage(format!("the {what} is not named; give {flag} or set {variable}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        let value = match name {
            BACKUP_DIR => "/env/backup",
            DATA_DIR => "/env/data",
            REGISTRY_PATH => "/env/registry.json",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn the_environment_names_all_four_paths() {
        let flags = LocationArguments::default();
        let places = Locations::new(&flags, environment);
        assert_eq!(places.repository().unwrap(), Path::new("/env/backup"));
        assert_eq!(places.database().unwrap(), Path::new("/env/data/db/atocore.db"));
        assert_eq!(places.registry().unwrap(), Path::new("/env/registry.json"));
        assert_eq!(places.chroma().unwrap().unwrap(), Path::new("/env/data/chroma"));
    }

    #[test]
    fn a_flag_beats_the_environment() {
        let [repo, db, registry, chroma_dir] = ["/a", "/b.db", "/c.json", "/d"].map(|path| Some(PathBuf::from(path)));
        let flags = LocationArguments { repo, db, registry, chroma_dir };
        let places = Locations::new(&flags, environment);
        assert_eq!(places.repository().unwrap(), Path::new("/a"));
        assert_eq!(places.database().unwrap(), Path::new("/b.db"));
        assert_eq!(places.registry().unwrap(), Path::new("/c.json"));
        assert_eq!(places.chroma().unwrap().unwrap(), Path::new("/d"));
    }

    #[test]
    fn a_path_named_nowhere_is_a_usage_error_that_names_flag_and_variable() {
        let flags = LocationArguments::default();
        for empty in [None, Some(OsString::new())] {
            let places = Locations::new(&flags, |_: &str| empty.clone());
            let table = [
                (places.repository(), "--repo", BACKUP_DIR),
                (places.database(), "--db", DATA_DIR),
                (places.registry(), "--registry", REGISTRY_PATH),
            ];
            for (result, flag, variable) in table {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Usage(_)));
                assert!(error.to_string().contains(flag) && error.to_string().contains(variable), "{error}");
            }
            assert_eq!(places.chroma().unwrap(), None, "what needs it complains");
        }
    }

    #[test]
    fn relative_paths_become_absolute() {
        let flags = LocationArguments { repo: Some("backup/../b".into()), ..LocationArguments::default() };
        let places = Locations::new(&flags, |_: &str| Some("data".into()));
        let here = std::env::current_dir().unwrap();
        assert_eq!(places.repository().unwrap(), here.join("backup/../b"));
        assert_eq!(places.database().unwrap(), here.join("data/db/atocore.db"));
    }
}
