//! A cleanup after each of many snapshots, as cron does it: what that writes in the long run, and what is left.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::contender::Contender;
use super::many::{self, Cleanup};
use super::options::Options;
use super::report::Section;
use super::rows::Row;

/// Takes many snapshots and cleans up after each.
pub(crate) fn run(options: &Options, scratch: &Path) -> Section {
    let mut cleanups: Vec<Cleanup> = Vec::new();
    let history = many::take(options, scratch, |history| cleanups.push(many::clean(history, options)));
    let restored = many::restore_newest(&history.repository, &history, scratch);
    let fresh = many::fresh(&history, scratch).stored();
    let stored = history.repository.stored();

    let sum = |of: fn(&Cleanup) -> u64| cleanups.iter().map(of).sum::<u64>();
    let (rewritten, freed, rebased) = (sum(Cleanup::rewritten), sum(Cleanup::freed), sum(Cleanup::rebased));
    let peak = cleanups.iter().map(|cleanup| cleanup.run.peak_mebibytes).fold(0.0, f64::max);
    let ratio = rewritten as f64 / (freed + rebased).max(1) as f64;
    let keep = options.keep;
    let rows = vec![
        Row::new(
            &format!("cleanup --keep-last {keep} after each: bytes against a fresh repository with those {keep}"),
            Some(stored as f64 / fresh as f64),
            "x",
            1.2,
            Some(1.05),
        ),
        Row::new("bytes rewritten against bytes freed and re-based, all together", Some(ratio), "x", 2.0, Some(1.2)),
        Row::new("peak memory: cleanup", Some(peak), "MiB", 150.0, Some(80.0)),
    ];
    let count = options.snapshots;
    let mut text = String::new();
    writeln!(
        text,
        "A made-up runtime of about {} MB. {count} snapshots of {} added {:.2} MB; the cleanups wrote {:.2} MB of packs, {:.2} MB \
         of it re-based, at most {:.2} MB at a time, and freed {:.2} MB. {:.2} MB are left; the newest snapshot was restored \
         from it in {:.2} s.",
        options.scale,
        many::change(options),
        history.growth as f64 / 1e6,
        rewritten as f64 / 1e6,
        rebased as f64 / 1e6,
        cleanups.iter().map(Cleanup::rewritten).max().unwrap_or(0) as f64 / 1e6,
        freed as f64 / 1e6,
        stored as f64 / 1e6,
        restored.seconds,
    )
    .unwrap();
    let each: Vec<_> = cleanups
        .iter()
        .map(|cleanup| json!([cleanup.rewritten(), cleanup.freed(), cleanup.rebased(), cleanup.run.seconds]))
        .collect();
    let figures = json!({
        "snapshots": count, "growth": history.growth, "rewritten": rewritten, "freed": freed, "rebased": rebased,
        "stored": stored, "fresh": fresh, "rewritten_freed_rebased_seconds": each,
    });
    Section { title: format!("{count} snapshots, a cleanup after each"), text, rows, figures }
}
