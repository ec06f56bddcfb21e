use std::sync::atomic::{AtomicUsize, Ordering};

use forebay_core::METRICS;

use super::*;

async fn supervisor() -> Supervisor {
    Supervisor::start("test").await.expect("starts")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !condition() {
        assert!(Instant::now() < deadline, "not within two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn status(supervisor: &Supervisor, name: &str) -> Option<ChildStatus> {
    supervisor.children().into_iter().find(|child| child.name == name)
}

fn is(supervisor: &Supervisor, name: &str, state: ChildState) -> bool {
    status(supervisor, name).is_some_and(|child| child.state == state)
}

/// A service that counts its starts and then waits to be stopped.
async fn counting(supervisor: &Supervisor, name: &str) -> Arc<AtomicUsize> {
    let starts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&starts);
    let make = move |mut signal: StopSignal| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            signal.requested().await;
            Ok(())
        }
    };
    supervisor.service(name, make).await.expect("added");
    starts
}

/// A service that fails whenever it is started.
async fn failing(supervisor: &Supervisor, name: &str) -> Arc<AtomicUsize> {
    let starts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&starts);
    let make = move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Err("no luck".into()) }
    };
    supervisor.service(name, make).await.expect("added");
    starts
}

#[tokio::test(start_paused = true)]
async fn child_that_keeps_failing_is_degraded_and_retried_slowly() {
    let supervisor = supervisor().await;
    let sibling = counting(&supervisor, "sibling").await;
    let began = Instant::now();
    let starts = failing(&supervisor, "bad").await;
    until("degraded", || is(&supervisor, "bad", ChildState::Degraded)).await;
    assert_eq!(starts.load(Ordering::SeqCst), 6);
    assert!(began.elapsed() >= Duration::from_millis(20 + 40 + 80 + 160 + 320), "backed off");
    assert_eq!(METRICS.actor_degraded.with_label_values(&["bad"]).get(), 1);
    until("slow retry", || starts.load(Ordering::SeqCst) == 7).await;
    assert!(began.elapsed() >= Duration::from_secs(30));
    let bad = status(&supervisor, "bad").expect("kept");
    assert!(bad.last_cause.is_some_and(|cause| cause.contains("no luck")));
    assert_eq!(sibling.load(Ordering::SeqCst), 1);
    assert!(is(&supervisor, "sibling", ChildState::Running));
}

#[tokio::test(start_paused = true)]
async fn degraded_child_that_lives_for_a_minute_is_running_again() {
    let supervisor = supervisor().await;
    let starts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&starts);
    let make = move |mut signal: StopSignal| {
        let is_well = counter.fetch_add(1, Ordering::SeqCst) >= 6;
        async move {
            if !is_well {
                return Err("not yet".into());
            }
            signal.requested().await;
            Ok(())
        }
    };
    supervisor.service("late", make).await.expect("added");
    until("degraded", || is(&supervisor, "late", ChildState::Degraded)).await;
    until("running", || is(&supervisor, "late", ChildState::Running)).await;
    assert_eq!(METRICS.actor_degraded.with_label_values(&["late"]).get(), 0);
    assert_eq!(starts.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn panicked_child_serves_again_within_a_second() {
    let supervisor = supervisor().await;
    let starts = counting(&supervisor, "p").await;
    let sibling = counting(&supervisor, "q").await;
    let began = Instant::now();
    assert!(supervisor.panic_child("p").await.expect("alive"));
    until("restarted", || starts.load(Ordering::SeqCst) == 2).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    until("running", || is(&supervisor, "p", ChildState::Running)).await;
    let child = status(&supervisor, "p").expect("kept");
    assert_eq!((child.restarts, child.last_cause.as_deref()), (1, Some("panicked on purpose")));
    assert_eq!(METRICS.actor_restarts.with_label_values(&["p", "panic"]).get(), 1);
    assert_eq!(sibling.load(Ordering::SeqCst), 1);
    assert!(!supervisor.panic_child("nobody").await.expect("alive"));
}

#[tokio::test(start_paused = true)]
async fn removed_child_is_not_restarted() {
    let supervisor = supervisor().await;
    let starts = failing(&supervisor, "gone").await;
    until("failed", || is(&supervisor, "gone", ChildState::Restarting)).await;
    supervisor.remove("gone", Duration::from_secs(1)).await.expect("alive");
    let before = starts.load(Ordering::SeqCst);
    // A new child of the same name must not inherit the restart that was due for the old one.
    let fresh = counting(&supervisor, "gone").await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(starts.load(Ordering::SeqCst), before);
    assert_eq!(fresh.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_lets_services_finish_and_kills_those_that_do_not() {
    let supervisor = supervisor().await;
    let finished = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&finished);
    let polite = move |mut signal: StopSignal| {
        let counter = Arc::clone(&counter);
        async move {
            signal.requested().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    supervisor.service("polite", polite).await.expect("added");
    supervisor.service("stubborn", |_| std::future::pending()).await.expect("added");
    let began = Instant::now();
    supervisor.stop(Duration::from_secs(10)).await;
    assert_eq!(finished.load(Ordering::SeqCst), 1);
    assert!(began.elapsed() >= Duration::from_secs(10) && began.elapsed() < Duration::from_secs(11));
    assert!(supervisor.children().is_empty());
    assert!(supervisor.service("late", |_| std::future::pending()).await.is_err());
}

#[tokio::test]
async fn two_children_cannot_share_a_name() {
    let supervisor = supervisor().await;
    counting(&supervisor, "one").await;
    let error = supervisor.service("one", |_| std::future::pending()).await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

/// An actor whose first handler never comes back.
struct Hanging(Arc<AtomicUsize>);

impl Actor for Hanging {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        (): (),
    ) -> std::result::Result<(), ractor::ActorProcessingErr> {
        Ok(myself.cast(())?)
    }

    async fn handle(
        &self,
        _: ActorRef<()>,
        (): (),
        (): &mut (),
    ) -> std::result::Result<(), ractor::ActorProcessingErr> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn child_whose_handler_hangs_is_killed_and_starts_again() {
    let supervisor = supervisor().await;
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handled);
    let began = Instant::now();
    supervisor.child("hangs", move || (Hanging(Arc::clone(&counter)), ())).await.expect("added");
    until("handled again", || handled.load(Ordering::SeqCst) == 2).await;
    assert!(began.elapsed() > Duration::from_secs(30) && began.elapsed() < Duration::from_secs(40));
    assert_eq!(METRICS.actor_restarts.with_label_values(&["hangs", "hung"]).get(), 1);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(is(&supervisor, "hangs", ChildState::Running));
    assert_eq!(status(&supervisor, "hangs").map(|child| child.restarts), Some(1));
}
