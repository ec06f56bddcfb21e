//! The keeper: puts back what an earlier run left, looks after a disk that failed, and takes in a directory that was
//! not there.

use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::Advice;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::NvmeTier;
use super::health::State;

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

/// Probes a disk that failed or was away. What is there when it comes back is put back before it is used.
async fn look_after(tier: Arc<NvmeTier>, state: State) {
    let probed = Arc::clone(&tier);
    // One that panicked found nothing good.
    let outcome = spawn_blocking(move || probed.probe()).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    match &outcome {
        Ok(()) => restore(Arc::clone(&tier)).await,
        Err(error) => tracing::warn!(directory = %tier.root().display(), %error, "cache disk is down"),
    }
    tier.health.probed(state, outcome.is_ok());
    let now = tier.health.state();
    if outcome.is_ok() && now != state {
        tracing::info!(directory = %tier.root().display(), state = ?now, "cache disk is back");
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
    fn probe(&self) -> io::Result<()> {
        if !self.directory.is_there() {
            self.health.fall_silent();
            self.lose_all();
            self.directory.take().map_err(io::Error::other)?;
        }
        let path = self.directory.root().join("probe");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = (self.create)(&path)?;
        let (written, mut read) = ([0x5A; PROBE_BYTES], [0; PROBE_BYTES]);
        file.write_all_at(&written, 0)?;
        file.sync_data()?;
        // Otherwise the page cache answers.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        file.read_exact_at(&mut read, 0)?;
        std::fs::remove_file(&path)?;
        if read == written { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
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
