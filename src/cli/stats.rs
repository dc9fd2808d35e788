//! `vecsnap stats`: what the repository costs, by snapshot and by source, and what cleanup would free.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::arguments::StatsArguments;
use super::exit::Exit;
use super::session::Session;
use crate::error::{Error, Result};
use crate::format::manifest::SnapshotKind;
use crate::id::Stamp;
use crate::upkeep::cleanup::{self, CleanupReport};
use crate::upkeep::stats::{ChainDepth, Chains, SnapshotShare, SourceShare, Statistics, statistics};

/// Shows the statistics.
///
/// # Errors
/// Those of [`statistics`] and of [`cleanup::preview`]; bad usage. What is damaged is in the document:
/// [`Exit::Failed`].
pub fn run(session: &Session<'_>, arguments: &StatsArguments) -> Result<Exit> {
    let root = session.repository()?;
    let rules = arguments.keep.rules()?;
    let statistics = statistics(&root, session.lock_wait(), session.progress)?;
    let cleanup = match cleanup::preview(&root, &rules, session.lock_wait(), session.progress) {
        Ok(report) => would_do(&report),
        // An unfinished restore keeps cleanup from running, but hides nothing of the repository.
        Err(Error::Refused(cause)) => refused(&cause),
        Err(error) => return Err(error),
    };
    let exit = if statistics.errors.is_empty() { Exit::Done } else { Exit::Failed };
    session.print(&document(&root, &statistics, &cleanup, Utc::now()), exit)?;
    Ok(exit)
}

/// The result document; its fields are described in docs/operations.md.
fn document(root: &Path, statistics: &Statistics, cleanup: &Value, now: DateTime<Utc>) -> Value {
    let stamps = || statistics.snapshots.iter().map(|snapshot| snapshot.stamp);
    let (oldest, newest) = (stamps().next(), stamps().next_back());
    let age = |stamp: Option<Stamp>| stamp.map(|stamp| now.signed_duration_since(stamp.time()).num_seconds().max(0));
    let pre_restore = statistics.snapshots.iter().filter(|snapshot| snapshot.kind == SnapshotKind::PreRestore);
    let logical = statistics.logical_bytes();
    json!({
        "repository": root.display().to_string(),
        "snapshots": statistics.snapshots.len(),
        "pre_restore_snapshots": pre_restore.count(),
        "full_copies": statistics.full_copies,
        "oldest": oldest.map(|stamp| stamp.to_string()),
        "oldest_age_s": age(oldest),
        "newest": newest.map(|stamp| stamp.to_string()),
        "newest_age_s": age(newest),
        "packs": statistics.packs,
        "logical_bytes": logical,
        "stored_bytes": statistics.stored_bytes,
        "needed_bytes": statistics.needed_bytes,
        "full_copy_ratio": ratio(logical, statistics.stored_bytes),
        "by_snapshot": statistics.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        "by_source": statistics.sources.iter().map(source).collect::<Vec<_>>(),
        "chains": chains(&statistics.chains),
        "cleanup": cleanup,
        "errors": statistics.errors,
    })
}

/// How many times over the full copies would take what is stored, to two places; null where nothing is.
fn ratio(logical: u64, stored: u64) -> Option<f64> {
    (stored > 0).then(|| (logical as f64 / stored as f64 * 100.0).round() / 100.0)
}

fn snapshot(snapshot: &SnapshotShare) -> Value {
    json!({
        "stamp": snapshot.stamp.to_string(),
        "kind": match snapshot.kind {
            SnapshotKind::Ordinary => "ordinary",
            SnapshotKind::PreRestore => "pre-restore",
        },
        "logical_bytes": snapshot.logical_bytes,
        "added_bytes": snapshot.added_bytes,
        "only_bytes": snapshot.only_bytes,
    })
}

fn source(source: &SourceShare) -> Value {
    json!({
        "source": source.name,
        "snapshots": source.snapshots,
        "logical_bytes": source.logical_bytes,
        "stored_bytes": source.stored_bytes,
    })
}

fn chains(chains: &Chains) -> Value {
    let deltas = || chains.depths.iter().filter(|row| row.depth > 0);
    json!({
        "whole_blobs": chains.depths.iter().filter(|row| row.depth == 0).map(|row| row.blobs).sum::<u64>(),
        "delta_blobs": deltas().map(|row| row.blobs).sum::<u64>(),
        "lost_blobs": chains.lost,
        "max_depth": chains.depths.last().map_or(0, |row| row.depth),
        "depths": by_powers_of_two(&chains.depths),
    })
}

/// The depths in classes 0, 1, 2 to 3, 4 to 7 and so on; classes without blobs are left out.
fn by_powers_of_two(depths: &[ChainDepth]) -> Vec<Value> {
    let class = |depth: u32| u32::BITS - depth.leading_zeros();
    let classes = depths.chunk_by(|left, right| class(left.depth) == class(right.depth));
    let row = |rows: &[ChainDepth]| {
        let class = class(rows.first()?.depth);
        let (from, to) = (1_u32.checked_shl(class)? >> 1, (1_u32.checked_shl(class)?) - 1);
        Some(json!({
            "from_depth": from,
            "to_depth": to,
            "blobs": rows.iter().map(|row| row.blobs).sum::<u64>(),
            "stored_bytes": rows.iter().map(|row| row.stored_bytes).sum::<u64>(),
        }))
    };
    classes.filter_map(row).collect()
}

fn would_do(report: &CleanupReport) -> Value {
    json!({
        "kept": report.kept,
        "would_delete": report.deleted.len(),
        "would_free_bytes": report.freed_bytes,
        "errors": report.errors,
    })
}

fn refused(cause: &str) -> Value {
    json!({ "kept": null, "would_delete": null, "would_free_bytes": null, "errors": [cause] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text;

    fn statistics() -> Statistics {
        let share = |stamp: &str, kind, bytes| SnapshotShare {
            stamp: stamp.parse().unwrap(),
            kind,
            logical_bytes: 1000,
            added_bytes: bytes,
            only_bytes: bytes / 2,
        };
        let depth = |depth, blobs| ChainDepth { depth, blobs, stored_bytes: blobs * 10 };
        Statistics {
            snapshots: vec![
                share("20260406T180000Z", SnapshotKind::Ordinary, 400),
                share("20260407T180000Z", SnapshotKind::PreRestore, 20),
            ],
            sources: vec![SourceShare { name: "db".into(), snapshots: 2, logical_bytes: 2000, stored_bytes: 420 }],
            full_copies: 1,
            packs: 2,
            stored_bytes: 600,
            needed_bytes: 420,
            chains: Chains { depths: vec![depth(0, 5), depth(1, 3), depth(2, 1), depth(3, 1), depth(9, 2)], lost: 0 },
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_document_has_every_figure_under_a_stable_name() {
        let document = document(
            Path::new("/backup"),
            &statistics(),
            &refused("a restore is unfinished"),
            "2026-04-08T18:00:00Z".parse().unwrap(),
        );
        let expected = json!({
            "repository": "/backup",
            "snapshots": 2,
            "pre_restore_snapshots": 1,
            "full_copies": 1,
            "oldest": "20260406T180000Z",
            "oldest_age_s": 172_800,
            "newest": "20260407T180000Z",
            "newest_age_s": 86_400,
            "packs": 2,
            "logical_bytes": 2000,
            "stored_bytes": 600,
            "needed_bytes": 420,
            "full_copy_ratio": 3.33,
            "by_snapshot": [
                { "stamp": "20260406T180000Z", "kind": "ordinary", "logical_bytes": 1000, "added_bytes": 400, "only_bytes": 200 },
                { "stamp": "20260407T180000Z", "kind": "pre-restore", "logical_bytes": 1000, "added_bytes": 20, "only_bytes": 10 },
            ],
            "by_source": [{ "source": "db", "snapshots": 2, "logical_bytes": 2000, "stored_bytes": 420 }],
            "chains": {
                "whole_blobs": 5,
                "delta_blobs": 7,
                "lost_blobs": 0,
                "max_depth": 9,
                "depths": [
                    { "from_depth": 0, "to_depth": 0, "blobs": 5, "stored_bytes": 50 },
                    { "from_depth": 1, "to_depth": 1, "blobs": 3, "stored_bytes": 30 },
                    { "from_depth": 2, "to_depth": 3, "blobs": 2, "stored_bytes": 20 },
                    { "from_depth": 8, "to_depth": 15, "blobs": 2, "stored_bytes": 20 },
                ],
            },
            "cleanup": {
                "kept": null,
                "would_delete": null,
                "would_free_bytes": null,
                "errors": ["a restore is unfinished"],
            },
            "errors": [],
        });
        assert_eq!(serde_json::to_string_pretty(&document).unwrap(), serde_json::to_string_pretty(&expected).unwrap());
        let text = text::render(&document);
        assert!(text.contains("oldest_age_s           172800 s (2 d)\n"), "{text}");
        assert!(text.contains("  20260407T180000Z  pre-restore  1000 bytes     20 bytes     10 bytes\n"), "{text}");
    }

    #[test]
    fn an_empty_repository_has_zeros_and_nothing_to_compare() {
        let document = document(Path::new("/backup"), &Statistics::default(), &Value::Null, Utc::now());
        assert_eq!((&document["snapshots"], &document["stored_bytes"]), (&json!(0), &json!(0)));
        assert_eq!((&document["full_copy_ratio"], &document["newest"]), (&Value::Null, &Value::Null));
        assert_eq!(document["chains"]["depths"], json!([]));
    }
}
