//! The rooms of the crate depend on each other one way, and no file grows beyond what one reads in a sitting.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::damage::files_below;

/// The rooms from the bottom up; those of one line do not know each other.
const LAYERS: [&[&str]; 9] = [
    &["error", "id", "progress"],
    &["format"],
    &["disk"],
    &["chunk"],
    &["store"],
    &["save"],
    &["restore"],
    &["upkeep"],
    &["cli"],
];

/// `progress` fails with an interruption, and ids that cannot be parsed are usage errors.
const WITHIN_A_LAYER: [(&str, &str); 2] = [("progress", "error"), ("id", "error")];

const LONGEST_FILE: usize = 500;
const LONGEST_MAIN: usize = 40;
/// Characters of a line: `max_width` of rustfmt.toml.
const WIDEST: usize = 120;

fn source_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// The room that a file belongs to; `None` for the roots of the library and of the binary.
fn room_of(file: &Path) -> Option<String> {
    let first = file.strip_prefix(source_directory()).unwrap().components().next().unwrap();
    let name = Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned();
    (name != "lib" && name != "main").then_some(name)
}

/// The rooms that a file's code names: `crate::room` and the first names inside `crate::{…}`.
fn rooms_named_in(code: &str) -> Vec<String> {
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut rooms = Vec::new();
    for (place, _) in code.match_indices("crate::") {
        let is_part_of_a_longer_name = code[..place].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_part_of_a_longer_name {
            continue;
        }
        let rest = &code[place + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => rooms.extend(first_names(group)),
            None => rooms.push(name_at(rest)),
        }
    }
    rooms
}

/// The first name of each path of a group, after its opening brace.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (place, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(name_at(group[start..place].trim()));
                start = place + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn name_at(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// How often `super::` is said in a row outside of tests, and how often it may be before it leads out of the room.
fn climbs(file: &Path, code: &str) -> (usize, usize) {
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let most = (1..10).take_while(|times| code.contains(&"super::".repeat(*times))).count();
    let inside = file.strip_prefix(source_directory()).unwrap().components().count();
    (most, inside - usize::from(file.ends_with("mod.rs")) - 1)
}

/// What is wrong with a file of this room that names that one.
fn offence(room: &str, named: &str) -> Option<String> {
    let (Some(own), Some(other)) = (layer_of(room), layer_of(named)) else {
        // Items that the root of the library re-exports belong to rooms as well.
        return (!named.starts_with(char::is_uppercase)).then(|| format!("{room} or {named} is no known room"));
    };
    let allowed = room == named || other < own || WITHIN_A_LAYER.contains(&(room, named));
    (!allowed).then(|| format!("{room} must not use {named}"))
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let mut offences = Vec::new();
    for file in files_below(&source_directory()) {
        let code = fs::read_to_string(&file).unwrap();
        let Some(room) = room_of(&file) else { continue };
        let named = rooms_named_in(&code);
        let (most, allowed) = climbs(&file, &code);
        if most > allowed {
            offences.push((file.clone(), format!("`super::` {most} times in a row leads out of {room}")));
        }
        offences.extend(named.iter().filter_map(|named| Some((file.clone(), offence(&room, named)?))));
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn the_reader_of_references_finds_every_way_to_name_a_room() {
    let code = "use crate::disk::{held, stat};\nuse crate::{error::Error, store::{a, b}, Result};\n\
                // crate::comment\nlet x = crate::save::create(); $crate_::no; my_crate::no; pub(crate) fn f() {}";
    assert_eq!(rooms_named_in(code), ["disk", "error", "store", "Result", "save"]);
    assert_eq!(offence("store", "save").as_deref(), Some("store must not use save"));
    assert_eq!(offence("error", "id").as_deref(), Some("error must not use id"));
    let climbing = "use super::super::disk::lock;\n#[cfg(test)]\nmod tests {\nuse super::super::super::x;";
    assert_eq!(climbs(&source_directory().join("store/index.rs"), climbing), (2, 1));
    assert_eq!(climbs(&source_directory().join("store/mod.rs"), "use super::disk"), (1, 0));
    assert!(offence("attic", "disk").is_some());
    assert!(offence("save", "store").is_none() && offence("save", "save").is_none());
}

#[test]
fn no_file_is_too_long() {
    for file in files_below(&source_directory()) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        let limit = if file.ends_with("src/main.rs") { LONGEST_MAIN } else { LONGEST_FILE };
        assert!(lines <= limit, "{} has {lines} lines, more than {limit}", file.display());
    }
}

/// The formatter wraps code alone.
#[test]
fn no_comment_is_too_wide() {
    for file in files_below(&source_directory()) {
        for (number, line) in (1..).zip(fs::read_to_string(&file).unwrap().lines()) {
            let width = line.chars().count();
            let is_comment = line.trim_start().starts_with("//");
            assert!(!is_comment || width <= WIDEST, "{}:{number} has {width} characters", file.display());
        }
    }
}
