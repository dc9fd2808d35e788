//! No promise without a test: those that `docs/durability.md` names exist.

use std::fs;
use std::path::Path;

/// What stands in backticks in the rows of tables whose last column names tests.
fn named_tests(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(3));
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

fn file_of(name: &str) -> (String, Option<&str>) {
    let (file, test) = name.split_once("::").map_or((name, None), |(file, test)| (file, Some(test)));
    let path = if file.ends_with(".rs") { file.to_owned() } else { format!("tests/it/{file}.rs") };
    (path, test)
}

#[test]
fn every_test_that_the_page_on_durability_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/durability.md")).unwrap();
    let promised = page.split("## What is promised").nth(1).unwrap().split("## When an operation").next().unwrap();
    let named = named_tests(promised);
    assert!(named.len() > 20, "the table is not read: {named:?}");
    for name in named {
        let (path, test) = file_of(name);
        let code = fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(test) = test {
            let is_there = code.split("#[test]").skip(1).any(|after| after.contains(&format!("fn {test}(")));
            assert!(is_there, "there is no test {name}");
        }
    }
}
