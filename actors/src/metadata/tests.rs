//! What entries cost on disk, and that pages cost the same wherever they are.

use std::cell::Cell;
use std::time::Duration;

use forebay_core::{ETag, ListQuery};

use super::chunk::Chunk;
use super::store::View;
use super::*;
use crate::backend::{Object, ObjectPage};

const COUNT: usize = 200_000;
const PAGE: usize = 1000;

fn page_of(from: usize) -> (ListQuery, ObjectPage) {
    let name = |number: usize| format!("train/image-{number:09}.jpg");
    let object = |number: usize| Object {
        size_bytes: 100_000 + number as u64 * 7919 % 50_000,
        etag: ETag::new(&hex::encode(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16])),
        modified: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123 + number as u64 * 41),
        is_prefix: false,
        ..Object::prefix(&name(number))
    };
    let start_after = from.checked_sub(1).map(name);
    let query = ListQuery { prefix: "train/".into(), shallow: true, start_after, limit: PAGE };
    let objects = (from..from + PAGE).map(object).collect();
    (query, ObjectPage { objects, is_truncated: from + PAGE < COUNT })
}

/// A view that counts how often it is asked.
struct Counted(Box<dyn View>, Cell<usize>);

impl View for Counted {
    fn floor(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        self.1.set(self.1.get() + 1);
        self.0.floor(place, name)
    }

    fn after(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>> {
        self.1.set(self.1.get() + 1);
        self.0.after(place, name)
    }

    fn directory_from(&self, mount: u64, directory: &str) -> Result<Option<String>> {
        self.0.directory_from(mount, directory)
    }

    fn mount_from(&self, mount: u64) -> Result<Option<u64>> {
        self.0.mount_from(mount)
    }
}

#[test]
fn large_directory_takes_120_bytes_an_entry_on_disk_and_its_pages_cost_the_same_anywhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let disk = Disk::open(&path).expect("opens");
    for (transaction, from) in (0..COUNT).step_by(PAGE).enumerate() {
        let (query, page) = page_of(from);
        let mut work = |edit: &mut dyn Edit| {
            proof::ranges(&query, &page)
                .into_iter()
                .try_for_each(|range| ranges::learn(edit, 1, range, SystemTime::UNIX_EPOCH).map(drop))
        };
        disk.edit(transaction % 64 == 63, &mut work).expect("is made");
    }
    disk.edit(true, &mut |_| Ok(())).expect("is made");
    let bytes = fs::metadata(&path).expect("is there").len() as usize;
    println!("{} bytes an entry", bytes / COUNT);
    assert!(bytes <= 120 * COUNT, "{}", bytes / COUNT);
    let costs = [0, COUNT / 2, COUNT - PAGE].map(|from| {
        let (query, expected) = page_of(from);
        let view = Counted(disk.view().expect("opens"), Cell::new(0));
        let page = walk::page(&view, 1, &query, &|_, _, _| true).expect("reads").expect("is known");
        assert_eq!(format!("{:?}", page.objects), format!("{:?}", expected.objects));
        assert_eq!(page.is_truncated, expected.is_truncated);
        view.1.get()
    });
    println!("{costs:?} chunks a page");
    assert!(costs.iter().all(|cost| (4..=6).contains(cost)), "{costs:?}");
}
