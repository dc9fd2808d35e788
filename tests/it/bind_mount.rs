//! Targets that are bind mounts, as a container sees them: they cannot be removed or renamed, only written into.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::command::binary;
use crate::support::mount::{namespace, succeed};
use crate::support::{Runtime, TreeState};

/// A script in a mount namespace that knows the runtime's places.
fn script(runtime: &Runtime, stamp: &str, text: &str) -> Option<Command> {
    let mut command = namespace()?;
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("STAMP", stamp);
    command.env("DB", runtime.db()).env("REGISTRY", runtime.registry()).env("CHROMA", runtime.chroma());
    command.env("BACKING", runtime.path().join("backing"));
    command.env("ATOCORE_BACKUP_DIR", runtime.repo()).env("ATOCORE_DATA_DIR", runtime.data());
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
    Some(command)
}

/// Moves database, registry and vector store into `backing/` and leaves empty places to mount them at.
fn move_to_backing(runtime: &Runtime) {
    let backing = runtime.path().join("backing");
    fs::create_dir(&backing).unwrap();
    for path in [runtime.db(), runtime.registry(), runtime.chroma()] {
        let is_directory = path.is_dir();
        fs::rename(&path, backing.join(path.file_name().unwrap())).unwrap();
        if is_directory { fs::create_dir(&path).unwrap() } else { fs::write(&path, "").unwrap() }
    }
}

#[test]
fn a_bind_mounted_chroma_directory_is_restored_in_place() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let before = TreeState::logical(&runtime.chroma()).without_directory_times();
    runtime.store().append(30);
    fs::remove_file(runtime.store().file("length.bin")).unwrap();
    fs::write(runtime.chroma().join("stranger"), "x").unwrap();
    move_to_backing(&runtime);
    fs::rename(runtime.path().join("backing/atocore.db"), runtime.db()).unwrap();
    fs::rename(runtime.path().join("backing/project-registry.json"), runtime.registry()).unwrap();
    let chroma = runtime.path().join("backing/chroma");
    let inode = fs::metadata(&chroma).unwrap().ino();

    let text = "mount --bind \"$BACKING/chroma\" \"$CHROMA\"\n\
        busy=$(LC_ALL=C rmdir \"$CHROMA\" 2>&1 || true)\n\
        echo \"$busy\" | grep -q 'resource busy' || { echo \"this is no bind mount: $busy\" >&2; exit 1; }\n\
        \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --json\n\
        stat -c 'inode %i' \"$CHROMA\"";
    let Some(mut command) = script(&runtime, &stamp, text) else { return };
    let printed = succeed(&mut command);
    assert!(printed.contains("\"chroma_restored\": true"), "{printed}");
    assert!(printed.contains(&format!("inode {inode}")), "{printed}");
    TreeState::logical(&chroma).without_directory_times().assert_same(&before, "restored through the mount");
    assert_eq!(fs::metadata(&chroma).unwrap().ino(), inode);
}

#[test]
fn database_and_registry_as_bind_mounted_files_are_restored_in_place() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let registry = fs::read(runtime.registry()).unwrap();
    runtime.remember("marker");
    runtime.write_registry("p02");
    move_to_backing(&runtime);
    let backing = runtime.path().join("backing");
    let places = [backing.join("atocore.db"), backing.join("project-registry.json"), backing.join("chroma")];
    let inodes = || places.clone().map(|path| fs::metadata(path).unwrap().ino());
    let before = inodes();

    let text = "mount --bind \"$BACKING/atocore.db\" \"$DB\"\n\
        mount --bind \"$BACKING/project-registry.json\" \"$REGISTRY\"\n\
        mount --bind \"$BACKING/chroma\" \"$CHROMA\"\n\
        \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --json";
    let Some(mut command) = script(&runtime, &stamp, text) else { return };
    let printed = succeed(&mut command);
    assert!(printed.contains("\"restored_integrity_ok\": true"), "{printed}");
    assert_eq!(inodes(), before);
    assert_eq!(crate::support::runtime::memories_of(&backing.join("atocore.db")), ["first"]);
    assert_eq!(fs::read(backing.join("project-registry.json")).unwrap(), registry);
}

#[test]
fn a_further_mount_inside_the_tree_is_refused() {
    let runtime = Runtime::new();
    fs::create_dir(runtime.chroma().join("inner")).unwrap();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("marker");
    fs::create_dir(runtime.path().join("backing")).unwrap();
    fs::write(runtime.path().join("backing/precious"), "precious").unwrap();
    let before = runtime.live_state();

    let text = "mount --bind \"$BACKING\" \"$CHROMA/inner\"\n\
        code=0; \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --json 2>&1 || code=$?\n\
        echo \"exit $code\"";
    let Some(mut command) = script(&runtime, &stamp, text) else { return };
    let printed = succeed(&mut command);
    assert!(printed.contains("exit 5"), "{printed}");
    assert!(printed.contains("mount") && printed.contains("inner"), "{printed}");
    runtime.live_state().assert_same(&before, "after the refusal");
    assert_eq!(fs::read(runtime.path().join("backing/precious")).unwrap(), b"precious");
}
