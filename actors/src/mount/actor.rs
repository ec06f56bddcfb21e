//! The actor of one mount: asks the store whether it is well. The handle serves without it.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::MountState;
use futures::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::vitals::{Repeat, Vitals, reason};

/// Time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

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
    /// Asks the store, and moves the mount to the state that follows from its answer.
    pub(super) async fn examine(&self) {
        // Through the vitals, so that it is the probe of an open breaker, too.
        let probed = self.vitals.run("probe", Repeat::Once, || (self.probe)()).await;
        let state = match probed {
            Ok(()) => MountState::Ready,
            Err(error) => MountState::Degraded { reason: reason(&error) },
        };
        self.vitals.set_state(state);
    }
}

/// Probes when it starts and then every ten seconds: one probe at a time.
pub(super) struct MountActor;

pub(super) struct ProbeNow;

impl Actor for MountActor {
    type Msg = ProbeNow;
    type State = Patient;
    type Arguments = Patient;

    async fn pre_start(
        &self,
        myself: ActorRef<ProbeNow>,
        patient: Patient,
    ) -> Result<Patient, ActorProcessingErr> {
        myself.send_after(patient.first_probe_in, || ProbeNow);
        Ok(patient)
    }

    async fn handle(
        &self,
        myself: ActorRef<ProbeNow>,
        ProbeNow: ProbeNow,
        patient: &mut Patient,
    ) -> Result<(), ActorProcessingErr> {
        patient.examine().await;
        myself.send_after(PROBE_INTERVAL, || ProbeNow);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use forebay_core::{Error, ErrorKind};
    use futures::FutureExt;

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
        is_well.store(true, Ordering::SeqCst);
        tokio::time::sleep(PROBE_INTERVAL).await;
        assert_eq!(vitals.state(), MountState::Ready);
        assert_eq!(probes.load(Ordering::SeqCst), 2);
        assert!(supervisor.panic_child("Mount:/probed").await.expect("alive"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(probes.load(Ordering::SeqCst), 3, "a restarted actor probes at once");
    }
}
