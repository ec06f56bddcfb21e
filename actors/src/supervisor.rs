//! A keyed one-for-one supervisor: each child has a name, its own restart budget, and no influence on the others.
//!
//! Invariants:
//! - A child that panics, fails or ends unasked is started again after a back-off of 20 ms that doubles up to
//!   30 s. After 5 restarts within a minute it is degraded: retried every 30 s, shown by `actor_degraded`, until
//!   it has lived for a minute. Siblings are never touched.
//! - Each start carries a generation. A restart that was due for a child removed (or replaced) meanwhile finds
//!   another generation or none, and does nothing: removed children stay removed.
//! - Whatever must outlive a restart lives outside the actor, in what its factory captures.
//! - A handler that takes longer than 30 s hangs: its actor is killed where it waits, and starts again like one that
//!   failed. One that blocks its thread cannot be killed; that is in the log.
//!
//! Deliberately absent: a watch on long-running services, which have no handlers; restart groups; a tree of
//! supervisors.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use serde::Serialize;
use tokio::time::Instant;

mod budget;
mod child;
mod keeper;
mod service;

use child::{Child, Pulse};
use keeper::{Keeper, Message};
use service::Service;
pub use service::{ServiceError, StopSignal};

/// Starts one child, linked to the supervisor.
type Factory = Box<dyn Fn(ActorCell) -> BoxFuture<'static, std::result::Result<ActorCell, SpawnErr>> + Send>;

/// What is shown of all children, by name. The lock is held for a look or a change, never across an await.
type Board = Arc<Mutex<BTreeMap<String, ChildStatus>>>;

/// Where a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildState {
    /// It runs.
    Running,
    /// It failed and starts again after a back-off.
    Restarting,
    /// It used up its restart budget and is retried slowly.
    Degraded,
}

/// A child as the admin page and tests see it.
#[derive(Clone, Debug, Serialize)]
pub struct ChildStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: ChildState,
    /// How often it was restarted.
    pub restarts: u64,
    /// Why it failed last, shortened.
    pub last_cause: Option<String>,
}

/// A handle on a supervisor. Clones name the same one; it runs until [`Supervisor::stop`].
#[derive(Clone)]
pub struct Supervisor {
    actor: ActorRef<Message>,
    board: Board,
}

impl Supervisor {
    /// Starts a supervisor without children; `name` appears in logs.
    ///
    /// # Errors
    /// `Internal` when the actor cannot be started.
    pub async fn start(name: &str) -> Result<Self> {
        let board = Board::default();
        let keeper = Keeper { name: name.to_owned(), board: Arc::clone(&board) };
        let (actor, _join) = Actor::spawn(None, keeper, ())
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, format!("supervisor {name} does not start: {e}")))?;
        Ok(Self { actor, board })
    }

    /// Starts a child and keeps it running. `make` gives the actor and its arguments for each start; `pre_start`
    /// must not wait for anything outside the process. A first start that fails is retried like any failure.
    ///
    /// # Errors
    /// `AlreadyExists` when a child has this name, `Unavailable` when the supervisor was stopped.
    pub async fn child<A, F>(&self, name: impl Into<String>, make: F) -> Result<()>
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + 'static,
    {
        let pulse = Arc::new(Pulse::new());
        let shown = Arc::clone(&pulse);
        let start = move |supervisor: ActorCell| {
            let (actor, arguments) = make();
            let child = Child { actor, pulse: Arc::clone(&shown) };
            async move {
                let (child, _join) = Actor::spawn_linked(None, child, arguments, supervisor).await?;
                Ok(child.get_cell())
            }
            .boxed()
        };
        let (name, factory) = (name.into(), Box::new(start) as Factory);
        self.call(|reply| Message::Add { name, factory, pulse, reply }).await?
    }

    /// Keeps a long-running future running as a child: it is made anew and run again when it returns or panics.
    /// Once the signal is given it should finish what is in flight and return.
    ///
    /// # Errors
    /// As [`Supervisor::child`].
    pub async fn service<F, R>(&self, name: impl Into<String>, make: F) -> Result<()>
    where
        F: Fn(StopSignal) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<(), ServiceError>> + Send + 'static,
    {
        let factory: service::Factory = Arc::new(move |signal| make(signal).boxed());
        self.child(name, move || (Service, Arc::clone(&factory))).await
    }

    /// Removes a child: its queue is served, it stops, and past `deadline` it is killed. Missing is fine.
    ///
    /// # Errors
    /// `Unavailable` when the supervisor was stopped.
    pub async fn remove(&self, name: &str, deadline: Duration) -> Result<()> {
        self.release(name, deadline).await?.await;
        Ok(())
    }

    /// As [`Supervisor::remove`], in two steps: once this returns the name is free, and what it returns waits for the
    /// end of the child that had it.
    ///
    /// # Errors
    /// As [`Supervisor::remove`].
    pub async fn release(
        &self,
        name: &str,
        deadline: Duration,
    ) -> Result<impl Future<Output = ()> + Send + use<>> {
        let name = name.to_owned();
        let removed = self.call(|reply| Message::Remove { name, reply }).await?;
        Ok(wait_or_kill(removed, deadline))
    }

    /// Removes all children at once, then ends the supervisor. Past `deadline` what is left is killed.
    pub async fn stop(&self, deadline: Duration) {
        // A supervisor that is gone has no children left.
        let removed = self.call(|reply| Message::RemoveAll { reply }).await.unwrap_or_default();
        wait_or_kill(removed, deadline).await;
        self.actor.stop(None);
    }

    /// All children in order of their names.
    pub fn children(&self) -> Vec<ChildStatus> {
        look(&self.board).values().cloned().collect()
    }

    /// Makes a child panic inside its message loop; `false` if it is not running. For tests, in debug builds only.
    ///
    /// # Errors
    /// `Unavailable` when the supervisor was stopped.
    #[cfg(debug_assertions)]
    pub async fn panic_child(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        let Some(cell) = self.call(|reply| Message::Find { name, reply }).await? else { return Ok(false) };
        Ok(Actor::spawn_linked(None, child::Saboteur, (), cell).await.is_ok())
    }

    async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(ractor::RpcReplyPort<T>) -> Message,
    ) -> Result<T> {
        let gone = || Error::new(ErrorKind::Unavailable, "the supervisor was stopped");
        match self.actor.call(message, None).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => Ok(answer),
            Ok(ractor::rpc::CallResult::Timeout | ractor::rpc::CallResult::SenderError) | Err(_) => {
                Err(gone())
            }
        }
    }
}

fn look(board: &Board) -> std::sync::MutexGuard<'_, BTreeMap<String, ChildStatus>> {
    // Each change is one assignment, so a poisoned board is still whole.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for actors that were told to drain; kills what is left at the deadline.
async fn wait_or_kill(cells: Vec<ActorCell>, deadline: Duration) {
    let until = Instant::now() + deadline;
    join_all(cells.into_iter().map(|cell| async move {
        if tokio::time::timeout_at(until, cell.wait(None)).await.is_err() {
            tracing::warn!(actor = %cell.get_id(), "actor did not stop in time and was killed");
            cell.kill();
        }
    }))
    .await;
}

#[cfg(test)]
mod tests;
