//! Many objects in the disk tier, and what they cost, printed by
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p forebay-actors --lib nvme::bench -- --nocapture`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_core::{FileId, Version};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::packed::Place;
use super::record::{Record, header};
use super::writer::Offer;
use super::{NvmeTier, Taking, create_file};
use crate::cache::ContentId;
use crate::cache::class::{Class, Treatment};
use crate::cache::memory::MemoryTier;
use crate::cache::page::ContentKey;
use crate::cache::placement::Placement;
use crate::cache::policy::Use;
use crate::cache::tasks::Tasks;
use crate::config::{CacheConfig, NvmeConfig};

const OBJECT: u64 = 16 << 10;
const SEGMENT: u64 = 64 << 20;

fn tier(directory: &TempDir, packed_bytes: u64) -> Arc<NvmeTier> {
    let nvme = NvmeConfig::in_one(directory.path().to_owned(), 64 << 30, packed_bytes);
    let placement = Arc::new(Placement::new(&nvme.directories));
    let config = CacheConfig { memory_bytes: 1 << 30, nvme: Some(nvme), high_percent: 95, low_percent: 90 };
    let memory = Arc::new(MemoryTier::new(&config));
    let tasks = Arc::new(Tasks::new(Handle::current()));
    let deadline = Instant::now() + Duration::from_secs(10);
    let (directory, taken) = Taking::begin(directory.path(), tasks.runtime()).wait(deadline);
    let taken = (directory, Some(taken.expect("opens")));
    let tier = NvmeTier::open(&config, (placement, 0), taken, (memory, &tasks), create_file);
    // Its tasks are aborted: what they do is called here.
    drop(tasks);
    tier
}

fn content(number: u64) -> ContentKey {
    ContentKey::of(&ContentId {
        file_id: FileId::of(&[&number.to_le_bytes()]),
        version: Version::Strong("1".into()),
    })
}

/// CPU time of this process, of all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn offers(class: &Arc<Class>, numbers: std::ops::Range<u64>) -> Vec<Offer> {
    let bytes = Bytes::from(vec![7; OBJECT as usize]);
    numbers
        .map(|number| Offer {
            key: content(number).page(0),
            class: Arc::clone(class),
            size_bytes: OBJECT,
            bytes: bytes.clone(),
        })
        .collect()
}

#[tokio::test]
async fn million_objects_are_back() {
    const OBJECTS: u64 = 1_000_000;
    let directory = tempfile::tempdir().expect("temporary directory");
    let per_segment = SEGMENT / (OBJECT + 32);
    drop(tier(&directory, 64 << 10));
    let mut log = BufWriter::new(File::create(directory.path().join("index")).expect("create"));
    log.write_all(&header()).expect("write");
    let mut frame = Vec::new();
    for number in 0..OBJECTS {
        let (segment, at) = ((number / per_segment) as u32, number % per_segment);
        let place = Place { segment, offset: (at * (OBJECT + 32)) as u32, length: OBJECT as u32 };
        frame.clear();
        Record::Packed { content: content(number), place, born_s: 1 }.encode(&mut frame);
        log.write_all(&frame).expect("write");
    }
    log.flush().expect("write");
    for segment in 0..OBJECTS.div_ceil(per_segment) {
        let file = File::create(directory.path().join(format!("segments/{segment:x}"))).expect("create");
        file.set_len(SEGMENT).expect("length");
    }
    let tier = tier(&directory, 64 << 10);
    let (before, began) = (cpu(), Instant::now());
    tier.restore();
    let (cpu, took) = (cpu().saturating_sub(before), began.elapsed());
    let found = (0..OBJECTS).filter(|number| tier.contains_packed(content(*number))).count() as u64;
    assert_eq!(found, OBJECTS);
    let bytes = tier.memory.budget().used() as f64 / OBJECTS as f64;
    assert!(bytes <= 100.0, "{bytes:.1} bytes of memory an object");
    println!("{OBJECTS} objects back: {cpu:?} of CPU, {took:?}; {bytes:.1} bytes of memory each");
}

#[tokio::test]
async fn small_objects_packed_and_in_files_of_their_own() {
    const OBJECTS: u64 = 20_000;
    const BATCH: u64 = 64;
    let class = Class::new("bench", Treatment::default());
    let mut cost = Vec::new();
    for packed_bytes in [64 << 10, 0] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let tier = tier(&directory, packed_bytes);
        let before = cpu();
        for start in (0..OBJECTS).step_by(BATCH as usize) {
            let batch = offers(&class, start..(start + BATCH).min(OBJECTS));
            if packed_bytes > 0 {
                tier.write_packed(batch.iter());
            } else {
                for offer in &batch {
                    drop(tier.write(offer));
                }
            }
        }
        cost.push(cpu().saturating_sub(before).as_micros() as f64 / OBJECTS as f64);
        if packed_bytes > 0 {
            let before = cpu();
            for number in 0..OBJECTS {
                let object = tier.find_packed(content(number).page(0), Use::First, &class).expect("packed");
                assert_eq!(tier.try_read_packed(&object).expect("in the page cache").len() as u64, OBJECT);
            }
            println!(
                "read of 16 KiB: {:.1} µs",
                cpu().saturating_sub(before).as_micros() as f64 / OBJECTS as f64
            );
        }
    }
    println!("fill of 16 KiB: packed {:.1} µs, a file each {:.1} µs", cost[0], cost[1]);
}
