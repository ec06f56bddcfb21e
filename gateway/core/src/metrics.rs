//! Every metric that Forebay exports, declared once: name, unit (the suffix), labels, meaning.
//!
//! Hot paths resolve their label combinations once and keep the handle: 10 ns a counter instead of 40.

use std::collections::HashSet;
use std::sync::LazyLock;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Seconds, from a memory hit to a hanging store.
const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_2, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0,
];

/// The process-wide metrics; a process is one gateway.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

macro_rules! declare {
    (@make counter $name:literal $help:literal $labels:expr) => {
        IntCounterVec::new(Opts::new($name, $help), $labels)
    };
    (@make gauge $name:literal $help:literal $labels:expr) => {
        IntGaugeVec::new(Opts::new($name, $help), $labels)
    };
    (@make ratio $name:literal $help:literal $labels:expr) => {
        GaugeVec::new(Opts::new($name, $help), $labels)
    };
    (@make histogram $name:literal $help:literal $labels:expr) => {
        HistogramVec::new(HistogramOpts::new($name, $help).buckets(SECONDS_BUCKETS.to_vec()), $labels)
    };
    (@type counter) => { IntCounterVec };
    (@type gauge) => { IntGaugeVec };
    (@type ratio) => { GaugeVec };
    (@type histogram) => { HistogramVec };
    ($($kind:ident $field:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// One handle for each declared metric.
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: declare!(@type $kind),)*
        }

        impl Metrics {
            /// Name, kind, labels and meaning of each metric.
            pub const DECLARED: &'static [(&'static str, &'static str, &'static [&'static str], &'static str)] =
                &[$(($name, stringify!($kind), &[$($label),*], $help)),*];

            fn new() -> Self {
                let registry = Registry::new();
                $(
                    let $field = declare!(@make $kind $name $help &[$($label),*]).expect("declared once, named well");
                    registry.register(Box::new($field.clone())).expect("declared once");
                )*
                Self { registry, $($field),* }
            }

            /// Removes every series of these mounts.
            pub fn forget_mounts(&self, names: &HashSet<&str>) {
                $(forget(&self.$field, &[$($label),*], names);)*
            }
        }
    };
}

declare! {
    gauge build_info "forebay_build_info" ["version"] "Always 1, for the running version.";
    counter requests "forebay_requests_total" ["frontend", "operation", "outcome"] "Requests answered; outcome is `ok`, `client_error` or `server_error`.";
    histogram request_seconds "forebay_request_seconds" ["frontend", "operation"] "Time from the request's head to the answer's head.";
    gauge requests_in_flight "forebay_requests_in_flight" ["frontend"] "Requests being served.";
    counter client_bytes "forebay_client_bytes_total" ["frontend", "direction"] "Content bytes to (read) and from (write) clients.";
    counter backend_requests "forebay_backend_requests_total" ["mount", "operation", "outcome"] "Requests to stores; outcome is ok or the kind of error.";
    histogram backend_seconds "forebay_backend_seconds" ["mount", "operation"] "Time of a request to a store, retries included.";
    counter backend_bytes "forebay_backend_bytes_total" ["mount", "direction"] "Content bytes from (read) and to (write) stores.";
    gauge mount_state "forebay_mount_state" ["mount", "state"] "1 for the state a mount is in, 0 for the others.";
    gauge mount_operations_in_flight "forebay_mount_operations_in_flight" ["mount"] "Store requests in flight.";
    gauge mount_bytes_in_flight "forebay_mount_bytes_in_flight" ["mount"] "Content bytes of the store requests in flight.";
    counter mount_limit_reached "forebay_mount_limit_reached_total" ["mount", "limit", "outcome"] "Requests that found a limit of their mount (operations, bytes, bandwidth) reached; outcome is waited or refused.";
    counter retries "forebay_retries_total" ["mount", "outcome"] "Repetitions of store requests; outcome is sent, or refused by the retry budget.";
    counter hedges "forebay_hedges_total" ["mount", "outcome"] "Late reads; outcome is won or lost by the second request, or refused to send one.";
    gauge breaker_open "forebay_breaker_open" ["mount"] "1 while a mount's circuit breaker refuses requests.";
    counter cache_hits "forebay_cache_hits_total" ["tier"] "Page reads answered by a tier.";
    counter cache_misses "forebay_cache_misses_total" ["mount"] "Page reads that went to the store or joined a fetch.";
    counter cache_served_bytes "forebay_cache_served_bytes_total" ["mount", "tier"] "Content bytes given to readers through the cache, by where they were found: memory, nvme or store; or the local disk that is the store of a local mount (local). Files that the kernel reads itself do not count.";
    counter cache_opens "forebay_cache_opens_total" ["mount", "tier"] "Files opened and read, by the farthest place that anything of them came from: memory, nvme or store. Counted when they are closed; files of local mounts do not count.";
    ratio cache_shadow_hit_ratio "forebay_cache_shadow_hit_ratio" ["tier", "size"] "Estimate of the part of page reads that this tier, or one before it, would answer at 1, 2 and 4 times its size; of a sample of the pages, and of reads of late. Not there before there are enough of them.";
    counter cache_fetches "forebay_cache_fetches_total" ["mount"] "Page fetches sent to the store.";
    gauge cache_fetching_bytes "forebay_cache_fetching_bytes" ["mount"] "Memory that page fetches in flight hold.";
    gauge memory_reserved_bytes "forebay_memory_reserved_bytes" ["use"] "Memory reserved beside the cache; use is uploads (content on its way to stores).";
    gauge cache_read_ahead "forebay_cache_read_ahead_fetches" ["mount"] "Page fetches in flight ahead of their readers.";
    gauge cache_used_bytes "forebay_cache_used_bytes" ["tier"] "Bytes reserved in a tier.";
    gauge cache_capacity_bytes "forebay_cache_capacity_bytes" ["tier"] "Hard cap of a tier.";
    counter cache_evictions "forebay_cache_evictions_total" ["mount", "tier", "cause"] "Pages (memory) or files (nvme) evicted; cause is watermark, inline, version, expired or segment (of small objects, each with all it holds). Without a mount: what an earlier run left and nobody asked for since.";
    counter cache_refusals "forebay_cache_refusals_total" ["mount", "tier", "cause"] "Pages not cached; cause is full, queue, disk, admission, quota or epoch.";
    counter cache_damaged_pages "forebay_cache_damaged_pages_total" ["tier"] "Pages of an earlier run that did not match their checksum and were dropped.";
    counter cache_packed_bytes "forebay_cache_packed_bytes_total" ["kind"] "Bytes written to segments of small objects; kind is new or carried.";
    gauge cache_disk_state "forebay_cache_disk_state" ["directory"] "What a cache directory does: 0 ok, 1 degraded (it failed lately, takes few writes and is probed), 2 down (takes no writes, and is read only if its reads still succeed).";
    gauge cache_disk_used_bytes "forebay_cache_disk_used_bytes" ["directory"] "Bytes reserved in a cache directory.";
    gauge cache_disk_capacity_bytes "forebay_cache_disk_capacity_bytes" ["directory"] "Hard cap of a cache directory.";
    gauge cache_disk_bytes "forebay_cache_disk_bytes" ["tier", "form"] "Bytes of disk reserved for files (of one content each) and segments (of small objects).";
    gauge cache_disk_contents "forebay_cache_disk_contents" ["tier", "form"] "Contents that have something in files, and in segments.";
    gauge cache_dead_bytes "forebay_cache_dead_bytes" ["tier"] "Bytes of segments that hold nothing any more.";
    histogram cache_restore_seconds "forebay_cache_restore_seconds" ["tier"] "Time that starts took to find what earlier runs left.";
    gauge cache_lent_files "forebay_cache_lent_files" ["tier"] "Cached files lent to readers.";
    gauge cache_lent_bytes "forebay_cache_lent_bytes" ["tier"] "Bytes of the cached files lent to readers.";
    gauge cache_write_queue "forebay_cache_write_queue" ["tier"] "Pages that wait for the disk, or are written to it just now.";
    gauge cache_write_queue_bytes "forebay_cache_write_queue_bytes" ["tier"] "Bytes of them.";
    counter load_files "forebay_load_files_total" ["outcome"] "Files that loads have tried; outcome is ok or failed.";
    counter load_bytes "forebay_load_bytes_total" ["origin"] "Bytes that loads asked for, by where they were: store (fetched for the load) or cache.";
    counter sync_files "forebay_sync_files_total" ["mount", "found"] "Files that syncs compared with what was known; found is same, added, changed or removed.";
    gauge staging_used_bytes "forebay_staging_used_bytes" ["mount"] "Bytes reserved for writes in progress.";
    counter staging_publishes "forebay_staging_publishes_total" ["mount", "outcome"] "Staged writes published; outcome is ok or the kind of error.";
    gauge writeback_pending_objects "forebay_writeback_pending_objects" ["mount"] "Names with acknowledged contents that are not at their store yet.";
    gauge writeback_pending_bytes "forebay_writeback_pending_bytes" ["mount"] "Bytes of acknowledged contents that are not at their store yet.";
    counter writeback_uploads "forebay_writeback_uploads_total" ["mount", "outcome"] "Attempts to bring an acknowledged content to its store; outcome is ok, conflict, lost or the kind of error.";
    counter writeback_lost "forebay_writeback_lost_total" ["mount"] "Acknowledged contents that the staging disk lost before they were at their store.";
    gauge writeback_journal_bytes "forebay_writeback_journal_bytes" ["mount"] "Length of the journal of acknowledged contents.";
    counter writeback_groups "forebay_writeback_groups_total" ["mount"] "Writes to the journal, each followed by at most one fdatasync.";
    counter writeback_records "forebay_writeback_records_total" ["mount"] "Records that these writes held.";
    counter observer_timeouts "forebay_commit_observer_timeouts_total" ["observer"] "Commit observers that missed their deadline.";
    counter fuse_opens "forebay_fuse_opens_total" ["mode"] "Opens by read mode: passthrough, buffered or staged.";
    counter fuse_opened_bytes "forebay_fuse_opened_bytes_total" ["mode"] "Length of the files opened to be read, by read mode. Of passthrough nothing more is known: the kernel reads them itself.";
    gauge fuse_inodes "forebay_fuse_inodes" ["mountpoint"] "Inodes the kernel remembers.";
    counter actor_restarts "forebay_actor_restarts_total" ["actor", "cause"] "Restarts of supervised actors.";
    counter config_reloads "forebay_config_reloads_total" ["outcome"] "Reloads of the configuration; outcome is ok, refused (the file is wrong) or failed (a mount cannot be opened).";
    gauge config_outdated "forebay_config_outdated" ["cause"] "1 while the running configuration is older than the file; cause is refused or restart (settings that wait for one).";
    gauge actor_degraded "forebay_actor_degraded" ["actor"] "1 while an actor has used up its restart budget and is retried slowly.";
}

/// Removes the series of a family whose label `mount` is one of `names`.
fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[&str], names: &HashSet<&str>) {
    if !labels.contains(&"mount") {
        return;
    }
    let series = family.collect();
    for metric in series.iter().flat_map(MetricFamily::get_metric) {
        let value = |label: &&str| {
            let pair = metric.get_label().iter().find(|pair| pair.name() == *label);
            pair.map_or("", |pair| pair.value()).to_owned()
        };
        let values: Vec<String> = labels.iter().map(value).collect();
        let is_theirs =
            labels.iter().zip(&values).any(|(label, value)| *label == "mount" && names.contains(&**value));
        if is_theirs {
            // Somebody else may have removed it since it was collected.
            family.remove_label_values(&values).unwrap_or_default();
        }
    }
}

impl Metrics {
    /// What a scrape gathers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_unit_and_kind() {
        for (name, kind, _, help) in Metrics::DECLARED {
            assert!(name.starts_with("forebay_"), "{name}");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
        assert!(METRICS.registry().gather().len() <= Metrics::DECLARED.len());
    }

    #[test]
    fn series_of_a_mount_are_removed_and_others_stay() {
        for mount in ["/forgotten", "/kept"] {
            METRICS.backend_requests.with_label_values(&[mount, "stat", "ok"]).inc();
            METRICS.backend_seconds.with_label_values(&[mount, "stat"]).observe(1.0);
        }
        METRICS.forget_mounts(&HashSet::from(["/forgotten"]));
        let left = |name: &str| {
            METRICS
                .registry()
                .gather()
                .iter()
                .flat_map(MetricFamily::get_metric)
                .flat_map(prometheus::proto::Metric::get_label)
                .filter(|pair| pair.name() == "mount" && pair.value() == name)
                .count()
        };
        assert_eq!((left("/forgotten"), left("/kept")), (0, 2));
    }
}
