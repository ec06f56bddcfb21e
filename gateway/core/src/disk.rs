//! Waiting for one local disk without waiting for ever.
//!
//! Invariants:
//! - Work that hangs keeps its place until it returns, so a dead disk holds no more threads than there are places.
//! - Nobody waits longer than the deadline, in the queue and for the disk together, and nobody while they are shut.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

/// The turns of those who wait for one disk.
pub struct DiskTurns {
    places: Arc<Semaphore>,
    deadline: Duration,
    runtime: Handle,
    answered: Arc<Answered>,
    is_shut: watch::Sender<bool>,
}

/// When the disk answered last.
struct Answered {
    born: Instant,
    /// Milliseconds after `born`.
    at: AtomicU64,
}

impl DiskTurns {
    /// At most `places` waits at once, none of them longer than `deadline`, on threads of `runtime`.
    pub fn new(places: usize, deadline: Duration, runtime: Handle) -> Self {
        let answered = Arc::new(Answered { born: Instant::now(), at: AtomicU64::new(0) });
        let (places, is_shut) = (Arc::new(Semaphore::new(places)), watch::Sender::new(false));
        Self { places, deadline, runtime, answered, is_shut }
    }

    /// Runs `work`, which may block on the disk, on a thread of its own. When the caller stops waiting, it goes on.
    ///
    /// # Errors
    /// `TimedOut` when the deadline passed or the turns are shut; what `work` panicked with.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let outcome = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
            let answered = Arc::clone(&self.answered);
            let turn = self.runtime.spawn_blocking(move || {
                let _place = place;
                let done = work();
                answered.note();
                done
            });
            turn.await.map_err(io::Error::other)
        };
        let mut shutting = self.is_shut.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as this.
            _ = shutting.wait_for(|is_shut| *is_shut) => Err(io::ErrorKind::TimedOut.into()),
            answer = timeout(self.deadline, outcome) => answer.unwrap_or_else(|late| Err(late.into())),
        }
    }

    /// Lets nobody wait: the disk is known to be away, or is there again.
    pub fn shut(&self, is_away: bool) {
        self.is_shut.send_replace(is_away);
    }

    /// The disk answered somebody who took no turn.
    pub fn note_answer(&self) {
        self.answered.note();
    }

    /// Whether the disk has answered nobody for so long: one that is merely slow answers others.
    pub fn has_been_stuck_for(&self, time: Duration) -> bool {
        let Answered { born, at } = &*self.answered;
        born.elapsed().saturating_sub(Duration::from_millis(at.load(Ordering::Relaxed))) >= time
    }
}

impl Answered {
    fn note(&self) {
        self.at.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const DEADLINE: Duration = Duration::from_millis(50);

    fn turns(places: usize) -> DiskTurns {
        DiskTurns::new(places, DEADLINE, Handle::current())
    }

    #[tokio::test]
    async fn work_that_hangs_keeps_its_place_and_nobody_waits_past_the_deadline() {
        let (turns, (release, stopped)) = (turns(1), mpsc::channel::<()>());
        let hung = turns.run(move || stopped.recv().is_ok()).await;
        assert_eq!(hung.expect_err("hangs").kind(), io::ErrorKind::TimedOut);
        assert!(turns.has_been_stuck_for(DEADLINE));
        let queued = turns.run(|| panic!("there is no place")).await;
        assert_eq!(queued.expect_err("queued").kind(), io::ErrorKind::TimedOut);
        drop(release);
        while turns.run(|| ()).await.is_err() {}
        assert!(!turns.has_been_stuck_for(DEADLINE));
    }

    #[tokio::test]
    async fn who_waits_leaves_when_the_turns_are_shut_and_who_comes_does_not_wait() {
        let turns = DiskTurns::new(2, Duration::from_hours(1), Handle::current());
        let (release, stopped) = mpsc::channel::<()>();
        let waiting = turns.run(move || stopped.recv().is_ok());
        let (answer, ()) = tokio::join!(waiting, async { turns.shut(true) });
        assert_eq!(answer.expect_err("left").kind(), io::ErrorKind::TimedOut);
        let next = turns.run(|| panic!("not tried")).await;
        assert_eq!(next.expect_err("shut").kind(), io::ErrorKind::TimedOut);
        turns.shut(false);
        turns.run(|| ()).await.expect("answers");
        drop(release);
    }

    #[tokio::test]
    async fn slow_disk_that_answers_others_is_not_stuck() {
        let (turns, (release, stopped)) = (turns(2), mpsc::channel::<()>());
        let slow = turns.run(move || stopped.recv().is_ok());
        let others = async {
            let begun = Instant::now();
            while begun.elapsed() < DEADLINE * 2 {
                turns.run(|| ()).await.expect("answers");
            }
        };
        let (slow, ()) = tokio::join!(slow, others);
        assert_eq!(slow.expect_err("slow").kind(), io::ErrorKind::TimedOut);
        assert!(!turns.has_been_stuck_for(DEADLINE));
        drop(release);
    }

    #[tokio::test]
    async fn panic_in_a_turn_is_an_error_and_gives_the_place_back() {
        let turns = turns(1);
        assert!(turns.run(|| panic!("on purpose")).await.is_err());
        while turns.run(|| ()).await.is_err() {}
    }
}
