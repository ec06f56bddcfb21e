//! The keeper: puts back what an earlier run left, looks after a disk that failed, and takes in a directory that was
//! not there.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::Advice;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::NvmeTier;
use super::health::{Failure, State};

/// Between two probes: each one that succeeds is a step back to ok.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// What a probe writes and reads back.
const PROBE_BYTES: usize = 4096;

/// Runs until the tier is gone.
pub(super) async fn run(tier: Weak<NvmeTier>) {
    let Some(mut states) = tier.upgrade().map(|tier| tier.health.subscribe()) else { return };
    loop {
        let Some(kept) = tier.upgrade() else { return };
        let state = *states.borrow_and_update();
        if state == State::Ok {
            restore(kept).await;
        } else {
            look_after(kept, state).await;
            sleep(PROBE_INTERVAL).await;
        }
        if *states.borrow() == State::Ok && changed(&tier, &mut states).await.is_err() {
            return;
        }
    }
}

/// Waits for trouble without holding the tier.
async fn changed(tier: &Weak<NvmeTier>, states: &mut watch::Receiver<State>) -> Result<(), ()> {
    states.wait_for(|state| *state != State::Ok).await.map_err(|_| ())?;
    tier.upgrade().map(drop).ok_or(())
}

/// Probes a disk that failed or was away, for as long as that takes: there is one probe at a time. What is there when it
/// comes back is put back before it is used.
async fn look_after(tier: Arc<NvmeTier>, state: State) {
    let directory = tier.root().display();
    let found = match tier.in_background(NvmeTier::probe).await {
        Ok(found) => found,
        Err(panic) => Err((Failure::Write, io::Error::other(panic))),
    };
    if found.is_ok() {
        restore(Arc::clone(&tier)).await;
    }
    let (before, was_down) = (tier.health.state(), tier.health.is_down());
    tier.health.probed(state, found.as_ref().copied().map_err(|(failure, _)| *failure));
    let now = tier.health.state();
    match found {
        Err((_, error)) if !was_down => tracing::warn!(%directory, %error, "a cache disk is down"),
        Ok(()) if now != before => tracing::info!(%directory, state = ?now, "a cache disk is back"),
        Ok(()) | Err(_) => tracing::debug!(%directory, state = ?now, "a cache disk was probed"),
    }
}

/// Puts back what an earlier run left; if that panics, nothing of it.
async fn restore(tier: Arc<NvmeTier>) {
    if tier.is_restored() {
        return;
    }
    let restored = Arc::clone(&tier);
    if spawn_blocking(move || restored.restore()).await.is_err() {
        // A second panic leaves the directory without writes.
        spawn_blocking(move || tier.start_cold()).await.unwrap_or_default();
    }
}

impl NvmeTier {
    /// Tries whether the directory is there and the disk keeps what is written. A directory that is not there is made,
    /// and what lay in the one before is forgotten. Waits for the disk.
    fn probe(&self) -> Result<(), (Failure, io::Error)> {
        if !self.directory.is_there() {
            self.health.fall_silent();
            self.lose_all();
            self.directory.take().map_err(|error| (Failure::Read, io::Error::other(error)))?;
        }
        let path = self.directory.root().join("probe");
        let written = [0x5A; PROBE_BYTES];
        let file = self.write_probe(&path, &written).map_err(|error| (Failure::Write, error))?;
        let mut read = [0; PROBE_BYTES];
        file.read_exact_at(&mut read, 0).map_err(|error| (Failure::Read, error))?;
        std::fs::remove_file(&path).map_err(|error| (Failure::Write, error))?;
        if read == written { Ok(()) } else { Err((Failure::Read, ErrorKind::InvalidData.into())) }
    }

    fn write_probe(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = (self.create)(path)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        // Otherwise the page cache answers.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(file)
    }

    /// Forgets all that lay in a directory that is gone. Readers keep what they hold.
    fn lose_all(&self) {
        self.restored.send_replace(false);
        let files: Vec<_> = self.files.iter().map(|file| Arc::clone(&file)).collect();
        for file in &files {
            self.detach(file);
        }
        if let Some(packed) = &self.packed {
            packed.lose_all();
        }
        self.log.start_over();
    }
}
