//! Replays a trace through the cache as it ships, with real files, and prints what it hit.
//!
//! Usage: `replay MEMORY_BYTES DISK_BYTES PACKED_BYTES DIRECTORY < trace`; no disk tier where `DISK_BYTES` is 0, and
//! objects up to `PACKED_BYTES` are packed there. A line of the trace is `KEY SIZE [DATASET]`: one read of a whole
//! object, of a class with `epoch` where a data set is named. Prints requests, hits, and
//! the bytes of both, and on a line for each tier what the cache would have hit with 1, 2 and 4 times the size of that,
//! by its own estimate; `-` before it has one. On the last line is what was written to segments: bytes that were new, and
//! bytes that were carried forward.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_actors::cache::{Cache, Class, ContentId, Fetch, Treatment};
use forebay_actors::config::{CacheConfig, NvmeConfig};
use forebay_core::{ByteRange, Error, ErrorKind, FileId, METRICS, Result, Version};

/// Makes bytes, and counts how often it was asked to.
#[derive(Default)]
struct Source {
    fetches: AtomicU64,
}

#[async_trait]
impl Fetch for Source {
    async fn fetch(&self, range: ByteRange) -> Result<Bytes> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from(vec![7; range.len as usize]))
    }
}

#[derive(Default)]
struct Totals {
    requests: u64,
    hits: u64,
    bytes: u64,
    hit_bytes: u64,
}

/// A cache, and who fills it.
struct Replay {
    cache: Cache,
    source: Arc<Source>,
    plain: Arc<Class>,
    data_sets: HashMap<String, Arc<Class>>,
    totals: Totals,
}

impl Replay {
    fn open(config: &CacheConfig) -> Result<Self> {
        Ok(Self {
            cache: Cache::open(config)?,
            source: Arc::default(),
            plain: Class::new("/", Treatment::default()),
            data_sets: HashMap::new(),
            totals: Totals::default(),
        })
    }

    fn class(&mut self, data_set: Option<&str>) -> Arc<Class> {
        let Some(name) = data_set else { return Arc::clone(&self.plain) };
        let new = || Class::new(name, Treatment { epoch: true, ..Treatment::default() });
        Arc::clone(self.data_sets.entry(name.to_owned()).or_insert_with(new))
    }

    async fn read(&mut self, key: &str, size_bytes: u64, data_set: Option<&str>) -> Result<()> {
        let class = self.class(data_set);
        let content =
            ContentId { file_id: FileId::of(&[key.as_bytes()]), version: Version::Strong("1".into()) };
        let fetch = Arc::clone(&self.source) as Arc<dyn Fetch>;
        let file = self.cache.file(&Arc::from("/replay"), (&content, &class), size_bytes, fetch);
        let (before, mut at) = (self.source.fetches.load(Ordering::Relaxed), 0);
        while at < size_bytes {
            let range = ByteRange::new(at, size_bytes - at);
            let content = match file.try_read(range) {
                Some(content) => content,
                None => file.read(range).await?,
            };
            content.read()?;
            at += content.len();
        }
        let is_hit = self.source.fetches.load(Ordering::Relaxed) == before;
        self.totals.requests += 1;
        self.totals.bytes += size_bytes;
        if is_hit {
            self.totals.hits += 1;
            self.totals.hit_bytes += size_bytes;
        }
        settle().await;
        Ok(())
    }
}

/// Waits for the disk: a trace has no pauses, and what finds the queue full is not kept.
async fn settle() {
    let waiting = METRICS.cache_write_queue.with_label_values(&["nvme"]);
    while waiting.get() > 0 {
        tokio::task::yield_now().await;
    }
}

fn config(arguments: &[String]) -> Option<CacheConfig> {
    let [_, memory_bytes, disk_bytes, packed_bytes, directory] = arguments else { return None };
    let (directory, packed_bytes) = (PathBuf::from(directory), packed_bytes.parse().ok()?);
    let size_bytes = disk_bytes.parse().ok()?;
    Some(CacheConfig {
        memory_bytes: memory_bytes.parse().ok()?,
        nvme: (size_bytes > 0).then(|| NvmeConfig::in_one(directory, size_bytes, packed_bytes)),
        // Without an evictor a tier is filled to its cap.
        high_percent: 100,
        low_percent: 90,
    })
}

fn malformed(line: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("not a line of a trace: {line}"))
}

async fn replay(config: &CacheConfig) -> Result<Totals> {
    let mut replay = Replay::open(config)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        let (key, size, data_set) = match words[..] {
            [key, size] => (key, size, None),
            [key, size, data_set] => (key, size, Some(data_set)),
            _ => return Err(malformed(&line)),
        };
        let size_bytes = size.parse().map_err(|_| malformed(&line))?;
        replay.read(key, size_bytes, data_set).await?;
    }
    Ok(replay.totals)
}

/// What the cache shows; a series that is not there yet is made here, and is 0.
fn estimate(tier: &str, size: &str) -> String {
    let ratio = METRICS.cache_shadow_hit_ratio.with_label_values(&[tier, size]).get();
    if ratio > 0.0 { format!("{ratio:.4}") } else { "-".to_owned() }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    let Some(config) = config(&arguments) else {
        let message = "usage: replay MEMORY_BYTES DISK_BYTES PACKED_BYTES DIRECTORY < trace";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    let totals = replay(&config).await?;
    println!("{} {} {} {}", totals.requests, totals.hits, totals.bytes, totals.hit_bytes);
    for tier in ["memory", "nvme"] {
        println!("{tier} {}", ["1x", "2x", "4x"].map(|size| estimate(tier, size)).join(" "));
    }
    let written = ["new", "carried"].map(|kind| METRICS.cache_packed_bytes.with_label_values(&[kind]).get());
    println!("packed {} {}", written[0], written[1]);
    Ok(())
}
