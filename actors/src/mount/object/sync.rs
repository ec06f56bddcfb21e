//! Syncs: what is remembered of names, and what is cached of them, is compared with what the store lists.
//!
//! Invariants:
//! - One flat listing of the store is all that an unchanged tree costs, and a look at the name that was asked for.
//! - What a commit of this gateway changed since the store was asked is left alone.
//! - Content leaves the cache before what was known of it does, so a sync that is cut off finds it again.
//! - What is known of listings is right before what is remembered of entries is forgotten: what is recalled from then on
//!   is right, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_core::{Entry, Key, ListQuery, METRICS, Result, SyncPage, SyncSpan, SyncTotals};

use super::Core;
use super::attributes::{Answer, Slot, Token};
use crate::backend::{Object, ObjectPage};
use crate::metadata::{Compared, Difference, Part, past_group};

/// Names of one piece: as many as a page of S3 has.
const PIECE: usize = 1000;
/// Where the rest of a sync is parted, at most.
const SPLITS: usize = 3;
/// Directories that are looked at for that.
const SPLIT_LEVELS_MAX: usize = 4;

/// Whether a name was known to be there, and whether it is.
#[derive(Clone, Copy)]
struct Found {
    before: bool,
    after: bool,
}

/// Names that show something else than was known; those of directories end in `/`.
type Differences = BTreeMap<String, Found>;

impl Core {
    /// One piece, see [`forebay_core::Mount::sync`].
    pub(super) async fn sync(&self, key: &Key, span: SyncSpan) -> Result<SyncPage> {
        let SyncSpan { after: start_after, until } = span;
        let query = ListQuery { prefix: key.directory_prefix(), shallow: false, start_after, limit: PIECE };
        let token = self.attributes.token();
        let listings = self.kept_listings();
        let asked = listings.map(|listings| (listings.token(), self.clock.now()));
        let page = Arc::new(up_to(self.page(&query).await?, until.as_deref()));
        let until = until.as_deref().filter(|_| !page.is_truncated);
        let part = Part { query: &query, page: &page, until };
        let mut differences = Differences::new();
        let compared = match listings.zip(asked) {
            Some((listings, (known, _))) => listings.compare((&query, &page, until), known).await,
            None => Compared::default(),
        };
        for difference in &compared.differences {
            self.note_difference(part, difference, &mut differences);
        }
        if !compared.is_cut {
            self.compare_remembered(part, token, &mut differences);
        }
        if let Some((listings, asked)) = listings.zip(asked) {
            listings.learn_compared(part, asked, &compared).await;
        }
        for name in differences.keys() {
            self.attributes.forget(name.trim_end_matches('/'));
        }
        let is_first = query.start_after.is_none() && !key.is_root();
        let seen = if is_first { self.compare_top(key, &page, &mut differences).await? } else { 0 };
        let mut totals = totals(&differences);
        if compared.is_cut {
            return Ok(self.piece(totals, &differences, (query.start_after, false)));
        }
        totals.seen = seen + page.objects.iter().filter(|object| !object.key.ends_with('/')).count() as u64;
        let last = page.objects.last().map(|object| object.key.clone());
        Ok(self.piece(totals, &differences, (last.or(query.start_after), !page.is_truncated)))
    }

    /// Where the rest may be parted, see [`forebay_core::Mount::sync_splits`]: after groups of the highest directory on the
    /// way to `after` that has enough of them.
    pub(super) async fn sync_splits(&self, key: &Key, after: &str) -> Result<Vec<String>> {
        let levels = if self.backend.starts_anywhere() { SPLIT_LEVELS_MAX } else { 0 };
        let mut prefix = key.directory_prefix();
        for _ in 0..levels {
            let Some(rest) = after.strip_prefix(&prefix) else { break };
            let own = rest.split_inclusive('/').next().unwrap_or_default();
            let start_after = Some(format!("{prefix}{own}"));
            let query = ListQuery { prefix: prefix.clone(), shallow: true, start_after, limit: PIECE };
            let page = self.page(&query).await?;
            let groups: Vec<_> = page.objects.iter().filter(|object| object.key.ends_with('/')).collect();
            if groups.len() >= SPLITS {
                let at = |part: usize| past_group(&groups[groups.len() * part / (SPLITS + 1)].key);
                return Ok((1..=SPLITS).map(at).collect());
            }
            if !own.ends_with('/') {
                break;
            }
            prefix.push_str(own);
        }
        Ok(Vec::new())
    }

    fn piece(
        &self,
        totals: SyncTotals,
        differences: &Differences,
        (after, is_last): (Option<String>, bool),
    ) -> SyncPage {
        let SyncTotals { seen, added, changed, removed } = totals;
        let same = seen.saturating_sub(added + changed);
        for (found, count) in [("same", same), ("added", added), ("changed", changed), ("removed", removed)] {
            METRICS.sync_files.with_label_values(&[&*self.label, found]).inc_by(count);
        }
        SyncPage { totals, changes: changes(differences), after, is_last }
    }

    /// Takes in what is known otherwise in the metadata store.
    fn note_difference(&self, part: Part<'_>, difference: &Difference, differences: &mut Differences) {
        let Difference { name, before, after } = difference;
        if *name == part.query.prefix {
            return;
        }
        if name.ends_with('/') {
            let after = part.has(name);
            let is_known = after
                && self.attributes.peek(&name[..name.len() - 1], Slot::is_directory) == Some(Some(true));
            if !is_known {
                differences.insert(name.clone(), Found { before: before.is_some(), after });
            }
            return;
        }
        let now = after.as_ref().map(|object| self.file_entry(object));
        if let Some(before) = before {
            self.release_content(name, Some(self.file_entry(before)), now.as_ref());
        } else {
            let is_known = |slot: &Slot| slot.file().is_some_and(|file| is_same(file, after.as_ref()));
            if self.attributes.peek(name, is_known) == Some(true) {
                return;
            }
        }
        differences.insert(name.clone(), Found { before: before.is_some(), after: after.is_some() });
    }

    /// Compares what is remembered of the names that the page is about.
    fn compare_remembered(&self, part: Part<'_>, token: Token, differences: &mut Differences) {
        let Part { query, page, .. } = part;
        let is_meant = |name: &str| {
            name.len() > query.prefix.len()
                && query.start_after.as_deref().is_none_or(|after| name > after)
                && part.end().is_none_or(|end| name <= end)
        };
        let mut released = Vec::new();
        self.attributes.each(|key, slot| {
            if !key.starts_with(&query.prefix) || !self.attributes.is_untouched(key, token) {
                return;
            }
            if let Some(before) = slot.file().filter(|_| is_meant(key)) {
                let after = page.objects.binary_search_by(|object| (*object.key).cmp(key)).ok();
                let after = after.map(|at| &page.objects[at]);
                if !is_same(before, after) {
                    let before = before.found();
                    differences
                        .entry(key.to_owned())
                        .or_insert(Found { before: before.is_some(), after: after.is_some() });
                    released.extend(before.map(|before| (key.to_owned(), before.clone(), after)));
                }
            }
            let Some(before) = slot.is_directory() else { return };
            let directory = format!("{key}/");
            if is_meant(&directory) {
                let after = part.has(&directory);
                if before != after {
                    differences.entry(directory).or_insert(Found { before, after });
                }
            }
        });
        for (name, before, after) in released {
            let now = after.map(|object| self.file_entry(object));
            self.release_content(&name, Some(before), now.as_ref());
        }
    }

    /// Compares what is known of the very name that was asked for, which is in no listing of what lies below it; how many
    /// files have it. Where it shows something else, nothing is remembered of it and of the directories above it.
    async fn compare_top(&self, key: &Key, page: &ObjectPage, differences: &mut Differences) -> Result<u64> {
        let (name, directory) = (key.as_str(), key.directory_prefix());
        let token = self.attributes.token();
        let listed = match self.kept_listings() {
            Some(listings) => listings.look(name, |_| true).await.unwrap_or_default(),
            None => [None, None],
        };
        let there = self.look(name).await?;
        let is_directory = !page.objects.is_empty();
        let [listed_file, listed_directory] = listed;
        let listed_file = listed_file.map(|known| known.object.map(|object| self.file_entry(&object)));
        let remembered = |slot: &Slot| slot.file().map(|file| file.found().cloned());
        let before = self.attributes.peek(name, remembered).flatten().or(listed_file);
        let was_directory = self.attributes.peek(name, Slot::is_directory).flatten();
        let was_directory = was_directory.or_else(|| listed_directory.map(|known| known.object.is_some()));
        if !self.attributes.is_untouched(name, token) {
            return Ok(0);
        }
        if let Some(before) = before
            && !is_same(Answer::of(before.as_ref()), there.as_ref())
        {
            differences.insert(name.to_owned(), Found { before: before.is_some(), after: there.is_some() });
            let now = there.as_ref().map(|object| self.file_entry(object));
            self.release_content(name, before, now.as_ref());
            drop(self.change(name));
        }
        if let Some(before) = was_directory.filter(|was_directory| *was_directory != is_directory) {
            drop(self.change(&directory));
            differences.insert(directory, Found { before, after: is_directory });
        }
        Ok(u64::from(there.is_some()))
    }
}

/// What of a page lies up to `until`.
fn up_to(mut page: ObjectPage, until: Option<&str>) -> ObjectPage {
    if let Some(until) = until {
        let count = page.objects.len();
        page.objects.retain(|object| *object.key <= *until);
        page.is_truncated &= page.objects.len() == count;
    }
    page
}

/// Whether what was known of a file is what is there.
fn is_same(before: Answer<&Entry>, after: Option<&Object>) -> bool {
    match (before, after) {
        (Answer::There(before), Some(after)) => {
            before.etag == after.etag && before.size_bytes == after.size_bytes
        }
        (Answer::Missing, None) => true,
        (Answer::There(_), None) | (Answer::Missing, Some(_)) => false,
    }
}

fn totals(differences: &Differences) -> SyncTotals {
    let mut totals = SyncTotals::default();
    for (_, found) in differences.iter().filter(|(name, _)| !name.ends_with('/')) {
        match (found.before, found.after) {
            (false, true) => totals.added += 1,
            (true, true) => totals.changed += 1,
            (true, false) => totals.removed += 1,
            (false, false) => {}
        }
    }
    totals
}

/// What is to be told: of a directory that is gone nothing but that.
fn changes(differences: &Differences) -> Vec<(Key, bool)> {
    let (mut told, mut gone) = (Vec::new(), None::<&str>);
    for (name, found) in differences {
        if gone.is_some_and(|gone| name.starts_with(gone)) {
            continue;
        }
        let directory = name.strip_suffix('/');
        if directory.is_some() && !found.after {
            gone = Some(name);
        }
        // Names that the namespace refuses are shown to nobody.
        if let Ok(key) = Key::parse(directory.unwrap_or(name)) {
            told.push((key, found.after));
        }
    }
    told
}
