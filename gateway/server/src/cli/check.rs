//! `forebay check`: is the configuration right, and does every store in it answer?

use std::process::ExitCode;

use forebay_core::{Key, ListQuery, Mount};
use serde::Serialize;

use super::{ConfigArgument, LogArguments};
use crate::{config, run, telemetry};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Finding {
    path: String,
    store: &'static str,
    ok: bool,
    message: String,
}

pub(super) fn check(arguments: &CheckArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(&log.log, log.log_format)?;
    let config = config::load(&arguments.config.config)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let findings = runtime.block_on(async {
        let stores = run::stores(&config).await?;
        let mut findings = Vec::new();
        for (path, mount) in stores.table.mounts() {
            let answer = probe(&**mount).await;
            findings.push(Finding {
                path: path.to_string(),
                store: mount.info().store,
                ok: answer.is_ok(),
                message: answer.unwrap_or_else(|e| explain(&e)),
            });
        }
        stores.supervisor.stop(config.gateway.shutdown_deadline).await;
        anyhow::Ok(findings)
    })?;
    let is_ok = findings.iter().all(|finding| finding.ok);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = if finding.ok { "ok    " } else { "FAILED" };
            println!("{mark} {} ({}): {}", finding.path, finding.store, finding.message);
        }
    }
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn probe(mount: &dyn Mount) -> forebay_core::Result<String> {
    mount.stat(&Key::root(), forebay_core::Want::Directory).await?;
    let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 1 };
    let page = mount.list(&query).await?;
    let what = if page.items.is_empty() { "it is empty" } else { "it has entries" };
    Ok(format!("answers, can be listed, {what}"))
}

/// The error with its causes.
fn explain(error: &forebay_core::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
