//! Syncs: what was changed at the store behind the mount's back is found, and nothing else is touched.

use forebay_core::{SyncPage, SyncSpan, SyncTotals};

use super::listings::{Kept, kept};
use super::release::OLD;
use super::*;

/// A sync to its end.
struct Synced {
    totals: SyncTotals,
    changes: Vec<(String, bool)>,
    pieces: usize,
}

impl Fixture {
    async fn sync(&self, at: &str) -> Synced {
        self.sync_span(at, SyncSpan::default()).await
    }

    async fn sync_span(&self, at: &str, mut span: SyncSpan) -> Synced {
        let mut synced = Synced { totals: SyncTotals::default(), changes: Vec::new(), pieces: 0 };
        loop {
            let page: SyncPage = self.mount.sync(&key(at), &span).await.expect("syncs");
            synced.totals.add(page.totals);
            let changes = page.changes.iter().map(|(key, is_there)| (key.as_str().to_owned(), *is_there));
            synced.changes.extend(changes);
            synced.pieces += 1;
            if page.is_last {
                return synced;
            }
            span.after = page.after;
        }
    }
}

fn totals(seen: u64, added: u64, changed: u64, removed: u64) -> SyncTotals {
    SyncTotals { seen, added, changed, removed }
}

async fn known(names: &[&str]) -> Kept {
    let k = kept(Revalidate::Never);
    for name in names {
        k.f.store.put_outside(name, if name.ends_with('/') { b"" } else { b"as it was" }).await;
    }
    k.names("", false).await;
    k.idle().await;
    // That something was missing is not trusted any more.
    k.f.clock.advance(Duration::from_secs(1));
    k
}

#[tokio::test]
async fn what_changed_at_the_store_is_found_where_listings_are_kept() {
    let k = known(&["d/same", "d/sub/x", "d/sub/y/z", "m/"]).await;
    let (changed, gone) = (k.f.cached("d/changed").await, k.f.cached("d/gone").await);
    assert_eq!(k.f.sync("").await.totals, totals(5, 0, 0, 0), "what was looked at is known");
    for name in ["d/gone", "d/sub/x", "d/sub/y/z"] {
        k.f.store.delete(name).await.expect("deletes");
    }
    k.f.store.put_outside("d/changed", b"another").await;
    k.f.store.put_outside("d/new/a", b"new").await;
    let before = ["d/changed", "d/gone", "d/same", "d/sub/x", "d/sub/y/z", "m/"];
    assert_eq!(k.names("", false).await, before);
    k.f.store.calls("stat");
    k.f.store.calls("list");
    let synced = k.f.sync("").await;
    assert_eq!(k.f.store.calls("list"), 1);
    assert_eq!(synced.totals, totals(3, 1, 1, 3));
    let told = [("d/changed", true), ("d/gone", false), ("d/new", true), ("d/new/a", true), ("d/sub", false)];
    assert_eq!(synced.changes, told.map(|(name, is_there)| (name.to_owned(), is_there)));
    assert_eq!(k.names("", false).await, ["d/changed", "d/new/a", "d/same", "m/"]);
    assert_eq!(k.names("d/", true).await, ["d/changed", "d/new/", "d/same"]);
    assert_eq!(k.f.stat("d/changed").await.expect("there").size_bytes, 7);
    assert_eq!(kind(k.f.stat("d/gone").await), Some(ErrorKind::NotFound));
    assert_eq!(kind(k.f.stat("d/sub").await), Some(ErrorKind::NotFound));
    assert_eq!((k.f.store.calls("list"), k.f.store.calls("stat")), (0, 0), "all of it is known");
    assert_eq!((k.f.cached_bytes("d/changed", &changed), k.f.cached_bytes("d/gone", &gone)), (0, 0));
    assert_eq!(k.names("d/sub/", true).await, [""; 0]);
    let again = k.f.sync("").await;
    assert_eq!((again.totals, again.changes.len(), again.pieces), (totals(3, 0, 0, 0), 0, 1));
}

#[tokio::test]
async fn what_was_looked_at_is_compared_where_no_listings_are_kept() {
    let f = fixture(Revalidate::Never);
    let (same, changed, gone) =
        (f.cached("d/same").await, f.cached("d/changed").await, f.cached("d/gone").await);
    f.cached("e/x").await;
    f.stat("e").await.expect("there");
    assert_eq!(kind(f.stat("d/new").await), Some(ErrorKind::NotFound));
    f.store.put_outside("d/changed", b"another").await;
    f.store.put_outside("d/new", b"new").await;
    f.store.delete("d/gone").await.expect("deletes");
    f.store.delete("e/x").await.expect("deletes");
    let synced = f.sync("").await;
    assert_eq!(synced.totals, totals(3, 1, 1, 2));
    let told = [("d/changed", true), ("d/gone", false), ("d/new", true), ("e", false)];
    assert_eq!(synced.changes, told.map(|(name, is_there)| (name.to_owned(), is_there)));
    assert_eq!(f.read("d/changed").await, b"another");
    for name in ["d/gone", "e/x", "e"] {
        assert_eq!(kind(f.stat(name).await), Some(ErrorKind::NotFound), "{name}");
    }
    assert_eq!(f.read("d/new").await, b"new", "that it was missing is not remembered");
    let cached = [("d/same", &same), ("d/changed", &changed), ("d/gone", &gone)];
    assert_eq!(cached.map(|(name, entry)| f.cached_bytes(name, entry)), [OLD.len() as u64, 0, 0]);
    assert_eq!(f.sync("").await.totals, totals(3, 0, 0, 0));
}

#[tokio::test]
async fn a_sync_of_a_part_leaves_the_rest_and_sees_that_its_top_came_or_went() {
    let k = known(&["d/a", "d/b/c", "e"]).await;
    for name in ["d/a", "d/b/c"] {
        k.f.store.delete(name).await.expect("deletes");
    }
    k.f.store.put_outside("e", b"a change elsewhere").await;
    let synced = k.f.sync("d/b").await;
    assert_eq!((synced.totals, synced.changes), (totals(0, 0, 0, 1), vec![("d/b".to_owned(), false)]));
    assert_eq!(k.f.stat("e").await.expect("there").size_bytes, 9);
    assert_eq!(kind(k.f.stat("d/b").await), Some(ErrorKind::NotFound));
    let synced = k.f.sync("d/a").await;
    assert_eq!((synced.totals, synced.changes), (totals(0, 0, 0, 1), vec![("d/a".to_owned(), false)]));
    assert_eq!(k.names("d/", true).await, [""; 0]);
    k.f.store.put_outside("d/b/new", b"new").await;
    k.idle().await;
    let synced = k.f.sync("e").await;
    assert_eq!((synced.totals, synced.changes), (totals(1, 0, 1, 0), vec![("e".to_owned(), true)]));
    assert_eq!(k.f.stat("e").await.expect("there").size_bytes, 18);
}

#[tokio::test]
async fn a_commit_during_a_sync_is_left_alone() {
    let k = known(&["d/a", "d/b"]).await;
    let gate = k.f.store.hold("list");
    let syncing = {
        let mount = Arc::clone(&k.f.mount);
        tokio::spawn(async move { mount.sync(&Key::root(), &SyncSpan::default()).await })
    };
    gate.arrived().await;
    k.f.put("d/new", b"ours").await;
    k.f.put("d/a", b"ours, too").await;
    k.f.mount.delete(&key("d/b"), DeleteMode::Object).await.expect("deletes");
    gate.open();
    let page = syncing.await.expect("joins").expect("syncs");
    assert_eq!((page.totals, page.changes.len()), (totals(2, 0, 0, 0), 0));
    assert_eq!(k.names("", false).await, ["d/a", "d/new"]);
    assert_eq!(k.f.read("d/a").await, b"ours, too");
    assert_eq!(k.f.sync("").await.totals, totals(2, 0, 0, 0));
}

#[tokio::test]
async fn however_much_is_gone_a_piece_takes_a_bounded_part_of_it() {
    let k = kept(Revalidate::Never);
    for number in 0..30_000 {
        k.f.store.put_outside(&format!("{:03}/{number:05}", number / 10_000), b"x").await;
    }
    let all = k.f.sync("").await;
    assert_eq!((all.totals, all.pieces), (totals(30_000, 30_000, 0, 0), 30));
    for number in 0..30_000 {
        k.f.store.delete(&format!("{:03}/{number:05}", number / 10_000)).await.expect("deletes");
    }
    k.f.store.put_outside("001/new", b"x").await;
    let synced = k.f.sync("").await;
    assert_eq!(synced.totals, totals(1, 1, 0, 30_000));
    assert_eq!(k.names("", false).await, ["001/new"]);
    assert_eq!(k.names("", true).await, ["001/"]);
    assert!(synced.pieces > 1, "{}", synced.pieces);
}

#[tokio::test]
async fn the_rest_is_parted_where_a_directory_has_enough_groups() {
    let f = fixture(Revalidate::Never);
    for number in 0..40 {
        f.store.put_outside(&format!("top/d/{number:02}/x"), b"x").await;
    }
    let splits = async |at: &str, after: &str| f.mount.sync_splits(&key(at), after).await.expect("lists");
    let past = |numbers: [usize; 3]| numbers.map(|number| format!("top/d/{number:02}/\u{10ffff}")).to_vec();
    assert_eq!(splits("", "top/d/03/x").await, past([13, 22, 31]));
    assert_eq!(splits("top/d", "top/d/35/x").await, past([37, 38, 39]));
    assert_eq!(splits("top/d", "top/d/38/x").await, [""; 0]);
}

/// After a sync everything is as the store has it, whatever was known before.
#[tokio::test]
async fn random_changes_at_the_store_are_all_found() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut k = kept(Revalidate::Never);
    let names = ["a", "a/b", "a/c/", "a/c/d", "a!", "f/g", "f/h/i", "f/h/", "j"];
    for round in 0..300 {
        let one = names[random.usize(..names.len())];
        match random.u8(..8) {
            0..=2 => drop(
                k.f.store.put_outside(one, &vec![b'x'; if one.ends_with('/') { 0 } else { round }]).await,
            ),
            3 | 4 => drop(k.f.store.delete(one).await),
            5 => drop(k.names(["", "a/", "f/", "a/c/"][random.usize(..4)], random.bool()).await),
            6 => drop(k.f.stat(one.trim_end_matches('/')).await),
            _ if !one.ends_with('/') => drop(k.f.put(one, b"ours").await),
            _ => {}
        }
        if random.bool() {
            k.idle().await;
        }
        if random.u8(..40) == 0 {
            k = k.restart(Revalidate::Never);
        }
        if random.u8(..4) > 0 {
            continue;
        }
        let expected = k.f.names().await;
        let group = ["a/", "a/c/", "f/", "f/h/"][random.usize(..4)];
        let found = if random.bool() && expected.iter().any(|name| name.starts_with(group)) {
            let middle = Some(crate::metadata::past_group(group));
            let last = k.f.sync_span("", SyncSpan { after: middle.clone(), until: None }).await;
            let first = k.f.sync_span("", SyncSpan { after: None, until: middle }).await;
            first.totals.seen + last.totals.seen
        } else {
            k.f.sync("").await.totals.seen
        };
        let files = expected.iter().filter(|name| !name.ends_with('/'));
        assert_eq!(found, files.clone().count() as u64, "round {round}");
        assert_eq!(k.names("", false).await, expected, "round {round}");
        for prefix in ["", "a/", "a/c/", "f/", "f/h/"] {
            let query = ListQuery { prefix: prefix.into(), shallow: true, start_after: None, limit: 1000 };
            let expected: Vec<_> =
                k.f.store.list(&query).await.expect("lists").objects.into_iter().map(|o| o.key).collect();
            assert_eq!(k.names(prefix, true).await, expected, "round {round} {prefix}");
        }
        for name in names.map(|name| name.trim_end_matches('/')) {
            let there = k.f.store.stat(name).await.ok();
            let shown = k.f.mount.stat(&key(name), Want::File).await.ok();
            let shown = shown.map(|entry| (entry.size_bytes, entry.etag));
            assert_eq!(shown, there.map(|object| (object.size_bytes, object.etag)), "round {round} {name}");
        }
        assert_eq!(k.f.sync("").await.totals, totals(found, 0, 0, 0), "round {round}");
    }
}
