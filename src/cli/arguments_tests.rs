//! What the command line accepts and what it rejects, as tables of lines.

use super::*;
use crate::upkeep::retention::{KeepCounts, Rules};

fn parsed(line: &str) -> Invocation {
    parse(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn rejected(line: &str) -> clap::Error {
    parse(line.split_whitespace()).expect_err(line)
}

fn restore(line: &str) -> RestoreArguments {
    match parsed(line).command {
        Command::Restore(arguments) => arguments,
        other => panic!("{line} became {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn without_a_command_create_runs_with_its_own_options() {
    let plain = CreateArguments::default();
    let chroma = CreateArguments { chroma: true, ..CreateArguments::default() };
    let both = CreateArguments { chroma: true, check: true, ..CreateArguments::default() };
    let table = [
        ("vecsnap", &plain),
        ("vecsnap --quiet", &plain),
        ("vecsnap create", &plain),
        ("vecsnap --chroma", &chroma),
        ("vecsnap --json --chroma --repo /r", &chroma),
        ("vecsnap create --chroma --check", &both),
        ("vecsnap --chroma create --check", &both),
    ];
    for (line, expected) in table {
        assert_eq!(parsed(line).command, Command::Create(expected.clone()), "{line}");
    }
}

#[test]
fn options_of_every_command_stand_before_or_after_it() {
    for line in [
        "vecsnap --json --repo /r --db /d --registry /g --chroma-dir /c --lock-wait 5 -v list",
        "vecsnap list --json --repo /r --db /d --registry /g --chroma-dir /c --lock-wait 5 -v",
        "vecsnap --json --repo=/r --lock-wait=5 list -v --db=/d --registry=/g --chroma-dir=/c",
    ] {
        let Invocation { globals, command } = parsed(line);
        assert_eq!(command, Command::List, "{line}");
        assert!(globals.json, "{line}");
        assert_eq!(globals.verbose, 1, "{line}");
        assert_eq!(globals.lock_wait, Duration::from_secs(5), "{line}");
        let LocationArguments { repo, db, registry, chroma_dir } = globals.locations;
        let places = [repo, db, registry, chroma_dir].map(|place| place.unwrap().display().to_string());
        assert_eq!(places, ["/r", "/d", "/g", "/c"], "{line}");
    }
    assert_eq!(parsed("vecsnap list").globals.lock_wait, Duration::from_secs(60));
}

#[test]
fn wrong_calls_exit_with_2() {
    for line in [
        "vecsnap lst",
        "vecsnap --nope",
        "vecsnap --chroma list",
        "vecsnap --check cleanup",
        "vecsnap list extra",
        "vecsnap show",
        "vecsnap validate",
        "vecsnap validate ..",
        "vecsnap validate a/b",
        "vecsnap validate latest --quick --recheck",
        "vecsnap validate latest --all",
        "vecsnap validate latest --sample 5%",
        "vecsnap validate --all --sample 0%",
        "vecsnap validate --all --sample 101",
        "vecsnap validate --all --sample x",
        "vecsnap validate --all --seed 1",
        "vecsnap repair --confirm --dry-run",
        "vecsnap restore",
        "vecsnap restore ../x --confirm-service-stopped",
        "vecsnap restore latest --chroma --no-chroma",
        "vecsnap restore latest --undo",
        "vecsnap restore latest --resume",
        "vecsnap restore --resume --undo",
        "vecsnap restore --undo --to /x",
        "vecsnap cleanup --confirm --dry-run",
        "vecsnap cleanup --keep-daily many",
        "vecsnap cleanup --keep-daily -1",
        "vecsnap --lock-wait soon",
        "vecsnap --quiet --verbose",
        "vecsnap --color sometimes",
        "vecsnap completions basic",
        "vecsnap --repo",
    ] {
        assert_eq!(rejected(line).exit_code(), 2, "{line}");
    }
    assert_eq!(parse(["vecsnap", "validate", ""]).unwrap_err().exit_code(), 2);
    assert_eq!(parse(["vecsnap", "--repo", "", "list"]).unwrap_err().exit_code(), 2);
}

#[test]
fn help_and_version_exit_with_0_and_every_command_shows_an_example() {
    assert_eq!(rejected("vecsnap --version").exit_code(), 0);
    assert_eq!(rejected("vecsnap --help").exit_code(), 0);
    let commands = Arguments::command();
    assert!(commands.get_subcommands().count() >= 11);
    for command in commands.get_subcommands() {
        let name = command.get_name();
        let help = rejected(&format!("vecsnap {name} --help"));
        assert_eq!(help.exit_code(), 0, "{name}");
        assert!(help.to_string().contains(&format!("vecsnap {name}")), "{name}");
        let example = help.to_string().split_once("Example").map(|(_, example)| example.to_owned());
        assert!(example.is_some_and(|example| example.contains(&format!("vecsnap {name}"))), "{name} has no example");
    }
}

#[test]
fn the_examples_in_the_help_parse() {
    for command in Arguments::command().get_subcommands() {
        let after = command.get_after_help().unwrap().to_string();
        for line in after.lines().map(str::trim).filter(|line| line.starts_with("vecsnap ")) {
            let call = line.split(['|', '>']).next().unwrap();
            parsed(call);
        }
    }
}

#[test]
fn a_restore_without_confirmation_parses_and_is_then_refused() {
    let refusal = restore("vecsnap restore latest").check_confirmation().unwrap_err();
    assert!(matches!(refusal, Error::Refused(_)));
    assert!(refusal.to_string().contains("confirm_service_stopped"), "{refusal}");
    assert!(restore("vecsnap restore --undo").check_confirmation().is_err());
    assert!(restore("vecsnap restore --resume").check_confirmation().is_err());
    for harmless in ["--confirm-service-stopped", "--dry-run", "--to /x"] {
        assert!(restore(&format!("vecsnap restore latest {harmless}")).check_confirmation().is_ok(), "{harmless}");
    }
}

#[test]
fn a_restore_takes_every_option_of_the_contract() {
    let all = restore(
        "vecsnap restore 20260406T180000Z --confirm-service-stopped --no-pre-snapshot --no-chroma --dry-run --no-owner \
         --break-links --force --accept-invalid",
    );
    let expected = RestoreArguments {
        stamp: Some("20260406T180000Z".parse().unwrap()),
        confirm_service_stopped: true,
        no_pre_snapshot: true,
        chroma: false,
        no_chroma: true,
        dry_run: true,
        to: None,
        no_owner: true,
        force: true,
        break_links: true,
        accept_suspect: false,
        accept_invalid: true,
        resume: false,
        undo: false,
    };
    assert_eq!(all, expected);
    assert_eq!(restore("vecsnap restore latest --no-owner --to /x").to, Some(PathBuf::from("/x")));
    assert!(restore("vecsnap restore --undo --confirm-service-stopped").undo);
    assert_eq!(restore("vecsnap restore --resume --confirm-service-stopped").stamp, None);
}

#[test]
fn keep_options_become_retention_rules() {
    let keep = |line: &str| match parsed(line).command {
        Command::Cleanup(arguments) => arguments.keep.rules(),
        other => panic!("{line} became {other:?}"),
    };
    assert_eq!(keep("vecsnap cleanup").unwrap(), Rules::default());
    let counts = KeepCounts { last: Some(1), hourly: Some(2), daily: Some(3), weekly: Some(4), monthly: Some(5) };
    let line = "vecsnap cleanup --keep-last 1 --keep-hourly 2 --keep-daily 3 --keep-weekly 4 --keep-monthly 5";
    assert_eq!(keep(line).unwrap(), Rules::of(&counts).unwrap());
    assert!(matches!(keep("vecsnap cleanup --keep-last 0 --confirm"), Err(Error::Usage(_))));
}
