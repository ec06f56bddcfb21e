//! `forebay cp` and `cat`: streams with a progress bar.

use std::path::PathBuf;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::client::Connection;
use super::entries::PathArguments;
use crate::admin::api::EntryView;

/// How much is read from a local file at once.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct CpArguments {
    /// A namespace path, `file:PATH` or `-`.
    from: String,
    /// A namespace path, `file:PATH` or `-`.
    to: String,
    /// Show no progress bar.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

/// One end of a copy.
enum Place {
    Namespace(String),
    File(PathBuf),
    Standard,
}

fn place(text: &str) -> anyhow::Result<Place> {
    match text {
        "-" => Ok(Place::Standard),
        text if text.starts_with('/') => Ok(Place::Namespace(text.to_owned())),
        text => match text.strip_prefix("file:") {
            Some(path) => Ok(Place::File(PathBuf::from(path))),
            None => {
                anyhow::bail!("{text}: write a namespace path as /mount/name, a local file as file:{text}")
            }
        },
    }
}

pub(super) async fn cat(arguments: PathArguments) -> anyhow::Result<()> {
    download(&arguments.connection, &arguments.path, &mut tokio::io::stdout(), &ProgressBar::hidden())
        .await?;
    Ok(())
}

pub(super) async fn cp(arguments: CpArguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    let bar = if arguments.quiet || connection.json { ProgressBar::hidden() } else { progress_bar() };
    let bytes = match (place(&arguments.from)?, place(&arguments.to)?) {
        (Place::Namespace(from), Place::Namespace(to)) => {
            let request = connection.request(Method::PUT, "copy", &[("path", &from), ("to", &to)])?;
            connection.json::<EntryView>(request).await?.size_bytes
        }
        (Place::Namespace(from), Place::Standard) => {
            download(connection, &from, &mut tokio::io::stdout(), &bar).await?
        }
        (Place::Namespace(from), Place::File(to)) => download_file(connection, &from, to, &bar).await?,
        (Place::Standard, Place::Namespace(to)) => {
            upload(connection, tokio::io::stdin(), None, &to, &bar).await?
        }
        (Place::File(from), Place::Namespace(to)) => {
            let named = || format!("cannot read {}", from.display());
            let file = tokio::fs::File::open(&from).await.with_context(named)?;
            let size_bytes = file.metadata().await.with_context(named)?.len();
            upload(connection, file, Some(size_bytes), &to, &bar).await?
        }
        (Place::File(_) | Place::Standard, Place::File(_) | Place::Standard) => {
            anyhow::bail!("one side must be a namespace path such as /mount/name");
        }
    };
    bar.finish_and_clear();
    if connection.json {
        println!("{}", serde_json::json!({ "from": arguments.from, "to": arguments.to, "bytes": bytes }));
    }
    Ok(())
}

fn progress_bar() -> ProgressBar {
    let template = "{bar:30} {bytes:>10} / {total_bytes}  {bytes_per_sec}  {eta}";
    let style = ProgressStyle::with_template(template).expect("a fixed template");
    ProgressBar::new(0).with_style(style)
}

/// Downloads to a name beside the target, so that a broken download leaves nothing that looks whole.
async fn download_file(
    connection: &Connection,
    from: &str,
    to: PathBuf,
    bar: &ProgressBar,
) -> anyhow::Result<u64> {
    let named = || format!("cannot write {}", to.display());
    let mut part = to.clone().into_os_string();
    part.push(".part");
    let mut file = tokio::fs::File::create(&part).await.with_context(named)?;
    let answer = download(connection, from, &mut file, bar).await;
    if answer.is_err() {
        tokio::fs::remove_file(&part).await.with_context(named)?;
        return answer;
    }
    file.sync_all().await.with_context(named)?;
    tokio::fs::rename(&part, &to).await.with_context(named)?;
    answer
}

async fn download(
    connection: &Connection,
    path: &str,
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    bar: &ProgressBar,
) -> anyhow::Result<u64> {
    let response = connection.send(connection.request(Method::GET, "content", &[("path", path)])?).await?;
    let expected = response.content_length();
    bar.set_length(expected.unwrap_or(0));
    let mut pieces = response.bytes_stream();
    let mut written = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.context("the download broke off")?;
        to.write_all(&piece).await?;
        written += piece.len() as u64;
        bar.set_position(written);
    }
    to.flush().await?;
    anyhow::ensure!(
        expected.is_none_or(|expected| expected == written),
        "the download broke off at {written} bytes"
    );
    Ok(written)
}

async fn upload(
    connection: &Connection,
    from: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    size_bytes: Option<u64>,
    path: &str,
    bar: &ProgressBar,
) -> anyhow::Result<u64> {
    bar.set_length(size_bytes.unwrap_or(0));
    let mut request = connection.request(Method::PUT, "content", &[("path", path)])?;
    if let Some(size_bytes) = size_bytes {
        request = request.header(reqwest::header::CONTENT_LENGTH, size_bytes);
    }
    let body = Body::wrap_stream(pieces(from, bar.clone()));
    Ok(connection.json::<EntryView>(request.body(body)).await?.size_bytes)
}

fn pieces(
    from: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    bar: ProgressBar,
) -> impl Stream<Item = std::io::Result<bytes::Bytes>> + Send {
    futures::stream::try_unfold(from, move |mut from| {
        let bar = bar.clone();
        async move {
            let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
            let read = from.read_buf(&mut piece).await?;
            bar.inc(read as u64);
            Ok((read > 0).then(|| (piece.freeze(), from)))
        }
    })
}
