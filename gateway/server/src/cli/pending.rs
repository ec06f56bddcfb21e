//! `forebay status` and `flush`.

use reqwest::Method;

use super::client::Connection;
use crate::admin::api::{ConflictView, LostView, PendingView};

#[derive(Debug, clap::Args)]
pub(super) struct FlushArguments {
    /// A file or directory.
    #[arg(default_value = "/")]
    path: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn status(connection: Connection) -> anyhow::Result<()> {
    let pending: Vec<PendingView> = connection.json(connection.request(Method::GET, "pending", &[])?).await?;
    let conflicts: Vec<ConflictView> =
        connection.json(connection.request(Method::GET, "conflicts", &[])?).await?;
    let lost: Vec<LostView> = connection.json(connection.request(Method::GET, "lost", &[])?).await?;
    if connection.json {
        let status = serde_json::json!({ "pending": pending, "conflicts": conflicts, "lost": lost });
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    if pending.is_empty() {
        println!("everything that was acknowledged is at its store");
    }
    for write in pending {
        let tries = match write.error {
            Some(error) => format!("  tried {} times: {error}", write.attempts),
            None => String::new(),
        };
        println!("{:>15}  since {}  {}{tries}", write.size_bytes, write.since, write.path);
    }
    for ConflictView { path, beside, at } in conflicts {
        println!("conflict at {at}  {path} was changed at its store; what was acknowledged is {beside}");
    }
    for LostView { path, size_bytes, since, cause } in lost {
        println!("lost  {path}  {size_bytes} bytes, acknowledged {since}: {cause}");
    }
    Ok(())
}

pub(super) async fn flush(arguments: FlushArguments) -> anyhow::Result<()> {
    let FlushArguments { path, connection } = arguments;
    connection.send(connection.request(Method::POST, "flush", &[("path", &*path)])?).await.map(drop)
}
