//! Why bytes are not what format-spec.md allows.

/// What a decoder found wrong; whoever knows the file turns it into an [`Error`](crate::Error) with its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer bytes than the structure needs.
    #[error("it ends too early")]
    Truncated,
    /// The magic at its start is another one.
    #[error("it does not begin with the expected magic")]
    Magic,
    /// A version that this build does not know.
    #[error("it has format version {0}, and this build of vecsnap reads only version 1; use a newer build")]
    Version(u32),
    /// A feature that a reader must know to read on.
    #[error("it needs the feature '{0}', which this build of vecsnap does not know; use a newer build")]
    Feature(String),
    /// The checksum does not match the stored bytes.
    #[error("its checksum does not match its bytes")]
    Checksum,
    /// Bytes after the end of the structure.
    #[error("it has bytes after its end")]
    Trailing,
    /// A count or size above its limit (format-spec.md §12).
    #[error("its {0} is above the limit of the format")]
    Limit(&'static str),
    /// Anything else that the specification forbids.
    #[error("{0}")]
    Invalid(String),
}

impl Malformed {
    /// A [`Malformed::Invalid`] with this sentence part.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid(detail.into())
    }
}
