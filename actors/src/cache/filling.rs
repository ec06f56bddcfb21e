//! Places for fetches that nobody waits for: many while the store has nothing else to do, few while somebody waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Such fetches at once, of one mount.
const PLACES: usize = 16;
/// The same while a reader waits for the mount's store.
const PLACES_BESIDE_READERS: usize = 2;

/// The places of one mount.
#[derive(Default)]
pub(super) struct Filling {
    taken: AtomicUsize,
    readers: AtomicUsize,
    /// Told when a place may have become free.
    freed: Notify,
}

/// A place; dropping it gives it back.
pub(super) struct Place<'a>(&'a Filling);

/// A reader who waits for the store.
pub(super) struct Waiting<'a>(&'a Filling);

impl Filling {
    /// Somebody waits for the store until this is dropped.
    pub(super) fn wait_for_store(&self) -> Waiting<'_> {
        self.readers.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }

    /// Waits for a place. Cancel-safe.
    pub(super) async fn place(&self) -> Place<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Listens before it looks, so that nothing that happens between the two is missed.
            freed.as_mut().enable();
            if let Some(place) = self.try_place() {
                return place;
            }
            freed.await;
        }
    }

    fn try_place(&self) -> Option<Place<'_>> {
        let most = if self.readers.load(Ordering::Acquire) > 0 { PLACES_BESIDE_READERS } else { PLACES };
        let take = |taken: usize| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok().map(|_| Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_waiters();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn take_all(filling: &Filling) -> Vec<Place<'_>> {
        std::iter::from_fn(|| filling.place().now_or_never()).collect()
    }

    #[tokio::test]
    async fn few_fill_beside_readers_and_the_others_go_on_when_the_last_reader_is_served() {
        let filling = Filling::default();
        let (one, other) = (filling.wait_for_store(), filling.wait_for_store());
        let beside = take_all(&filling);
        assert_eq!(beside.len(), PLACES_BESIDE_READERS);
        let mut waits = Box::pin(filling.place());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(one);
        assert!(waits.as_mut().now_or_never().is_none());
        drop(other);
        let _place = waits.await;
        assert_eq!(take_all(&filling).len(), PLACES - PLACES_BESIDE_READERS - 1);
    }

    #[tokio::test]
    async fn a_place_that_is_given_back_goes_to_who_waits() {
        let filling = Filling::default();
        let mut all = take_all(&filling);
        assert_eq!(all.len(), PLACES);
        let mut waits = Box::pin(filling.place());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(all.pop());
        waits.await;
    }
}
