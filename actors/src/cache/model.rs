//! Model tests: the same small worlds under thousands of orders of their steps, which shuttle chooses. A failure prints
//! the schedule that replays it.
//!
//! `cargo test -p forebay-actors --features shuttle --lib cache::model`

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use forebay_core::{Error, ErrorKind, Result};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::{check_random, thread};

use super::budget::Budget;
use super::class::{Class, Treatment};
use super::flight::Flights;
use super::page::{ContentKey, PageKey};
use super::share::{MountShare, Pool};
use super::tasks::Tasks;
use crate::config::CacheConfig;

/// Orders that are tried.
const ORDERS: usize = 5000;

const CAPACITY: u64 = 100;

fn budget() -> Arc<Budget> {
    let config = CacheConfig { memory_bytes: CAPACITY, nvme: None, high_percent: 90, low_percent: 50 };
    Arc::new(Budget::new("model", CAPACITY, &config))
}

fn together(threads: impl IntoIterator<Item = Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    for thread in running {
        thread.join().expect("no panic");
    }
}

#[test]
fn reservations_never_exceed_the_cap_and_all_come_back() {
    let world = || {
        let budget = budget();
        let writer = |bytes: u64| -> Box<dyn FnOnce() + Send> {
            let budget = Arc::clone(&budget);
            Box::new(move || {
                let Some(mut first) = budget.try_reserve(bytes) else { return };
                assert!(budget.used() <= CAPACITY);
                if let Some(more) = first.more(bytes) {
                    first.absorb(more);
                }
                assert!(budget.used() <= CAPACITY);
                first.shrink_to(1);
            })
        };
        together([writer(30), writer(40), writer(50)]);
        assert_eq!(budget.used(), 0);
    };
    check_random(world, ORDERS);
}

#[test]
fn quota_of_a_class_holds_while_its_files_come_go_and_change_class() {
    let world = || {
        let budget = budget();
        let class = |quota_bytes| Class::new("/model", Treatment { quota_bytes, ..Treatment::default() });
        let (strict, open) = (class(Some(50)), class(None));
        let file = |bytes: u64| -> Box<dyn FnOnce() + Send> {
            let (budget, strict, open) = (Arc::clone(&budget), Arc::clone(&strict), Arc::clone(&open));
            Box::new(move || {
                let space = budget.try_reserve(bytes).and_then(|space| space.charge(&strict));
                assert!(strict.disk_bytes() <= 50);
                if let Some(mut space) = space {
                    assert!(space.recharge(&open));
                    let _is_back = space.recharge(&strict);
                    assert!(strict.disk_bytes() <= 50);
                }
            })
        };
        together([file(30), file(20), file(25)]);
        assert_eq!((strict.disk_bytes(), open.disk_bytes(), budget.used()), (0, 0, 0));
    };
    check_random(world, ORDERS);
}

#[test]
fn what_mounts_hold_of_a_pool_never_exceeds_it() {
    let world = || {
        let (bytes, places) = (Pool::new(10), Pool::new(10));
        let held = Arc::new(AtomicUsize::new(0));
        let mount = |name: &str| -> Box<dyn FnOnce() + Send> {
            let (share, held) = (MountShare::new(name, &bytes, &places), Arc::clone(&held));
            Box::new(move || {
                for _ in 0..3 {
                    let Some(part) = share.take_memory(2) else { continue };
                    assert!(held.fetch_add(2, Ordering::Relaxed) + 2 <= 10);
                    thread::yield_now();
                    held.fetch_sub(2, Ordering::Relaxed);
                    drop(part);
                }
            })
        };
        together([mount("/model-a"), mount("/model-b"), mount("/model-c")]);
        let alone = MountShare::new("/model-d", &bytes, &places);
        assert!(alone.take_memory(10).is_some(), "all was given back");
    };
    check_random(world, ORDERS);
}

/// A store, and a tier that keeps what it gives.
#[derive(Default)]
struct World {
    kept: Mutex<HashMap<u64, Bytes>>,
    fetches: AtomicUsize,
    failures: AtomicUsize,
}

impl World {
    fn find(&self) -> Option<Bytes> {
        self.kept.lock().expect("no panic").get(&0).cloned()
    }

    /// One fetch, which fails as often as there are failures left.
    async fn fetch(self: Arc<Self>) -> Result<Bytes> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        yield_now().await;
        let left = self.failures.load(Ordering::Relaxed);
        if left > 0 {
            self.failures.store(left - 1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Unavailable, "the store is away"));
        }
        self.kept.lock().expect("no panic").insert(0, Bytes::from_static(b"page"));
        yield_now().await;
        Ok(Bytes::from_static(b"page"))
    }
}

fn flights() -> (tokio::runtime::Runtime, Arc<Flights>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let tasks = Arc::new(Tasks::new(runtime.handle().clone()));
    (runtime, Arc::new(Flights::new(tasks)))
}

fn key() -> PageKey {
    ContentKey::from_bits(7).page(0)
}

async fn read(world: Arc<World>, flights: Arc<Flights>) -> Result<Bytes> {
    if let Some(bytes) = world.find() {
        return Ok(bytes);
    }
    yield_now().await;
    flights.join(key(), || world.find(), || Arc::clone(&world).fetch()).await
}

#[test]
fn page_that_is_kept_is_fetched_once_whoever_reads_and_whoever_gives_up() {
    let (_runtime, flights) = flights();
    let world = move || {
        let (world, flights) = (Arc::new(World::default()), Arc::clone(&flights));
        block_on(async move {
            let readers: Vec<_> =
                (0..3).map(|_| spawn(read(Arc::clone(&world), Arc::clone(&flights)))).collect();
            let impatient = spawn(read(Arc::clone(&world), Arc::clone(&flights)));
            yield_now().await;
            impatient.abort();
            for reader in readers {
                assert_eq!(reader.await.expect("no panic").expect("fetched"), "page");
            }
            while flights.contains(key()) {
                yield_now().await;
            }
            assert_eq!(world.fetches.load(Ordering::Relaxed), 1);
        });
    };
    check_random(world, ORDERS);
}

#[test]
fn failure_reaches_who_waits_and_is_not_remembered() {
    let (_runtime, flights) = flights();
    let world = move || {
        let (world, flights) = (Arc::new(World::default()), Arc::clone(&flights));
        world.failures.store(1, Ordering::Relaxed);
        block_on(async move {
            let readers: Vec<_> =
                (0..3).map(|_| spawn(read(Arc::clone(&world), Arc::clone(&flights)))).collect();
            let mut failed = 0;
            for reader in readers {
                failed += usize::from(reader.await.expect("no panic").is_err());
            }
            assert!(failed >= 1, "whoever began the fetch is told");
            assert_eq!(read(Arc::clone(&world), Arc::clone(&flights)).await.expect("fetched"), "page");
            assert_eq!(world.fetches.load(Ordering::Relaxed), 2);
            while flights.contains(key()) {
                yield_now().await;
            }
        });
    };
    check_random(world, ORDERS);
}
