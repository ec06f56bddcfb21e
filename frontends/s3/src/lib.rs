//! The S3 frontend: one namespace served over the S3 protocol on a listener of its own.
//!
//! Invariants:
//! - A request reaches the namespace only with the [`forebay_core::Context`] that the access check attached to it;
//!   an operation that finds none answers `AccessDenied`.
//! - A bucket is the first segment of a path. Keys are byte-exact, or refused with the reason.
//! - Nothing of an upload is visible before its length and every checksum sent with it were verified.
//! - A body that cannot be read to its end breaks the connection; it never ends early as if it were complete.
//!
//! Deliberately absent: `SigV2`, server-side encryption, ACLs beyond private, versions, tags, and bucket settings.
//! Requests for them are refused, never silently accepted.

mod auth;
mod body;
mod checksum;
mod conditions;
mod error;
mod handler;
mod headers;
mod list;
mod name;
mod ops;
mod request_id;
mod server;
mod upload;

#[cfg(test)]
mod testing;

pub use server::{S3Config, S3Server};
