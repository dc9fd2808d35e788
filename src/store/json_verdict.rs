//! Whether a content is JSON.
//!
//! Invariants: it is read to its end and nothing of it is kept, however long it is; what cannot be read is no verdict.
//! A parser that ignores what it parses does not look into strings either, so that they are Unicode is checked beside
//! it.

use std::io::{self, BufReader, Read};

use serde::de::IgnoredAny;

/// Whether a content is JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonVerdict {
    /// It is.
    Sound,
    /// It is not, for this reason.
    Invalid(String),
}

/// Reads a content and judges it.
///
/// # Errors
/// Those of reading.
pub fn judge(content: impl Read) -> io::Result<JsonVerdict> {
    let mut text = Text { content, begun: Vec::new(), is_utf8: true };
    match serde_json::from_reader::<_, IgnoredAny>(BufReader::new(&mut text)) {
        _ if !text.is_utf8 => Ok(JsonVerdict::Invalid("it is not UTF-8".into())),
        Ok(_) => Ok(JsonVerdict::Sound),
        Err(fault) if fault.is_io() => Err(fault.into()),
        Err(fault) => Ok(JsonVerdict::Invalid(fault.to_string())),
    }
}

/// A content that ends where it is no text.
struct Text<R> {
    content: R,
    /// The beginning of a character that was not read to its end.
    begun: Vec<u8>,
    is_utf8: bool,
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_utf8 {
            return Ok(0);
        }
        let read = self.content.read(buffer)?;
        self.begun.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let whole = match std::str::from_utf8(&self.begun) {
            Ok(text) => text.len(),
            Err(fault) if fault.error_len().is_none() && read > 0 => fault.valid_up_to(),
            Err(_) => {
                self.is_utf8 = false;
                0
            }
        };
        self.begun.drain(..whole);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time, each after an interruption.
    struct Slowly<'c>(&'c [u8], usize, bool);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let room = self.1.min(buffer.len());
            self.0.read(&mut buffer[..room])
        }
    }

    #[test]
    fn characters_may_stand_across_what_is_read_at_once() {
        let text = "{\"ä\": \"€𝄞\"}";
        for room in 1..text.len() {
            assert_eq!(judge(Slowly(text.as_bytes(), room, false)).unwrap(), JsonVerdict::Sound, "{room}");
            for end in 1..text.len() {
                let begun = judge(Slowly(&text.as_bytes()[..end], room, false)).unwrap();
                assert_ne!(begun, JsonVerdict::Sound, "{room} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_json_or_no_text_is_told_apart_from_what_cannot_be_read() {
        let invalid = |content: &[u8]| match judge(content).unwrap() {
            JsonVerdict::Invalid(cause) => cause,
            JsonVerdict::Sound => panic!("{content:?}"),
        };
        assert!(invalid(b"{").contains("EOF") && invalid(b"{} x").contains("trailing") && !invalid(b"").is_empty());
        assert_eq!(invalid(b"\"\xff\""), "it is not UTF-8");
        assert_eq!(invalid(b"\"\xe2\x82"), "it is not UTF-8");
        // A directory opens, and then every read of it fails.
        judge(std::fs::File::open("/").unwrap()).unwrap_err();
    }
}
