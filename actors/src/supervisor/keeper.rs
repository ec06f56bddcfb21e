//! The actor behind a [`super::Supervisor`]: owns the children and decides about restarts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::{Error, ErrorKind, METRICS, Result};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::time::{Instant, timeout};

use super::budget::{BACK_OFF_MAX, Budget, WINDOW};
use super::child::{Pulse, Returned};
use super::{Board, ChildState, ChildStatus, Factory, look};

/// Longest `pre_start` of a child; the supervisor waits for it.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// Labels of why a child failed.
const FAILURES: [&str; 5] = ["panic", "error", "stopped", "start", "hung"];
/// Longest time that a handler may take.
const HANDLER_DEADLINE: Duration = Duration::from_secs(30);
/// How often is looked for handlers that take longer.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Longest cause kept, in characters.
const CAUSE_CHARS_MAX: usize = 200;

pub(super) enum Message {
    Add {
        name: String,
        factory: Factory,
        pulse: Arc<Pulse>,
        reply: RpcReplyPort<Result<()>>,
    },
    Remove {
        name: String,
        reply: RpcReplyPort<Vec<ActorCell>>,
    },
    RemoveAll {
        reply: RpcReplyPort<Vec<ActorCell>>,
    },
    /// Start the child again, unless it is of another generation by now.
    Restart {
        name: String,
        generation: u64,
    },
    /// Take a degraded child for healthy, unless it is of another generation by now.
    Settle {
        name: String,
        generation: u64,
    },
    /// Look for children that hang.
    Watch,
    #[cfg(debug_assertions)]
    Find {
        name: String,
        reply: RpcReplyPort<Option<ActorCell>>,
    },
}

pub(super) struct Keeper {
    pub(super) name: String,
    pub(super) board: Board,
}

/// One child. `generation` rises with each start and each failure, over all children.
struct Kept {
    factory: Factory,
    generation: u64,
    /// `None` while it waits for its restart.
    cell: Option<ActorCell>,
    pulse: Arc<Pulse>,
    /// It was killed because it hung.
    is_killed: bool,
    budget: Budget,
    is_degraded: bool,
    restarts: u64,
    last_cause: Option<String>,
}

#[derive(Default)]
pub(super) struct State {
    children: HashMap<String, Kept>,
    generations: u64,
    is_stopping: bool,
}

impl State {
    fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    fn of_generation(&mut self, name: &str, generation: u64) -> Option<&mut Kept> {
        self.children.get_mut(name).filter(|kept| kept.generation == generation)
    }

    fn name_of(&self, id: ActorId) -> Option<String> {
        let is_it = |kept: &Kept| kept.cell.as_ref().is_some_and(|cell| cell.get_id() == id);
        self.children.iter().find(|(_, kept)| is_it(kept)).map(|(name, _)| name.clone())
    }
}

/// Why a child is to be started again: the label of `actor_restarts`, and the text for people.
struct Failure {
    label: &'static str,
    cause: String,
}

impl Keeper {
    async fn start(&self, myself: &ActorRef<Message>, state: &mut State, name: &str) {
        let generation = state.next_generation();
        let Some(kept) = state.children.get_mut(name) else { return };
        kept.generation = generation;
        let started = timeout(START_DEADLINE, (kept.factory)(myself.get_cell())).await;
        let cause = match started {
            Ok(Ok(cell)) => {
                kept.cell = Some(cell);
                if kept.is_degraded {
                    let name = name.to_owned();
                    myself.send_after(WINDOW, move || Message::Settle { name, generation });
                }
                self.show(name, kept);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not start within {START_DEADLINE:?}"),
        };
        self.fail(myself, state, name, &Failure { label: "start", cause });
    }

    fn fail(&self, myself: &ActorRef<Message>, state: &mut State, name: &str, failure: &Failure) {
        let generation = state.next_generation();
        let Some(kept) = state.children.get_mut(name) else { return };
        kept.cell = None;
        let label = if std::mem::take(&mut kept.is_killed) { "hung" } else { failure.label };
        kept.generation = generation;
        kept.restarts += 1;
        kept.last_cause = Some(failure.cause.chars().take(CAUSE_CHARS_MAX).collect());
        let wait = if kept.is_degraded { None } else { kept.budget.spend(Instant::now()) };
        kept.is_degraded = wait.is_none();
        let wait = wait.unwrap_or(BACK_OFF_MAX);
        METRICS.actor_restarts.with_label_values(&[name, label]).inc();
        tracing::warn!(
            supervisor = self.name,
            actor = name,
            kind = label,
            cause = kept.last_cause,
            degraded = kept.is_degraded,
            restart_in = ?wait,
            "actor ended"
        );
        self.show(name, kept);
        let name = name.to_owned();
        myself.send_after(wait, move || Message::Restart { name, generation });
    }

    /// Kills children whose handler does not come back; what follows is as for any that ended.
    fn watch(&self, state: &mut State) {
        for (name, kept) in &mut state.children {
            let busy = kept.pulse.busy();
            let (Some(cell), true) = (&kept.cell, busy > HANDLER_DEADLINE && !kept.is_killed) else {
                continue;
            };
            tracing::error!(supervisor = self.name, actor = name, ?busy, "actor hangs and is killed");
            kept.is_killed = true;
            cell.kill();
        }
    }

    fn show(&self, name: &str, kept: &Kept) {
        let state = match (kept.is_degraded, &kept.cell) {
            (true, _) => ChildState::Degraded,
            (false, Some(_)) => ChildState::Running,
            (false, None) => ChildState::Restarting,
        };
        METRICS.actor_degraded.with_label_values(&[name]).set(i64::from(kept.is_degraded));
        let status = ChildStatus {
            name: name.to_owned(),
            state,
            restarts: kept.restarts,
            last_cause: kept.last_cause.clone(),
        };
        look(&self.board).insert(name.to_owned(), status);
    }

    /// Forgets a child and tells it to drain.
    fn remove(&self, state: &mut State, name: &str) -> Option<ActorCell> {
        let kept = state.children.remove(name)?;
        look(&self.board).remove(name);
        // A metric that was never set has nothing to remove.
        METRICS.actor_degraded.remove_label_values(&[name]).unwrap_or_default();
        for label in FAILURES {
            METRICS.actor_restarts.remove_label_values(&[name, label]).unwrap_or_default();
        }
        let cell = kept.cell?;
        // An actor that is gone already needs no draining.
        cell.drain().unwrap_or_default();
        Some(cell)
    }
}

impl Actor for Keeper {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        (): (),
    ) -> std::result::Result<State, ActorProcessingErr> {
        // Ends with this actor.
        drop(myself.send_interval(WATCH_INTERVAL, || Message::Watch));
        Ok(State::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> std::result::Result<(), ActorProcessingErr> {
        match message {
            Message::Add { name, factory, pulse, reply } => {
                let refusal = if state.is_stopping {
                    Some(Error::new(ErrorKind::Unavailable, "the supervisor stops"))
                } else if state.children.contains_key(&name) {
                    Some(Error::new(ErrorKind::AlreadyExists, format!("an actor is named {name} already")))
                } else {
                    None
                };
                if let Some(refusal) = refusal {
                    return Ok(reply.send(Err(refusal))?);
                }
                let kept = Kept {
                    factory,
                    generation: 0,
                    cell: None,
                    pulse,
                    is_killed: false,
                    budget: Budget::default(),
                    is_degraded: false,
                    restarts: 0,
                    last_cause: None,
                };
                state.children.insert(name.clone(), kept);
                self.start(&myself, state, &name).await;
                // A caller that left does not want the answer.
                reply.send(Ok(())).unwrap_or_default();
            }
            Message::Remove { name, reply } => {
                reply.send(self.remove(state, &name).into_iter().collect()).unwrap_or_default();
            }
            Message::RemoveAll { reply } => {
                state.is_stopping = true;
                let names: Vec<_> = state.children.keys().cloned().collect();
                let cells = names.iter().filter_map(|name| self.remove(state, name)).collect();
                reply.send(cells).unwrap_or_default();
            }
            Message::Restart { name, generation } => {
                if state.of_generation(&name, generation).is_some() {
                    self.start(&myself, state, &name).await;
                }
            }
            Message::Settle { name, generation } => {
                if let Some(kept) = state.of_generation(&name, generation) {
                    kept.is_degraded = false;
                    kept.budget.reset();
                    self.show(&name, kept);
                }
            }
            Message::Watch => self.watch(state),
            #[cfg(debug_assertions)]
            Message::Find { name, reply } => {
                let cell = state.children.get(&name).and_then(|kept| kept.cell.clone());
                reply.send(cell).unwrap_or_default();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> std::result::Result<(), ActorProcessingErr> {
        let (id, failure) = match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                let label = if error.is::<Returned>() { "error" } else { "panic" };
                (cell.get_id(), Failure { label, cause: error.to_string() })
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let cause = reason.unwrap_or_else(|| "it ended unasked".to_owned());
                (cell.get_id(), Failure { label: "stopped", cause })
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if let Some(name) = state.name_of(id) {
            self.fail(&myself, state, &name, &failure);
        }
        Ok(())
    }
}
