//! How long what stores said is trusted, where a rule says so for a part of a mount.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Rule, ancestors};
use crate::config::Revalidate;

/// What a rule says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trusted {
    /// Nothing: shorter paths decide, and the mount's configuration.
    Default,
    /// See [`Revalidate::Always`].
    Always,
    /// See [`Revalidate::After`], in milliseconds.
    AfterMs(u64),
    /// See [`Revalidate::Never`].
    Never,
}

impl Trusted {
    fn told(self) -> Option<Revalidate> {
        match self {
            Self::Default => None,
            Self::Always => Some(Revalidate::Always),
            Self::AfterMs(ms) => Some(Revalidate::After(Duration::from_millis(ms))),
            Self::Never => Some(Revalidate::Never),
        }
    }
}

/// What the rules say of one mount, by keys.
#[derive(Debug, Default)]
pub struct Trust(HashMap<Box<str>, Revalidate>);

impl Trust {
    /// What the longest path at or above `key` says.
    pub fn of(&self, key: &str) -> Option<Revalidate> {
        let above = key.rmatch_indices('/').map(|(cut, _)| &key[..cut]);
        std::iter::once(key).chain(above).chain([""]).find_map(|key| self.0.get(key)).copied()
    }
}

/// The same of all mounts, by their paths. Those of which nothing is said are not there.
pub(super) type Trusts = HashMap<Box<str>, Arc<Trust>>;

/// What `made` says of the mounts at the paths `mounts`. A rule above a mount says nothing of it: its own configuration
/// does.
pub(super) fn trusts(made: &BTreeMap<String, Rule>, mounts: &BTreeMap<String, Rule>) -> Trusts {
    let mut found: HashMap<&str, Trust> = HashMap::new();
    for (path, rule) in made {
        let Some(told) = rule.revalidate.and_then(Trusted::told) else { continue };
        let Some(mount) = ancestors(path).find(|ancestor| mounts.contains_key(*ancestor)) else { continue };
        let key = path[mount.len()..].trim_start_matches('/');
        found.entry(mount).or_default().0.insert(Box::from(key), told);
    }
    found.into_iter().map(|(mount, trust)| (Box::from(mount), Arc::new(trust))).collect()
}
