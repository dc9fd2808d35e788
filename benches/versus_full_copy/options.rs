//! The command line of the bench.

use std::path::PathBuf;

/// What the bench is asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// A directory with `s0`, `s1`, …; without it the states are made up.
    pub(crate) states: Option<PathBuf>,
    /// Megabytes of a made-up state.
    pub(crate) scale: u64,
    /// Whether other tools take part.
    pub(crate) peers: bool,
    /// How often everything is done.
    pub(crate) repeats: usize,
    /// What is measured.
    pub(crate) scenarios: Vec<String>,
    /// Where everything is written while it runs.
    pub(crate) scratch: Option<PathBuf>,
    /// Snapshots of the scenarios `many` and `daily`.
    pub(crate) snapshots: usize,
    /// Ten-thousandths of the vectors that each of their changes touches.
    pub(crate) change: u32,
    /// Snapshots that their cleanups keep.
    pub(crate) keep: usize,
    /// Megabytes of the small and the large state of the scenario `large`.
    pub(crate) sizes: [u64; 2],
}

/// How the bench is used.
pub(crate) const USAGE: &str = "\
cargo bench --bench versus_full_copy -- [OPTIONS]

  --states DIR        states to go through: DIR/s0, DIR/s1, ..., each with data/ and config/ (default: made up)
  --scale MB          megabytes of a made-up state (230)
  --peers             with restic, rustic, borg, bupstash and casync, whichever is on the PATH
  --repeats N         how often everything is done (3)
  --scenario A,B      what is measured (increments):
                        increments  the states one after the other, in turns
                        many        many small changes, then cleanup
                        daily       the same, with a cleanup after each of them
                        large       a large state beside a small one, the same change in both
                        chunks      what a changed chunk costs beside its change
                        validating  validate beside decoding and hashing, and the integrity check
  --snapshots N       snapshots of `many` and `daily` (200)
  --change N          ten-thousandths of the vectors that each of their changes touches (5)
  --keep N            snapshots that their cleanups keep (10)
  --sizes SMALL,LARGE megabytes of `large` (1000,8000)
  --scratch DIR       where to work; needs about six states (target/versus-full-copy/scratch)

Results: a table here; report.md, report.json and plots in target/versus-full-copy/.";

impl Options {
    /// From the arguments of the process; `None` if they cannot be understood.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            states: None,
            scale: 230,
            peers: false,
            repeats: 3,
            scenarios: vec!["increments".into()],
            scratch: None,
            snapshots: 200,
            change: 5,
            keep: 10,
            sizes: [1000, 8000],
        };
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--peers" => options.peers = true,
                "--states" => options.states = Some(arguments.next()?.into()),
                "--scratch" => options.scratch = Some(arguments.next()?.into()),
                "--scale" => options.scale = arguments.next()?.parse().ok()?,
                "--repeats" => options.repeats = arguments.next()?.parse().ok().filter(|repeats| *repeats > 0)?,
                "--snapshots" => options.snapshots = arguments.next()?.parse().ok()?,
                "--change" => options.change = arguments.next()?.parse().ok()?,
                "--keep" => options.keep = arguments.next()?.parse().ok().filter(|keep| *keep > 0)?,
                "--scenario" => options.scenarios = arguments.next()?.split(',').map(String::from).collect(),
                "--sizes" => {
                    let sizes = arguments.next()?;
                    let (small, large) = sizes.split_once(',')?;
                    options.sizes = [small.parse().ok()?, large.parse().ok()?];
                }
                _ => return None,
            }
        }
        Some(options)
    }
}
