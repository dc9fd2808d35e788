//! chromadb ingests about 100 vectors a second while creates run: nearly all of them publish Chroma, and what each
//! holds is a store of one moment that chromadb opens.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::support::runtime::Exported;
use crate::support::{Journal, Runtime, chroma};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/live_chroma.py")
}

/// The ingesting service; killed if the test fails.
struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Service {
    fn start(python: &Path, store: &Path, tier: &Tier) -> Self {
        let mut command = Command::new(python);
        command.arg(script()).arg("serve").arg(store).args([tier.vectors, tier.dimensions].map(|n| n.to_string()));
        command.env("ANONYMIZED_TELEMETRY", "False").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut service = Self { process, output };
        assert_eq!(service.line().trim(), "ready");
        service
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Lets it end, and returns what it did.
    fn stop(mut self) -> Value {
        drop(self.process.stdin.take());
        serde_json::from_str(&self.line()).expect("the service came to its end")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How long a test goes on.
struct Tier {
    vectors: u32,
    dimensions: u32,
    plain: usize,
    frozen: usize,
}

#[test]
fn chroma_is_captured_while_it_ingests() {
    captured_while_ingesting(&Tier { vectors: 2000, dimensions: 64, plain: 10, frozen: 4 });
}

#[test]
#[ignore = "takes minutes"]
fn chroma_is_captured_many_times_while_it_ingests() {
    captured_while_ingesting(&Tier { vectors: 20_000, dimensions: 384, plain: 60, frozen: 40 });
}

fn captured_while_ingesting(tier: &Tier) {
    let Some(python) = chroma::python() else { return };
    let runtime = Runtime::bare();
    runtime.make_database(Journal::Wal);
    runtime.write_registry("p01");
    let service = Service::start(&python, &runtime.chroma(), tier);
    // The first reads everything; from the second on only what changed is read.
    runtime.vecsnap(&["create", "--chroma", "--quiet"]).run();

    let (mut published, mut held) = (Vec::new(), 0_f64);
    let mut left_out = Vec::new();
    for number in 0..tier.plain + tier.frozen {
        let frozen = number >= tier.plain;
        let call = runtime.vecsnap(&["create", "--chroma", "--json"]).args(frozen.then_some("--freeze"));
        let outcome = call.run();
        let document = outcome.json();
        let chroma = document["sources"].as_array().unwrap().last().unwrap();
        held = held.max(chroma["writer_blocked_s"].as_f64().unwrap());
        match outcome.code {
            Some(0) => {
                assert_eq!(chroma["consistency"], "proven", "{outcome}");
                published.push(document["stamp"].as_str().unwrap().to_owned());
            }
            Some(4) if !frozen => left_out.push(outcome.stderr),
            _ => panic!("{outcome}"),
        }
    }
    let service = service.stop();
    eprintln!(
        "{} of {} plain creates and all {} frozen ones published Chroma; {service}; longest hold {held:.3} s",
        tier.plain - left_out.len(),
        tier.plain,
        tier.frozen
    );
    assert!(left_out.len() * 10 <= tier.plain, "{left_out:#?}");
    let (added, seconds) = (service["added"].as_f64().unwrap(), service["seconds"].as_f64().unwrap());
    assert!(added / seconds > 20.0, "hardly anything was ingested: {service}");
    assert!(service["worst_wait_s"].as_f64().unwrap() < 5.0, "{service}");
    judge(&python, tier, &runtime, &published);
}

/// Opens each restored store in chromadb.
fn judge(python: &Path, tier: &Tier, runtime: &Runtime, stamps: &[String]) {
    for stamps in stamps.chunks(20) {
        let exported: Vec<Exported> = stamps.iter().map(|stamp| runtime.export(stamp)).collect();
        let mut command = Command::new(python);
        command.arg(script()).arg("judge").arg(tier.dimensions.to_string());
        let output = command.args(exported.iter().map(Exported::chroma)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let counts: Vec<u32> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(counts.iter().all(|count| *count >= tier.vectors && count % 10 == 0), "{counts:?}");
        assert!(counts.windows(2).all(|pair| pair[0] <= pair[1]), "{counts:?}");
    }
}
