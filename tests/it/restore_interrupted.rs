//! A restore that is killed in the middle of a write: noticed by everyone, finished or undone, never half of something.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use serde_json::Value;

use crate::support::command::binary;
use crate::support::{Runtime, TreeState};

/// A file that compresses to nothing, so that only restoring it writes far into a file.
const LENGTH: usize = 3 << 20;
/// Where the kernel kills whoever writes behind it (SIGXFSZ), in the 512-byte units of the shell.
const ONE_MEBIBYTE: &str = "2048";
const HALF: &str = "1024";
const SIGXFSZ: i32 = 25;

/// A runtime with a snapshot, changed since.
struct Changed {
    runtime: Runtime,
    stamp: String,
    before: TreeState,
    after: TreeState,
}

fn changed() -> Changed {
    let runtime = Runtime::new();
    let write = |byte: u8| fs::write(runtime.store().file("link_lists.bin"), vec![byte; LENGTH]).unwrap();
    write(1);
    let stamp = runtime.create(&["--chroma"]);
    runtime.vecsnap(&["validate", &stamp, "--json"]).run().exits(0);
    let before = runtime.live_state().without_directory_times();
    write(2);
    runtime.remember("marker");
    runtime.write_registry("p02");
    fs::write(runtime.chroma().join("stranger"), "x").unwrap();
    let after = runtime.live_state().without_directory_times();
    Changed { runtime, stamp, before, after }
}

impl Changed {
    fn state(&self) -> TreeState {
        self.runtime.live_state().without_directory_times()
    }

    /// Runs a restore that the kernel kills in the middle of writing the large file.
    #[track_caller]
    fn killed(&self, limit: &str, arguments: &[&str]) {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f $LIMIT; exec \"$@\"", "sh"]).arg(binary()).arg("restore").args(arguments);
        shell.arg("--confirm-service-stopped").env("LIMIT", limit);
        shell.env("ATOCORE_BACKUP_DIR", self.runtime.repo()).env("ATOCORE_DATA_DIR", self.runtime.data());
        shell.env("ATOCORE_PROJECT_REGISTRY_PATH", self.runtime.registry());
        let output = shell.output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGXFSZ), "{output:?}");
    }

    fn go_on(&self, how: &str) -> Value {
        self.runtime.vecsnap(&["restore", how, "--confirm-service-stopped", "--json"]).json()
    }
}

#[test]
fn a_killed_restore_is_noticed_and_finished() {
    let it = changed();
    it.killed(ONE_MEBIBYTE, &[&it.stamp, "--no-pre-snapshot"]);
    let read = rusqlite::Connection::open(it.runtime.db()).unwrap().query_row("SELECT 1 FROM memories", [], |_| Ok(()));
    assert!(read.unwrap_err().to_string().contains("not a database"), "a service would have read half a restore");
    let again = ["restore", it.stamp.as_str(), "--confirm-service-stopped"];
    let refused = it.runtime.vecsnap(&again).run().exits(5).prints_nothing().says(&["--resume", &it.stamp]);
    assert!(!refused.stderr.contains("--undo"), "there is no way back: {refused}");
    for call in [&["create"][..], &["cleanup"], &["cleanup", "--keep-last", "1", "--confirm"]] {
        it.runtime
            .vecsnap(call)
            .run()
            .exits(5)
            .prints_nothing()
            .says(&["--resume --confirm-service-stopped", &it.stamp]);
    }
    let undo = ["restore", "--undo", "--confirm-service-stopped"];
    it.runtime.vecsnap(&undo).run().exits(5).says(&["no pre-restore snapshot", "--resume"]);

    it.killed(HALF, &["--resume"]);
    it.runtime.vecsnap(&["create"]).run().exits(5).says(&["--resume"]);
    let document = it.go_on("--resume");
    assert_eq!(document["stamp"], it.stamp.as_str());
    assert_eq!(document["pre_restore_snapshot"], Value::Null);
    it.state().assert_same(&it.before, "resumed");
    it.runtime.vecsnap(&["restore", "--resume", "--confirm-service-stopped"]).run().exits(5).prints_nothing();
    assert_eq!(it.runtime.snapshots().len(), 1);
}

#[test]
fn a_killed_restore_is_undone_even_if_that_is_killed_too() {
    let it = changed();
    it.killed(ONE_MEBIBYTE, &[&it.stamp]);
    let ways = ["--resume --confirm-service-stopped", "--undo --confirm-service-stopped"];
    it.runtime.vecsnap(&["create"]).run().exits(5).says(&ways);
    // Going back has no more to write than what the restore wrote.
    it.killed(HALF, &["--undo"]);
    let document = it.go_on("--resume");
    let way_back = it.runtime.snapshots().pop().unwrap();
    assert_eq!(document["stamp"], way_back.as_str(), "resuming finishes what was done last");
    it.state().assert_same(&it.after, "undone");

    it.killed(ONE_MEBIBYTE, &[&it.stamp]);
    it.killed(ONE_MEBIBYTE, &["--resume"]);
    it.go_on("--undo");
    it.state().assert_same(&it.after, "undone after an interrupted resume");
    it.runtime.restore(&it.stamp, &[]);
    it.state().assert_same(&it.before, "restored in the end");
}
