//! A Python with the real Chroma, in a virtual environment that the first test to need it sets up.
//!
//! Without Python or network such a test fails and says how to leave it out; it never passes unseen.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PACKAGES: [&str; 4] = ["chromadb==1.5.9", "numpy", "blake3", "zstandard"];
const SKIP: &str = "VECSNAP_SKIP_CHROMA";

/// The interpreter of the environment; `None`, with a note on stderr, where the operator chose to go without.
#[track_caller]
pub fn python() -> Option<PathBuf> {
    if std::env::var_os(SKIP).is_some_and(|value| !value.is_empty() && value != "0") {
        eprintln!("SKIPPED: {SKIP} is set, so nothing was tested against a real Chroma");
        return None;
    }
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("chroma-venv");
    match prepare(&environment) {
        Ok(()) => Some(environment.join("bin/python")),
        Err(cause) => panic!(
            "tests against a real Chroma need python3 with its venv module, and the network once to install {}, \
             but {cause}; set {SKIP}=1 to leave them out",
            PACKAGES.join(" ")
        ),
    }
}

/// Makes the environment unless it is complete; tests that run meanwhile wait.
fn prepare(environment: &Path) -> Result<(), String> {
    let complete = environment.join("complete");
    let wanted = PACKAGES.join("\n");
    let lock = File::create(environment.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if fs::read_to_string(&complete).is_ok_and(|packages| packages == wanted) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(environment);
    run(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
    run(Command::new(environment.join("bin/python")).args(pip).args(PACKAGES))?;
    fs::write(&complete, wanted).map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?} cannot start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").trim().to_owned();
    Err(format!("{command:?} ended with {}: {last}", output.status))
}
