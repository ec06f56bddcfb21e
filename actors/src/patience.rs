//! Waits out a store in trouble: a store that restarts must not cost a copy or a load a file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_core::{ErrorKind, Result};
use tokio::time::Instant;

/// How long nothing of a job may succeed before its files fail at their first error.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait before the second attempt; each next one is twice as long.
const BACK_OFF: Duration = Duration::from_millis(300);
/// Longest such wait: a store that is back should be used again soon.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// Attempts at a source that is changed each time while it is read.
const STALE_ATTEMPTS: u32 = 3;

/// The patience of one job with its stores.
pub struct Patience {
    began: Instant,
    /// When the last attempt succeeded, in milliseconds since `began`.
    succeeded_ms: AtomicU64,
}

impl Patience {
    /// With all of it left.
    #[expect(clippy::new_without_default, reason = "the clock starts here")]
    pub fn new() -> Self {
        Self { began: Instant::now(), succeeded_ms: AtomicU64::new(0) }
    }

    /// Does `work` again for as long as it fails with what may pass and the job gets on elsewhere.
    ///
    /// # Errors
    /// The last one of `work`.
    pub async fn retry<T, R>(&self, work: impl Fn() -> R) -> Result<T>
    where
        R: Future<Output = Result<T>>,
    {
        let mut attempt = 1;
        loop {
            let error = match work().await {
                Ok(done) => {
                    self.succeeded_ms.fetch_max(self.elapsed_ms(), Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) => error,
            };
            let may_pass = match error.kind() {
                ErrorKind::Stale => attempt < STALE_ATTEMPTS,
                _ => error.is_temporary() && self.is_left(),
            };
            if !may_pass {
                return Err(error);
            }
            let wait = BACK_OFF.saturating_mul(1 << (attempt - 1).min(16)).min(BACK_OFF_MAX);
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            attempt += 1;
        }
    }

    fn is_left(&self) -> bool {
        let since_ms = self.elapsed_ms() - self.succeeded_ms.load(Ordering::Relaxed);
        Duration::from_millis(since_ms) < PATIENCE
    }

    fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use forebay_core::Error;

    use super::*;

    async fn attempts(patience: &Patience, kind: ErrorKind) -> u32 {
        let attempts = Cell::new(0);
        let outcome = patience.retry(|| async {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(Error::new(kind, "no luck"))
        });
        assert_eq!(outcome.await.map_err(|e| e.kind()), Err(kind));
        attempts.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stays_away_is_waited_for_once_and_not_per_file() {
        let patience = Patience::new();
        assert!(attempts(&patience, ErrorKind::Unavailable).await > 5);
        assert!(patience.began.elapsed() < PATIENCE + BACK_OFF_MAX * 2);
        assert_eq!(attempts(&patience, ErrorKind::Unavailable).await, 1);
        patience.retry(|| async { Ok(()) }).await.expect("succeeds");
        assert!(
            attempts(&patience, ErrorKind::Unavailable).await > 5,
            "it is back, so it is waited for again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_not_waited_for() {
        let patience = Patience::new();
        assert_eq!(attempts(&patience, ErrorKind::AccessDenied).await, 1);
        assert_eq!(attempts(&patience, ErrorKind::Stale).await, STALE_ATTEMPTS);
    }
}
