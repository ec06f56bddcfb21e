//! Copies of trees: between mounts the gateway does the work and tells how far it is; local files go through this
//! command, some at once.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;

use super::super::client::Connection;
use crate::admin::api::ListView;
use crate::admin::copies::{CopyEvent, Totals};

/// Failures that are listed at the end; all are counted.
const FAILURES_SHOWN: usize = 100;
/// Longest line of progress.
const LINE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Proof {
    /// With -r: read back each copy whose tag does not prove its content.
    #[arg(long)]
    verify: bool,
    /// With -r: compare contents to find what is there already.
    #[arg(long)]
    checksum: bool,
}

impl Proof {
    pub(super) fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        [("verify", self.verify), ("checksum", self.checksum)]
            .into_iter()
            .filter_map(|(name, is_set)| is_set.then_some((name, "true")))
    }
}

fn progress_bar(is_hidden: bool) -> ProgressBar {
    if is_hidden {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {bytes:>10} / {total_bytes}  {bytes_per_sec}  {msg}";
    ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("a fixed template"))
}

fn show(bar: &ProgressBar, totals: &Totals) {
    bar.set_length(totals.found_bytes);
    bar.set_position(totals.bytes + totals.skipped_bytes);
    let more = if totals.is_walked { "" } else { "+" };
    let done = totals.files + totals.skipped_files;
    let failed = if totals.failed > 0 { format!(", {} failed", totals.failed) } else { String::new() };
    bar.set_message(format!("{done} of {}{more} files{failed}", totals.found_files));
}

/// What failed, as far as it is shown.
#[derive(Default)]
struct Failures {
    shown: Vec<String>,
    count: u64,
}

impl Failures {
    fn add(&mut self, text: String) {
        self.count += 1;
        if self.shown.len() < FAILURES_SHOWN {
            self.shown.push(text);
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        for text in &self.shown {
            eprintln!("failed: {text}");
        }
        anyhow::bail!(
            "{} of the files and directories failed; run the command again to try them again",
            self.count
        )
    }
}

/// A copy that the gateway does; with `--json` its lines go to standard output as they are.
pub(super) async fn inside(
    connection: &Connection,
    query: &[(&str, &str)],
    transfers: usize,
    quiet: bool,
) -> anyhow::Result<()> {
    let transfers = transfers.to_string();
    let query: Vec<_> = query.iter().copied().chain([("transfers", transfers.as_str())]).collect();
    let response = connection.send(connection.request(Method::POST, "copies", &query)?).await?;
    let bar = progress_bar(quiet || connection.json);
    let mut failures = Failures::default();
    let mut pieces = response.bytes_stream();
    let mut buffer: Vec<u8> = Vec::new();
    let mut done = None;
    while let Some(piece) = pieces.next().await {
        buffer.extend_from_slice(&piece.context(BROKEN)?);
        anyhow::ensure!(buffer.len() <= LINE_BYTES_MAX, "the gateway sends no lines");
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if connection.json {
                print!("{}", String::from_utf8_lossy(&line));
            }
            match serde_json::from_slice(&line)
                .context("the gateway's answer is not what this version expects")?
            {
                CopyEvent::Progress { totals } => show(&bar, &totals),
                CopyEvent::Failed { path, error } => failures.add(told(&path, &error)),
                CopyEvent::Done { totals, seconds } => done = Some((totals, seconds)),
            }
        }
    }
    bar.finish_and_clear();
    let (totals, seconds) = done.context(BROKEN)?;
    if !connection.json && !quiet {
        println!("{}", summary(&totals, seconds));
    }
    failures.finish()
}

const BROKEN: &str = "the copy broke off; run the command again to go on";

/// Errors of the namespace name their path; it is not said twice.
fn told(path: &str, error: &str) -> String {
    if error.contains(path) { error.to_owned() } else { format!("{path}: {error}") }
}

fn summary(totals: &Totals, seconds: f64) -> String {
    let Totals { files, bytes, skipped_files, verified, .. } = totals;
    let rate = *bytes as f64 / seconds.max(0.001) / f64::from(1 << 20);
    format!(
        "{files} files, {bytes} bytes copied in {seconds:.1} s ({rate:.1} MiB/s), {verified} verified; \
         {skipped_files} were there already"
    )
}

/// Files below a local directory, with their sizes, and their names relative to it.
fn local_files(directory: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = directory.join(&relative);
        let named = || format!("cannot read {}", path.display());
        for entry in std::fs::read_dir(&path).with_context(named)? {
            let entry = entry.with_context(named)?;
            let relative = relative.join(entry.file_name());
            // Followed, so that a link to a file is copied as the file it leads to.
            let metadata = std::fs::metadata(entry.path()).with_context(named)?;
            if metadata.is_dir() && !entry.file_type().with_context(named)?.is_symlink() {
                open.push(relative);
            } else if metadata.is_file() {
                let name =
                    relative.to_str().with_context(|| format!("{} is not UTF-8", relative.display()))?;
                found.push((name.to_owned(), metadata.len()));
            }
        }
    }
    Ok(found)
}

/// Copies some files at once, each by `copy`; the others go on when one fails.
async fn all<F>(
    files: Vec<(String, u64)>,
    (transfers, quiet): (usize, bool),
    copy: impl Fn(String) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<u64>>,
{
    anyhow::ensure!(transfers > 0, "--transfers must be at least 1");
    let began = std::time::Instant::now();
    let bar = progress_bar(quiet);
    let mut totals = Totals {
        found_files: files.len() as u64,
        found_bytes: files.iter().map(|(_, size_bytes)| size_bytes).sum(),
        is_walked: true,
        ..Totals::default()
    };
    let mut failures = Failures::default();
    let copies = files.into_iter().map(|(name, _)| {
        let copied = copy(name.clone());
        async move { (name, copied.await) }
    });
    let mut copies = stream::iter(copies).buffer_unordered(transfers);
    while let Some((name, copied)) = copies.next().await {
        match copied {
            Ok(bytes) => {
                totals.files += 1;
                totals.bytes += bytes;
            }
            Err(e) => {
                totals.failed += 1;
                failures.add(told(&name, &format!("{e:#}")));
            }
        }
        show(&bar, &totals);
    }
    bar.finish_and_clear();
    if !quiet {
        println!("{}", summary(&totals, began.elapsed().as_secs_f64()));
    }
    failures.finish()
}

/// Uploads a local directory.
pub(super) async fn upload(
    connection: &Connection,
    from: &Path,
    to: &str,
    (transfers, quiet): (usize, bool),
) -> anyhow::Result<()> {
    let files = local_files(from)?;
    all(files, (transfers, quiet || connection.json), |name| async move {
        let path = from.join(&name);
        let named = || format!("cannot read {}", path.display());
        let file = tokio::fs::File::open(&path).await.with_context(named)?;
        let size_bytes = file.metadata().await.with_context(named)?.len();
        super::upload(connection, file, Some(size_bytes), &below(to, &name), &ProgressBar::hidden()).await
    })
    .await
}

/// Downloads a directory of the namespace.
pub(super) async fn download(
    connection: &Connection,
    from: &str,
    to: &Path,
    (transfers, quiet): (usize, bool),
) -> anyhow::Result<()> {
    let files = remote_files(connection, from).try_collect().await?;
    all(files, (transfers, quiet || connection.json), |name| async move {
        let path = to.join(&name);
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent)
                .await
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        super::download_file(connection, &below(from, &name), path, &ProgressBar::hidden()).await
    })
    .await
}

/// All files below a directory of the namespace.
fn remote_files<'a>(
    connection: &'a Connection,
    directory: &'a str,
) -> impl futures::Stream<Item = anyhow::Result<(String, u64)>> + 'a {
    let pages = stream::try_unfold(Some(None::<String>), move |after| async move {
        let Some(after) = after else { return Ok(None) };
        let mut query = vec![("path", directory), ("recursive", "true")];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page: ListView = connection.json(connection.request(Method::GET, "list", &query)?).await?;
        let files = page.items.into_iter().filter(|item| item.kind == "file");
        let files: Vec<_> = files.map(|item| anyhow::Ok((item.name, item.size_bytes))).collect();
        anyhow::Ok(Some((stream::iter(files), page.next.map(Some))))
    });
    pages.try_flatten()
}

fn below(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_path_once() {
        assert_eq!(told("/a/b", "read /a/b: gone"), "read /a/b: gone");
        assert_eq!(told("/a/b", "gone"), "/a/b: gone");
    }

    #[test]
    fn local_trees_are_walked_with_links_to_files_and_without_links_to_directories() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("d/e")).expect("makes");
        std::fs::write(at("d/e/f"), b"four").expect("writes");
        std::os::unix::fs::symlink(at("d/e/f"), at("link")).expect("links");
        std::os::unix::fs::symlink(directory.path(), at("d/loop")).expect("links");
        let mut found = local_files(directory.path()).expect("walks");
        found.sort();
        assert_eq!(found, [("d/e/f".to_owned(), 4), ("link".to_owned(), 4)]);
    }
}
