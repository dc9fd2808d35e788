//! Identities: content ids of blobs and packs, the repository's own id, and the stamp that names a snapshot.
//!
//! Invariant: a [`BlobId`] is always the hash of the blob's full content in its namespace (format-spec.md §3), never of
//! its encoding; a [`Stamp`] always prints as `YYYYMMDDTHHMMSSZ`. Newtypes, so that no two kinds can be confused.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use chrono::{DateTime, NaiveDateTime, Utc};

use crate::error::Error;

/// The context string of list-node ids: format-spec.md §3.
const LIST_NODE_CONTEXT: &str = "vecsnap list node v1";

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The id with exactly these bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Parses lower-case hexadecimal of exactly the id's length.
            fn from_str(text: &str) -> Result<Self, Error> {
                let mut bytes = [0; $len];
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) || hex::decode_to_slice(text, &mut bytes).is_err() {
                    return Err(Error::Usage(format!("'{text}' is not an id of {} lower-case hexadecimal digits", 2 * $len)));
                }
                Ok(Self(bytes))
            }
        }
    };
}

byte_id! {
    /// The identity of a blob: BLAKE3-256 of its content, in the namespace of chunks or of list nodes.
    BlobId, 32
}
byte_id! {
    /// The identity of a pack: BLAKE3-256 of all bytes of the pack file; also its name.
    PackId, 32
}
byte_id! {
    /// The identity of a repository: 16 random bytes drawn when it is made.
    RepositoryId, 16
}
byte_id! {
    /// The first eight bytes of a [`BlobId`], as a delta refers to its bases.
    BlobPrefix, 8
}

impl BlobId {
    /// The id of a chunk with this content: plain BLAKE3.
    pub fn of_chunk(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// The id of a list node with these serialised bytes: BLAKE3 in `derive_key` mode, so that no chunk can pass for
    /// it.
    pub fn of_list_node(bytes: &[u8]) -> Self {
        Self(blake3::derive_key(LIST_NODE_CONTEXT, bytes))
    }

    /// The prefix by which a delta refers to this blob.
    pub fn prefix(&self) -> BlobPrefix {
        let mut prefix = [0; BlobPrefix::LEN];
        prefix.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        BlobPrefix(prefix)
    }
}

impl PackId {
    /// The id of the pack with these bytes already fed to `hasher`.
    pub fn of_hasher(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }
}

/// The name of a snapshot: a second of UTC, printed as `YYYYMMDDTHHMMSSZ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(DateTime<Utc>);

impl Stamp {
    const FORMAT: &'static str = "%Y%m%dT%H%M%SZ";

    /// The stamp of the second that holds `time`.
    pub fn of(time: DateTime<Utc>) -> Self {
        Self::from_seconds(time.timestamp()).unwrap_or(Self(DateTime::UNIX_EPOCH))
    }

    /// The stamp of a Unix time in seconds; `None` outside the years 0 to 9999.
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        use chrono::Datelike;
        DateTime::from_timestamp(seconds, 0).filter(|time| (0..=9999).contains(&time.year())).map(Self)
    }

    /// Unix time in seconds.
    pub fn seconds(self) -> i64 {
        self.0.timestamp()
    }

    /// The moment itself.
    pub fn time(self) -> DateTime<Utc> {
        self.0
    }

    /// The next second.
    pub fn next(self) -> Self {
        Self::from_seconds(self.seconds() + 1).unwrap_or(self)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(Self::FORMAT))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({self})")
    }
}

impl FromStr for Stamp {
    type Err = Error;

    /// Parses exactly `YYYYMMDDTHHMMSSZ`; everything else is a usage error.
    fn from_str(text: &str) -> Result<Self, Error> {
        let shaped = text.len() == 16 && text.is_ascii();
        let parsed = NaiveDateTime::parse_from_str(text, Self::FORMAT)
            .ok()
            .and_then(|time| Self::from_seconds(time.and_utc().timestamp()));
        match parsed {
            Some(stamp) if shaped && stamp.to_string() == text => Ok(stamp),
            _ => Err(Error::Usage(format!("'{text}' is not a stamp like 20260406T180000Z; `vecsnap list` shows them"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_print_as_they_parse_and_nothing_else_parses() {
        let stamp: Stamp = "20260406T180000Z".parse().unwrap();
        assert_eq!(stamp.to_string(), "20260406T180000Z");
        assert_eq!(stamp.next().to_string(), "20260406T180001Z");
        for wrong in [
            "",
            "2026",
            "20260406T180000",
            "20260406T180000Z ",
            "20260431T000000Z",
            "20260406T186000Z",
            "+0260406T180000Z",
            "20260406T180060Z",
        ] {
            assert!(wrong.parse::<Stamp>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_chunk_and_a_list_node_with_equal_bytes_have_different_ids() {
        assert_ne!(BlobId::of_chunk(b"same"), BlobId::of_list_node(b"same"));
    }

    #[test]
    fn ids_parse_only_from_lower_case_hex_of_their_length() {
        let id = BlobId::of_chunk(b"x");
        assert_eq!(id.to_string().parse::<BlobId>().unwrap(), id);
        assert!(id.to_string().to_uppercase().parse::<BlobId>().is_err());
        assert!("00".parse::<BlobId>().is_err());
    }
}
