//! What the supervisor puts around each child: it tells errors that a handler returned from panics, shows how long a
//! handler is at work, and lets debug builds panic a child on purpose.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

/// An error that an actor returned. A failure that is not one of these was a panic.
#[derive(Debug)]
pub(super) struct Returned(ActorProcessingErr);

impl fmt::Display for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Returned {}

fn returned(error: ActorProcessingErr) -> ActorProcessingErr {
    Box::new(Returned(error))
}

/// Since when an actor has been in a handler: the life sign that its supervisor looks at.
pub(super) struct Pulse {
    origin: Instant,
    /// Milliseconds after `origin` at which the present handler began, plus one; 0 between handlers.
    began: AtomicU64,
}

/// One handler at work.
struct Beat<'a>(&'a Pulse);

impl Pulse {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), began: AtomicU64::new(0) }
    }

    /// How long the present handler has been at work; zero between handlers.
    pub(super) fn busy(&self) -> Duration {
        match self.began.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            began => self.origin.elapsed().saturating_sub(Duration::from_millis(began)),
        }
    }

    fn beat(&self) -> Beat<'_> {
        self.began.store(self.origin.elapsed().as_millis() as u64 + 1, Ordering::Release);
        Beat(self)
    }
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.0.began.store(0, Ordering::Release);
    }
}

/// An actor under supervision.
pub(super) struct Child<A> {
    pub(super) actor: A,
    pub(super) pulse: Arc<Pulse>,
}

impl<A> Actor for Child<A>
where
    A: Actor,
{
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        self.actor.pre_start(myself, arguments).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.post_start(myself, state).await.map_err(returned)
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.post_stop(myself, state).await.map_err(returned)
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _beat = self.pulse.beat();
        self.actor.handle(myself, message, state).await.map_err(returned)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(debug_assertions)]
        if let SupervisionEvent::ActorFailed(_, cause) = &event
            && cause.downcast_ref::<Saboteur>().is_some()
        {
            panic!("panicked on purpose");
        }
        self.actor.handle_supervisor_evt(myself, event, state).await.map_err(returned)
    }
}

/// An actor that fails at once; linked below a [`Child`], it makes it panic inside its own message loop.
#[cfg(debug_assertions)]
#[derive(Debug)]
pub(super) struct Saboteur;

#[cfg(debug_assertions)]
impl fmt::Display for Saboteur {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panic on purpose")
    }
}

#[cfg(debug_assertions)]
impl std::error::Error for Saboteur {}

#[cfg(debug_assertions)]
impl Actor for Saboteur {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, _: ActorRef<()>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        Err(Box::new(Saboteur))
    }
}
