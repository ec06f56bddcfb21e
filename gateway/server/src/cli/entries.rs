//! `forebay ls`, `stat` and `rm`.

use std::io::Write as _;

use reqwest::Method;

use super::client::Connection;
use crate::admin::api::{EntryView, ListView};

#[derive(Debug, clap::Args)]
pub(super) struct LsArguments {
    /// A directory.
    #[arg(default_value = "/")]
    path: String,
    /// List all files below it.
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(super) struct PathArguments {
    /// A file or directory.
    pub(super) path: String,
    #[command(flatten)]
    pub(super) connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(super) struct RmArguments {
    /// A file, or with -r a directory.
    path: String,
    /// Remove a directory with all below it.
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn ls(arguments: LsArguments) -> anyhow::Result<()> {
    let connection = arguments.connection;
    let mut after: Option<String> = None;
    let mut out = std::io::stdout().lock();
    loop {
        let mut query = vec![("path", &*arguments.path), ("recursive", flag(arguments.recursive))];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page: ListView = connection.json(connection.request(Method::GET, "list", &query)?).await?;
        for item in &page.items {
            if connection.json {
                writeln!(out, "{}", serde_json::to_string(item)?)?;
            } else {
                writeln!(out, "{:>15}  {}  {}", item.size_bytes, item.modified, item.name)?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

pub(super) async fn stat(arguments: PathArguments) -> anyhow::Result<()> {
    let connection = arguments.connection;
    let entry: EntryView =
        connection.json(connection.request(Method::GET, "entries", &[("path", &arguments.path)])?).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&entry)?);
        return Ok(());
    }
    println!("path      {}", entry.name);
    println!("kind      {}", entry.kind);
    println!("size      {} bytes", entry.size_bytes);
    println!("modified  {}", entry.modified);
    println!("etag      \"{}\"", entry.etag);
    println!("mode      {:04o} {}:{}", entry.mode, entry.uid, entry.gid);
    println!("file id   {}", entry.file_id);
    Ok(())
}

pub(super) async fn rm(arguments: RmArguments) -> anyhow::Result<()> {
    let connection = arguments.connection;
    let query = [("path", &*arguments.path), ("recursive", flag(arguments.recursive))];
    connection.send(connection.request(Method::DELETE, "entries", &query)?).await?;
    if connection.json {
        println!("{}", serde_json::json!({ "removed": arguments.path }));
    }
    Ok(())
}

fn flag(is_set: bool) -> &'static str {
    if is_set { "true" } else { "false" }
}
