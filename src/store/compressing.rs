//! Compressing frames on all cores.
//!
//! Invariant: frames come out in the order in which they went in, whatever the threads do; those in flight are bounded,
//! since [`Compressing::is_full`] tells when one must be taken out first.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use parking_lot::Mutex;

use super::metadata_frame::RawFrame;
use super::pack_builder::{FinishedFrame, WaitingRecord};
use crate::chunk::compress::{Thoroughness, compress_frame};
use crate::error::{Error, Result};
use crate::format::compression::Compressed;
use crate::format::pack::Encoding;

/// Threads at most.
const THREADS: usize = 8;

/// The threads that compress, and the frames that they have.
pub(super) struct Compressing {
    jobs: SyncSender<Job>,
    in_flight: VecDeque<InFlight>,
    threads: usize,
}

struct Job {
    raw: Vec<u8>,
    thoroughness: Thoroughness,
    hashing: Hashing,
    reply: SyncSender<HashedFrame>,
}

/// Whether the decoded frame is hashed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hashing {
    Frame,
    /// The ids of its records do.
    RecordsOnly,
}

struct HashedFrame {
    compressed: Compressed,
    raw_hash: Option<blake3::Hash>,
}

struct InFlight {
    records: Vec<WaitingRecord>,
    raw_length: usize,
    compressed: Receiver<HashedFrame>,
}

impl Compressing {
    pub(super) fn start() -> Result<Self> {
        let threads = thread::available_parallelism().map_or(2, NonZero::get).min(THREADS);
        let (jobs, queue) = mpsc::sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name("compress".into())
                .spawn(move || compress_all(&queue))
                .map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        }
        Ok(Self { jobs, in_flight: VecDeque::new(), threads })
    }

    /// Whether a frame should be taken out before another one goes in.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight.len() > self.threads
    }

    /// Takes a frame.
    pub(super) fn push(&mut self, frame: RawFrame, thoroughness: Thoroughness) -> Result<()> {
        let (reply, compressed) = mpsc::sync_channel(1);
        let raw_length = frame.raw.len();
        let whole = frame.records.iter().all(|record| record.encoding == Encoding::Whole);
        let hashing = if whole { Hashing::RecordsOnly } else { Hashing::Frame };
        let job = Job { raw: frame.raw, thoroughness, hashing, reply };
        self.jobs.send(job).map_err(|_| stopped())?;
        self.in_flight.push_back(InFlight { records: frame.records, raw_length, compressed });
        Ok(())
    }

    /// The oldest frame, as soon as it is compressed; `None` if there is none.
    pub(super) fn pop(&mut self) -> Result<Option<FinishedFrame>> {
        let Some(InFlight { records, raw_length, compressed }) = self.in_flight.pop_front() else { return Ok(None) };
        let HashedFrame { compressed, raw_hash } = compressed.recv().map_err(|_| stopped())?;
        Ok(Some(FinishedFrame { compressed, raw_length, raw_hash, records }))
    }
}

fn compress_all(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().recv();
        let Ok(job) = job else { return };
        let raw_hash = (job.hashing == Hashing::Frame).then(|| blake3::hash(&job.raw));
        let frame = HashedFrame { compressed: compress_frame(job.raw, job.thoroughness), raw_hash };
        // Nobody waits for the frame any more if the writer was dropped.
        let _ = job.reply.send(frame);
    }
}

fn stopped() -> Error {
    Error::Failed("compressing stopped unexpectedly; run the command again".into())
}
