//! Restores where the medium has no room or may hardly be written.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::command::binary;
use crate::support::mount::{namespace, succeed};
use crate::support::{Runtime, noise};

#[test]
fn without_room_for_the_way_back_nothing_is_touched_and_the_way_on_is_named() {
    let runtime = Runtime::new();
    fs::create_dir(runtime.repo()).unwrap();
    let text = "mount -t tmpfs -o size=16m tmpfs \"$REPO\"\n\
        \"$VECSNAP\" create --chroma --json > \"$OUT/created\"\n\
        printf changed > \"$REGISTRY\"\n\
        cp \"$DB\" \"$OUT/db\"\n\
        free=$(df --output=avail -k \"$REPO\" | tail -n 1)\n\
        dd if=/dev/zero of=\"$REPO/ballast\" bs=1k count=$((free - 64)) 2>/dev/null\n\
        code=0; \"$VECSNAP\" restore latest --confirm-service-stopped --json 2>\"$OUT/stderr\" || code=$?\n\
        test $code = 1 || { echo \"exit $code\" >&2; cat \"$OUT/stderr\" >&2; exit 1; }\n\
        test \"$(cat \"$REGISTRY\")\" = changed; cmp \"$DB\" \"$OUT/db\"\n\
        test \"$(ls \"$REPO/snapshots\" | wc -l)\" = 1\n\
        \"$VECSNAP\" restore latest --confirm-service-stopped --no-pre-snapshot --json";
    let Some(mut command) = namespace() else { return };
    let out = runtime.path().join("out");
    fs::create_dir(&out).unwrap();
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("OUT", &out).env("REPO", runtime.repo());
    command.env("DB", runtime.db()).env("REGISTRY", runtime.registry());
    command.env("ATOCORE_BACKUP_DIR", runtime.repo()).env("ATOCORE_DATA_DIR", runtime.data());
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
    let printed = succeed(&mut command);
    assert!(printed.contains("\"restored_integrity_ok\": true"), "{printed}");
    let said = fs::read_to_string(out.join("stderr")).unwrap();
    assert!(said.contains("--no-pre-snapshot") && said.contains(" bytes "), "{said}");
    assert_eq!(runtime.registered(), "p01");
}

#[test]
fn room_that_the_way_back_takes_is_missed_before_anything_is_changed() {
    let runtime = Runtime::new();
    let vectors = runtime.chroma().join("large.bin");
    let replaced = runtime.chroma().join("replaced.bin");
    fs::write(&vectors, noise::bytes("large", 12_000_000)).unwrap();
    fs::write(&replaced, noise::bytes("old", 3_000_000)).unwrap();
    let stamp = runtime.create(&["--chroma"]);
    fs::remove_file(&vectors).unwrap();
    fs::write(&replaced, noise::bytes("new", 3_000_000)).unwrap();
    let text = "mkdir \"$OUT/medium\"; mount -t tmpfs -o size=64m tmpfs \"$OUT/medium\"; cd \"$OUT/medium\"\n\
        cp -a \"$DATA\" data; cp -a \"$REPO\" backup; cp -a data \"$OUT/before\"\n\
        export ATOCORE_DATA_DIR=\"$PWD/data\" ATOCORE_BACKUP_DIR=\"$PWD/backup\"\n\
        free=$(df --output=avail -k . | tail -n 1)\n\
        dd if=/dev/zero of=ballast bs=1k count=$((free - 13400)) 2>/dev/null\n\
        code=0; \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --json 2>\"$OUT/stderr\" || code=$?\n\
        test $code = 1 || { echo \"exit $code\" >&2; cat \"$OUT/stderr\" >&2; exit 1; }\n\
        diff -r data \"$OUT/before\"; test -z \"$(ls backup/intents)\"; test \"$(ls backup/snapshots | wc -l)\" = 2\n\
        rm -r \"backup/snapshots/$(ls backup/snapshots | tail -n 1)\"; \"$VECSNAP\" cleanup --confirm --quiet\n\
        \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --no-pre-snapshot --json; cp -a data \"$OUT/after\"";
    let Some(mut command) = namespace() else { return };
    let out = runtime.path().join("out");
    fs::create_dir(&out).unwrap();
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("OUT", &out).env("STAMP", &stamp);
    command.env("DATA", runtime.data()).env("REPO", runtime.repo());
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
    let printed = succeed(&mut command);
    assert!(printed.contains("\"restored_integrity_ok\": true"), "{printed}");
    let said = fs::read_to_string(out.join("stderr")).unwrap();
    let told = ["beside the pre-restore snapshot", "more bytes", "--no-pre-snapshot", "nothing was changed"];
    assert!(told.iter().all(|words| said.contains(words)), "{said}");
    assert_eq!(fs::read(out.join("after/chroma/large.bin")).unwrap(), noise::bytes("large", 12_000_000));
}

#[test]
fn targets_on_one_file_system_need_room_together() {
    let runtime = Runtime::new();
    fs::write(runtime.chroma().join("large.bin"), noise::bytes("large", 3_000_000)).unwrap();
    let rows = noise::bytes("rows", 3_000_000);
    runtime.connect().execute("INSERT INTO memories(project, content) VALUES ('p01', ?)", [rows]).unwrap();
    let stamp = runtime.create(&["--chroma"]);
    let text = "mkdir \"$OUT/medium\"; mount -t tmpfs -o size=5m tmpfs \"$OUT/medium\"\n\
        code=0; \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --json 2>\"$OUT/stderr\" || code=$?\n\
        test $code = 1 || { echo \"exit $code\" >&2; cat \"$OUT/stderr\" >&2; exit 1; }\n\
        test -z \"$(ls \"$OUT/medium\")\"";
    let Some(mut command) = namespace() else { return };
    let out = runtime.path().join("out");
    fs::create_dir(&out).unwrap();
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("OUT", &out).env("STAMP", &stamp);
    command.env("ATOCORE_BACKUP_DIR", runtime.repo()).env("ATOCORE_DATA_DIR", out.join("medium/data"));
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
    succeed(&mut command);
    let said = fs::read_to_string(out.join("stderr")).unwrap();
    assert!(said.contains("more bytes but has only") && said.contains("make room"), "{said}");
    assert_eq!(runtime.snapshots(), [stamp]);
}

#[test]
fn files_mounted_one_by_one_into_a_read_only_directory_are_restored() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    runtime.remember("marker");
    runtime.write_registry("p02");
    let inode = fs::metadata(runtime.db()).unwrap().ino();
    let container = runtime.path().join("container");
    fs::create_dir_all(container.join("db")).unwrap();
    for file in ["db/atocore.db", "registry.json"] {
        fs::write(container.join(file), "").unwrap();
    }
    let text = "mount --bind \"$CONTAINER\" \"$CONTAINER\"\n\
        mount --bind \"$DB\" \"$CONTAINER/db/atocore.db\"; mount --bind \"$REGISTRY\" \"$CONTAINER/registry.json\"\n\
        mount -o remount,bind,ro \"$CONTAINER\"\n\
        ! touch \"$CONTAINER/db/probe\" 2>/dev/null\n\
        \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped --json";
    let Some(mut command) = namespace() else { return };
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("STAMP", &stamp).env("CONTAINER", &container);
    command.env("DB", runtime.db()).env("REGISTRY", runtime.registry());
    command.env("ATOCORE_BACKUP_DIR", runtime.repo()).env("ATOCORE_DATA_DIR", &container);
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", container.join("registry.json"));
    let printed = succeed(&mut command);
    assert!(printed.contains("\"restored_integrity_ok\": true"), "{printed}");
    assert_eq!(fs::metadata(runtime.db()).unwrap().ino(), inode);
    assert_eq!((runtime.memories(), runtime.registered()), (vec!["first".to_owned()], "p01".to_owned()));
}

#[test]
fn a_tree_that_may_not_be_written_is_refused_before_anything_is_changed() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("marker");
    runtime.write_registry("p02");
    fs::write(runtime.chroma().join("stranger"), "x").unwrap();
    let before = runtime.live_state();
    let text = "mount --bind \"$CHROMA\" \"$CHROMA\"; mount -o remount,bind,ro \"$CHROMA\"\n\
        code=0; \"$VECSNAP\" restore \"$STAMP\" --confirm-service-stopped 2>\"$OUT\" || code=$?\n\
        test $code = 1 || { echo \"exit $code\" >&2; cat \"$OUT\" >&2; exit 1; }";
    let Some(mut command) = namespace() else { return };
    let out = runtime.path().join("stderr");
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("STAMP", &stamp).env("OUT", &out);
    command.env("CHROMA", runtime.chroma()).env("ATOCORE_BACKUP_DIR", runtime.repo());
    command.env("ATOCORE_DATA_DIR", runtime.data()).env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
    succeed(&mut command);
    let said = fs::read_to_string(&out).unwrap();
    assert!(said.contains(runtime.chroma().to_str().unwrap()) && said.contains("nothing was changed"), "{said}");
    runtime.live_state().assert_same(&before, "after the refusal");
    assert_eq!(runtime.snapshots(), [stamp], "no way back is needed where nothing changed");
    runtime.create(&[]);
}

#[test]
fn a_full_repository_is_named_by_a_create_that_finds_no_room() {
    let runtime = Runtime::new();
    runtime.remember(&"long ".repeat(40_000));
    fs::create_dir(runtime.repo()).unwrap();
    let text = "mount -t tmpfs -o size=64k tmpfs \"$ATOCORE_BACKUP_DIR\"\n\
        code=0; \"$VECSNAP\" create >\"$OUT.stdout\" 2>\"$OUT\" || code=$?\n\
        test $code = 1 -a ! -s \"$OUT.stdout\" || { echo \"exit $code\" >&2; cat \"$OUT\" >&2; exit 1; }\n\
        test -z \"$(ls \"$ATOCORE_BACKUP_DIR/snapshots\" \"$ATOCORE_BACKUP_DIR/tmp\" | grep -v :)\"";
    let Some(mut command) = namespace() else { return };
    let out = runtime.path().join("stderr");
    command.args(["sh", "-euc", text]).env("VECSNAP", binary()).env("OUT", &out);
    command.env("ATOCORE_BACKUP_DIR", runtime.repo()).env("ATOCORE_DATA_DIR", runtime.data());
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", runtime.registry());
    succeed(&mut command);
    let said = fs::read_to_string(&out).unwrap();
    assert!(said.contains(runtime.repo().to_str().unwrap()) && said.contains("make room"), "{said}");
}
