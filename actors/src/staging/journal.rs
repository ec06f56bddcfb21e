//! The journal of a mount: what was acknowledged and is not at the store yet, written down before it is acknowledged.
//!
//! Invariants:
//! - What is in memory is what the records before it say, but for the contents, which stay in the log: a record reaches
//!   the [`Table`] when it is on the disk, in the order of the log, and a restart reads the same records in the same
//!   order.
//! - One write and at most one `fdatasync` serve all who wait; a group is never cut by whoever stops waiting.
//! - After a write that failed the log is written anew, because what follows a torn frame is not read. As long as that
//!   fails, nothing is appended, and writes go to the store before they are acknowledged.
//! - A damaged end (the machine stopped while it was written) was never acknowledged, so it is cut off.
//! - A write begins with what the one before it in the log made of its name, or is refused: of two that began with the
//!   same content, the second one is.
//! - A panic is the failure of the one record that causes it: the log is written anew, and the others of its group with
//!   it.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_core::{Error, ErrorKind, METRICS, Result};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::oneshot;

use super::record::{FORMAT, Record};
use super::table::Table;
use crate::frame::{self, Frames, HEADER_BYTES};

/// A log is written anew when it is longer than this and than [`REWRITE_FACTOR`] times what is still needed of it.
const REWRITE_BYTES_MIN: u64 = 8 << 20;
const REWRITE_FACTOR: u64 = 2;

/// The journal of one mount. Clones share it.
#[derive(Clone)]
pub(super) struct Journal(Arc<Shared>);

struct Shared {
    path: PathBuf,
    table: Arc<Table>,
    /// Taken to put something in and to take all out.
    queue: Mutex<Queue>,
    /// Taken by the one thread that writes.
    log: Mutex<Log>,
    /// Something was written since the last `fdatasync`.
    is_ahead: AtomicBool,
    groups: IntCounter,
    records: IntCounter,
    bytes: IntGauge,
    /// The next group is to panic when it is half written.
    #[cfg(test)]
    is_sabotaged: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_written: bool,
    /// Number of the last write that was put in: given here, so that their order is that of the log.
    last_seq: u64,
}

struct Waiting {
    /// Nothing where only what was written before is to be on the disk.
    record: Option<Record>,
    is_durable: bool,
    answer: oneshot::Sender<Result<()>>,
}

/// The file behind a journal.
enum Log {
    /// Nothing was written to it in this run.
    Closed {
        good_bytes: u64,
    },
    Open {
        file: Arc<File>,
        bytes: u64,
        rewrite_bytes: u64,
    },
    /// A write failed: before the next one the log is written anew.
    Broken,
}

impl Journal {
    /// Reads the journal at `path` into `table`; one that is missing is empty. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open(path: PathBuf, table: Arc<Table>, mount: &str) -> io::Result<Self> {
        let good_bytes = replay(&path, &table)?;
        let (labels, last_seq) = (&[mount], table.last_seq());
        let shared = Shared {
            path,
            table,
            queue: Mutex::new(Queue { last_seq, ..Queue::default() }),
            log: Mutex::new(Log::Closed { good_bytes }),
            is_ahead: AtomicBool::new(good_bytes > 0),
            groups: METRICS.writeback_groups.with_label_values(labels),
            records: METRICS.writeback_records.with_label_values(labels),
            bytes: METRICS.writeback_journal_bytes.with_label_values(labels),
            #[cfg(test)]
            is_sabotaged: AtomicBool::new(false),
        };
        shared.bytes.set(good_bytes as i64);
        Ok(Self(Arc::new(shared)))
    }

    /// Appends a record, which counts from when this answers; a write gets its number. `is_durable` waits for the disk.
    /// Once begun it is finished, whoever stops waiting.
    ///
    /// # Errors
    /// `PreconditionFailed` for a write whose base is not what is pending of its name; the disk's. Nothing counts then.
    pub(super) async fn append(&self, record: Record, is_durable: bool) -> Result<()> {
        self.put_in(Some(record), is_durable).await
    }

    /// Waits until all that was appended before is on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(super) async fn sync(&self) -> Result<()> {
        if self.0.is_ahead.load(Ordering::Acquire) { self.put_in(None, true).await } else { Ok(()) }
    }

    async fn put_in(&self, mut record: Option<Record>, is_durable: bool) -> Result<()> {
        let (answer, waiting) = oneshot::channel();
        let is_first = {
            let mut queue = self.0.queue();
            if let Some(Record::Put(put)) = &mut record {
                queue.last_seq += 1;
                put.seq = queue.last_seq;
            }
            queue.waiting.push_back(Waiting { record, is_durable, answer });
            !std::mem::replace(&mut queue.is_written, true)
        };
        if is_first {
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || shared.write_all());
        }
        waiting.await.map_err(|e| Error::new(ErrorKind::Internal, "the journal's writer died").because(e))?
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes group after group until nobody waits.
    fn write_all(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut group = {
                let mut queue = self.queue();
                queue.is_written = !queue.waiting.is_empty();
                std::mem::take(&mut queue.waiting)
            };
            if group.is_empty() {
                return;
            }
            if self.survives(&mut log, &mut group) {
                continue;
            }
            // One of those that are left is to blame: it hears that nobody answers.
            for waiting in group {
                self.survives(&mut log, &mut VecDeque::from([waiting]));
            }
        }
    }

    /// Serves a group; `false` where a panic leaves the rest of it. The log has nothing of that rest then.
    fn survives(&self, log: &mut Log, group: &mut VecDeque<Waiting>) -> bool {
        if catch_unwind(AssertUnwindSafe(|| self.serve(log, group))).is_ok() {
            return true;
        }
        let rewritten = catch_unwind(AssertUnwindSafe(|| self.rewrite(log)));
        if !rewritten.is_ok_and(|outcome| outcome.is_ok()) {
            log.give_up();
        }
        false
    }

    /// Writes a group and answers it. Who is answered leaves it.
    fn serve(&self, log: &mut Log, group: &mut VecDeque<Waiting>) {
        self.refuse_overtaken(group);
        if group.is_empty() {
            return;
        }
        let was_broken = matches!(log, Log::Broken);
        let outcome = self.write(log, group);
        self.groups.inc();
        self.records.inc_by(group.len() as u64);
        if let Err(e) = &outcome {
            if !was_broken {
                tracing::error!(path = %self.path.display(), error = %e, "the journal cannot be written; writes wait for the store");
            }
            log.give_up();
        }
        while let Some(Waiting { record, answer, .. }) = group.pop_front() {
            let outcome = outcome.as_ref().map_err(|e| {
                Error::from(io::Error::from(e.kind())).at("append to the journal", self.path.display())
            });
            if outcome.is_ok()
                && let Some(record) = record
            {
                self.table.apply(record);
            }
            // Whoever no longer waits hears nothing.
            drop(answer.send(outcome.map(|&()| ())));
        }
    }

    /// Answers the writes that do not begin with what those before them made of their names.
    fn refuse_overtaken(&self, group: &mut VecDeque<Waiting>) {
        let mut latest = HashMap::<&str, &str>::new();
        let mut overtaken = Vec::new();
        for (at, waiting) in group.iter().enumerate() {
            let Some(Record::Put(put)) = &waiting.record else { continue };
            let holds = match latest.get(&*put.key) {
                Some(tag) => put.base.holds(tag),
                None => self.table.latest(&put.key).is_none_or(|latest| put.base.holds(&latest.md5)),
            };
            if holds {
                latest.insert(&put.key, &put.md5);
            } else {
                overtaken.push(at);
            }
        }
        for at in overtaken.into_iter().rev() {
            let message = "the file was changed since this write began";
            let refusal = Error::new(ErrorKind::PreconditionFailed, message);
            // Whoever no longer waits hears nothing.
            drop(group.remove(at).map(|waiting| waiting.answer.send(Err(refusal))));
        }
    }

    /// Appends the records of a group, which know then where they are.
    fn write(&self, log: &mut Log, group: &mut VecDeque<Waiting>) -> io::Result<()> {
        match log {
            Log::Closed { good_bytes: 1.. } => self.reopen(log)?,
            Log::Open { bytes, rewrite_bytes, .. } if *bytes < *rewrite_bytes => {}
            Log::Closed { .. } | Log::Open { .. } | Log::Broken => self.rewrite(log)?,
        }
        let Log::Open { file, bytes, .. } = log else { return Err(io::ErrorKind::NotFound.into()) };
        let (mut frames, mut ends) = (Vec::new(), Vec::new());
        for record in group.iter().filter_map(|waiting| waiting.record.as_ref()) {
            record.encode(&mut frames)?;
            ends.push(*bytes + frames.len() as u64);
        }
        self.is_ahead.store(true, Ordering::Release);
        (&**file).write_all(&frames)?;
        #[cfg(test)]
        self.sabotage();
        if group.iter().any(|waiting| waiting.is_durable) {
            file.sync_data()?;
            self.is_ahead.store(false, Ordering::Release);
        }
        let records = group.iter_mut().filter_map(|waiting| waiting.record.as_mut());
        for (record, end) in records.zip(ends) {
            record.written(file, end);
        }
        *bytes += frames.len() as u64;
        self.bytes.set(*bytes as i64);
        Ok(())
    }

    /// Goes on with the log of an earlier run, cut to what is good of it.
    fn reopen(&self, log: &mut Log) -> io::Result<()> {
        let Log::Closed { good_bytes } = *log else { return Ok(()) };
        let file = Arc::new(OpenOptions::new().read(true).append(true).open(&self.path)?);
        file.set_len(good_bytes)?;
        *log = Log::Open { file, bytes: good_bytes, rewrite_bytes: good_bytes.max(REWRITE_BYTES_MIN) };
        Ok(())
    }

    /// Puts a log in place that holds what is still needed and nothing else.
    fn rewrite(&self, log: &mut Log) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let file =
            Arc::new(options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&aside)?);
        let (mut out, mut bytes) = (BufWriter::new(&*file), HEADER_BYTES as u64);
        out.write_all(&FORMAT.header())?;
        let (mut live, mut frame) = (self.table.live(), Vec::new());
        for record in &mut live {
            frame.clear();
            record.encode(&mut frame)?;
            out.write_all(&frame)?;
            bytes += frame.len() as u64;
            record.written(&file, bytes);
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
        self.table.relocate(live);
        *log = Log::Open { file, bytes, rewrite_bytes: (bytes * REWRITE_FACTOR).max(REWRITE_BYTES_MIN) };
        Ok(())
    }
}

#[cfg(test)]
impl Journal {
    /// The next group panics when it is half written.
    pub(super) fn sabotage(&self) {
        self.0.is_sabotaged.store(true, Ordering::Release);
    }
}

#[cfg(test)]
impl Shared {
    fn sabotage(&self) {
        assert!(!self.is_sabotaged.swap(false, Ordering::AcqRel), "sabotaged");
    }
}

impl Log {
    /// Takes back what a failed write may have left, as far as the disk lets it: nobody was promised it.
    fn give_up(&mut self) {
        if let Self::Open { file, bytes, .. } = self
            && let Err(e) = file.set_len(*bytes).and_then(|()| file.sync_data())
        {
            tracing::error!(error = %e, "a failed write stays in the journal until it is written anew");
        }
        *self = Self::Broken;
    }
}

/// Applies the records at `path`; how many bytes of it are good.
fn replay(path: &Path, table: &Table) -> io::Result<u64> {
    let (file, length) = match File::open(path) {
        Ok(file) => {
            let length = file.metadata()?.len();
            (Arc::new(file), length)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut frames = Frames::new(BufReader::new(&*file), FORMAT);
    while let Some(mut record) = frames.next_as(Record::decode) {
        record.written(&file, frames.good_bytes());
        table.apply(record);
    }
    let good_bytes = frames.damage().unwrap_or(length);
    if good_bytes < length {
        let path = path.display();
        tracing::warn!(%path, good_bytes, length, "the end of a journal is damaged; what came before it holds");
    }
    debug_assert!(good_bytes == 0 || good_bytes >= HEADER_BYTES as u64, "a header is whole or not there");
    Ok(good_bytes)
}

impl Record {
    fn encode(&self, to: &mut Vec<u8>) -> io::Result<()> {
        let mut filled = Ok(());
        frame::encode(to, |to| filled = self.fill(to));
        filled
    }
}

#[cfg(test)]
mod tests;
