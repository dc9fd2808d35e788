//! Every decoder of the format against inputs that a hostile repository may hold.
//!
//! A case follows from the seed and its number, so a failing one is run again by naming both. Cases run in processes of
//! their own whose address space ends a little above what the decoder may allocate: an allocation beyond the limits of
//! the format fails there, and the process with it. The long tier is `cargo test --release --test it fuzz -- --ignored
//! --nocapture`.

mod corpus;
mod decoders;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::random::Random;
use corpus::Corpus;
use decoders::{Answer, DECODERS, Decoder};

const QUICK_CASES: u64 = 10_000;
const LONG_CASES: u64 = 10_000_000;
/// What one process runs between two lines that tell how far it is.
const STRIDE: u64 = 100_000;
/// Address space for what is not the decoder's: buffers of the case, the allocator's own.
const SLACK: u64 = 24 << 20;

#[test]
fn hostile_inputs_of_every_decoder_are_refused_within_their_limits() {
    attack(QUICK_CASES);
}

#[test]
#[ignore = "10^7 cases for each of 12 decoders, or VECSNAP_FUZZ_CASES: about 40 minutes on two cores"]
fn long_hostile_inputs_of_every_decoder_are_refused_within_their_limits() {
    attack(number("VECSNAP_FUZZ_CASES").unwrap_or(LONG_CASES));
}

/// Runs so many cases of each decoder, half of them in each of two processes.
fn attack(cases: u64) {
    let seed = number("VECSNAP_FUZZ_SEED").unwrap_or(1);
    let only = std::env::var("VECSNAP_FUZZ_DECODER").ok();
    for decoder in DECODERS.iter().filter(|decoder| only.as_deref().is_none_or(|only| only == decoder.name)) {
        let half = cases.div_ceil(2);
        let began = std::time::Instant::now();
        let children = [start(decoder, seed, 0, half), start(decoder, seed, half, cases - half)];
        let outputs = children.map(|child| child.wait_with_output().unwrap());
        let mut accepted = 0;
        for output in &outputs {
            assert!(output.status.success(), "{} failed with seed {seed}:\n{}", decoder.name, last_lines(output));
            accepted += accepted_by(output);
        }
        let seconds = began.elapsed().as_secs();
        eprintln!("fuzz {}: {cases} cases of seed {seed}, {accepted} accepted, {seconds} s", decoder.name);
        assert!(accepted > 0 && accepted < cases, "{}: the cases do not reach into the decoder", decoder.name);
    }
}

fn start(decoder: &Decoder, seed: u64, first: u64, cases: u64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fuzz::one_process", "--ignored", "--nocapture"])
        .env("VECSNAP_FUZZ_CHILD", format!("{} {seed} {first} {cases}", decoder.name))
        .env("MALLOC_ARENA_MAX", "1")
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "what the fuzz tests start as processes of their own; does nothing by itself"]
fn one_process() {
    let Ok(task) = std::env::var("VECSNAP_FUZZ_CHILD") else { return };
    let task: Vec<&str> = task.split(' ').collect();
    let decoder = DECODERS.iter().find(|decoder| decoder.name == task[0]).unwrap();
    let [seed, first, cases] = [1, 2, 3].map(|field| task[field].parse::<u64>().unwrap());
    let corpus = Corpus::read();
    limit_memory(decoder.memory as u64 + SLACK);
    let mut accepted = 0_u64;
    for case in first..first + cases {
        if case % STRIDE == 0 {
            println!("at {case}");
        }
        match catch_unwind(AssertUnwindSafe(|| (decoder.case)(&corpus, &mut Random::of(seed, case)))) {
            Ok(answer) => accepted += u64::from(answer == Answer::Accepted),
            Err(_) => {
                panic!("case {case} of seed {seed}; VECSNAP_FUZZ_CHILD=\"{} {seed} {case} 1\" repeats it", decoder.name)
            }
        }
    }
    println!("accepted {accepted}");
}

/// Ends the address space of this process so far above what it has now.
fn limit_memory(more: u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, size * 1024 + more, hard).unwrap();
}

#[test]
fn an_allocation_beyond_the_limit_ends_the_process() {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args(["--exact", "fuzz::greedy_process", "--ignored", "--nocapture"])
        .env("VECSNAP_FUZZ_CHILD", "greedy")
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    assert!(!output.status.success() && !last_lines(&output).contains("survived"), "{}", last_lines(&output));
}

#[test]
#[ignore = "what a fuzz test starts as a process of its own; does nothing by itself"]
fn greedy_process() {
    if std::env::var("VECSNAP_FUZZ_CHILD").is_ok() {
        limit_memory(SLACK + (1 << 20));
        std::hint::black_box(Vec::<u8>::with_capacity(64 << 20));
        println!("survived");
    }
}

fn accepted_by(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("accepted ")).expect("the process tells how it went");
    line.parse().unwrap()
}

fn last_lines(output: &Output) -> String {
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}
