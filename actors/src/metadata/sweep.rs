//! Removes what is known of mounts that do not keep their listings any more, or are gone.
//!
//! A mount that stops keeping them goes on writing its commits down until nothing of it is left: were it killed before,
//! and kept them again, what is left would still be true.

use std::collections::HashSet;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::Shared;
use super::store::Place;

/// Most chunks that one transaction removes.
const SWEPT_MAX: usize = 1024;

/// What is to be looked through.
#[derive(Default)]
pub(super) struct Sweeps {
    wanted: u64,
    done: u64,
    /// All mounts that there are to be have been opened once: what is of none of them may go.
    pub(super) knows_all: bool,
}

impl Sweeps {
    /// Whether something may be there that nobody keeps.
    pub(super) fn is_due(&self) -> bool {
        self.done < self.wanted
    }
}

impl Shared {
    /// Something may be there that nobody keeps.
    pub(super) fn sweep_soon(&self) {
        self.queue().sweeps.wanted += 1;
        self.wake.notify_all();
    }

    /// Removes some of it. Called by the writer, which puts nothing there meanwhile.
    pub(super) fn sweep(&self) {
        let (wanted, knows_all) = {
            let queue = self.queue();
            (queue.sweeps.wanted, queue.sweeps.knows_all)
        };
        let listings: Vec<_> = self.mounts().values().filter_map(Weak::upgrade).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) = listings.into_iter().partition(|listings| listings.is_kept());
        let kept: HashSet<u64> = kept.iter().map(|listings| listings.mount()).collect();
        let unkept: HashSet<u64> = dropped.iter().map(|listings| listings.mount()).collect();
        let mut room = SWEPT_MAX;
        self.commit(false, &mut |edit| {
            let mut next = edit.mount_from(0)?;
            while let Some(mount) = next.filter(|_| room > 0) {
                if !kept.contains(&mount) && (knows_all || unkept.contains(&mount)) {
                    room -= edit.remove_tree(Place { mount, directory: "" }, room)?;
                }
                next = match mount.checked_add(1) {
                    Some(from) => edit.mount_from(from)?,
                    None => None,
                };
            }
            Ok(())
        });
        if self.is_broken.load(Ordering::SeqCst) {
            self.queue().sweeps.done = wanted;
        } else if room > 0 {
            self.settle();
            for listings in &dropped {
                listings.silence();
            }
            self.queue().sweeps.done = wanted;
        }
    }
}
