//! Atomics: the processor's, or those whose order the model tests choose.

#[cfg(all(test, feature = "shuttle"))]
pub(super) use shuttle::sync::atomic;
#[cfg(not(all(test, feature = "shuttle")))]
pub(super) use std::sync::atomic;
