//! WebHDFS as the servers of Hadoop 3.3 speak it, over the namespace.
//!
//! Invariants:
//! - A request crosses to the main runtime at most once for its answer; actix's worker parses, answers what needs no
//!   waiting, and moves bytes in pieces of at most 64 KiB.
//! - A file is visible when its body arrived whole, or not at all.
//! - Names pass byte for byte: the path is decoded here and nowhere else.
//! - Every failure is a `RemoteException` from one table, a panic included.
//!
//! Deliberately absent: HTTP/2 (no Hadoop client speaks it), delegation tokens of our own, ACLs, snapshots, quotas,
//! erasure coding and storage policies other than `HOT`.

mod auth;
mod body;
mod call;
mod config;
mod connection;
mod crossing;
mod error;
mod json;
mod listener;
mod metrics;
mod names;
mod operation;
mod ops;
mod params;
mod path;
mod redirect;
mod reply;
mod request_line;
mod server;
mod service;
#[cfg(test)]
mod testing;

pub use config::{ColonPolicy, WebHdfsConfig};
pub use server::WebHdfsServer;
