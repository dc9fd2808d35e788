//! What the demo tells: as a table for a newcomer, and with the same figures as a document for scripts.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::BinaryBytes;
use serde_json::{Value, json};

/// One step of the demo, with what it cost.
#[derive(Debug)]
pub(super) struct Step {
    name: &'static str,
    duration: Duration,
    /// Bytes of the service's data.
    logical_bytes: Option<u64>,
    /// Bytes by which the repository grew.
    stored_bytes: Option<u64>,
    /// Bytes written into the service's files.
    rewritten_bytes: Option<u64>,
    /// Bytes that a tool of full copies would have written instead.
    full_copy_bytes: Option<u64>,
}

impl Step {
    /// A step that began then and ends now.
    pub(super) fn new(name: &'static str, began: Instant) -> Self {
        Self {
            name,
            duration: began.elapsed(),
            logical_bytes: None,
            stored_bytes: None,
            rewritten_bytes: None,
            full_copy_bytes: None,
        }
    }

    pub(super) fn of(self, logical_bytes: u64) -> Self {
        Self { logical_bytes: Some(logical_bytes), ..self }
    }

    pub(super) fn stored(self, stored_bytes: u64, full_copy_bytes: u64) -> Self {
        Self { stored_bytes: Some(stored_bytes), full_copy_bytes: Some(full_copy_bytes), ..self }
    }

    pub(super) fn rewrote(self, rewritten_bytes: u64, full_copy_bytes: u64) -> Self {
        Self { rewritten_bytes: Some(rewritten_bytes), full_copy_bytes: Some(full_copy_bytes), ..self }
    }

    fn seconds(&self) -> f64 {
        (self.duration.as_secs_f64() * 1000.0).round() / 1000.0
    }
}

/// All steps and their outcome.
#[derive(Debug, Default)]
pub(super) struct DemoReport {
    steps: Vec<Step>,
    /// How many files were compared in the end.
    pub(super) files_compared: usize,
    /// Those of them that did not come back as they were.
    pub(super) differences: Vec<PathBuf>,
    /// Where the data and the repository still are.
    pub(super) kept: Option<PathBuf>,
}

impl DemoReport {
    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// For scripts.
    pub(super) fn document(&self) -> Value {
        let step = |step: &Step| {
            json!({
                "step": step.name,
                "duration_s": step.seconds(),
                "logical_bytes": step.logical_bytes,
                "stored_bytes": step.stored_bytes,
                "rewritten_bytes": step.rewritten_bytes,
                "full_copy_bytes": step.full_copy_bytes,
            })
        };
        json!({
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "files_compared": self.files_compared,
            "equal": self.differences.is_empty(),
            "differences": self.differences.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "kept": self.kept.as_ref().map(|path| path.display().to_string()),
        })
    }

    /// For a newcomer.
    pub(super) fn text(&self) -> String {
        let mut text: String =
            self.table().lines().flat_map(|line| [line.trim_end().to_owned(), "\n".into()]).collect();
        text.push('\n');
        // Writing to a string cannot fail.
        let _ = match self.differences.as_slice() {
            [] => writeln!(text, "All {} files are back, byte for byte and row for row.", self.files_compared),
            files => writeln!(text, "NOT restored as they were: {files:?}; please report this."),
        };
        let _ = match &self.kept {
            Some(path) => writeln!(
                text,
                "Everything is still in {0}; look at it with `vecsnap list --repo {0}/backup`.",
                path.display()
            ),
            None => writeln!(text, "Everything was made up, and is removed again (--keep leaves it there)."),
        };
        text.push_str(NEXT);
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["step", "seconds", "data", "stored", "rewritten", "a full copy"]);
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| BinaryBytes(bytes).to_string()).unwrap_or_default();
        for step in &self.steps {
            table.add_row([
                step.name.to_owned(),
                format!("{:.2}", step.seconds()),
                bytes(step.logical_bytes),
                bytes(step.stored_bytes),
                bytes(step.rewritten_bytes),
                bytes(step.full_copy_bytes),
            ]);
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
            if column.index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        });
        table
    }
}

const NEXT: &str = "
Next, with data of your own:
  vecsnap --repo /srv/backup --db app.db --registry registry.json --chroma-dir chroma --chroma
  vecsnap --repo /srv/backup drill       proves that it can be restored; README.md tells the rest
";

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DemoReport {
        let mut report = DemoReport { files_compared: 9, ..DemoReport::default() };
        report.push(Step::new("first snapshot", Instant::now()).of(3 << 20).stored(1 << 20, 3 << 20));
        report.push(Step::new("damage", Instant::now()));
        report
    }

    #[test]
    fn the_table_shows_every_figure_of_the_document_with_its_unit() {
        let text = report().text();
        let line = text.lines().find(|line| line.starts_with("first snapshot")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[3..], ["3.00", "MiB", "1.00", "MiB", "3.00", "MiB"], "{text}");
        assert!(text.contains("All 9 files"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    }

    #[test]
    fn a_file_that_did_not_come_back_is_named_in_both_forms() {
        let mut report = report();
        report.differences.push("/x/length.bin".into());
        assert!(report.text().contains("/x/length.bin"));
        assert_eq!(report.document()["equal"], false);
        assert_eq!(report.document()["differences"][0], "/x/length.bin");
    }
}
