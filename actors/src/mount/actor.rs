//! The actor of one mount: asks the store whether it is well. The handle serves without it, only later again after
//! its breaker opened.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::MountState;
use futures::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::vitals::{Vitals, reason};

/// Time between two probes of a store that is well.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The same for one that is not; an open breaker spreads its probes further.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(1);

/// Asks the store for something small.
pub(super) type Probe = Arc<dyn Fn() -> BoxFuture<'static, forebay_core::Result<()>> + Send + Sync>;

/// What the actor needs; it survives restarts outside it.
#[derive(Clone)]
pub(super) struct Patient {
    pub(super) vitals: Arc<Vitals>,
    pub(super) probe: Probe,
    /// When the first probe is due: many mounts that start at once do not ask their stores at once.
    pub(super) first_probe_in: Duration,
}

impl Patient {
    /// Asks the store, unless it is too early for that, and moves the mount to the state that follows from its answer.
    pub(super) async fn examine(&self) {
        // Through the vitals, because it is the probe of an open breaker, too.
        match self.vitals.probe(|| (self.probe)()).await {
            Some(Ok(())) => self.vitals.set_state(MountState::Ready),
            Some(Err(error)) => self.vitals.set_state(MountState::Degraded { reason: reason(&error) }),
            None => {}
        }
    }
}

/// Probes when it starts and then again and again, sooner when the breaker opens: one probe at a time.
pub(super) struct MountActor;

/// A patient and what wakes its actor.
pub(super) struct Watched {
    patient: Patient,
    /// Ends with the actor.
    timer: JoinSet<()>,
}

pub(super) struct ProbeNow;

impl Actor for MountActor {
    type Msg = ProbeNow;
    type State = Watched;
    type Arguments = Patient;

    async fn pre_start(
        &self,
        myself: ActorRef<ProbeNow>,
        patient: Patient,
    ) -> Result<Watched, ActorProcessingErr> {
        myself.send_after(patient.first_probe_in, || ProbeNow);
        Ok(Watched { patient, timer: JoinSet::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<ProbeNow>,
        ProbeNow: ProbeNow,
        watched: &mut Watched,
    ) -> Result<(), ActorProcessingErr> {
        let patient = &watched.patient;
        patient.examine().await;
        let interval = match patient.vitals.state() {
            MountState::Degraded { .. } => RECOVERY_INTERVAL,
            MountState::Starting | MountState::Ready | MountState::Draining | MountState::Gone => {
                PROBE_INTERVAL
            }
        };
        watched.timer.abort_all();
        let vitals = Arc::clone(&patient.vitals);
        watched.timer.spawn(async move {
            // Either way it is time.
            timeout(interval, vitals.trouble()).await.unwrap_or_default();
            // An actor that is gone probes no more.
            myself.cast(ProbeNow).unwrap_or_default();
        });
        while watched.timer.try_join_next().is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use forebay_core::{Error, ErrorKind};
    use futures::FutureExt;

    use super::super::vitals::Repeat;
    use super::*;
    use crate::config::MountLimits;
    use crate::supervisor::Supervisor;

    #[tokio::test(start_paused = true)]
    async fn mount_follows_what_its_store_answers() {
        let (is_well, probes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let vitals = Vitals::new("/probed", &MountLimits::default());
        let (well, count) = (Arc::clone(&is_well), Arc::clone(&probes));
        let probe: Probe = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            let is_well = well.load(Ordering::SeqCst);
            async move {
                if is_well { Ok(()) } else { Err(Error::new(ErrorKind::Unavailable, "nobody there")) }
            }
            .boxed()
        });
        let supervisor = Supervisor::start("mounts").await.expect("starts");
        let patient = Patient { vitals: Arc::clone(&vitals), probe, first_probe_in: Duration::ZERO };
        supervisor.child("Mount:/probed", move || (MountActor, patient.clone())).await.expect("added");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(vitals.state(), MountState::Degraded { reason: "nobody there".into() });
        tokio::time::sleep(Duration::from_mins(1)).await;
        let reason = "nobody there".into();
        assert_eq!(vitals.state(), MountState::Degraded { reason }, "of the store, not of the open breaker");
        is_well.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(vitals.state(), MountState::Ready, "used again within seconds");
        let before = probes.load(Ordering::SeqCst);
        assert!(supervisor.panic_child("Mount:/probed").await.expect("alive"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(probes.load(Ordering::SeqCst), before + 1, "a restarted actor probes at once");
    }

    #[tokio::test(start_paused = true)]
    async fn open_breaker_is_probed_at_once_and_not_after_the_usual_interval() {
        let vitals = Vitals::new("/awake", &MountLimits::default());
        let probe: Probe = Arc::new(|| async { Ok(()) }.boxed());
        let supervisor = Supervisor::start("mounts").await.expect("starts");
        let patient = Patient { vitals: Arc::clone(&vitals), probe, first_probe_in: Duration::ZERO };
        supervisor.child("Mount:/awake", move || (MountActor, patient.clone())).await.expect("added");
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..5 {
            let fails = || async { Err::<(), _>(Error::new(ErrorKind::Internal, "nobody there")) };
            vitals.run("stat", Repeat::Once, fails).await.expect_err("fails");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(matches!(vitals.state(), MountState::Degraded { .. }));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(vitals.state(), MountState::Ready);
    }
}
