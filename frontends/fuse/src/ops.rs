//! What each request does; replies and flags of the protocol are in `filesystem.rs`.

pub(crate) mod attributes;
pub(crate) mod create;
pub(crate) mod directory;
pub(crate) mod link;
pub(crate) mod lookup;
pub(crate) mod open;
pub(crate) mod read;
pub(crate) mod rename;
pub(crate) mod write;
pub(crate) mod xattr;
