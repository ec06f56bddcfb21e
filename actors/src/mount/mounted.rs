//! A mount while it lives: what the configuration said of it last, and what of that can change under its feet.
//!
//! Invariants:
//! - The handle is what the configuration wants shown; the body below it (cache, identities, open files, breaker,
//!   limits) stays the same as long as the store does.
//! - A change is prepared first, which may fail and changes nothing, and then made, which cannot fail.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::{Key, Mount, MountState, Result, Want};
use futures::FutureExt;

use super::actor::{MountActor, Patient, Probe};
use super::local::LocalMount;
use super::object::ObjectMount;
use super::vitals::Vitals;
use super::{Environment, flat_store};
use crate::backend::{Backend, Exchange, Memory};
use crate::config::{MountConfig, StoreConfig};
use crate::supervisor::Supervisor;

/// What a handle stands on.
pub(super) enum Body {
    Local(Arc<LocalMount>),
    Object {
        mount: Arc<ObjectMount>,
        exchange: Arc<Exchange>,
        /// The store itself, where it is the gateway's own memory.
        memory: Option<Arc<Memory>>,
    },
}

/// An open mount.
pub struct Mounted {
    config: MountConfig,
    vitals: Arc<Vitals>,
    body: Body,
    handle: Arc<dyn Mount>,
}

/// A change of a mount that stays what it is; see [`Mounted::prepare`].
pub struct Change {
    config: MountConfig,
    way: Way,
}

/// What of the way to the store changes.
enum Way {
    Same,
    Backend(Arc<dyn Backend>),
}

/// A mount that is gone, as long as files of it are open.
pub struct Remains {
    config: MountConfig,
    vitals: Arc<Vitals>,
    recall: Box<dyn Fn() -> Option<Body> + Send + Sync>,
}

impl Mounted {
    pub(super) fn new(config: MountConfig, vitals: Arc<Vitals>, body: Body) -> Self {
        let handle: Arc<dyn Mount> = match &body {
            Body::Local(mount) => Arc::clone(mount) as Arc<dyn Mount>,
            Body::Object { mount, .. } => Arc::clone(mount) as Arc<dyn Mount>,
        };
        Self { config, vitals, body, handle }
    }

    /// What the configuration says of it.
    pub fn config(&self) -> &MountConfig {
        &self.config
    }

    /// What serves.
    pub fn handle(&self) -> &Arc<dyn Mount> {
        &self.handle
    }

    /// Its limits, breaker and state.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Name of the actor that looks after it.
    pub fn actor(&self) -> String {
        format!("Mount:{}", self.vitals.name())
    }

    /// Whether this is the owner of the local directory that `store` names.
    pub fn owns(&self, store: &StoreConfig) -> bool {
        match &self.body {
            Body::Local(mount) => self.config.store == *store && mount.takes(false),
            Body::Object { .. } => false,
        }
    }

    /// Starts the actor that probes the store from now on; it waits `first_probe_in` for its first probe.
    ///
    /// # Errors
    /// As [`Supervisor::child`].
    pub fn watch(
        &self,
        supervisor: &Supervisor,
        first_probe_in: Duration,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (patient, name, supervisor) = (self.patient(first_probe_in), self.actor(), supervisor.clone());
        async move { supervisor.child(name, move || (MountActor, patient.clone())).await }
    }

    /// Probes the store once, now.
    pub fn probe(&self) -> impl Future<Output = ()> + Send + use<> {
        let patient = self.patient(Duration::ZERO);
        async move { patient.examine().await }
    }

    fn patient(&self, first_probe_in: Duration) -> Patient {
        Patient { vitals: Arc::clone(&self.vitals), probe: self.body.probe(), first_probe_in }
    }

    /// What turns this mount into that of `config` while it serves; `None` when that is another store.
    ///
    /// # Errors
    /// `InvalidArgument` for options that make no sense together.
    pub fn prepare(&self, config: &MountConfig, environment: &Environment) -> Result<Option<Change>> {
        let change = |way| Some(Change { config: config.clone(), way });
        match (&self.body, &config.store) {
            (Body::Local(mount), StoreConfig::Fs { .. }) => {
                let is_same = self.config.store == config.store && mount.takes(config.read_only);
                Ok(if is_same { change(Way::Same) } else { None })
            }
            (Body::Object { memory: Some(_), .. }, StoreConfig::Memory { .. }) => Ok(change(Way::Same)),
            (Body::Object { memory: None, .. }, store)
                if *store == self.config.store
                    && config.limits == self.config.limits
                    && config.quirks == self.config.quirks =>
            {
                Ok(change(Way::Same))
            }
            (Body::Object { exchange, memory: None, .. }, _) => {
                let Some(store) = flat_store(config, environment)? else { return Ok(None) };
                if store.backend.fingerprint() != exchange.fingerprint() {
                    return Ok(None);
                }
                Ok(change(Way::Backend(store.backend)))
            }
            (Body::Local(_) | Body::Object { .. }, _) => Ok(None),
        }
    }

    /// Makes a prepared change. What is open goes on, under the new limits; the store is not asked.
    #[must_use = "the mount as the configuration wants it shown now"]
    pub fn change(&self, change: Change) -> Self {
        let Change { config, way } = change;
        self.vitals.set_limits(&config.limits);
        let body = self.body.changed(&config);
        match (&body, way) {
            (Body::Object { exchange, .. }, Way::Backend(backend)) => {
                let is_same = exchange.exchange(backend);
                debug_assert!(is_same, "checked when the change was prepared");
            }
            (Body::Local(_) | Body::Object { .. }, Way::Same | Way::Backend(_)) => {}
        }
        if matches!(self.vitals.state(), MountState::Draining | MountState::Gone) {
            self.vitals.revive();
        }
        Self::new(config, Arc::clone(&self.vitals), body)
    }

    /// Lets go of the mount: what is open stays open.
    pub fn leave(self) -> Remains {
        self.vitals.set_state(MountState::Gone);
        Remains { config: self.config.clone(), vitals: Arc::clone(&self.vitals), recall: self.body.recall() }
    }
}

impl Body {
    /// Asks the store for something small.
    fn probe(&self) -> Probe {
        match self {
            Self::Local(mount) => {
                let mount = Arc::clone(mount);
                Arc::new(move || {
                    let mount = Arc::clone(&mount);
                    async move { mount.stat(&Key::root(), Want::Directory).await.map(drop) }.boxed()
                })
            }
            Self::Object { exchange, mount, .. } => {
                let (exchange, may_write) = (Arc::clone(exchange), !mount.info().read_only);
                Arc::new(move || {
                    let exchange = Arc::clone(&exchange);
                    async move { exchange.probe(may_write).await }.boxed()
                })
            }
        }
    }

    fn changed(&self, config: &MountConfig) -> Self {
        let staging_bytes = config.limits.staging_bytes;
        match self {
            Self::Local(mount) => Self::Local(mount.changed(config.read_only, staging_bytes)),
            Self::Object { mount, exchange, memory } => {
                if let (Some(memory), StoreConfig::Memory { size_bytes }) = (memory, &config.store) {
                    memory.resize(*size_bytes);
                }
                let read_only = config.read_only || !exchange.capability().write;
                Self::Object {
                    mount: mount.changed(read_only, (config.revalidate, config.write), staging_bytes),
                    exchange: Arc::clone(exchange),
                    memory: memory.clone(),
                }
            }
        }
    }

    fn recall(&self) -> Box<dyn Fn() -> Option<Self> + Send + Sync> {
        match self {
            Self::Local(mount) => {
                let recall = mount.recall();
                Box::new(move || recall().map(Self::Local))
            }
            Self::Object { mount, exchange, memory } => {
                let recall = mount.recall();
                let (exchange, memory) = (Arc::clone(exchange), memory.clone());
                Box::new(move || {
                    let mount = recall()?;
                    Some(Self::Object { mount, exchange: Arc::clone(&exchange), memory: memory.clone() })
                })
            }
        }
    }
}

impl Remains {
    /// Its name in metrics and logs: the path it was mounted at.
    pub fn name(&self) -> &str {
        self.vitals.name()
    }

    /// Whether `mounted` is what these were, recalled.
    pub fn is(&self, mounted: &Mounted) -> bool {
        Arc::ptr_eq(&self.vitals, &mounted.vitals)
    }

    /// The mount again, if anything of it is still open.
    pub fn recall(&self) -> Option<Mounted> {
        (self.recall)().map(|body| Mounted::new(self.config.clone(), Arc::clone(&self.vitals), body))
    }
}
