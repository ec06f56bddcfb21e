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

/// Starts logging; `filter` is in the syntax of `tracing_subscriber::EnvFilter`, for example `info,forebay_s3=debug`.
///
/// # Errors
/// The filter cannot be parsed.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    // s3s logs each client error as an error of its own; the frontend counts and logs them itself.
    let filter = EnvFilter::try_new(format!("{filter},s3s=off,actix_server=warn"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
