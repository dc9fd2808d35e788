//! Several processes, and signals: who waits, who is told to come back, and what a stopped process leaves.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Runtime, noise};

#[test]
fn who_finds_the_repository_or_the_live_files_busy_waits_and_is_then_told() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    let restore = ["restore", stamp.as_str(), "--confirm-service-stopped", "--lock-wait", "1"];
    let blocked: [(&str, &[&[&str]]); 3] = [
        ("lock", &[&["create", "--lock-wait", "1"], &["validate", &stamp, "--lock-wait", "1"], &restore]),
        ("live.lock", &[&["create", "--lock-wait", "1"], &restore]),
        ("cleanup.lock", &[&["cleanup", "--confirm"]]),
    ];
    for (name, calls) in blocked {
        let lock = File::options().create(true).append(true).open(runtime.repo().join(name)).unwrap();
        lock.lock().unwrap();
        for call in calls {
            let began = Instant::now();
            let told = runtime.vecsnap(call).run().exits(6).prints_nothing();
            assert_eq!(told.stderr.contains("--lock-wait"), name != "cleanup.lock", "what would help: {told}");
            let waited = began.elapsed() >= Duration::from_millis(900);
            assert_eq!(waited, call.contains(&"--lock-wait"), "{name}: {call:?} after {:?}", began.elapsed());
        }
        runtime.vecsnap(&["list"]).run().exits(0);
    }
    runtime.create(&[]);
}

#[test]
fn a_create_goes_on_as_soon_as_the_lock_is_free() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    let lock = File::options().append(true).open(runtime.repo().join("lock")).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        let create = scope.spawn(|| runtime.create(&[]));
        thread::sleep(Duration::from_millis(500));
        assert_eq!(runtime.snapshots().len(), 1, "the lock was not respected");
        lock.unlock().unwrap();
        create.join().unwrap();
    });
    assert_eq!(runtime.snapshots().len(), 2);
}

#[test]
fn an_interrupted_create_exits_130_and_leaves_nothing_that_counts() {
    let runtime = Runtime::new();
    fs::write(runtime.chroma().join("big.bin"), noise::bytes("big", 150 << 20)).unwrap();
    for signal in ["INT", "TERM"] {
        let mut command = Command::new(crate::support::command::binary());
        command.args(["create", "--chroma"]).env("ATOCORE_BACKUP_DIR", runtime.repo());
        command.env("ATOCORE_DATA_DIR", runtime.data()).env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Its scratch directory is there once it works.
        let works = || fs::read_dir(runtime.repo().join("tmp")).is_ok_and(|mut runs| runs.next().is_some());
        let give_up = Instant::now() + Duration::from_secs(20);
        while !works() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{signal}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains("interrupted"), "{signal}: {stderr}");
        assert!(runtime.snapshots().is_empty(), "{signal}: an interrupted create published a snapshot");
        assert!(!works(), "{signal}: its scratch directory was left behind");
    }
    let stamp = runtime.create(&["--chroma"]);
    assert_eq!(runtime.vecsnap(&["validate", &stamp]).json()["valid"], true);
}
