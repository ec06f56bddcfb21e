//! What the configuration wants to be done with the mounts, once or again and again.

use forebay_core::{MountState, NsPath};

use super::{Mounts, Present};
use crate::config::{MountConfig, Preload};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// That it is loaded into the cache.
    Load,
    /// That what is known of it is compared with its store.
    Sync,
}

/// A job that the configuration wants.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Of which mount.
    pub path: NsPath,
    /// What.
    pub wanted: Wanted,
    /// When.
    pub when: Preload,
    /// Whether its store answers.
    pub is_ready: bool,
}

impl Mounts {
    /// The jobs that the configuration wants.
    pub fn scheduled(&self) -> Vec<Scheduled> {
        let wanted = |(path, present): (&NsPath, &Present)| {
            let is_ready = present.mounted.handle().state() == MountState::Ready;
            let MountConfig { preload, sync_every, .. } = present.mounted.config();
            let load = preload.map(|when| (Wanted::Load, when));
            let sync = sync_every.map(|every| (Wanted::Sync, Preload::Every(every)));
            let job = |(wanted, when)| Scheduled { path: path.clone(), wanted, when, is_ready };
            [load, sync].into_iter().flatten().map(job).collect::<Vec<_>>()
        };
        self.state().present.iter().flat_map(wanted).collect()
    }
}
