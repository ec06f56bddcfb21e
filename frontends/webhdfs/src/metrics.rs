//! Handles of this frontend's metrics, resolved once per operation.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Instant;

use actix_web::http::StatusCode;
use forebay_core::METRICS;
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::operation::Operation;

/// The value of the `frontend` label and span field.
pub(crate) const FRONTEND: &str = "webhdfs";

/// The operation of a request that names none.
pub(crate) const INVALID: &str = "INVALID";

struct OperationMetrics {
    ok: IntCounter,
    client_error: IntCounter,
    server_error: IntCounter,
    seconds: Histogram,
}

static OPERATIONS: LazyLock<HashMap<&'static str, OperationMetrics>> = LazyLock::new(|| {
    let resolve = |name: &'static str| {
        let requests = |outcome| METRICS.requests.with_label_values(&[FRONTEND, name, outcome]);
        let metrics = OperationMetrics {
            ok: requests("ok"),
            client_error: requests("client_error"),
            server_error: requests("server_error"),
            seconds: METRICS.request_seconds.with_label_values(&[FRONTEND, name]),
        };
        (name, metrics)
    };
    Operation::names().chain([INVALID]).map(resolve).collect()
});

static IN_FLIGHT: LazyLock<IntGauge> =
    LazyLock::new(|| METRICS.requests_in_flight.with_label_values(&[FRONTEND]));

/// Content bytes sent to clients.
pub(crate) static READ_BYTES: LazyLock<IntCounter> =
    LazyLock::new(|| METRICS.client_bytes.with_label_values(&[FRONTEND, "read"]));

/// Content bytes taken from clients.
pub(crate) static WRITTEN_BYTES: LazyLock<IntCounter> =
    LazyLock::new(|| METRICS.client_bytes.with_label_values(&[FRONTEND, "write"]));

/// A request from its head to its answer's head; in flight until it is dropped.
pub(crate) struct Timed(Instant);

impl Timed {
    pub(crate) fn start() -> Self {
        IN_FLIGHT.inc();
        Self(Instant::now())
    }

    pub(crate) fn answered(self, operation: &str, status: StatusCode) {
        let metrics = &OPERATIONS[operation];
        metrics.seconds.observe(self.0.elapsed().as_secs_f64());
        if status.is_server_error() {
            metrics.server_error.inc();
        } else if status.is_client_error() {
            metrics.client_error.inc();
        } else {
            metrics.ok.inc();
        }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        IN_FLIGHT.dec();
    }
}
