//! Which class a path belongs to: that of the longest path with a rule, and the mounts have one each.
//!
//! Invariants:
//! - What a rule leaves open, the rules of shorter paths decide, the configuration of the path's own mount among them.
//!   A quota is not handed down: it counts what belongs to its own class.
//! - A path is resolved when its file is opened, in a table that is replaced whole. No hit looks anything up.
//! - Rules made at run time are on the disk before they are in force, and there are not more than [`RULES_MAX`].

mod found;
mod setting;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use forebay_core::{Error, ErrorKind, Key, NsPath, Result};
use serde::{Deserialize, Serialize};

use self::found::Found;
pub use self::trust::{Trust, Trusted};
use self::trust::{Trusts, trusts};
use super::class::{Class, DecidedBy, Priority, Treatment};
use super::tally::Tally;
use crate::config::Revalidate;
use crate::staging::{blocking, replace};

/// Rules made at run time.
const RULES_MAX: usize = 1_000;

/// How one path and what lies below is to be treated. What is `None` is left to shorter paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// See [`Treatment::pin`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// See [`Treatment::epoch`]; where no rule says it, the way it is read decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<bool>,
    /// See [`Treatment::ttl`], in milliseconds; 0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// See [`Treatment::quota_bytes`]; 0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// See [`Treatment::priority`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How long what the store said is trusted; says nothing of what other mounts have below the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revalidate: Option<Trusted>,
}

impl Rule {
    fn over(&self, inherited: &Treatment) -> Treatment {
        let ttl = |ttl_ms| (ttl_ms > 0).then_some(Duration::from_millis(ttl_ms));
        Treatment {
            pin: self.pin.unwrap_or(inherited.pin),
            epoch: self.epoch.unwrap_or(inherited.epoch),
            epoch_by: self.epoch.map_or(inherited.epoch_by, |_| DecidedBy::Rule),
            ttl: self.ttl_ms.map_or(inherited.ttl, ttl),
            quota_bytes: self.quota_bytes.filter(|bytes| *bytes > 0),
            priority: self.priority.unwrap_or(inherited.priority),
        }
    }

    /// Sets what `change` sets. What it turns off and would be off without this rule is left open again, but not what is
    /// no data set: it might look like one.
    fn change(&mut self, change: &Self, inherited: &Treatment) {
        let off = |is_on: bool, is_inherited: bool| (is_on || is_inherited).then_some(is_on);
        if let Some(pin) = change.pin {
            self.pin = off(pin, inherited.pin);
        }
        self.epoch = change.epoch.or(self.epoch);
        if let Some(ttl_ms) = change.ttl_ms {
            self.ttl_ms = (ttl_ms > 0 || inherited.ttl.is_some()).then_some(ttl_ms);
        }
        if let Some(quota_bytes) = change.quota_bytes {
            self.quota_bytes = (quota_bytes > 0).then_some(quota_bytes);
        }
        self.priority = change.priority.or(self.priority);
        self.revalidate =
            change.revalidate.or(self.revalidate).filter(|trusted| *trusted != Trusted::Default);
    }
}

/// A rule as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Of what, with all below.
    pub path: String,
    /// What was said of it at run time.
    pub rule: Rule,
    /// What the configuration says of the mount that is here.
    pub mount: Rule,
    /// What both come to, with what shorter paths decide.
    pub treatment: Treatment,
    /// What it takes of the disk tier.
    pub disk_bytes: u64,
}

/// The rules of one gateway.
pub struct Rules {
    found: Found,
    table: ArcSwap<HashMap<Box<str>, Arc<Class>>>,
    trusts: ArcSwap<Trusts>,
    /// Held for a look or one change, never across an await.
    state: Mutex<State>,
    /// Held for the whole of a change, by one at a time.
    changing: tokio::sync::Mutex<()>,
    /// `None` keeps none.
    file: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    made: BTreeMap<String, Rule>,
    mounts: BTreeMap<String, Rule>,
    /// Content keeps its class longer than a rule may last; the same path gets it again.
    classes: HashMap<Box<str>, Weak<Class>>,
}

impl Rules {
    /// The rules kept in `file`.
    ///
    /// # Errors
    /// The disk's; `InvalidArgument` when it cannot be read as rules.
    pub async fn open(file: &Path) -> Result<Arc<Self>> {
        let path = file.to_owned();
        let made = blocking(move || match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            read => serde_json::from_slice(&read?).map_err(|e| {
                let message = "this is no list of cache rules; mend or remove the file";
                Error::new(ErrorKind::InvalidArgument, message).because(e).at("read", path.display())
            }),
        });
        Ok(Self::new(Some(file.to_owned()), made.await?))
    }

    /// None, and those that are made are forgotten at exit.
    pub fn in_memory() -> Arc<Self> {
        Self::new(None, BTreeMap::new())
    }

    fn new(file: Option<PathBuf>, made: BTreeMap<String, Rule>) -> Arc<Self> {
        let state = Mutex::new(State { made, ..State::default() });
        let (found, table, trusts) = (Found::default(), ArcSwap::default(), ArcSwap::default());
        let rules = Self { found, table, trusts, state, changing: tokio::sync::Mutex::default(), file };
        rules.publish(&mut rules.state());
        Arc::new(rules)
    }

    /// The class of what a mount has at `key`.
    pub fn class_of(&self, mount: &str, key: &Key) -> Arc<Class> {
        let path = path_of(mount, key);
        let class = self.class(&path);
        self.found.part_of(&class, &path).unwrap_or(class)
    }

    /// What a mount has at `key` is opened by somebody who is going to read it.
    pub fn opened(&self, mount: &str, key: &Key) {
        let path = path_of(mount, key);
        self.found.opened(&self.class(&path), &path);
    }

    /// How long what the store of a mount said of `key` is trusted, where a rule says so.
    pub fn trusted(&self, mount: &str, key: &str) -> Option<Revalidate> {
        self.trusts.load().get(mount)?.of(key)
    }

    /// The same for all keys, as it is now.
    pub fn trust(&self, mount: &str) -> Option<Arc<Trust>> {
        self.trusts.load().get(mount).cloned()
    }

    fn class(&self, path: &str) -> Arc<Class> {
        let table = self.table.load();
        let found = ancestors(path).find_map(|ancestor| table.get(ancestor));
        Arc::clone(found.expect("the table has `/`"))
    }

    /// The rule, or the directory that is read like a data set, that decides for a file, and how it is treated.
    pub fn resolve(&self, path: &NsPath) -> (String, Arc<Treatment>) {
        let class = self.class(path.as_str());
        let found = self.found.part_of(&class, path.as_str()).filter(|part| part.treatment().epoch);
        let class = found.unwrap_or(class);
        (class.name().to_string(), class.treatment())
    }

    /// All rules: those made at run time, those of mounts whose configuration says something, and what was found to be
    /// read like a data set.
    pub fn list(&self) -> Vec<RuleStatus> {
        let state = self.state();
        let told = state.mounts.iter().filter(|(_, rule)| **rule != Rule::default()).map(|(path, _)| path);
        let found = self.found.list().into_iter().map(|part| (part.name().to_string(), part));
        let found: BTreeMap<_, _> = found.collect();
        let paths: BTreeSet<&String> = state.made.keys().chain(told).chain(found.keys()).collect();
        let status = |path: &String| {
            let class = found.get(path).cloned().unwrap_or_else(|| self.class(path));
            RuleStatus {
                path: path.clone(),
                rule: state.made.get(path).cloned().unwrap_or_default(),
                mount: state.mounts.get(path).cloned().unwrap_or_default(),
                treatment: (*class.treatment()).clone(),
                disk_bytes: class.disk_bytes(),
            }
        };
        paths.into_iter().map(status).collect()
    }

    /// One setting of the rule made at run time for exactly `path`, as [`Rules::set`] takes it.
    pub fn get(&self, path: &NsPath, name: &str) -> Option<String> {
        setting::value(self.state().made.get(path.as_str())?, name)
    }

    /// Changes one setting of the rule for `path`; `None` leaves it open.
    ///
    /// # Errors
    /// As [`Rules::change`]; `InvalidArgument` when no setting has this name, or it no such value.
    pub async fn set(&self, path: &NsPath, name: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => self.change(path, &setting::parse(name, value)?).await,
            None => self.edit(path, |rule, _| setting::clear(rule, name)).await,
        }
    }

    /// Changes what is said of `path` and all below, also of what is cached already and belongs to a rule.
    ///
    /// # Errors
    /// `NoSpace` when there are too many rules; the disk's. Nothing is changed then.
    pub async fn change(&self, path: &NsPath, change: &Rule) -> Result<()> {
        self.edit(path, |rule, inherited| rule.change(change, inherited)).await
    }

    async fn edit(&self, path: &NsPath, edit: impl FnOnce(&mut Rule, &Treatment)) -> Result<()> {
        let _alone = self.changing.lock().await;
        let made = {
            let state = self.state();
            let mut made = state.made.clone();
            let mut rule = made.remove(path.as_str()).unwrap_or_default();
            edit(&mut rule, &state.inherited(path.as_str()));
            if rule != Rule::default() {
                if made.len() >= RULES_MAX {
                    let message = format!("there are {RULES_MAX} rules already; take some back");
                    return Err(Error::new(ErrorKind::NoSpace, message).at("change the rule of", path));
                }
                made.insert(path.to_string(), rule);
            }
            made
        };
        if let Some(file) = self.file.clone() {
            let text = serde_json::to_vec_pretty(&made)
                .map_err(|e| Error::new(ErrorKind::Internal, "rules cannot be written").because(e))?;
            blocking(move || replace(&file, &text).map_err(|e| e.at("write", file.display()))).await?;
        }
        let mut state = self.state();
        state.made = made;
        self.publish(&mut state);
        Ok(())
    }

    /// What the configuration says of the mounts.
    pub fn set_mounts(&self, mounts: impl IntoIterator<Item = (NsPath, Rule)>) {
        let mut state = self.state();
        state.mounts = mounts.into_iter().map(|(path, rule)| (path.to_string(), rule)).collect();
        self.publish(&mut state);
    }

    fn publish(&self, state: &mut State) {
        let root = "/".to_owned();
        let paths: BTreeSet<&String> = state.made.keys().chain(state.mounts.keys()).chain([&root]).collect();
        let mut table: HashMap<Box<str>, Arc<Class>> = HashMap::with_capacity(paths.len());
        // Anew each time: the series of a mount that was gone meanwhile are others.
        let tally = |mount: &String| (mount.clone(), Arc::new(Tally::of(mount)));
        let tallies: HashMap<String, Arc<Tally>> = state.mounts.keys().map(tally).collect();
        for path in paths {
            let treatment = state.treatment(path);
            let class = match state.classes.get(path.as_str()).and_then(Weak::upgrade) {
                Some(class) => class,
                None => Class::new(path, Treatment::default()),
            };
            if *class.treatment() != treatment {
                class.set_treatment(treatment);
            }
            if let Some(tally) = state.mount_of(path).and_then(|mount| tallies.get(mount)) {
                class.set_tally(tally);
            }
            table.insert(Box::from(path.as_str()), class);
        }
        // What is left of a rule that was taken back is treated as what lies around it.
        for (path, class) in &state.classes {
            if let Some(class) = class.upgrade().filter(|_| !table.contains_key(path)) {
                class.set_treatment(Treatment { quota_bytes: None, ..state.treatment(path) });
            }
        }
        state.classes.retain(|_, class| class.strong_count() > 0);
        let classes = table.iter().map(|(path, class)| (path.clone(), Arc::downgrade(class)));
        state.classes.extend(classes);
        self.table.store(Arc::new(table));
        self.trusts.store(Arc::new(trusts(&state.made, &state.mounts)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, and the table is made anew after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How `path` is treated.
    fn treatment(&self, path: &str) -> Treatment {
        self.decide(path, true)
    }

    /// The same without the rule made for exactly this path.
    fn inherited(&self, path: &str) -> Treatment {
        self.decide(path, false)
    }

    /// The mount that has what lies at `path`.
    fn mount_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        ancestors(path).find(|ancestor| self.mounts.contains_key(*ancestor))
    }

    fn decide(&self, path: &str, with_own: bool) -> Treatment {
        let mount = self.mount_of(path);
        let chain: Vec<&str> = ancestors(path).collect();
        chain.into_iter().rev().fold(Treatment::default(), |inherited, ancestor| {
            // Each step hands down all but the quota.
            let told = self.mounts.get(ancestor).filter(|_| mount == Some(ancestor));
            let told = told.map_or(inherited.clone(), |rule| rule.over(&inherited));
            let made = self.made.get(ancestor).filter(|_| with_own || ancestor != path);
            let quota_bytes = if ancestor == path { told.quota_bytes } else { None };
            match made {
                Some(rule) => {
                    let decided = rule.over(&told);
                    Treatment { quota_bytes: decided.quota_bytes.or(quota_bytes), ..decided }
                }
                None => Treatment { quota_bytes, ..told },
            }
        })
    }
}

fn path_of(mount: &str, key: &Key) -> String {
    format!("{}/{key}", mount.trim_end_matches('/'))
}

/// A path and those above it, longest first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/')? {
        0 if path.len() > 1 => Some("/"),
        0 => None,
        cut => Some(&path[..cut]),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use forebay_core::METRICS;

    use super::*;

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).expect("a path")
    }

    fn treatment(rules: &Rules, text: &str) -> Treatment {
        (*rules.resolve(&path(text)).1).clone()
    }

    const PIN: Rule = Rule {
        pin: Some(true),
        epoch: None,
        ttl_ms: None,
        quota_bytes: None,
        priority: None,
        revalidate: None,
    };

    #[tokio::test]
    async fn the_longest_path_decides_how_long_a_mount_is_trusted_and_none_above_it_does() {
        let rules = Rules::in_memory();
        rules.set_mounts([(path("/m"), Rule::default()), (path("/m/nested"), Rule::default())]);
        let trust = |trusted| Rule { revalidate: Some(trusted), ..Rule::default() };
        for (at, trusted) in [
            ("/", Trusted::Always),
            ("/m/a", Trusted::Never),
            ("/m/a/b", Trusted::AfterMs(5)),
            ("/m/c", Trusted::Always),
        ] {
            rules.change(&path(at), &trust(trusted)).await.expect("changes");
        }
        let after = Some(Revalidate::After(Duration::from_millis(5)));
        for (mount, key, expected) in [
            ("/m", "", None),
            ("/m", "a", Some(Revalidate::Never)),
            ("/m", "a/x", Some(Revalidate::Never)),
            ("/m", "ab", None),
            ("/m", "a/b/x/y", after),
            ("/m", "c", Some(Revalidate::Always)),
            ("/m/nested", "a", None),
        ] {
            assert_eq!(rules.trusted(mount, key), expected, "{mount} {key}");
        }
        assert!(rules.trust("/m/nested").is_none());
        rules.change(&path("/m/a/b"), &trust(Trusted::Default)).await.expect("changes");
        assert_eq!(rules.trusted("/m", "a/b/x/y"), Some(Revalidate::Never));
        rules.change(&path("/m"), &trust(Trusted::Never)).await.expect("changes");
        assert_eq!(rules.trusted("/m", "x"), Some(Revalidate::Never));
        let text = serde_json::to_string(&trust(Trusted::AfterMs(5))).expect("is written");
        assert_eq!(text, r#"{"revalidate":{"after_ms":5}}"#);
    }

    #[tokio::test]
    async fn the_longest_path_wins_and_hands_on_what_it_leaves_open() {
        let rules = Rules::in_memory();
        let told = Rule { ttl_ms: Some(1_000), quota_bytes: Some(50), ..Rule::default() };
        rules.set_mounts([(path("/m"), told), (path("/m/nested"), Rule::default())]);
        rules.change(&path("/m/a"), &PIN).await.expect("changes");
        let ttl = Some(Duration::from_secs(1));
        assert_eq!(
            treatment(&rules, "/m/x"),
            Treatment { ttl, quota_bytes: Some(50), ..Treatment::default() }
        );
        assert_eq!(treatment(&rules, "/m/a/b"), Treatment { ttl, pin: true, ..Treatment::default() });
        assert_eq!(treatment(&rules, "/m/ab"), treatment(&rules, "/m/x"));
        assert_eq!(treatment(&rules, "/m/nested/a"), Treatment::default(), "another store");
        assert_eq!(rules.class_of("/m", &Key::parse("a/b").expect("a key")).name().as_ref(), "/m/a");
        assert_eq!(rules.class_of("/", &Key::root()).name().as_ref(), "/");
        assert_eq!(rules.list().iter().map(|rule| rule.path.as_str()).collect::<Vec<_>>(), ["/m", "/m/a"]);
    }

    #[tokio::test]
    async fn what_goes_counts_for_the_mount_whose_it_is_also_when_that_comes_again() {
        let rules = Rules::in_memory();
        let evicted =
            |mount: &str| METRICS.cache_evictions.with_label_values(&[mount, "nvme", "watermark"]).get();
        let evict = |at: &str| rules.class(at).tally().nvme.evicted.inc();
        let mounts = || [(path("/tally"), Rule::default()), (path("/tally/nested"), Rule::default())];
        rules.set_mounts(mounts());
        rules.change(&path("/tally/a"), &PIN).await.expect("changes");
        for at in ["/tally/x", "/tally/a/b", "/tally/nested/a", "/elsewhere"] {
            evict(at);
        }
        assert_eq!((evicted("/tally"), evicted("/tally/nested")), (2, 1));
        rules.set_mounts([]);
        METRICS.forget_mounts(&HashSet::from(["/tally"]));
        evict("/tally/x");
        rules.set_mounts(mounts());
        evict("/tally/x");
        assert_eq!(evicted("/tally"), 1);
    }

    #[tokio::test]
    async fn what_is_taken_back_is_off_below_a_rule_that_is_on_and_forgotten_elsewhere() {
        let rules = Rules::in_memory();
        let unpin = Rule { pin: Some(false), ..Rule::default() };
        rules.change(&path("/m"), &PIN).await.expect("changes");
        rules.change(&path("/m/a"), &unpin).await.expect("changes");
        assert!(treatment(&rules, "/m/b").pin && !treatment(&rules, "/m/a/b").pin);
        let pinned = rules.class("/m/b");
        rules.change(&path("/m"), &unpin).await.expect("changes");
        assert!(!treatment(&rules, "/m/b").pin);
        assert!(!pinned.treatment().pin, "what is cached is let go");
        assert_eq!(rules.list().iter().map(|rule| rule.path.as_str()).collect::<Vec<_>>(), ["/m/a"]);
        rules.change(&path("/m"), &PIN).await.expect("changes");
        assert!(Arc::ptr_eq(&pinned, &rules.class("/m")));
    }

    #[tokio::test]
    async fn settings_change_one_at_a_time_and_there_are_only_so_many_rules() {
        let rules = Rules::in_memory();
        rules.set(&path("/m/a"), "epoch", Some("1")).await.expect("sets");
        rules.set(&path("/m/a"), "ttl", Some("1h")).await.expect("sets");
        assert_eq!(rules.get(&path("/m/a"), "epoch").as_deref(), Some("1"));
        assert_eq!(rules.get(&path("/m/a/b"), "epoch"), None, "said of its directory");
        assert!(treatment(&rules, "/m/a/b").epoch);
        rules.set(&path("/m/a"), "epoch", None).await.expect("takes back");
        assert_eq!((rules.get(&path("/m/a"), "epoch"), treatment(&rules, "/m/a/b").epoch), (None, false));
        rules.set(&path("/m/a"), "ttl", None).await.expect("takes back");
        assert!(rules.list().is_empty());
        for number in 0..RULES_MAX {
            rules.state().made.insert(format!("/m/{number}"), PIN);
        }
        let refused = rules.set(&path("/m/a"), "pin", Some("1")).await;
        assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::NoSpace));
        rules.set(&path("/m/0"), "ttl", Some("1h")).await.expect("there is a rule already");
    }

    #[tokio::test]
    async fn rules_survive_a_restart_and_a_broken_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("rules.json");
        let rules = Rules::open(&file).await.expect("opens");
        rules.change(&path("/m/a"), &PIN).await.expect("changes");
        assert!(treatment(&Rules::open(&file).await.expect("opens"), "/m/a/b").pin);
        std::fs::write(&file, "{").expect("writes");
        assert_eq!(Rules::open(&file).await.map(drop).map_err(|e| e.kind()), Err(ErrorKind::InvalidArgument));
    }
}
