//! A store that the real Chroma built, changed and reads again after the restore.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Journal, Runtime, chroma};

/// Runs one action of `chroma_real.py`, in a process of its own, so that no client stays open.
struct Client {
    python: PathBuf,
    store: PathBuf,
}

impl Client {
    #[track_caller]
    fn act(&self, action: &str, arguments: &[&Path]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/chroma_real.py");
        let mut command = Command::new(&self.python);
        command.arg(script).arg(action).arg(&self.store).args(arguments).env("ANONYMIZED_TELEMETRY", "False");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{action}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Everything that a user of the store can see.
    fn record(&self, into: &Path) -> Value {
        self.act("record", &[into]);
        serde_json::from_slice(&fs::read(into).unwrap()).unwrap()
    }
}

#[test]
fn chroma_finds_its_store_as_it_was_at_the_snapshot() {
    let Some(python) = chroma::python() else { return };
    let runtime = Runtime::bare();
    runtime.make_database(Journal::Wal);
    runtime.write_registry("p01");
    let client = Client { python, store: runtime.chroma() };
    let into = runtime.path().join("record.json");

    client.act("build", &[]);
    let before = client.record(&into);
    assert_eq!(before["count"], 3000);
    let counts: Vec<_> = before["others"].as_array().unwrap().iter().map(|other| &other[1]).collect();
    assert_eq!(counts, [0, 7, 5, 50]);
    let stamp = runtime.create(&["--chroma"]);
    let validation = runtime.vecsnap(&["validate", &stamp, "--json"]).json();
    assert_eq!(validation["chroma_ok"], true, "{validation}");

    client.act("change", &[]);
    let changed = client.record(&into);
    assert_eq!(changed["count"], 3100);
    for field in ["entries", "neighbours", "distances", "others"] {
        assert_ne!(changed[field], before[field], "the change did not reach {field}, so the test proves nothing");
    }

    let document = runtime.restore(&stamp, &[]);
    assert_eq!(document["chroma_restored"], true);
    let restored = client.record(&into);
    for field in ["count", "entries", "neighbours", "distances", "others"] {
        assert!(restored[field] == before[field], "{field} differs from what it was at the snapshot");
    }

    let way_back = document["pre_restore_snapshot"].as_str().unwrap().to_owned();
    runtime.restore(&way_back, &["--no-pre-snapshot"]);
    assert!(client.record(&into) == changed, "the way back leads elsewhere");
}
