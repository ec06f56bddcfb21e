//! Wall-clock time behind one type, so that tests can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Where the time of day comes from.
#[derive(Clone, Default)]
pub struct Clock(Option<ManualClock>);

/// Seconds from the epoch to the end of year 9999, the last that HTTP dates and RFC 3339 can write.
const CALENDAR_END_S: u64 = 253_402_300_799;

/// `time` where a protocol has to write it as a date: clamped to the years 1970 to 9999.
pub fn calendar(time: SystemTime) -> SystemTime {
    time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(CALENDAR_END_S))
}

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock under the control of a test.
    pub fn manual(clock: &ManualClock) -> Self {
        Self(Some(clock.clone()))
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            None => SystemTime::now(),
            Some(manual) => SystemTime::UNIX_EPOCH + Duration::from_millis(manual.0.load(Ordering::Relaxed)),
        }
    }
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_no_protocol_can_write_are_clamped() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(calendar(epoch - Duration::from_secs(1)), epoch);
        let end = epoch + Duration::from_secs(CALENDAR_END_S);
        assert_eq!(calendar(end + Duration::from_secs(1)), end);
    }

    #[test]
    fn manual_clock_moves_only_when_told() {
        let manual = ManualClock::default();
        let clock = Clock::manual(&manual);
        let start = clock.now();
        manual.advance(Duration::from_secs(5));
        assert_eq!(clock.now().duration_since(start).expect("forward"), Duration::from_secs(5));
    }
}
