//! Exit codes: what they mean, and which one each error becomes. A command whose report holds bad news chooses among
//! them.

use std::process::ExitCode;

use crate::error::Error;

/// How a command ended; the discriminant is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Done = 0,
    /// Failed for the reason that stderr names.
    Failed = 1,
    /// The call itself is wrong.
    Usage = 2,
    /// The snapshot is not valid.
    NotValid = 3,
    /// Chroma, or another tree, kept changing while it was captured.
    Changing = 4,
    /// Refused to protect the operator.
    Refused = 5,
    /// The repository or the live files are in use.
    Busy = 6,
    /// The repository is damaged or of an unknown version.
    Damaged = 7,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    /// The number itself.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error {
            Error::Io { .. } | Error::Sqlite { .. } | Error::Failed(_) => Exit::Failed,
            Error::Usage(_) => Exit::Usage,
            Error::NotValid(_) => Exit::NotValid,
            Error::Changing(_) => Exit::Changing,
            Error::Refused(_) => Exit::Refused,
            Error::Busy(_) => Exit::Busy,
            Error::Damaged { .. } => Exit::Damaged,
            Error::Interrupted | Error::RestoreInterrupted { .. } => Exit::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn every_group_of_errors_has_the_code_of_the_contract() {
        let sentence = || "x".to_owned();
        let table = [
            (Error::io("read", "/x")(io::ErrorKind::NotFound.into()), 1),
            (Error::sqlite("open", "/x")(rusqlite::Error::InvalidQuery), 1),
            (Error::Failed(sentence()), 1),
            (Error::Usage(sentence()), 2),
            (Error::NotValid(sentence()), 3),
            (Error::Changing(sentence()), 4),
            (Error::Refused(sentence()), 5),
            (Error::Busy(sentence()), 6),
            (Error::damaged("/x", "y"), 7),
            (Error::Interrupted, 130),
            (Error::RestoreInterrupted { ways_on: "finish it" }, 130),
        ];
        for (error, code) in table {
            assert_eq!(Exit::from(&error).code(), code, "{error:?}");
            assert_eq!(ExitCode::from(Exit::from(&error)), ExitCode::from(code));
        }
    }
}
