//! Single flight: one fetch for a page, shared by all who want it.
//!
//! Invariant: a page is put in its tier before its flight leaves the map, and a new flight looks at the tier after
//! it has claimed the map's place; so a page that was kept is never fetched again.

use std::future::{Future, ready};
use std::sync::Arc;

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use forebay_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::page::{KeyHash, PageKey};
use super::tasks::Tasks;

/// The page's bytes, or the error of the one fetch.
pub(super) type Flight = Shared<BoxFuture<'static, Result<Bytes>>>;

/// Fetches under way.
pub(super) struct Flights {
    under_way: DashMap<PageKey, Flight, KeyHash>,
    tasks: Arc<Tasks>,
}

impl Flights {
    pub(super) fn new(tasks: Arc<Tasks>) -> Self {
        Self { under_way: DashMap::default(), tasks }
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.under_way.contains_key(&key)
    }

    /// The flight for `key`, if it is under way.
    pub(super) fn find(&self, key: PageKey) -> Option<Flight> {
        self.under_way.get(&key).map(|flight| flight.clone())
    }

    /// Joins the flight for `key`, or starts `work` for it unless `landed` finds the page. `work` runs to its end
    /// even if nobody waits; a panic in it is an `Internal` error for all.
    pub(super) fn join<W>(
        self: &Arc<Self>,
        key: PageKey,
        landed: impl FnOnce() -> Option<Bytes>,
        work: impl FnOnce() -> W,
    ) -> Flight
    where
        W: Future<Output = Result<Bytes>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let flight = match self.under_way.entry(key) {
            Entry::Occupied(flight) => return flight.get().clone(),
            Entry::Vacant(place) => {
                if let Some(bytes) = landed() {
                    return ready(Ok(bytes)).boxed().shared();
                }
                let outcome = async { receiver.await.unwrap_or_else(|_| Err(lost())) };
                place.insert(outcome.boxed().shared()).clone()
            }
        };
        let landing = Landing { flights: Arc::clone(self), key };
        let work = work();
        self.tasks.spawn(async move {
            let outcome = work.await;
            drop(landing);
            // Nobody may be waiting any more.
            sender.send(outcome).unwrap_or_default();
        });
        flight
    }
}

/// Takes the flight off the map, also when its task panics.
struct Landing {
    flights: Arc<Flights>,
    key: PageKey,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.under_way.remove(&self.key);
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Internal, "the fetch of a page ended without an answer, see the log for its panic")
}
