//! Result documents as JSON, byte for byte as Python's `json.dumps(document, indent=2)` and a newline.
//!
//! Scripts of operators compare and archive these documents, so the bytes must not change with the tool that wrote
//! them: two-space indent, `": "`, every character outside printable ASCII escaped as `\uXXXX` (pairs of surrogates
//! beyond the basic plane), floats as Python's `repr` writes them. Field order is that of the document.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Writes the document and a newline.
///
/// # Errors
/// Only those of `out`.
pub fn write(document: &Value, mut out: impl io::Write) -> io::Result<()> {
    let mut serializer = Serializer::with_formatter(&mut out, PythonFormatter(PrettyFormatter::new()));
    document.serialize(&mut serializer)?;
    out.write_all(b"\n")
}

/// serde_json's pretty layout, with strings and floats in Python's spelling.
struct PythonFormatter(PrettyFormatter<'static>);

impl Formatter for PythonFormatter {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Rust's debug form changes to an exponent at the same magnitudes as Python's; only the exponent is spelt
        // otherwise.
        let text = format!("{value:?}");
        let Some((mantissa, exponent)) = text.split_once('e') else {
            return writer.write_all(text.as_bytes());
        };
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        write!(writer, "{mantissa}e{sign}{digits:0>2}")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for character in fragment.chars() {
            let mut units = [0; 2];
            match character {
                ' '..='~' => write!(writer, "{character}")?,
                _ => character.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What Python 3.11 printed for `print(json.dumps(document, indent=2))`.
    const PRINTED_BY_PYTHON: &str = r#"{
  "created_at": "2026-04-06T18:00:00.123456+00:00",
  "path": "/srv/Sicherung/\u00dcbung \ud834\udd1e.db",
  "escapes": "quote \" backslash \\ slash / tab \t line \n return \r bell \u0007 delete \u007f",
  "empty_list": [],
  "empty_object": {},
  "nested": [
    [],
    {},
    [
      1,
      [
        2
      ]
    ],
    {
      "\u00e4": null
    }
  ],
  "flags": [
    true,
    false,
    null
  ],
  "integers": [
    0,
    -1,
    18446744073709551615
  ],
  "floats": [
    0.0,
    -0.0,
    1.0,
    0.1,
    3.25,
    123456789.125,
    0.0001,
    1e-05,
    1.5e-07,
    1e-300,
    1000000000000000.0,
    9999999999999998.0,
    1e+16,
    1.25e+22,
    1.7976931348623157e+308
  ],
  "last": "end"
}
"#;

    #[test]
    fn documents_are_byte_for_byte_what_python_prints() {
        let document = json!({
            "created_at": "2026-04-06T18:00:00.123456+00:00",
            "path": "/srv/Sicherung/Übung 𝄞.db",
            "escapes": "quote \" backslash \\ slash / tab \t line \n return \r bell \u{7} delete \u{7f}",
            "empty_list": [],
            "empty_object": {},
            "nested": [[], {}, [1, [2]], {"ä": null}],
            "flags": [true, false, null],
            "integers": [0, -1, 18_446_744_073_709_551_615_u64],
            "floats": [0.0, -0.0, 1.0, 0.1, 3.25, 123456789.125, 0.0001, 0.00001, 1.5e-7, 1e-300,
                       1e15, 9999999999999998.0, 1e16, 1.25e22, 1.7976931348623157e308],
            "last": "end"
        });
        let mut out = Vec::new();
        write(&document, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), PRINTED_BY_PYTHON);
    }
}
