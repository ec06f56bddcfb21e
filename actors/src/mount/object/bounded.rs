//! A concurrent table that forgets what was put in first when it is full.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use dashmap::DashMap;

/// At most `limit` values by name.
pub(super) struct Bounded<V> {
    entries: DashMap<Arc<str>, V>,
    /// Names in the order they came, with those removed since; at most twice `limit`. A name counts only while the
    /// table holds that very `Arc`: one that was removed and came again stands here twice.
    order: Mutex<VecDeque<Arc<str>>>,
    limit: usize,
}

impl<V: Default> Bounded<V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: DashMap::new(), order: Mutex::default(), limit }
    }

    /// Looks at a value. `look` must not touch this table.
    pub(super) fn read<R>(&self, name: &str, look: impl FnOnce(&V) -> R) -> Option<R> {
        self.entries.get(name).map(|value| look(&value))
    }

    /// Changes a value in place, if it is there. `change` must not touch this table.
    pub(super) fn alter(&self, name: &str, change: impl FnOnce(&mut V)) {
        if let Some(mut value) = self.entries.get_mut(name) {
            change(&mut value);
        }
    }

    /// Changes a value in place; a missing one begins as its default. `change` must not touch this table.
    pub(super) fn update<R>(&self, name: &str, change: impl FnOnce(&mut V) -> R) -> R {
        if let Some(mut value) = self.entries.get_mut(name) {
            return change(&mut value);
        }
        let name: Arc<str> = Arc::from(name);
        let result = change(&mut self.entries.entry(Arc::clone(&name)).or_default());
        let mut order = self.order.lock().expect("no panic under this lock");
        order.push_back(name);
        if order.len() > self.limit.saturating_mul(2) {
            order.retain(|name| self.entries.get(name).is_some_and(|entry| Arc::ptr_eq(entry.key(), name)));
        }
        while self.entries.len() > self.limit
            && let Some(oldest) = order.pop_front()
        {
            self.entries.remove_if(&oldest, |name, _| Arc::ptr_eq(name, &oldest));
        }
        result
    }

    /// Looks at all values. `look` must not touch this table.
    pub(super) fn each(&self, mut look: impl FnMut(&str, &V)) {
        self.entries.iter().for_each(|entry| look(entry.key(), entry.value()));
    }

    /// Keeps those whose names are worth it. `is_kept` must not touch this table.
    pub(super) fn retain(&self, mut is_kept: impl FnMut(&str) -> bool) {
        self.entries.retain(|name, _| is_kept(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_and_goes_pushes_nobody_out() {
        let table = Bounded::<u32>::new(2);
        table.update("kept", |slot| *slot = 1);
        for round in 0..20 {
            table.retain(|name| name != "again");
            table.update("again", |slot| *slot = round);
        }
        assert_eq!((table.read("kept", |v| *v), table.read("again", |v| *v)), (Some(1), Some(19)));
        assert!(table.order.lock().expect("no panic under this lock").len() <= 4);
    }

    #[test]
    fn full_table_forgets_the_oldest() {
        let table = Bounded::<u32>::new(2);
        for (name, value) in [("a", 1), ("b", 2), ("c", 3)] {
            table.update(name, |slot| *slot = value);
        }
        assert_eq!(table.read("a", |v| *v), None);
        assert_eq!((table.read("b", |v| *v), table.read("c", |v| *v)), (Some(2), Some(3)));
    }
}
