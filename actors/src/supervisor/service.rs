//! A long-running future as a supervised actor: listeners, sessions.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Why a service ended.
pub type ServiceError = Box<dyn std::error::Error + Send + Sync>;

type Run = Pin<Box<dyn Future<Output = Result<(), ServiceError>> + Send>>;

/// Tells a service that it should finish what is in flight and return.
#[derive(Clone, Debug)]
pub struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Waits until the service should stop. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the actor is gone, which asks for the same.
        self.0.wait_for(|stop| *stop).await.map(drop).unwrap_or_default();
    }

    /// Whether the service should stop.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Makes one run of a service.
pub(super) type Factory = Arc<dyn Fn(StopSignal) -> Run + Send + Sync>;

/// The actor around one run: it fails when the run ends without having been asked to.
pub(super) struct Service;

pub(super) enum Message {
    Ended(Result<Result<(), ServiceError>, Box<dyn Any + Send>>),
}

/// Owns the run; dropping it (the actor failed or was killed) aborts the run.
pub(super) struct State {
    stop: watch::Sender<bool>,
    run: JoinHandle<()>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.run.abort();
    }
}

impl Actor for Service {
    type Msg = Message;
    type State = State;
    type Arguments = Factory;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        factory: Factory,
    ) -> Result<State, ActorProcessingErr> {
        let (stop, signal) = watch::channel(false);
        let run = tokio::spawn(async move {
            let ended = AssertUnwindSafe(async { factory(StopSignal(signal)).await }).catch_unwind().await;
            // A stopping actor takes no messages; it waits for this task instead.
            myself.cast(Message::Ended(ended)).unwrap_or(());
        });
        Ok(State { stop, run })
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.stop.send_replace(true);
        (&mut state.run).await?;
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        Message::Ended(ended): Message,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match ended {
            Ok(Ok(())) => Err("it returned before it was asked to stop".into()),
            Ok(Err(error)) => Err(error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
