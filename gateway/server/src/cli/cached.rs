//! `forebay pin`, `unpin`, `epoch`, `ttl`, `quota`, `priority`, `revalidate`, `rules`, `free` and `explain`.

use std::time::Duration;

use forebay_actors::cache::{DecidedBy, Priority, Rule, RuleStatus, Treatment, Trusted};
use forebay_core::Place;
use reqwest::Method;

use super::client::Connection;
use super::entries::PathArguments;
use crate::admin::api::{ExplainView, FreedView, PartView};
use crate::config::Bytes;

#[derive(Debug, clap::Args)]
pub(super) struct EpochArguments {
    /// A directory.
    path: String,
    /// Whether it is a data set; `auto` leaves that to how it is read.
    switch: Switch,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
    Auto,
}

#[derive(Debug, clap::Args)]
pub(super) struct TtlArguments {
    /// A file or directory.
    path: String,
    /// How old, such as `12h`, or `off`.
    #[arg(value_parser = milliseconds)]
    ttl_ms: u64,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(super) struct QuotaArguments {
    /// A file or directory.
    path: String,
    /// How much, such as `100GiB`, or `off`.
    #[arg(value_parser = bytes)]
    quota_bytes: u64,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(super) struct PriorityArguments {
    /// A file or directory.
    path: String,
    /// `low` goes first, `high` last.
    priority: Rank,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Rank {
    Low,
    Normal,
    High,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevalidateArguments {
    /// A file or directory.
    path: String,
    /// How long, such as `30s`, or `always`, `never`, or `default` to say nothing.
    #[arg(value_parser = trusted)]
    trusted: Trusted,
    #[command(flatten)]
    connection: Connection,
}

fn place_words(place: Place) -> &'static str {
    match place {
        Place::Memory => "in memory",
        Place::MemoryAndDisk => "in memory and on disk",
        Place::Disk => "on disk, in a file of its own",
        Place::Segment => "on disk, among small objects",
        Place::OnItsWay => "is being fetched",
        Place::Store => "in the store only",
        Place::Local => "in a local file, which is the store",
    }
}

/// 0 for `off`, as in a [`Rule`].
fn milliseconds(text: &str) -> Result<u64, String> {
    if text == "off" {
        return Ok(0);
    }
    let ttl: Duration = humantime::parse_duration(text)
        .map_err(|e| format!("expected a duration such as 12h, or off: {e}"))?;
    match u64::try_from(ttl.as_millis()) {
        Ok(0) | Err(_) => Err("expected at least a millisecond, or off".to_owned()),
        Ok(ttl_ms) => Ok(ttl_ms),
    }
}

fn trusted(text: &str) -> Result<Trusted, String> {
    match text {
        "default" => Ok(Trusted::Default),
        "always" => Ok(Trusted::Always),
        "never" => Ok(Trusted::Never),
        "off" => Err("expected a duration such as 30s, always, never or default".to_owned()),
        text => milliseconds(text).map(Trusted::AfterMs),
    }
}

/// 0 for `off`, as in a [`Rule`].
fn bytes(text: &str) -> Result<u64, String> {
    if text == "off" { Ok(0) } else { Bytes::argument(text).map(|bytes| bytes.0) }
}

pub(super) async fn pin(arguments: PathArguments, is_pinned: bool) -> anyhow::Result<()> {
    let change = Rule { pin: Some(is_pinned), ..Rule::default() };
    change_rule(&arguments.connection, &arguments.path, &change).await
}

pub(super) async fn epoch(arguments: EpochArguments) -> anyhow::Result<()> {
    let EpochArguments { path, switch, connection } = &arguments;
    if *switch == Switch::Auto {
        let query = [("path", path.as_str()), ("setting", "epoch")];
        let rules: Vec<RuleStatus> =
            connection.json(connection.request(Method::DELETE, "rules", &query)?).await?;
        return show_rules(connection, &rules);
    }
    let change = Rule { epoch: Some(*switch == Switch::On), ..Rule::default() };
    change_rule(connection, path, &change).await
}

pub(super) async fn ttl(arguments: TtlArguments) -> anyhow::Result<()> {
    let change = Rule { ttl_ms: Some(arguments.ttl_ms), ..Rule::default() };
    change_rule(&arguments.connection, &arguments.path, &change).await
}

pub(super) async fn quota(arguments: QuotaArguments) -> anyhow::Result<()> {
    let change = Rule { quota_bytes: Some(arguments.quota_bytes), ..Rule::default() };
    change_rule(&arguments.connection, &arguments.path, &change).await
}

pub(super) async fn priority(arguments: PriorityArguments) -> anyhow::Result<()> {
    let priority = match arguments.priority {
        Rank::Low => Priority::Low,
        Rank::Normal => Priority::Normal,
        Rank::High => Priority::High,
    };
    let change = Rule { priority: Some(priority), ..Rule::default() };
    change_rule(&arguments.connection, &arguments.path, &change).await
}

pub(super) async fn revalidate(arguments: RevalidateArguments) -> anyhow::Result<()> {
    let change = Rule { revalidate: Some(arguments.trusted), ..Rule::default() };
    change_rule(&arguments.connection, &arguments.path, &change).await
}

async fn change_rule(connection: &Connection, path: &str, change: &Rule) -> anyhow::Result<()> {
    let request = connection.request(Method::PATCH, "rules", &[("path", path)])?.json(change);
    let rules: Vec<RuleStatus> = connection.json(request).await?;
    show_rules(connection, &rules)
}

pub(super) async fn rules(connection: Connection) -> anyhow::Result<()> {
    let rules: Vec<RuleStatus> = connection.json(connection.request(Method::GET, "rules", &[])?).await?;
    show_rules(&connection, &rules)
}

fn show_rules(connection: &Connection, rules: &[RuleStatus]) -> anyhow::Result<()> {
    if connection.json {
        println!("{}", serde_json::to_string_pretty(rules)?);
        return Ok(());
    }
    for RuleStatus { path, treatment, disk_bytes, rule, .. } in rules {
        let trusted = match rule.revalidate {
            None | Some(Trusted::Default) => String::new(),
            Some(Trusted::Always) => ", revalidate always".to_owned(),
            Some(Trusted::Never) => ", revalidate never".to_owned(),
            Some(Trusted::AfterMs(ms)) => {
                format!(", revalidate {}", humantime::format_duration(Duration::from_millis(ms)))
            }
        };
        println!("{path:<32}  {}{trusted}  ({disk_bytes} bytes on disk)", words(treatment));
    }
    Ok(())
}

fn words(treatment: &Treatment) -> String {
    let Treatment { pin, epoch, epoch_by, ttl, quota_bytes, priority } = treatment;
    let epoch = match (epoch, epoch_by) {
        (true, DecidedBy::Reads) => Some("epoch (found by how it is read)".to_owned()),
        (true, DecidedBy::Rule | DecidedBy::Nobody) => Some("epoch".to_owned()),
        (false, DecidedBy::Rule) => Some("no epoch".to_owned()),
        (false, DecidedBy::Reads | DecidedBy::Nobody) => None,
    };
    let priority = match priority {
        Priority::Low => Some("low priority".to_owned()),
        Priority::Normal => None,
        Priority::High => Some("high priority".to_owned()),
    };
    let words = [
        pin.then(|| "pinned".to_owned()),
        epoch,
        ttl.map(|ttl| format!("ttl {}", humantime::format_duration(ttl))),
        quota_bytes.map(|bytes| format!("quota {bytes} bytes")),
        priority,
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() { "as the policy says".to_owned() } else { words.join(", ") }
}

pub(super) async fn free(arguments: PathArguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    let request = connection.request(Method::DELETE, "cached", &[("path", &arguments.path)])?;
    let freed: FreedView = connection.json(request).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&freed)?);
    } else {
        println!("{} bytes of {} files freed", freed.bytes, freed.files);
    }
    anyhow::ensure!(freed.failed == 0, "{} files could not be looked at", freed.failed);
    Ok(())
}

pub(super) async fn explain(arguments: PathArguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    let request = connection.request(Method::GET, "explain", &[("path", &arguments.path)])?;
    let view: ExplainView = connection.json(request).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
        return Ok(());
    }
    println!("path     {}", view.path);
    println!("mount    {} ({})", view.mount, view.store);
    println!("version  \"{}\" ({}), {} bytes", view.etag, view.version, view.size_bytes);
    println!("rule     {}: {}", view.rule, words(&view.treatment));
    let (memory, disk, missing) = (view.memory_bytes, view.disk_bytes, view.missing_bytes);
    println!("cached   {memory} bytes in memory, {disk} on disk, {missing} missing");
    for PartView { first_byte, last_byte, place } in &view.parts {
        println!("         {first_byte}-{last_byte} {}", place_words(*place));
    }
    println!("fetched  {} bytes of late, store requests: {}", view.fetched_bytes, view.fetched_requests);
    println!("read     {}", view.read);
    for reason in &view.reasons {
        println!("because  {reason}");
    }
    Ok(())
}
