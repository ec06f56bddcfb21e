//! Logs: structured, to standard error, with the request's id on every line that belongs to one.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What no filter of a user turns on: s3s logs each client error as an error of its own, which the frontend counts
/// and logs itself, and reqsign logs the store's credentials at debug level.
const QUIET: &str = "s3s=off,actix_server=warn,reqsign_core=warn,reqsign_aws_v4=warn";

/// Starts logging; `filter` is in the syntax of `tracing_subscriber::EnvFilter`, for example `info,forebay_s3=debug`.
///
/// # Errors
/// The filter cannot be parsed.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{filter},{QUIET}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
