//! Restores where the medium has no room or may hardly be written.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::Runtime;
use crate::support::command::binary;
use crate::support::mount::{namespace, succeed};

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
