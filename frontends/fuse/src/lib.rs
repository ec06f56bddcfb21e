//! The namespace as a Linux file system, through FUSE.
//!
//! Invariants:
//! - An inode is a `FileId`: content changed in place keeps it, whole replacement gives a new one, and open
//!   descriptors keep the old.
//! - The way an inode's bytes are served (passthrough or buffered) is fixed while any handle is open; an open that
//!   cannot join is answered `ESTALE` once, and the kernel repeats it on a fresh inode.
//! - No handler waits: what is at hand is answered on the FUSE thread, the rest moves with its reply into a task.
//! - The kernel is told to forget something from a thread of its own, never from a handler (it would deadlock).
//! - Deliberately absent: the kernel's writeback cache (it excludes passthrough), hard links, symbolic links.

mod attr;
mod counters;
mod error;
mod filesystem;
mod handle;
mod held;
mod inode;
mod kernel;
mod observer;
mod ops;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod writing;

pub use session::{FuseConfig, FuseSession};
