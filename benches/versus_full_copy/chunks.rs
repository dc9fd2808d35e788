//! What a changed chunk costs beside its change: one byte is changed in each of many chunks.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;

use super::contender::Contender;
use super::ours::Vecsnap;
use super::report::Section;
use super::rows::Row;
use super::states;
use super::workload::Workload;

const CHUNK: u64 = 64 * 1024;
const CHUNKS: u64 = 4_000;

/// Takes one snapshot before and one after, and divides.
pub(crate) fn run(scratch: &Path) -> Section {
    let live = scratch.join("chunks");
    Workload::make(&live, 1);
    let path = live.join("data/chroma/incompressible.bin");
    let mut bytes = vec![0; (CHUNKS * CHUNK) as usize];
    blake3::Hasher::new().update(b"incompressible").finalize_xof().fill(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    std::thread::sleep(states::REST);
    let mut repository = Vecsnap::at(scratch.join("repository"));
    repository.must_create(&live, "before");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for chunk in 0..CHUNKS {
        // Somewhere else in each chunk, so that nothing of it is the same from chunk to chunk.
        let at = chunk * CHUNK + chunk * 7_919 % CHUNK;
        file.write_all_at(&[!bytes[at as usize]], at).unwrap();
    }
    drop(file);
    std::thread::sleep(states::REST);
    let before = repository.stored();
    let run = repository.must_create(&live, "after");
    let growth = repository.stored() - before;
    let each = growth as f64 / CHUNKS as f64;
    let measure = format!("one byte changed in each of {CHUNKS} chunks: growth for each");
    let rows = vec![Row::new(&measure, Some(each), "bytes", 80.0, Some(60.0))];
    let text = format!(
        "{growth} bytes in all, in {:.2} s: ids, bases, footer, list nodes and manifest, and the change itself.\n",
        run.seconds
    );
    let figures = json!({ "chunks": CHUNKS, "growth": growth, "run": run });
    Section { title: "Cost of a changed chunk".into(), text, rows, figures }
}
