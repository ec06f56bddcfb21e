//! The commands' side of the admin API of a running gateway.

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::admin::api::MountView;
use crate::config;

/// How to reach a running gateway.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Connection {
    /// The admin listener of the gateway.
    #[arg(long, default_value = "http://127.0.0.1:9080", env = "FOREBAY_ADMIN")]
    admin: String,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Connection {
    /// A request on `endpoint` (`entries`, `content`) with these query parameters.
    pub(super) fn request(
        &self,
        method: Method,
        endpoint: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<RequestBuilder> {
        let mut url =
            reqwest::Url::parse(&self.admin).with_context(|| format!("{} is no URL", self.admin))?;
        url.set_path(&format!("/api/v1/{endpoint}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = Client::builder().build()?.request(method, url);
        // The token stays out of the arguments, where other users could see it.
        Ok(match config::environment("FOREBAY_ADMIN_TOKEN") {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends a request; an error answer becomes an error with the gateway's own message.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.with_context(|| {
            format!("no gateway answers at {}; is `forebay serve` running? (--admin URL)", self.admin)
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.context("the gateway's answer broke off")?;
        let message = serde_json::from_str::<serde_json::Value>(&body)
            .ok()
            .and_then(|json| json["error"].as_str().map(str::to_owned))
            .unwrap_or_else(|| format!("the gateway answered {status}"));
        Err(anyhow::anyhow!(message))
    }

    /// As [`Connection::send`], reading JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        self.send(request)
            .await?
            .json()
            .await
            .context("the gateway's answer is not what this version expects")
    }
}

/// Runs a client command.
pub(super) fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)?;
    Ok(ExitCode::SUCCESS)
}

/// `forebay mounts`.
pub(super) async fn mounts(connection: Connection) -> anyhow::Result<()> {
    let mounts: Vec<MountView> = connection.json(connection.request(Method::GET, "mounts", &[])?).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&mounts)?);
        return Ok(());
    }
    for mount in mounts {
        let access = if mount.read_only { "read-only" } else { "read-write" };
        let reason = mount.reason.map(|reason| format!("  {reason}")).unwrap_or_default();
        println!("{:<24} {:<8} {access:<10} {}{reason}", mount.path, mount.store, mount.state);
    }
    Ok(())
}
