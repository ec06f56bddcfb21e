//! The database on disk: redb, whose reads never wait for writes.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use forebay_core::{Error, ErrorKind, Result};
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition,
};

use super::recent::{Moment, Recent, Touched};
use super::{Edit, Place, Store, View};
use crate::metadata::chunk::{Chunk, Said};

const CHUNKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("chunks");
/// What redb keeps in memory beside the kernel's page cache; its own default is a gibibyte.
const CACHE_BYTES: usize = 4 << 20;
/// Chunks whose keys are held to be removed.
const REMOVED_AT_ONCE: usize = 1024;
/// Separates directory and name, which have none.
const END: u8 = 0;

/// The database in one file.
pub(crate) struct Disk {
    database: Database,
    recent: Arc<Recent>,
}

impl Disk {
    /// Opens a database, making it if missing.
    ///
    /// # Errors
    /// The disk's; `Internal` where the file is damaged.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(failed)?;
        let disk = Self { database, recent: Arc::default() };
        // Makes the table.
        disk.edit(true, &mut |_| Ok(()))?;
        Ok(disk)
    }
}

impl Store for Disk {
    fn view(&self) -> Result<Box<dyn View>> {
        let moment = self.recent.moment();
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(CHUNKS).map_err(failed)?;
        Ok(Box::new(Snapshot { table, moment, recent: Arc::clone(&self.recent) }))
    }

    fn at_hand(&self, place: Place<'_>, name: &str) -> Option<Said> {
        let (key, chunk) = self.recent.floor(&key(place, name))?;
        first(&key, place)?;
        // What is damaged is found to be so in the database.
        Chunk::find(name, &chunk).filter(|said| !matches!(said, Said::Nothing))
    }

    fn edit(&self, is_durable: bool, work: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        if is_durable {
            // So that a start after a crash need not read the whole file.
            transaction.set_quick_repair(true);
        } else {
            transaction.set_durability(Durability::None).map_err(failed)?;
        }
        let mut touched = Touched::default();
        let table = transaction.open_table(CHUNKS).map_err(failed)?;
        let outcome = work(&mut Open { table, touched: &mut touched });
        match outcome {
            Ok(()) => {
                let committed = transaction.commit().map_err(failed);
                self.recent.changed(&touched);
                committed
            }
            Err(e) => {
                transaction.abort().map_err(failed)?;
                Err(e)
            }
        }
    }
}

struct Snapshot {
    table: ReadOnlyTable<Bytes, Bytes>,
    moment: Moment,
    recent: Arc<Recent>,
}

struct Open<'a> {
    table: Table<'a, Bytes, Bytes>,
    touched: &'a mut Touched,
}

impl View for Snapshot {
    fn floor(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        floor(&self.table, place, name)
    }

    fn find(&self, place: Place<'_>, name: &str) -> Result<Said> {
        let found = floor_item(&self.table, place, name)?.transpose().map_err(failed)?;
        let Some((key, value)) = found.filter(|(key, _)| first(key.value(), place).is_some()) else {
            return Ok(Said::Nothing);
        };
        self.recent.keep(self.moment, key.value(), value.value());
        Chunk::find(name, value.value()).ok_or_else(damaged)
    }

    fn after(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        after(&self.table, place, name)
    }

    fn directory_from(&self, mount: u64, directory: &str) -> Result<Option<String>> {
        directory_from(&self.table, Place { mount, directory })
    }

    fn mount_from(&self, mount: u64) -> Result<Option<u64>> {
        mount_from(&self.table, mount)
    }
}

impl View for Open<'_> {
    fn floor(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        floor(&self.table, place, name)
    }

    fn after(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        after(&self.table, place, name)
    }

    fn directory_from(&self, mount: u64, directory: &str) -> Result<Option<String>> {
        directory_from(&self.table, Place { mount, directory })
    }

    fn mount_from(&self, mount: u64) -> Result<Option<u64>> {
        mount_from(&self.table, mount)
    }
}

impl Edit for Open<'_> {
    fn put(&mut self, place: Place<'_>, chunk: &Chunk) -> Result<()> {
        let (key, value) = (key(place, &chunk.first), chunk.encode());
        self.table.insert(&*key, &*value).map(drop).map_err(failed)?;
        self.touched.keys.push(key);
        Ok(())
    }

    fn remove(&mut self, place: Place<'_>, first: &str) -> Result<()> {
        let key = key(place, first);
        self.table.remove(&*key).map(drop).map_err(failed)?;
        self.touched.keys.push(key);
        Ok(())
    }

    fn remove_tree(&mut self, place: Place<'_>, most: usize) -> Result<usize> {
        let low = head(place);
        self.touched.prefixes.push(low.clone());
        let is_below = |key: &[u8]| key.starts_with(&low);
        let mut removed = 0;
        // Directories whose names begin alike come together, and after them all others.
        loop {
            let step = REMOVED_AT_ONCE.min(most - removed);
            let mut found = Vec::new();
            for item in self.table.range(&*low..).map_err(failed)?.take(step) {
                let (key, _) = item.map_err(failed)?;
                if !is_below(key.value()) {
                    break;
                }
                found.push(key.value().to_vec());
            }
            for key in &found {
                self.table.remove(&**key).map_err(failed)?;
            }
            removed += found.len();
            if found.len() < REMOVED_AT_ONCE {
                return Ok(removed);
            }
        }
    }
}

type Bytes = &'static [u8];

fn floor(table: &impl ReadableTable<Bytes, Bytes>, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
    chunk(floor_item(table, place, name)?, place)
}

/// The last record at or before `name`, of whichever place.
fn floor_item<'a>(
    table: &'a impl ReadableTable<Bytes, Bytes>,
    place: Place<'_>,
    name: &str,
) -> Result<Option<Item<'a>>> {
    let key = key(place, name);
    let range = (Bound::<&[u8]>::Unbounded, Bound::Included(&*key));
    Ok(table.range::<&[u8]>(range).map_err(failed)?.next_back())
}

fn after(table: &impl ReadableTable<Bytes, Bytes>, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
    let key = key(place, name);
    let range = (Bound::Excluded(&*key), Bound::<&[u8]>::Unbounded);
    chunk(table.range::<&[u8]>(range).map_err(failed)?.next(), place)
}

fn directory_from(table: &impl ReadableTable<Bytes, Bytes>, from: Place<'_>) -> Result<Option<String>> {
    let low = head(from);
    let Some((key, _)) = table.range::<&[u8]>(&*low..).map_err(failed)?.next().transpose().map_err(failed)?
    else {
        return Ok(None);
    };
    let Some(rest) = key.value().strip_prefix(&from.mount.to_be_bytes()) else { return Ok(None) };
    let directory =
        rest.split(|byte| *byte == END).next().and_then(|directory| str::from_utf8(directory).ok());
    directory.map(|directory| Some(directory.to_owned())).ok_or_else(damaged)
}

fn mount_from(table: &impl ReadableTable<Bytes, Bytes>, mount: u64) -> Result<Option<u64>> {
    let low = mount.to_be_bytes();
    let found = table.range::<&[u8]>(&low[..]..).map_err(failed)?.next().transpose().map_err(failed)?;
    let head = found.and_then(|(key, _)| key.value().first_chunk().copied());
    Ok(head.map(u64::from_be_bytes))
}

type Item<'a> =
    redb::Result<(redb::AccessGuard<'a, Bytes>, redb::AccessGuard<'a, Bytes>), redb::StorageError>;

/// The chunk in `item`, if it is one of `place`.
fn chunk(item: Option<Item<'_>>, place: Place<'_>) -> Result<Option<Chunk>> {
    let Some((key, value)) = item.transpose().map_err(failed)? else { return Ok(None) };
    let Some(first) = first(key.value(), place) else { return Ok(None) };
    let chunk = std::str::from_utf8(first).ok().and_then(|first| Chunk::decode(first, value.value()));
    chunk.map(Some).ok_or_else(damaged)
}

/// Where the chunk of this key begins, if it is one of `place`.
fn first<'a>(key: &'a [u8], place: Place<'_>) -> Option<&'a [u8]> {
    let rest = key.strip_prefix(&place.mount.to_be_bytes())?;
    rest.strip_prefix(place.directory.as_bytes())?.strip_prefix(&[END])
}

fn damaged() -> Error {
    Error::new(ErrorKind::Internal, "a record of the metadata store is damaged")
}

fn head(place: Place<'_>) -> Vec<u8> {
    let mut head = place.mount.to_be_bytes().to_vec();
    head.extend_from_slice(place.directory.as_bytes());
    head
}

fn key(place: Place<'_>, first: &str) -> Vec<u8> {
    let mut key = head(place);
    key.push(END);
    key.extend_from_slice(first.as_bytes());
    key
}

fn failed(error: impl Into<redb::Error>) -> Error {
    Error::new(ErrorKind::Internal, "the metadata store failed").because(error.into())
}
