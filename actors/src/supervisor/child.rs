//! What the supervisor puts around each child: it tells errors that a handler returned from panics, and lets
//! debug builds panic a child on purpose.

use std::fmt;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

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

/// An actor under supervision.
pub(super) struct Child<A>(pub(super) A);

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
        self.0.pre_start(myself, arguments).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.0.post_start(myself, state).await.map_err(returned)
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.0.post_stop(myself, state).await.map_err(returned)
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.0.handle(myself, message, state).await.map_err(returned)
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
        self.0.handle_supervisor_evt(myself, event, state).await.map_err(returned)
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
