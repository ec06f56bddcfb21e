//! What a hit costs in the shipping cache, beside a bare `pread` of as many bytes and beside foyer, in one process and
//! one run. Prints a JSON object a line; `tests/bench/test_cache.py` makes a table of them.
//!
//! CPU is user and system time of the whole process, so threads of either cache count.

mod arms;

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use arms::{Forebay, Foyer, Pread};

/// Content of a disk measurement, in bytes: fits the disk tier, is a multiple of the memory tier.
const DISK_BYTES: usize = 256 << 20;
/// Memory tier while hits on disk are measured.
const SMALL_MEMORY_BYTES: usize = 32 << 20;
/// Objects of a memory measurement.
const MEMORY_OBJECTS: usize = 20_000;
const ROUNDS: usize = 3;

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// One line: CPU and wall time per operation.
fn report(figure: &str, arm: &str, round: usize, operations: usize, work: impl FnOnce()) {
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    work();
    let cpu_ns = (cpu_seconds() - cpu) * 1e9 / operations as f64;
    let wall_ns = wall.elapsed().as_secs_f64() * 1e9 / operations as f64;
    println!(
        r#"{{"figure": "{figure}", "arm": "{arm}", "round": {round}, "cpu_ns": {cpu_ns:.1}, "wall_ns": {wall_ns:.1}}}"#
    );
}

fn random(count: usize, below: usize) -> Vec<usize> {
    fastrand::seed(1);
    (0..count).map(|_| fastrand::usize(0..below)).collect()
}

fn memory(runtime: &tokio::runtime::Runtime) {
    let size = 4 << 10;
    let forebay = runtime.block_on(Forebay::filled(MEMORY_OBJECTS, size, 512 << 20, None));
    let foyer = runtime.block_on(Foyer::filled(MEMORY_OBJECTS, size, 512 << 20, None));
    let order = random(2_000_000, MEMORY_OBJECTS);
    for round in 0..ROUNDS {
        report("memory hit", "forebay", round, order.len(), || forebay.get_all(&order));
        report("memory hit", "foyer", round, order.len(), || foyer.get_all(runtime, &order));
    }
}

fn disk(runtime: &tokio::runtime::Runtime, size: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let count = DISK_BYTES / size;
    let figure = format!("disk hit {} KiB", size >> 10);
    let pread = Pread::filled(count, size, directory.path());
    let place = Some(directory.path());
    let forebay = runtime.block_on(Forebay::filled(count, size, SMALL_MEMORY_BYTES, place));
    let foyer = runtime.block_on(Foyer::filled(count, size, SMALL_MEMORY_BYTES, place));
    let order = random((4 << 30) / size.max(64 << 10), count);
    for round in 0..ROUNDS {
        report(&figure, "pread", round, order.len(), || pread.get_all(&order));
        report(&figure, "forebay", round, order.len(), || forebay.get_all(&order));
        report(&figure, "foyer", round, order.len(), || foyer.get_all(runtime, &order));
    }
    println!(r#"{{"figure": "{figure}", "arm": "forebay", "kept_percent": {:.1}}}"#, forebay.kept_percent());
    println!(
        r#"{{"figure": "{figure}", "arm": "foyer", "kept_percent": {:.1}}}"#,
        runtime.block_on(foyer.kept_percent())
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    memory(&runtime);
    for size in [4 << 10, 64 << 10, 1 << 20] {
        disk(&runtime, size);
    }
}
