//! The caches under measurement, each filled with the same objects and asked for them in the same order.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_actors::cache::{Cache, CachedFile, Class, ContentId, Fetch, Treatment};
use forebay_actors::config::{CacheConfig, NvmeConfig};
use forebay_core::{ByteRange, FileId, Result, Version};
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
};

/// Disk tier of both.
const TIER_BYTES: usize = 1 << 30;

/// As the gateway has it unless it is told otherwise.
const PACKED_BYTES: u64 = 64 << 10;
/// Times that what is missing is filled again.
const PASSES: usize = 5;
/// Filled at once, with a pause after it.
const PACE_BYTES: usize = 4 << 20;
const PAUSE: Duration = Duration::from_millis(10);
/// After all of it.
const SETTLE: Duration = Duration::from_secs(1);

fn content(size: usize) -> Bytes {
    Bytes::from(vec![7; size])
}

/// Plain reads of one file that holds all objects.
pub struct Pread {
    file: File,
    size: usize,
}

impl Pread {
    pub fn filled(count: usize, size: usize, directory: &Path) -> Self {
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(directory.join("plain"));
        let file = file.expect("a file");
        for number in 0..count {
            file.write_all_at(&content(size), (number * size) as u64).expect("writes");
        }
        Self { file, size }
    }

    pub fn get_all(&self, order: &[usize]) {
        for number in order {
            let mut buffer = Vec::with_capacity(self.size);
            buffer.resize(self.size, 0);
            self.file.read_exact_at(&mut buffer, (number * self.size) as u64).expect("reads");
            black_box(&buffer);
        }
    }
}

struct Store(usize);

#[async_trait]
impl Fetch for Store {
    async fn fetch(&self, range: ByteRange) -> Result<Bytes> {
        Ok(content(self.0).slice(range.offset as usize..range.end() as usize))
    }
}

pub struct Forebay {
    _cache: Cache,
    files: Vec<CachedFile>,
    size: usize,
}

impl Forebay {
    pub async fn filled(count: usize, size: usize, memory: usize, directory: Option<&Path>) -> Self {
        let nvme = directory
            .map(|path| NvmeConfig::in_one(path.join("forebay"), TIER_BYTES as u64, PACKED_BYTES));
        let config = CacheConfig { memory_bytes: memory as u64, nvme, high_percent: 95, low_percent: 90 };
        let cache = Cache::open(&config).expect("opens");
        let (mount, class): (Arc<str>, _) = ("/bench".into(), Class::new("/bench", Treatment::default()));
        let fetch: Arc<dyn Fetch> = Arc::new(Store(size));
        let files: Vec<_> = (0..count)
            .map(|number| {
                let file_id = FileId::of(&[b"bench", &number.to_le_bytes()]);
                let id = ContentId { file_id, version: Version::Strong("1".into()) };
                cache.file(&mount, (&id, &class), size as u64, Arc::clone(&fetch))
            })
            .collect();
        let forebay = Self { _cache: cache, files, size };
        forebay.fill(directory.is_some()).await;
        forebay
    }

    /// Reads what is missing until nothing is, for a while: a disk tier takes what its disk keeps up with, and a
    /// memory tier that is too small for all keeps what it likes.
    async fn fill(&self, is_paced: bool) {
        let range = ByteRange::new(0, self.size as u64);
        for _ in 0..PASSES {
            let mut missing = 0;
            for (number, file) in self.files.iter().enumerate() {
                if file.try_read(range).is_none() {
                    file.read(range).await.expect("fetches");
                    missing += 1;
                }
                if is_paced && (number + 1) * self.size % PACE_BYTES < self.size {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::time::sleep(SETTLE).await;
            if missing == 0 {
                break;
            }
        }
    }

    pub fn get_all(&self, order: &[usize]) {
        let range = ByteRange::new(0, self.size as u64);
        for number in order {
            if let Some(content) = self.files[*number].try_read(range) {
                black_box(content.read().expect("reads"));
            }
        }
    }

    pub fn kept_percent(&self) -> f64 {
        let range = ByteRange::new(0, self.size as u64);
        let kept = self.files.iter().filter(|file| file.try_read(range).is_some()).count();
        100.0 * kept as f64 / self.files.len() as f64
    }
}

pub struct Foyer {
    cache: HybridCache<u64, Vec<u8>>,
    count: usize,
}

impl Foyer {
    pub async fn filled(count: usize, size: usize, memory: usize, directory: Option<&Path>) -> Self {
        let builder = HybridCacheBuilder::new()
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(memory)
            .with_weighter(|_, value: &Vec<u8>| value.len())
            .storage();
        let builder = match directory {
            Some(directory) => {
                let device = FsDeviceBuilder::new(directory.join("foyer")).with_capacity(TIER_BYTES).build();
                builder.with_engine_config(BlockEngineConfig::new(device.expect("a device")))
            }
            None => builder,
        };
        let cache = builder.build().await.expect("opens");
        for _ in 0..PASSES {
            let mut missing = 0;
            for number in 0..count as u64 {
                if cache.get(&number).await.expect("reads").is_none() {
                    cache.insert(number, content(size).to_vec());
                    missing += 1;
                }
                if directory.is_some() && (number as usize + 1) * size % PACE_BYTES < size {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::time::sleep(SETTLE).await;
            if missing == 0 {
                break;
            }
        }
        Self { cache, count }
    }

    pub fn get_all(&self, runtime: &tokio::runtime::Runtime, order: &[usize]) {
        runtime.block_on(async {
            for number in order {
                if let Some(entry) = self.cache.get(&(*number as u64)).await.expect("reads") {
                    black_box(entry.value());
                }
            }
        });
    }

    pub async fn kept_percent(&self) -> f64 {
        let mut kept = 0;
        for number in 0..self.count {
            kept += usize::from(self.cache.get(&(number as u64)).await.expect("reads").is_some());
        }
        100.0 * kept as f64 / self.count as f64
    }
}
