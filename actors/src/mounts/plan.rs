//! What must be done to get from the present mounts to the wanted ones. Nothing is changed here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_core::NsPath;

use super::{Present, Refusal};
use crate::config::{MountConfig, StoreConfig};
use crate::mount::{Change, Environment};

/// The steps from the present mounts to the wanted ones.
#[derive(Default)]
pub(super) struct Plan {
    /// To be opened: new, or another store in place of the present one.
    pub(super) opens: Vec<MountConfig>,
    /// Those of them that take the place of another.
    pub(super) replaced: Vec<NsPath>,
    /// To be opened once another mount let go of the directory.
    pub(super) late: Vec<MountConfig>,
    /// To be changed in place.
    pub(super) changes: Vec<(NsPath, Change)>,
    /// To be removed.
    pub(super) removed: Vec<NsPath>,
    /// How many stay as they are.
    pub(super) unchanged: usize,
}

pub(super) fn plan(
    present: &BTreeMap<NsPath, Present>,
    wanted: &[MountConfig],
    environment: &Environment,
) -> Result<Plan, Vec<Refusal>> {
    let by_path: HashMap<&NsPath, &MountConfig> =
        wanted.iter().map(|config| (&config.path, config)).collect();
    let mut plan = Plan {
        removed: present.keys().filter(|path| !by_path.contains_key(path)).cloned().collect(),
        ..Plan::default()
    };
    let mut refused = Vec::new();
    for config in wanted {
        let Some(there) = present.get(&config.path) else {
            plan.opens.push(config.clone());
            continue;
        };
        if there.mounted.config() == config && there.draining.is_none() {
            plan.unchanged += 1;
            continue;
        }
        match there.mounted.prepare(config, environment) {
            Ok(Some(change)) => plan.changes.push((config.path.clone(), change)),
            Ok(None) => {
                plan.opens.push(config.clone());
                plan.replaced.push(config.path.clone());
            }
            Err(e) => refused.push(Refusal { path: config.path.clone(), error: Arc::new(e) }),
        }
    }
    if refused.is_empty() {
        plan.postpone_moves(present);
        Ok(plan)
    } else {
        Err(refused)
    }
}

impl Plan {
    /// Puts off the opening of directories that a mount holds which goes itself. Where such a directory replaces
    /// another store, that one is removed first, too.
    fn postpone_moves(&mut self, present: &BTreeMap<NsPath, Present>) {
        let goes = |path: &NsPath| self.removed.contains(path) || self.replaced.contains(path);
        let is_held = |store: &StoreConfig| {
            matches!(store, StoreConfig::Fs { .. })
                && present.iter().any(|(path, there)| there.mounted.owns(store) && goes(path))
        };
        let (late, opens): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.opens).into_iter().partition(|config| is_held(&config.store));
        for config in &late {
            if let Some(at) = self.replaced.iter().position(|path| *path == config.path) {
                self.removed.push(self.replaced.swap_remove(at));
            }
        }
        (self.late, self.opens) = (late, opens);
    }
}
