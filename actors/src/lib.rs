//! Everything behind the namespace port: stores, caches, staging, and the supervised actors that look after them.
//!
//! Invariants:
//! - No byte goes through a mailbox, and no hit waits for an actor: handles serve bytes, actors own lifecycle and
//!   policy and publish what handles read. A handle outlives its actor.
//! - `OpenDAL` and the HTTP clients of stores appear under [`backend`] only.
//! - Space is reserved before it is written, in memory and on disk.

pub mod backend;
pub mod cache;
pub mod config;
pub mod conformance;
mod frame;
pub mod load;
pub mod metadata;
pub mod mount;
pub mod mounts;
pub mod patience;
pub mod staging;
pub mod supervisor;
