//! Mounts: from an entry of the configuration to a handle that serves bytes and an actor that looks after it.
//!
//! Invariants:
//! - A store that cannot be reached does not keep its mount from opening: it starts degraded.
//! - The handle needs its actor for nothing but news about the store's health.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_core::{Clock, Result};

mod actor;
mod breaker;
pub mod local;
pub mod object;
pub mod vitals;

pub use actor::Probe;
use actor::{MountActor, Patient};
use vitals::Vitals;

use crate::supervisor::Supervisor;

/// What all mounts share.
#[derive(Clone)]
pub struct Environment {
    /// Looks after the mounts' actors.
    pub supervisor: Supervisor,
    /// Where the gateway keeps its own state.
    pub var_directory: PathBuf,
    /// The time of day.
    pub clock: Clock,
}

/// Probes a mount's store at once and then every ten seconds.
///
/// # Errors
/// As [`Supervisor::child`].
pub async fn watch(supervisor: &Supervisor, vitals: &Arc<Vitals>, probe: Probe) -> Result<()> {
    let patient = Patient { vitals: Arc::clone(vitals), probe };
    supervisor.child(format!("Mount:{}", vitals.name()), move || (MountActor, patient.clone())).await
}

/// Where the staged writes of the mount `name` lie. Different mounts never share a directory.
pub fn staging_directory(var_directory: &Path, name: &str) -> PathBuf {
    var_directory.join("staging").join(encoded(name))
}

/// A mount's name as one file name: `/` becomes `+`, and what is not a letter, digit, `-`, `_` or `.` becomes
/// `%` and two hex digits per byte. Injective; long names become a hash.
fn encoded(name: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'/' => text.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(char::from(byte)),
            _ => write!(text, "%{byte:02x}").expect("a string takes everything"),
        }
    }
    if text.len() <= ENCODED_BYTES_MAX {
        return text;
    }
    format!("={}", blake3::hash(name.as_bytes()).to_hex())
}

/// Longest file name before a hash takes its place; file systems allow 255 bytes.
const ENCODED_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_mounts_never_share_a_directory() {
        let long = "/".to_owned() + &"x".repeat(300);
        let names = ["/a", "/a/b", "/a+b", "/a%2fb", "/a%2bb", "/A", "/ä", "/a b", "/a.", &long];
        let directories: HashSet<_> = names.iter().map(|name| encoded(name)).collect();
        assert_eq!(directories.len(), names.len());
        assert!(directories.iter().all(|name| name.len() <= 255 && !name.contains('/') && !name.is_empty()));
    }
}
