//! Model test: the mount table is replaced while others use it, under thousands of orders of their steps, which shuttle
//! chooses. A failure prints the schedule that replays it.
//!
//! `cargo test -p forebay-core --features shuttle --lib namespace::model`

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use shuttle::check_random;
use shuttle::future::{block_on, spawn, yield_now};

use super::tests::{context, mount, names, path};
use super::*;
use crate::RenameMode;

/// Orders that are tried.
const ORDERS: usize = 2000;

/// What lies below `/m`, deep, with the first table and with the second one.
const BEFORE: [&str; 3] = ["a", "b", "n/inner"];
const AFTER: [&str; 2] = ["b", "n/outer"];

fn before() -> MountTable {
    let mounts = [mount("/m", &["a", "b", "n/hidden"], false), mount("/m/n", &["inner"], false)];
    MountTable::new(mounts).expect("distinct paths")
}

fn after() -> MountTable {
    MountTable::new([mount("/m", &["b", "n/outer"], false)]).expect("one path")
}

/// What it was told.
#[derive(Default)]
struct Told(Mutex<Vec<NsPath>>);

#[async_trait]
impl CommitObserver for Told {
    async fn committed(&self, change: &Change) {
        yield_now().await;
        self.0.lock().expect("no panic").push(change.path.clone());
    }
}

/// Uses the namespace in each way once; what begins when the second table was published never meets the first one.
async fn use_all(namespace: Arc<Namespace>, is_published: Arc<AtomicBool>) {
    let context = context("/", Permission::Write);
    let is_new = || is_published.load(Ordering::SeqCst);

    let must_be_new = is_new();
    let listed = names(&namespace, "/m", "", false, 10).await;
    assert!(listed == AFTER || !must_be_new && listed == BEFORE, "{listed:?}");

    let must_be_new = is_new();
    let inner = namespace.stat(&context, &path("/m/n/inner"), Want::Any).await;
    assert!(inner.is_err() || !must_be_new, "the nested mount is gone");

    // Between two mounts, and within one: never from the one table into the other.
    let must_be_new = is_new();
    let moved = namespace.rename(&context, &path("/m/b"), &path("/m/n/moved"), RenameMode::Replace).await;
    match moved.map_err(|e| e.kind()) {
        Ok(()) => {}
        Err(ErrorKind::CrossMount) => assert!(!must_be_new, "there is one mount"),
        Err(kind) => panic!("{kind:?}"),
    }
}

#[test]
fn whoever_uses_the_namespace_meets_one_table_and_the_new_one_once_it_is_published() {
    // Of its deadlines none passes: nobody drives it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let world = || {
        block_on(async {
            let namespace = Arc::new(Namespace::new(before(), SystemTime::UNIX_EPOCH));
            let (told, is_published) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
            namespace.observe("model", Arc::clone(&told) as Arc<dyn CommitObserver>);
            let users: Vec<_> =
                (0..3).map(|_| spawn(use_all(Arc::clone(&namespace), Arc::clone(&is_published)))).collect();
            yield_now().await;
            namespace.publish_table(after(), &[path("/m")]).await;
            is_published.store(true, Ordering::SeqCst);
            for gone in ["/m", "/m/n"] {
                let told = told.0.lock().expect("no panic");
                assert!(told.contains(&path(gone)), "{gone} of {told:?}");
            }
            use_all(Arc::clone(&namespace), Arc::clone(&is_published)).await;
            for user in users {
                user.await.expect("no panic");
            }
        });
    };
    check_random(world, ORDERS);
}
