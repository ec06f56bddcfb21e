//! The logger: the actor that owns the index log. All it knows lies in the tier, so a restarted one goes on.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::spawn_blocking;

use super::NvmeTier;

/// How long a change may wait to be noted: what a kill makes cold.
const INTERVAL: Duration = Duration::from_millis(200);

/// Writes the index log.
pub(in crate::cache) struct IndexLogger;

/// It is time to write what has changed.
pub(in crate::cache) struct Tick;

impl Actor for IndexLogger {
    type Msg = Tick;
    type State = Arc<NvmeTier>;
    type Arguments = Arc<NvmeTier>;

    async fn pre_start(
        &self,
        _: ActorRef<Tick>,
        tier: Arc<NvmeTier>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(tier)
    }

    async fn post_start(
        &self,
        myself: ActorRef<Tick>,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        myself.send_after(INTERVAL, || Tick);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Tick>,
        Tick: Tick,
        tier: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let logged = Arc::clone(tier);
        spawn_blocking(move || logged.write_log()).await?;
        myself.send_after(INTERVAL, || Tick);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Tick>, tier: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let logged = Arc::clone(tier);
        Ok(spawn_blocking(move || logged.write_log()).await?)
    }
}
