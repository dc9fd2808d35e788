//! Result documents as calm text for a person at a terminal.
//!
//! Every field of the document is shown under its own name, in the document's order, so that what a person reads and
//! what a script reads can be matched. Invariant: one field per line (control characters in values are escaped, so no
//! file name can steer the terminal). Byte counts keep their raw number beside the unit.

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::BinaryBytes;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// What stands for null, for an empty string and for an empty list.
const NONE: &str = "none";

/// The document as lines, each ending in a newline.
pub fn render(document: &Value) -> String {
    let mut lines = Vec::new();
    match document {
        Value::Object(object) => push_fields(object, "", &mut lines),
        other => lines.push(scalar("", other)),
    }
    lines.iter().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// How a field is laid out.
enum Layout<'a> {
    /// Values beside the key, one per line.
    Beside(Vec<String>),
    /// Fields of their own, indented below the key.
    Below(&'a Object),
    /// A table below the key, one row per item.
    Table(Vec<&'a Object>),
    /// One block of fields per item below the key.
    Blocks(Vec<&'a Object>),
}

impl<'a> Layout<'a> {
    fn of(key: &str, value: &'a Value) -> Self {
        match value {
            Value::Object(object) if !object.is_empty() => Layout::Below(object),
            Value::Array(items) if !items.is_empty() => match objects(items) {
                Some(rows) if rows.iter().all(|row| is_flat(row)) => Layout::Table(rows),
                Some(blocks) => Layout::Blocks(blocks),
                None => Layout::Beside(items.iter().map(|item| scalar(key, item)).collect()),
            },
            other => Layout::Beside(vec![scalar(key, other)]),
        }
    }
}

fn push_fields(object: &Object, indent: &str, lines: &mut Vec<String>) {
    let fields: Vec<_> = object.iter().map(|(key, value)| (key, Layout::of(key, value))).collect();
    let beside = fields.iter().filter(|(_, layout)| matches!(layout, Layout::Beside(_)));
    let width = beside.map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let deeper = format!("{indent}  ");
    for (key, layout) in fields {
        match layout {
            Layout::Beside(values) => {
                let keys = std::iter::once(key.as_str()).chain(std::iter::repeat(""));
                lines.extend(keys.zip(values).map(|(key, value)| format!("{indent}{key:width$}  {value}")));
            }
            Layout::Below(inner) => {
                lines.push(format!("{indent}{key}"));
                push_fields(inner, &deeper, lines);
            }
            Layout::Table(rows) => {
                lines.push(format!("{indent}{key}"));
                lines.extend(table(&rows).lines().map(|line| format!("{deeper}{line}")));
            }
            Layout::Blocks(blocks) => {
                lines.push(format!("{indent}{key}"));
                for (number, block) in blocks.into_iter().enumerate() {
                    if number > 0 {
                        lines.push(String::new());
                    }
                    push_fields(block, &deeper, lines);
                }
            }
        }
    }
}

/// The items as objects, if all of them are.
fn objects(items: &[Value]) -> Option<Vec<&Object>> {
    items.iter().map(Value::as_object).collect()
}

/// Whether the object fits one row of a table.
fn is_flat(object: &Object) -> bool {
    object.values().all(|value| match value {
        Value::Object(inner) => inner.is_empty(),
        Value::Array(inner) => inner.is_empty(),
        _ => true,
    })
}

/// A table with a column for every key that occurs, in order of first occurrence; absent fields stay blank.
fn table(rows: &[&Object]) -> Table {
    let mut columns: Vec<&String> = Vec::new();
    for key in rows.iter().flat_map(|row| row.keys()) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(columns.iter());
    for row in rows {
        table.add_row(columns.iter().map(|key| row.get(*key).map_or_else(String::new, |value| scalar(key, value))));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table
}

/// One value as text, with the unit that its key announces.
fn scalar(key: &str, value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) if text.is_empty() => NONE.to_owned(),
        Value::String(text) => printable(text),
        Value::Number(number) if key.ends_with("_bytes") => match number.as_u64() {
            Some(bytes) if bytes >= 1024 => format!("{bytes} ({})", BinaryBytes(bytes)),
            _ => format!("{number} bytes"),
        },
        Value::Number(number) if key.ends_with("_s") => match number.as_u64().and_then(long_time) {
            Some(long) => format!("{number} s ({long})"),
            None => format!("{number} s"),
        },
        Value::Number(number) => number.to_string(),
        Value::Array(items) if items.is_empty() => NONE.to_owned(),
        Value::Object(fields) if fields.is_empty() => NONE.to_owned(),
        // Lists of lists and lists of mixed kinds: no document has them, but a foreign metadata file may.
        Value::Array(_) | Value::Object(_) => printable(&value.to_string()),
    }
}

/// Seconds in the unit that people count so many in; `None` below two minutes.
fn long_time(seconds: u64) -> Option<String> {
    match seconds {
        0..120 => None,
        120..7_200 => Some(format!("{} min", seconds / 60)),
        7_200..172_800 => Some(format!("{} h", seconds / 3_600)),
        _ => Some(format!("{} d", seconds / 86_400)),
    }
}

/// The text with control characters escaped.
fn printable(text: &str) -> String {
    let escape = |character: char| match character {
        _ if character.is_control() => character.escape_default().to_string(),
        _ => character.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_create_document_reads_as_aligned_lines_with_units() {
        let document = json!({
            "stamp": "20260406T180000Z",
            "db_size_bytes": 12_345_678,
            "chroma_snapshot_bytes": 0,
            "registry_snapshot_path": "",
            "parent": null,
            "validated": true,
            "validation_errors": [],
            "duration_s": 1.25,
            "sources": { "db": { "state": "captured" }, "chroma": {} },
        });
        let expected = "\
stamp                   20260406T180000Z
db_size_bytes           12345678 (11.77 MiB)
chroma_snapshot_bytes   0 bytes
registry_snapshot_path  none
parent                  none
validated               yes
validation_errors       none
duration_s              1.25 s
sources
  db
    state  captured
  chroma  none
";
        assert_eq!(render(&document), expected);
    }

    #[test]
    fn long_times_are_told_in_minutes_hours_and_days_too() {
        let document = json!({ "a_s": 119, "b_s": 120, "c_s": 86_400, "d_s": 172_800, "e_s": 300.5 });
        let expected = "a_s  119 s\nb_s  120 s (2 min)\nc_s  86400 s (24 h)\nd_s  172800 s (2 d)\ne_s  300.5 s\n";
        assert_eq!(render(&document), expected);
    }

    #[test]
    fn errors_stand_one_per_line() {
        let document = json!({ "errors": ["chunk_missing: a", "chunk_missing: b"], "valid": false });
        assert_eq!(render(&document), "errors  chunk_missing: a\n        chunk_missing: b\nvalid   no\n");
    }

    #[test]
    fn lists_of_flat_objects_are_tables_that_miss_no_column() {
        let document = json!({ "steps": [
            { "step": "create", "stored_bytes": 2048 },
            { "step": "restore", "note": "x" },
        ]});
        let expected = "\
steps
  step     stored_bytes     note
  create   2048 (2.00 KiB)
  restore                   x
";
        assert_eq!(render(&document), expected);
    }

    #[test]
    fn lists_of_nested_objects_are_blocks() {
        let document = json!({ "backups": [
            { "stamp": "a", "metadata": { "db_size_bytes": 5 } },
            { "stamp": "b", "metadata": null },
        ]});
        let expected = "\
backups
  stamp  a
  metadata
    db_size_bytes  5 bytes

  stamp     b
  metadata  none
";
        assert_eq!(render(&document), expected);
    }

    #[test]
    fn no_value_can_steer_the_terminal_or_break_its_line() {
        let text = render(&json!({ "path": "a\u{1b}[2Jb\nc\u{9b}ü" }));
        assert_eq!(text, "path  a\\u{1b}[2Jb\\nc\\u{9b}ü\n");
    }
}
