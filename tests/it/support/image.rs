//! A file system in a file, whose power can be cut.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::mount::Mounts;

/// Waits for a line and then calls what makes ext4 and XFS drop all that is not on the medium, their log included, as a
/// loss of power does.
const CUT: &str = "import fcntl, os, struct, sys\n\
    mounted = os.open(sys.argv[1], os.O_RDONLY)\n\
    print('ready', flush=True)\n\
    sys.stdin.readline()\n\
    fcntl.ioctl(mounted, 0x8004587d, struct.pack('I', 2))\n\
    os.close(mounted)\n\
    print('cut', flush=True)\n\
    sys.stdin.readline()\n";

/// A file system that has such a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Ext4,
    Xfs,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            System::Ext4 => "ext4",
            System::Xfs => "xfs",
        }
    }

    /// The smallest that it can be made, and no less than what the tests need.
    fn size(self) -> u64 {
        match self {
            System::Ext4 => 64 << 20,
            System::Xfs => 320 << 20,
        }
    }
}

/// A file with a file system in it, and where that is mounted.
pub struct Image {
    directory: TempDir,
    place: PathBuf,
    /// How often it was mounted: each time another file, since a mount may outlive its namespace for a moment.
    mounted: Cell<u32>,
}

impl Image {
    /// A new file system that holds a copy of what is at `place`, where it is to be mounted.
    #[track_caller]
    pub fn of(place: &Path, system: System) -> Self {
        let directory = TempDir::with_prefix_in("vecsnap-it-image-", place.parent().unwrap()).unwrap();
        let image = Self { directory, place: place.to_path_buf(), mounted: Cell::new(0) };
        let file = fs::File::create(image.template()).unwrap();
        file.set_len(system.size()).unwrap();
        let quiet = if system == System::Xfs { "-q" } else { "-Fq" };
        let made = Command::new(format!("mkfs.{}", system.name())).arg(quiet).arg(image.template()).output();
        let made = made.unwrap_or_else(|error| panic!("mkfs.{} cannot be started: {error}", system.name()));
        assert!(made.status.success(), "{made:?}");
        let mounts = image.namespace();
        let beside = image.directory.path().join("mounted");
        fs::create_dir(&beside).unwrap();
        let copy = "mount -o loop \"$1\" \"$2\"; cp -a \"$3/.\" \"$2\"; umount \"$2\"";
        mounts.run(copy, &[&image.template(), &beside, place]);
        image
    }

    fn namespace(&self) -> Mounts {
        Mounts::new().expect("mounting was asked for")
    }

    fn template(&self) -> PathBuf {
        self.directory.path().join("template")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join(self.mounted.get().to_string())
    }

    /// Mounts a fresh copy.
    pub fn mount(&self) -> Mounts {
        let _ = fs::remove_file(self.file());
        self.mounted.set(self.mounted.get() + 1);
        let mounts = self.namespace();
        let copy = "cp --sparse=always \"$1\" \"$2\"; mount -o loop \"$2\" \"$3\"";
        mounts.run(copy, &[&self.template(), &self.file(), &self.place]);
        mounts
    }

    /// What cuts the power of the mounted copy when it is told to.
    pub fn switch(&self, mounts: &Mounts) -> Switch {
        let mut command = Command::new(&mounts.enter()[0]);
        command.args(&mounts.enter()[1..]).args(["python3", "-c", CUT]).arg(&self.place);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        assert_eq!(line(&mut answers), "ready\n");
        Switch { process, answers }
    }

    /// Unmounts the copy and mounts it again, which replays its log.
    pub fn remount(&self, mounts: &Mounts) {
        mounts.run("umount \"$2\"; mount -o loop \"$1\" \"$2\"", &[&self.file(), &self.place]);
    }
}

/// See [`Image::switch`].
pub struct Switch {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Switch {
    /// Cuts the power, which is off on return.
    pub fn cut(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"now\n").unwrap();
        assert_eq!(line(&mut self.answers), "cut\n");
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn line(answers: &mut impl BufRead) -> String {
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    line
}
