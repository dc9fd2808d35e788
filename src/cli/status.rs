//! `vecsnap status`: how things stand, and the dead-man check for cron.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::arguments::StatusArguments;
use super::exit::Exit;
use super::output::Form;
use super::session::Session;
use super::show;
use crate::error::Result;
use crate::format::intent::Intent;
use crate::store::intents;
use crate::upkeep::status::{Absence, KnownSnapshot, LeftOut, SpaceNeed, SpaceUse, StandingDamage, Status, status};

/// Shows how things stand.
///
/// # Errors
/// Those of [`status`]. A last sound snapshot that is older than `--max-age` is no error but [`Exit::Failed`].
pub fn run(session: &Session<'_>, arguments: &StatusArguments) -> Result<Exit> {
    let locations = session.locations();
    let root = session.repository()?;
    let now = Utc::now();
    let live = locations.sources().ok();
    let status = status(&root, live.as_ref(), now)?;
    let overdue = arguments.max_age.and_then(|most| overdue(&root, &status, most, now));
    let exit = if overdue.is_some() { Exit::Failed } else { Exit::Done };
    session.print(&document(&root, &status, arguments.max_age, now), exit)?;
    if let Some(overdue) = &overdue {
        tracing::error!("{overdue}");
    }
    if session.form(exit) == Form::Nothing {
        attention(&root, &status, now).iter().for_each(|sentence| tracing::error!("{sentence}"));
    }
    Ok(exit)
}

/// Why the dead-man check fails, if it does.
fn overdue(root: &Path, status: &Status, most: Duration, now: DateTime<Utc>) -> Option<String> {
    let most_text = humantime::format_duration(most);
    let advice = "find out why `vecsnap create` does not run or fails";
    let Some(sound) = &status.last_sound else {
        let root = root.display();
        return Some(match status.exists {
            true => {
                format!("{root} holds no sound snapshot at all, and one of the last {most_text} is wanted; {advice}")
            }
            false => format!("there is no repository at {root}, so no snapshot of the last {most_text}; {advice}"),
        });
    };
    let age = age(sound, now);
    (age > most.as_secs()).then(|| {
        let age = humantime::format_duration(Duration::from_secs(age));
        let newer = match &status.last {
            Some(last) if last.stamp != sound.stamp => format!(" ({} is newer but not sound)", last.stamp),
            _ => String::new(),
        };
        format!("the last sound snapshot, {}, is {age} old{newer}, more than {most_text}; {advice}", sound.stamp)
    })
}

/// Seconds since a snapshot was taken.
fn age(snapshot: &KnownSnapshot, now: DateTime<Utc>) -> u64 {
    seconds_since(snapshot.stamp.time(), now)
}

fn seconds_since(time: DateTime<Utc>, now: DateTime<Utc>) -> u64 {
    u64::try_from(now.signed_duration_since(time).num_seconds()).unwrap_or(0)
}

fn document(root: &Path, status: &Status, max_age: Option<Duration>, now: DateTime<Utc>) -> Value {
    json!({
        "repository": root.display().to_string(),
        "exists": status.exists,
        "attention": attention(root, status, now),
        "last_snapshot": status.last.as_ref().map(|last| snapshot(last, now)),
        "last_sound_stamp": status.last_sound.as_ref().map(|sound| sound.stamp.to_string()),
        "last_sound_age_s": status.last_sound.as_ref().map(|sound| age(sound, now)),
        "max_age_s": max_age.map(|most| most.as_secs()),
        "within_max_age": max_age.map(|most| overdue(root, status, most, now).is_none()),
        "last_chroma_snapshot": status.last_chroma.as_ref().map(|last| snapshot(last, now)),
        "snapshots_in_future": status.in_future,
        "pending_restore": status.pending.as_ref().map(pending),
        "last_validation": status.validation.as_ref().map(|last| aged(json!(last), now)),
        "last_drill": status.drill.as_ref().map(|last| aged(json!(last), now)),
        "space": status.room.iter().map(room).collect::<Vec<_>>(),
        "damaged_packs": status.damaged.files,
        "damaged_packs_bytes": status.damaged.bytes,
    })
}

/// Everything that somebody should look after, a sentence each.
fn attention(root: &Path, status: &Status, now: DateTime<Utc>) -> Vec<String> {
    let mut sentences = Vec::new();
    if !status.exists {
        let root = root.display();
        sentences.push(format!("there is no repository at {root}; check --repo, or take the first snapshot"));
    }
    if status.exists && status.last.is_none() {
        sentences.push("there is no snapshot yet; take the first with `vecsnap create`".into());
    }
    if let Some(intent) = &status.pending {
        sentences.push(format!("the restore of {} is unfinished; {}", intent.stamp, ways_on(intent)));
    }
    if let Some(last) = status.last.as_ref().filter(|last| !last.is_sound()) {
        sentences.push(format!("the last snapshot, {}, is not sound; see `vecsnap validate {0}`", last.stamp));
    }
    sentences.extend(status.left_out.iter().map(|left_out| told_left_out(left_out, now)));
    sentences.extend(told_damage(&status.damage));
    if let Some(last) = status.drill.as_ref().filter(|last| !last.ok) {
        sentences.push(format!("the last drill failed; see `vecsnap drill {}`", last.stamp));
    }
    if status.damaged.files > 0 {
        sentences.push(format!("{} damaged packs were set aside; see `vecsnap validate --all`", status.damaged.files));
    }
    if status.in_future > 0 {
        let number = status.in_future;
        sentences.push(format!("{number} snapshots are dated in the future and do not count; check the clock"));
    }
    for room in status.room.iter().filter(|room| room.free < room.needed_at_most) {
        let purpose = match room.purpose {
            SpaceUse::Snapshot => "a snapshot in which everything is new",
            SpaceUse::Restore => "a restore",
        };
        sentences.push(format!("{purpose} may not fit on the file system of {}; make room", room.path.display()));
    }
    sentences
}

/// That damage stands, a sentence for each validation that found some.
fn told_damage(damage: &[StandingDamage]) -> Vec<String> {
    let mut found: BTreeMap<&str, Vec<&StandingDamage>> = BTreeMap::new();
    for damage in damage {
        found.entry(&damage.at).or_default().push(damage);
    }
    let tell = |(at, damage): (&str, Vec<&StandingDamage>)| match damage.as_slice() {
        [StandingDamage { stamp: Some(stamp), .. }] => {
            format!("a validation found damage in {stamp} at {at}; see `vecsnap validate {stamp}`")
        }
        [StandingDamage { stamp: None, .. }] => {
            format!("a validation found damage in the repository at {at}; see `vecsnap validate --all`")
        }
        damage => {
            let number = damage.iter().filter(|damage| damage.stamp.is_some()).count();
            format!("a validation found damage at {at}, in {number} snapshots; see `vecsnap validate --all`")
        }
    };
    found.into_iter().map(tell).collect()
}

/// That the last snapshots that asked for a source lack it, and since when.
fn told_left_out(LeftOut { source, stamp, absence, holder }: &LeftOut, now: DateTime<Utc>) -> String {
    let since = match holder {
        Some(holder) => {
            let age = humantime::format_duration(Duration::from_secs(seconds_since(holder.time(), now)));
            format!("the last snapshot that holds it, {holder}, is {age} old")
        }
        None => "no snapshot holds it".into(),
    };
    match absence {
        Absence::Changing => format!(
            "{source} could not be captured in one piece for the snapshot {stamp}; {since}; \
             try `vecsnap create --chroma --freeze`, or a higher --max-block"
        ),
        Absence::Missing => format!(
            "{source} was not there when the snapshot {stamp} was taken; {since}; \
             check its path and whether its disk is mounted"
        ),
        Absence::Empty => format!(
            "{source} was empty when the snapshot {stamp} was taken; {since}; \
             check its path and whether its disk is mounted"
        ),
    }
}

fn ways_on(intent: &Intent) -> &'static str {
    intents::ways_on(intent.pre_restore_snapshot.as_ref().and_then(|stamp| stamp.parse().ok()))
}

fn snapshot(snapshot: &KnownSnapshot, now: DateTime<Utc>) -> Value {
    let sources = snapshot.manifest.as_ref().ok().map(|manifest| &manifest.sources);
    json!({
        "stamp": snapshot.stamp.to_string(),
        "age_s": age(snapshot, now),
        "sound": snapshot.is_sound(),
        "errors": snapshot.errors,
        "sources": sources.into_iter().flatten().map(show::source).collect::<Vec<_>>(),
    })
}

fn pending(intent: &Intent) -> Value {
    json!({
        "stamp": intent.stamp,
        "started_at": intent.started_at,
        "pre_restore_snapshot": intent.pre_restore_snapshot,
        "undo": intent.is_undo(),
        "targets": intent.targets.iter().map(|target| target.path.as_str()).collect::<Vec<_>>(),
        "advice": ways_on(intent),
    })
}

/// A record with its age behind the moment at which it was made.
fn aged(record: Value, now: DateTime<Utc>) -> Value {
    let Value::Object(record) = record else { return record };
    let mut told = Map::new();
    for (name, value) in record {
        let at = value.as_str().filter(|_| name == "at").and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        told.insert(name, value);
        if let Some(at) = at {
            told.insert("age_s".into(), json!(seconds_since(at.to_utc(), now)));
        }
    }
    Value::Object(told)
}

fn room(room: &SpaceNeed) -> Value {
    json!({
        "for": match room.purpose {
            SpaceUse::Snapshot => "snapshot",
            SpaceUse::Restore => "restore",
        },
        "path": room.path.display().to_string(),
        "free_bytes": room.free,
        "needed_at_most_bytes": room.needed_at_most,
        "enough": room.free >= room.needed_at_most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text;
    use crate::store::damaged::Aside;
    use crate::store::snapshots::ManifestFault;

    const NOW: &str = "2026-04-08T18:00:00Z";

    fn known(stamp: &str, errors: &[&str]) -> KnownSnapshot {
        let errors = errors.iter().map(|error| (*error).to_owned()).collect();
        KnownSnapshot { stamp: stamp.parse().unwrap(), manifest: Err(ManifestFault::Missing), errors }
    }

    #[test]
    fn the_dead_man_check_counts_from_the_last_sound_snapshot() {
        let now = NOW.parse().unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let mut status = Status::default();
        let said = |status: &Status, most| overdue(Path::new("/backup"), status, most, now);
        assert!(said(&status, hours(26)).unwrap().starts_with("there is no repository at /backup"));
        status.exists = true;
        assert!(said(&status, hours(26)).unwrap().contains("no sound snapshot at all"));
        status.last_sound = Some(known("20260407T180000Z", &[]));
        status.last = Some(known("20260408T170000Z", &["manifest_missing"]));
        assert_eq!(said(&status, hours(24)), None);
        let sentence = said(&status, hours(23)).unwrap();
        let start = "the last sound snapshot, 20260407T180000Z, is 1day old (20260408T170000Z is newer but not sound), more than 23h;";
        assert!(sentence.starts_with(start), "{sentence}");
    }

    #[test]
    fn the_document_and_the_text_say_what_wants_attention() {
        let status = Status {
            exists: true,
            last: Some(known("20260408T170000Z", &["manifest_missing"])),
            damaged: Aside { files: 2, bytes: 4096 },
            room: vec![SpaceNeed { purpose: SpaceUse::Snapshot, path: "/backup".into(), free: 10, needed_at_most: 20 }],
            ..Status::default()
        };
        let document = document(Path::new("/backup"), &status, Some(Duration::from_secs(60)), NOW.parse().unwrap());
        assert_eq!(document["attention"].as_array().unwrap().len(), 3, "{document:#}");
        let text = text::render(&document);
        assert!(text.contains("max_age_s             60 s\n") && text.contains("age_s    3600 s (60 min)\n"), "{text}");
    }

    #[test]
    fn a_repository_that_does_not_exist_or_is_empty_wants_attention() {
        let document = document(Path::new("/backup"), &Status::default(), None, NOW.parse().unwrap());
        assert!(document["attention"][0].as_str().unwrap().contains("no repository at /backup"), "{document:#}");
        let empty = Status { exists: true, ..Status::default() };
        let document = super::document(Path::new("/backup"), &empty, None, NOW.parse().unwrap());
        assert_eq!(document["attention"], json!(["there is no snapshot yet; take the first with `vecsnap create`"]));
    }

    #[test]
    fn a_record_tells_how_old_it_is() {
        let record = aged(json!({ "at": "2026-04-08T17:00:00.5+00:00", "ok": true }), NOW.parse().unwrap());
        assert_eq!(record.to_string(), r#"{"at":"2026-04-08T17:00:00.5+00:00","age_s":3599,"ok":true}"#);
    }
}
