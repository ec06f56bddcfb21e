//! What stands between a mount and its store: limits, deadlines, retries, hedges, the breaker, metrics, and the state
//! that all of them lead to.
//!
//! Order on the way of one request: limits (bandwidth → bytes in flight → a place among the operations) → breaker
//! → attempts, each under a deadline; reads perhaps hedged. A stalled body is bounded inside the backend, too.
//! No lock is held across an await, and nothing waits for the mount's actor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use forebay_core::{Error, ErrorKind, METRICS, MountState, Result};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

mod hedge;
mod limits;
mod retry;

use self::hedge::Hedging;
use self::limits::Gates;
use self::retry::RetryBudget;
use super::breaker::{Breaker, Caller, Change, Failure, Pass};
use crate::config::MountLimits;

/// What a store must move at least, so that large bodies get longer deadlines, in bytes per second.
const THROUGHPUT_MIN: u64 = 1 << 20;
/// Longest deadline of a probe after the first: what asks so little and waits longer than this waits for a store that
/// hangs. The first may try a store out, which is many requests.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Whether a request may be sent again when it is not known what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Sending it twice does what sending it once does.
    Safe,
    /// It must reach the store at most once.
    Once,
}

/// How many bytes of content a request moves, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// None to speak of.
    Nothing,
    /// From the store.
    Read(u64),
    /// To the store.
    Write(u64),
    /// Inside the store: takes time, but neither memory nor bandwidth here.
    Inside(u64),
}

impl Load {
    fn size_bytes(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Read(bytes) | Self::Write(bytes) | Self::Inside(bytes) => bytes,
        }
    }
}

/// The life signs of one mount; shared by its handle and its actor.
pub struct Vitals {
    name: String,
    gates: ArcSwap<Gates>,
    retries: RetryBudget,
    hedging: Hedging,
    breaker: Breaker,
    state: ArcSwap<MountState>,
    /// Wakes the actor when the breaker opens.
    trouble: Notify,
    /// Whether state and breaker show in metrics: not once another mount has the name.
    is_shown: AtomicBool,
    in_flight: IntGauge,
    breaker_open: IntGauge,
    read_bytes: IntCounter,
    written_bytes: IntCounter,
}

impl Vitals {
    /// A mount that has not been probed yet; `name` is its label in metrics.
    pub fn new(name: &str, limits: &MountLimits) -> Arc<Self> {
        let vitals = Self {
            name: name.to_owned(),
            gates: ArcSwap::from_pointee(Gates::new(name, limits)),
            retries: RetryBudget::new(name),
            hedging: Hedging::new(name),
            breaker: Breaker::new(),
            state: ArcSwap::from_pointee(MountState::Starting),
            trouble: Notify::new(),
            is_shown: AtomicBool::new(true),
            in_flight: METRICS.mount_operations_in_flight.with_label_values(&[name]),
            breaker_open: METRICS.breaker_open.with_label_values(&[name]),
            read_bytes: METRICS.backend_bytes.with_label_values(&[name, "read"]),
            written_bytes: METRICS.backend_bytes.with_label_values(&[name, "write"]),
        };
        vitals.breaker_open.set(0);
        vitals.show(&MountState::Starting);
        Arc::new(vitals)
    }

    /// Puts other limits into force for requests from now on. Those under way finish under the old ones, which are
    /// counted apart: for a moment there may be as many in flight as both allow together.
    pub fn set_limits(&self, limits: &MountLimits) {
        if self.gates.load().limits() != limits {
            self.gates.store(Arc::new(Gates::new(&self.name, limits)));
        }
    }

    /// The mount's name in metrics and logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the mount stands.
    pub fn state(&self) -> MountState {
        MountState::clone(&self.state.load())
    }

    /// Moves the mount to another state. One that drains or is gone never comes back.
    pub fn set_state(&self, state: MountState) {
        let state = Arc::new(state);
        let before = self.state.rcu(|now| {
            let is_final = match **now {
                MountState::Gone => true,
                MountState::Draining => *state != MountState::Gone,
                MountState::Starting | MountState::Ready | MountState::Degraded { .. } => false,
            };
            Arc::clone(if is_final { now } else { &state })
        });
        let now = self.state();
        if *before == now {
            return;
        }
        self.show(&now);
        match &now {
            MountState::Degraded { reason } => tracing::warn!(mount = self.name, reason, "mount degraded"),
            MountState::Starting | MountState::Ready | MountState::Draining | MountState::Gone => {
                tracing::info!(mount = self.name, state = label(&now), "mount changed state");
            }
        }
    }

    /// Takes a mount that drains back into service.
    pub fn revive(&self) {
        self.state.store(Arc::new(MountState::Starting));
        self.appear();
    }

    /// Leaves the metrics of state and breaker to another mount of this name.
    pub fn withdraw(&self) {
        self.is_shown.store(false, Ordering::Release);
    }

    /// Shows state and breaker in the metrics (again).
    pub fn appear(&self) {
        self.is_shown.store(true, Ordering::Release);
        self.breaker_open.set(i64::from(self.breaker.is_open()));
        self.show(&self.state());
    }

    /// Counts content bytes that came from the store.
    pub fn count_read(&self, bytes: u64) {
        self.read_bytes.inc_by(bytes);
    }

    /// Counts content bytes that went to the store.
    pub fn count_written(&self, bytes: u64) {
        self.written_bytes.inc_by(bytes);
    }

    /// Sends one request that moves no content to speak of; `operation` is its label in metrics.
    ///
    /// # Errors
    /// As [`Vitals::run_loaded`].
    pub async fn run<T, F, R>(&self, operation: &'static str, repeat: Repeat, call: F) -> Result<T>
    where
        F: Fn() -> R + Send + Sync,
        R: Future<Output = Result<T>> + Send,
    {
        self.run_loaded(operation, repeat, Load::Nothing, call).await
    }

    /// Sends one request under all limits. Its deadline grows by what its content takes at 1 MiB/s.
    ///
    /// # Errors
    /// `Busy` when the limits of the mount did not let it through in time, `Unavailable` when the breaker is open,
    /// `Timeout` past the deadline, else what `call` answers last.
    pub async fn run_loaded<T, F, R>(
        &self,
        operation: &'static str,
        repeat: Repeat,
        load: Load,
        call: F,
    ) -> Result<T>
    where
        F: Fn() -> R + Send + Sync,
        R: Future<Output = Result<T>> + Send,
    {
        let gates = self.gates.load_full();
        let result = match gates.enter(load).await {
            Ok(_leave) => {
                let _flying = InFlight::new(&self.in_flight);
                let began = Instant::now();
                let result = self.attempts(&gates, (repeat, load), call).await;
                let seconds = METRICS.backend_seconds.with_label_values(&[&self.name, operation]);
                seconds.observe(began.elapsed().as_secs_f64());
                result
            }
            Err(error) => Err(error),
        };
        self.count(operation, &result);
        result
    }

    /// Sends one request that cannot be sent again under all limits.
    ///
    /// # Errors
    /// As [`Vitals::run_loaded`].
    ///
    /// # Panics
    /// Never: what is sent at most once is taken once.
    pub async fn run_once<T, R>(&self, operation: &'static str, load: Load, request: R) -> Result<T>
    where
        R: Future<Output = Result<T>> + Send,
    {
        let request = Mutex::new(Some(request));
        let call = || request.lock().ok().and_then(|mut request| request.take()).expect("sent at most once");
        self.run_loaded(operation, Repeat::Once, load, call).await
    }

    /// Asks the store whether it is well, past all limits but the breaker: a store that hangs holds all places.
    /// `None` while the breaker says that it is too early.
    pub(super) async fn probe<R>(&self, call: impl FnOnce() -> R) -> Option<Result<()>>
    where
        R: Future<Output = Result<()>>,
    {
        let pass = self.breaker.enter(Caller::Prober).ok()?;
        let deadline = self.gates.load().limits().request_deadline;
        let deadline = match self.state() {
            MountState::Starting => deadline,
            MountState::Ready | MountState::Degraded { .. } | MountState::Draining | MountState::Gone => {
                deadline.min(PROBE_DEADLINE)
            }
        };
        let answer = timeout(deadline, call()).await.unwrap_or_else(|_| Err(silent(deadline)));
        self.count("probe", &answer);
        self.judge(pass, &answer);
        Some(answer)
    }

    /// Attempts under a deadline each, and two of them in all.
    async fn attempts<T, F, R>(&self, gates: &Gates, (repeat, load): (Repeat, Load), call: F) -> Result<T>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T>>,
    {
        let limits = gates.limits();
        let deadline = limits.request_deadline + Duration::from_secs(load.size_bytes() / THROUGHPUT_MIN);
        let end = Instant::now() + deadline.saturating_mul(2);
        self.retries.earn(limits);
        let mut attempt = 1;
        loop {
            let pass = self.enter()?;
            let until = end.min(Instant::now() + deadline);
            let answer = timeout_at(until, self.send(gates, load, &call)).await;
            let result = answer.unwrap_or_else(|_| Err(silent(deadline)));
            self.judge(pass, &result);
            let is_last = attempt >= limits.attempts || repeat == Repeat::Once;
            match result {
                Err(error) if !is_last && is_worth_repeating(error.kind()) => {
                    let wait = retry::back_off(attempt);
                    if Instant::now() + wait >= end {
                        return Err(error);
                    }
                    let Some(_retry) = self.retries.take(limits) else { return Err(error) };
                    tokio::time::sleep(wait).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn send<T, F, R>(&self, gates: &Gates, load: Load, call: &F) -> Result<T>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T>>,
    {
        match load {
            Load::Read(size_bytes) if gates.limits().hedge => {
                self.hedging.send(gates, size_bytes, call).await
            }
            Load::Nothing | Load::Read(_) | Load::Write(_) | Load::Inside(_) => call().await,
        }
    }

    /// Waits until the breaker opens; at once if it has since the last time.
    pub(super) async fn trouble(&self) {
        self.trouble.notified().await;
    }

    fn enter(&self) -> Result<Pass<'_>> {
        self.breaker.enter(Caller::Client).map_err(|wait| {
            let message = match self.state() {
                MountState::Degraded { reason } => format!("the store fails ({reason})"),
                MountState::Starting | MountState::Ready | MountState::Draining | MountState::Gone => {
                    "the store fails".to_owned()
                }
            };
            let again = if wait.is_zero() { "now".to_owned() } else { format!("in {wait:?}") };
            Error::new(ErrorKind::Unavailable, format!("{message}; it is tried again {again}"))
        })
    }

    fn judge<T>(&self, pass: Pass<'_>, result: &Result<T>) {
        let change = match result {
            Err(error) if error.kind() == ErrorKind::Timeout => pass.fail(Failure::Silent),
            Err(error) if is_store_failure(error.kind()) => pass.fail(Failure::Loud),
            Ok(_) | Err(_) => pass.succeed(),
        };
        if change == Change::Opened {
            self.trouble.notify_one();
        }
        match (change, result) {
            (Change::Opened | Change::StillOpen, Err(error)) => {
                self.show_breaker(true);
                self.set_state(MountState::Degraded { reason: reason(error) });
            }
            (Change::Closed, _) => {
                self.show_breaker(false);
                self.set_state(MountState::Ready);
            }
            (Change::Opened | Change::StillOpen | Change::None, _) => {}
        }
    }

    fn count<T>(&self, operation: &'static str, result: &Result<T>) {
        let outcome = result.as_ref().map_or_else(|e| e.kind().as_str(), |_| "ok");
        METRICS.backend_requests.with_label_values(&[&self.name, operation, outcome]).inc();
    }

    fn show_breaker(&self, is_open: bool) {
        if self.is_shown.load(Ordering::Acquire) {
            self.breaker_open.set(i64::from(is_open));
        }
    }

    fn show(&self, state: &MountState) {
        if !self.is_shown.load(Ordering::Acquire) {
            return;
        }
        for known in ["starting", "ready", "degraded", "draining"] {
            if *state == MountState::Gone {
                // A series that is not there need not be removed.
                METRICS.mount_state.remove_label_values(&[&self.name, known]).unwrap_or_default();
                continue;
            }
            let gauge = METRICS.mount_state.with_label_values(&[&self.name, known]);
            gauge.set(i64::from(known == label(state)));
        }
    }
}

/// An error and its cause in one line, for people.
pub(super) fn reason(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Counts one request in flight for as long as it lives.
struct InFlight<'a>(&'a IntGauge);

impl<'a> InFlight<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn label(state: &MountState) -> &'static str {
    match state {
        MountState::Starting => "starting",
        MountState::Ready => "ready",
        MountState::Degraded { .. } => "degraded",
        MountState::Draining => "draining",
        MountState::Gone => "gone",
    }
}

fn silent(deadline: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the store did not answer within {deadline:?}"))
}

fn is_worth_repeating(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Timeout)
}

/// Whether a store that answers this should be left alone. A slow-down (`Busy`) is an answer of a live store.
fn is_store_failure(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Internal)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn vitals(name: &str) -> Arc<Vitals> {
        Vitals::new(name, &MountLimits { operations: 1, ..MountLimits::default() })
    }

    async fn failing(vitals: &Vitals, repeat: Repeat, kind: ErrorKind) -> (usize, Error) {
        let calls = AtomicUsize::new(0);
        let result = vitals.run("stat", repeat, || async {
            calls.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>(Error::new(kind, "no luck"))
        });
        let error = result.await.expect_err("fails");
        (calls.load(Ordering::SeqCst), error)
    }

    #[tokio::test(start_paused = true)]
    async fn temporary_failures_of_safe_requests_are_repeated() {
        let vitals = vitals("/retry");
        assert_eq!(failing(&vitals, Repeat::Safe, ErrorKind::Unavailable).await.0, 3);
        assert_eq!(failing(&vitals, Repeat::Once, ErrorKind::Unavailable).await.0, 1);
        assert_eq!(failing(&vitals, Repeat::Safe, ErrorKind::NotFound).await.0, 1);
        let count = |outcome| METRICS.backend_requests.with_label_values(&["/retry", "stat", outcome]).get();
        assert_eq!((count("unavailable"), count("not_found")), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn store_that_keeps_failing_is_left_alone_until_a_probe_succeeds() {
        let vitals = vitals("/breaker");
        for _ in 0..5 {
            failing(&vitals, Repeat::Once, ErrorKind::Internal).await;
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        let MountState::Degraded { reason } = vitals.state() else { panic!("not degraded") };
        assert!(reason.contains("no luck"));
        let (calls, error) = failing(&vitals, Repeat::Safe, ErrorKind::Internal).await;
        assert_eq!((calls, error.kind()), (0, ErrorKind::Unavailable));
        tokio::time::advance(Duration::from_secs(1)).await;
        vitals.probe(|| async { Ok(()) }).await.expect("not too early").expect("the probe goes through");
        assert_eq!(vitals.state(), MountState::Ready);
        assert_eq!(METRICS.breaker_open.with_label_values(&["/breaker"]).get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn missing_objects_do_not_open_the_breaker() {
        let vitals = vitals("/missing");
        for _ in 0..20 {
            assert_eq!(failing(&vitals, Repeat::Safe, ErrorKind::NotFound).await.0, 1);
        }
        assert_eq!(vitals.state(), MountState::Starting);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_store_costs_two_deadlines_and_later_callers_are_told_to_slow_down() {
        let vitals = vitals("/hang");
        let began = Instant::now();
        let hang = vitals.run("read", Repeat::Safe, std::future::pending::<Result<()>>);
        let queued = vitals.run("read", Repeat::Safe, || async { Ok(()) });
        let (first, second) = tokio::join!(hang, queued);
        assert_eq!(first.map_err(|e| e.kind()), Err(ErrorKind::Timeout));
        assert_eq!(second.map_err(|e| e.kind()), Err(ErrorKind::Busy));
        assert!(began.elapsed() <= MountLimits::default().request_deadline * 2 + Duration::from_secs(1));
        assert_eq!(METRICS.mount_operations_in_flight.with_label_values(&["/hang"]).get(), 0);
    }

    #[test]
    fn mount_that_is_gone_stays_gone() {
        let vitals = vitals("/gone");
        vitals.set_state(MountState::Draining);
        vitals.set_state(MountState::Ready);
        assert_eq!(vitals.state(), MountState::Draining);
        vitals.set_state(MountState::Gone);
        vitals.set_state(MountState::Draining);
        assert_eq!(vitals.state(), MountState::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn exchanged_limits_hold_for_requests_that_begin_later() {
        let vitals = vitals("/limits");
        let hang = vitals.run("read", Repeat::Once, std::future::pending::<Result<()>>);
        let others = async {
            vitals.set_limits(&MountLimits { operations: 2, ..MountLimits::default() });
            vitals.run("read", Repeat::Safe, || async { Ok(()) }).await
        };
        tokio::select! {
            biased;
            _ = hang => panic!("it hangs"),
            answer = others => answer.expect("there is a place"),
        }
    }

    #[test]
    fn mount_whose_name_another_has_shows_nothing() {
        let (old, new) = (vitals("/both"), vitals("/both"));
        old.withdraw();
        new.set_state(MountState::Ready);
        old.set_state(MountState::Draining);
        old.set_state(MountState::Gone);
        let gauge = |state| METRICS.mount_state.with_label_values(&["/both", state]).get();
        assert_eq!((gauge("ready"), gauge("draining")), (1, 0));
    }
}
