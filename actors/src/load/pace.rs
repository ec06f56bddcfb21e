//! A bandwidth cap: who has moved bytes waits until they may have moved.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The cap of one job.
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was moved so far may have been moved.
    paid_until: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits for as long as `bytes`, which were moved, take.
    pub(super) async fn pay(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let until = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let took = Duration::from_secs_f64(bytes as f64 / rate as f64);
            *paid_until = (*paid_until).max(Instant::now()) + took;
            *paid_until
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_of_all_who_move_them_take_their_time() {
        let pace = Pace::new(Some(1_000));
        let began = Instant::now();
        tokio::join!(pace.pay(1_000), pace.pay(2_000), pace.pay(0));
        assert_eq!(began.elapsed().as_secs(), 3);
        Pace::new(None).pay(u64::MAX).await;
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
