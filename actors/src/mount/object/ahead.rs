//! A write that is sent to its store while the rest of it still arrives, read from the staged file behind the write
//! cursor.
//!
//! Invariants:
//! - Only what was written once and in order is sent: a write elsewhere, a cut or a loan of the file ends it.
//! - Nothing that goes wrong here fails the write: it is put whole from the staged file, as if this had not been.
//!   Only what became of a conditional publication is never guessed.
//! - What was begun is finished by the publication or abandoned by a task of the mount.
//! - A request goes through the mount's vitals, one for each piece; between two of them, while bytes are waited for,
//!   it takes no place from others. How many writes are sent at once is bounded, and so is their memory.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_core::{ByteRange, Error, ErrorKind, Headers, Key, Precondition, Publish, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::Core;
use crate::backend::{Object, Pending, Pieces, Source};
use crate::mount::vitals::Load;
use crate::staging::blocking;

/// Writes of one mount that are sent while they arrive, a few pieces of each in memory. Others are put whole.
pub(super) const SENDING_AT_ONCE: usize = 4;

/// What a write has to be published as, so that what was sent ahead is of use.
#[derive(Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) headers: Arc<Headers>,
    pub(super) condition: Precondition,
}

/// How far a write came in order, and what is sent of it.
pub(super) struct Ahead {
    /// Taken around arithmetic only, so what a panic leaves is whole.
    state: Mutex<State>,
}

struct State {
    /// Where the next write has to begin; `None` when it can no longer be sent ahead.
    next: Option<u64>,
    /// Writes that are being staged: what they write is not there yet.
    arriving: usize,
    publish: Publish,
    size_bytes: Option<u64>,
    feeding: Option<Feeding>,
}

/// The task that sends; it ends, and abandons what it sent, when `arrived` is dropped.
struct Feeding {
    plan: Plan,
    piece_bytes: u64,
    /// Changes with each piece that is complete, not with each write.
    arrived: watch::Sender<Arrived>,
    sent: oneshot::Receiver<Sending>,
}

/// What there is to send.
#[derive(Clone, Copy, Default)]
struct Arrived {
    bytes: u64,
    is_all: bool,
}

impl Default for Ahead {
    fn default() -> Self {
        let (publish, size_bytes) = (Publish::default(), None);
        let state = State { next: Some(0), arriving: 0, publish, size_bytes, feeding: None };
        Self { state: Mutex::new(state) }
    }
}

impl Ahead {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how the write is going to be published.
    pub(super) fn expect(&self, publish: &Publish, size_bytes: Option<u64>) {
        let mut state = self.state();
        (state.publish, state.size_bytes) = (publish.clone(), size_bytes);
    }

    /// Abandons what was sent; the write is put whole.
    pub(super) fn give_up(&self) {
        self.state().give_up();
    }

    /// Says that `len` bytes are going to be staged at `offset`.
    pub(super) fn arriving(&self, offset: u64, len: u64) {
        let mut state = self.state();
        state.arriving += 1;
        match state.next {
            Some(next) if next == offset => state.next = offset.checked_add(len),
            Some(_) | None => state.give_up(),
        }
    }

    /// Says that they are there. Answers how much is, in order, where nothing is sent yet.
    pub(super) fn arrived(&self) -> Option<u64> {
        let mut state = self.state();
        state.arriving -= 1;
        let bytes = state.next.filter(|_| state.arriving == 0)?;
        let Some(feeding) = &state.feeding else { return Some(bytes) };
        feeding.arrived.send_if_modified(|seen| {
            let is_piece = bytes / feeding.piece_bytes > seen.bytes / feeding.piece_bytes;
            if is_piece {
                seen.bytes = bytes;
            }
            is_piece
        });
        None
    }

    /// Whether enough is there of a write that is large enough, as far as is known.
    pub(super) fn is_worth_it(&self, written: u64, pieces: Pieces) -> bool {
        let size_bytes = self.state().size_bytes.unwrap_or(written);
        written >= pieces.piece_bytes && size_bytes > pieces.whole_bytes_max
    }

    /// Starts to send what arrives.
    pub(super) fn begin(
        &self,
        place: Place,
        (key, file, piece_bytes): (&Key, &Arc<File>, u64),
        plan: impl FnOnce(&Publish) -> Plan,
    ) {
        let mut state = self.state();
        let (Some(bytes), None) = (state.next.filter(|_| state.arriving == 0), &state.feeding) else {
            return;
        };
        let plan = plan(&state.publish);
        let (arrived, arriving) = watch::channel(Arrived { bytes, is_all: false });
        let (sending, sent) = oneshot::channel();
        let (name, file, core) = (key.as_str().to_owned(), Arc::clone(file), Arc::clone(&place.core));
        state.feeding = Some(Feeding { plan: plan.clone(), piece_bytes, arrived, sent });
        drop(state);
        core.work.start(async move {
            match feed(place, (&name, &file, piece_bytes), &plan, arriving).await {
                // Nobody waits for it where the write was given up: then it abandons itself.
                Ok(Some(all)) => drop(sending.send(all)),
                Ok(None) => {}
                Err(error) => tracing::info!(key = name, %error, "a write is not sent ahead"),
            }
        });
    }

    /// Waits until all of the write, which has `size_bytes`, is sent. `None` where it is not, for whatever reason.
    /// Nothing is sent ahead from now on.
    pub(super) async fn all_sent(&self, plan: &Plan, size_bytes: u64) -> Option<Sending> {
        let feeding = {
            let mut state = self.state();
            let is_whole = state.arriving == 0 && state.next == Some(size_bytes);
            let feeding = state.feeding.take().filter(|feeding| is_whole && feeding.plan == *plan);
            state.give_up();
            feeding?
        };
        feeding.arrived.send_replace(Arrived { bytes: size_bytes, is_all: true });
        feeding.sent.await.ok()
    }
}

impl State {
    fn give_up(&mut self) {
        (self.next, self.feeding) = (None, None);
    }
}

/// One of the places for writes that are sent ahead.
pub(super) struct Place {
    core: Arc<Core>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// A place, if there is one at once.
    pub(super) fn take(core: &Arc<Core>) -> Option<Self> {
        let permit = Arc::clone(&core.sending).try_acquire_owned().ok()?;
        Some(Self { core: Arc::clone(core), _permit: permit })
    }
}

/// What the store has of a write; abandoned on drop unless it was finished.
pub(super) struct Sending {
    place: Place,
    pending: Option<Box<dyn Pending>>,
    sent_bytes: u64,
}

impl Sending {
    async fn begin(place: Place, name: &str, plan: &Plan) -> Result<Self> {
        let core = Arc::clone(&place.core);
        let begin = Arc::clone(&core.backend).begin(name, &plan.headers, &plan.condition);
        let pending = core.vitals.run_once("begin", Load::Nothing, begin).await?;
        Ok(Self { place, pending: Some(pending), sent_bytes: 0 })
    }

    fn pending(&mut self) -> &mut Box<dyn Pending> {
        self.pending.as_mut().expect("taken only when it is over")
    }

    async fn feed(&mut self, file: &Arc<File>, len: u64) -> Result<()> {
        let range = ByteRange::new(self.sent_bytes, len);
        let source = Source::new(vec![(Arc::clone(file), range.end())]);
        let bytes = blocking(move || Ok(source.read(range)?)).await?;
        let core = Arc::clone(&self.place.core);
        core.vitals.run_once("part", Load::Write(len), self.pending().feed(bytes)).await?;
        core.vitals.count_written(len);
        self.sent_bytes += len;
        Ok(())
    }

    /// Makes it visible.
    pub(super) async fn finish(mut self) -> Result<Object> {
        let (core, load) = (Arc::clone(&self.place.core), Load::Inside(self.sent_bytes));
        let object = core.vitals.run_once("put", load, self.pending().finish()).await?;
        self.pending = None;
        Ok(object)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        let core = Arc::clone(&self.place.core);
        // The mount outlives what it has to take back.
        self.place.core.work.start(async move {
            pending.abandon().await;
            drop(core);
        });
    }
}

/// Sends what arrives until that is all; `None` when the write was given up.
async fn feed(
    place: Place,
    (name, file, piece_bytes): (&str, &Arc<File>, u64),
    plan: &Plan,
    mut arriving: watch::Receiver<Arrived>,
) -> Result<Option<Sending>> {
    let mut sending = Sending::begin(place, name, plan).await?;
    loop {
        if arriving.has_changed().is_err() {
            return Ok(None);
        }
        let arrived = *arriving.borrow_and_update();
        let left = arrived.bytes - sending.sent_bytes;
        if left == 0 && arrived.is_all {
            return Ok(Some(sending));
        }
        if left >= piece_bytes || arrived.is_all {
            sending.feed(file, left.min(piece_bytes)).await?;
        }
        if left < 2 * piece_bytes && !arrived.is_all && arriving.changed().await.is_err() {
            return Ok(None);
        }
    }
}

/// Whether a publication that failed like this has certainly not been done, or may be done twice.
pub(super) fn may_put_whole(error: &Error, condition: &Precondition) -> bool {
    match error.kind() {
        ErrorKind::PreconditionFailed | ErrorKind::IsDirectory | ErrorKind::NotDirectory => false,
        _ => *condition == Precondition::None || !error.is_temporary(),
    }
}
