//! The logger: the actor that owns the index log. All it knows lies in the tier, so a restarted one goes on.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::timeout;

use super::NvmeTier;

/// How long a change may wait to be noted: what a kill makes cold.
const INTERVAL: Duration = Duration::from_millis(200);

/// Longest time for the last write.
const LAST_WRITE: Duration = Duration::from_secs(2);

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
        if let Some(written) = tier.unless_silent(NvmeTier::write_log).await {
            written?;
        }
        myself.send_after(INTERVAL, || Tick);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Tick>, tier: &mut Self::State) -> Result<(), ActorProcessingErr> {
        // A disk that hangs must not keep the gateway.
        if let Ok(Some(written)) = timeout(LAST_WRITE, tier.unless_silent(NvmeTier::write_log)).await {
            written?;
        }
        Ok(())
    }
}
