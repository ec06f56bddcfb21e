//! The port in memory, as a model for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use forebay_core::Result;

use super::{Edit, Place, Store, View};
use crate::metadata::chunk::{Chunk, Said};

type Chunks = BTreeMap<(u64, String, String), Chunk>;

/// A database that is gone with the process.
#[derive(Default)]
pub(crate) struct Model(Mutex<Chunks>);

impl Store for Model {
    fn view(&self) -> Result<Box<dyn View>> {
        Ok(Box::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }

    fn at_hand(&self, _place: Place<'_>, _name: &str) -> Option<Said> {
        None
    }

    fn edit(&self, _is_durable: bool, work: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        let mut chunks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = chunks.clone();
        work(&mut changed)?;
        *chunks = changed;
        Ok(())
    }
}

fn key(place: Place<'_>, name: &str) -> (u64, String, String) {
    (place.mount, place.directory.to_owned(), name.to_owned())
}

impl View for Chunks {
    fn floor(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        Ok(self.range(key(place, "")..=key(place, name)).next_back().map(|(_, chunk)| chunk.clone()))
    }

    fn after(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        let mut from = self.range(key(place, &super::successor(name))..);
        let found = from.next().filter(|((mount, directory, _), _)| {
            (*mount, directory.as_str()) == (place.mount, place.directory)
        });
        Ok(found.map(|(_, chunk)| chunk.clone()))
    }

    fn directory_from(&self, mount: u64, directory: &str) -> Result<Option<String>> {
        let next = self.range(key(Place { mount, directory }, "")..).next();
        Ok(next.filter(|((other, ..), _)| *other == mount).map(|((_, directory, _), _)| directory.clone()))
    }

    fn mount_from(&self, mount: u64) -> Result<Option<u64>> {
        Ok(self.range((mount, String::new(), String::new())..).next().map(|((mount, ..), _)| *mount))
    }
}

impl Edit for Chunks {
    fn put(&mut self, place: Place<'_>, chunk: &Chunk) -> Result<()> {
        self.insert(key(place, &chunk.first), chunk.clone());
        Ok(())
    }

    fn remove(&mut self, place: Place<'_>, first: &str) -> Result<()> {
        BTreeMap::remove(self, &key(place, first));
        Ok(())
    }

    fn remove_tree(&mut self, place: Place<'_>, most: usize) -> Result<usize> {
        let is_below = |(mount, directory, _): &&(u64, String, String)| {
            *mount == place.mount && directory.starts_with(place.directory)
        };
        let found: Vec<_> = self.keys().filter(is_below).take(most).cloned().collect();
        for key in &found {
            BTreeMap::remove(self, key);
        }
        Ok(found.len())
    }
}
