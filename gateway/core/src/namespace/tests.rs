//! Placeholder until the listing tests land.
