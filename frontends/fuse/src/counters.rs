//! Metric handles, resolved once: a request on the hot path costs an increment, not a look-up by label.

use std::time::Duration;

use forebay_core::METRICS;
use prometheus::{Histogram, IntCounter, IntGauge};

/// The frontend's label.
const FRONTEND: &str = "fuse";

macro_rules! operations {
    ($($name:ident $label:literal),* $(,)?) => {
        /// What the kernel asked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Operation { $($name),* }

        impl Operation {
            const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its label in metrics and logs.
            pub(crate) fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

operations! {
    Lookup "lookup", Getattr "getattr", Setattr "setattr", Access "access", Open "open", Create "create",
    Mknod "mknod", Read "read", Write "write", Flush "flush", Fsync "fsync", Release "release",
    Fallocate "fallocate", Opendir "opendir", Readdir "readdir", Fsyncdir "fsyncdir", Mkdir "mkdir", Rmdir "rmdir",
    Unlink "unlink", Rename "rename", Statfs "statfs", Getxattr "getxattr", Listxattr "listxattr",
    Setxattr "setxattr", Removexattr "removexattr", Symlink "symlink", Readlink "readlink",
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As asked.
    Ok,
    /// Refused for a reason that lies with the caller.
    ClientError,
    /// A store or we failed.
    ServerError,
}

impl Outcome {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Ok, "ok"), (Self::ClientError, "client_error"), (Self::ServerError, "server_error")];
}

/// How an opened file's bytes reach the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// The kernel reads and writes the local file itself.
    Passthrough,
    /// Reads come to us, behind the kernel's page cache.
    Buffered,
    /// Reads and writes come to us and go to the file being written.
    Staged,
}

struct OfOperation {
    outcomes: [IntCounter; 3],
    seconds: Histogram,
}

/// The handles.
pub(crate) struct Counters {
    operations: Vec<OfOperation>,
    opens: [(IntCounter, IntCounter); 3],
    /// Content bytes that this process handed to the kernel; passthrough reads do not pass here.
    pub(crate) read_bytes: IntCounter,
    /// Content bytes that this process took from the kernel.
    pub(crate) written_bytes: IntCounter,
    /// Inodes the kernel remembers.
    pub(crate) inodes: IntGauge,
}

impl Counters {
    pub(crate) fn new(mountpoint: &str) -> Self {
        let of_operation = |operation: &Operation| {
            let label = operation.label();
            OfOperation {
                outcomes: Outcome::ALL
                    .map(|(_, outcome)| METRICS.requests.with_label_values(&[FRONTEND, label, outcome])),
                seconds: METRICS.request_seconds.with_label_values(&[FRONTEND, label]),
            }
        };
        Self {
            operations: Operation::ALL.iter().map(of_operation).collect(),
            opens: ["passthrough", "buffered", "staged"].map(|mode| {
                let bytes = METRICS.fuse_opened_bytes.with_label_values(&[mode]);
                (METRICS.fuse_opens.with_label_values(&[mode]), bytes)
            }),
            read_bytes: METRICS.client_bytes.with_label_values(&[FRONTEND, "read"]),
            written_bytes: METRICS.client_bytes.with_label_values(&[FRONTEND, "write"]),
            inodes: METRICS.fuse_inodes.with_label_values(&[mountpoint]),
        }
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, operation: Operation, outcome: Outcome, took: Duration) {
        let handles = &self.operations[operation as usize];
        handles.outcomes[outcome as usize].inc();
        handles.seconds.observe(took.as_secs_f64());
    }

    /// Counts one open, of a file with `stored_bytes` that may be read.
    pub(crate) fn opened(&self, mode: OpenMode, stored_bytes: u64) {
        let (opens, bytes) = &self.opens[mode as usize];
        opens.inc();
        bytes.inc_by(stored_bytes);
    }
}
