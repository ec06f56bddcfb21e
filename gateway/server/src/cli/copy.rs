//! `forebay cp`, `mv` and `cat`: streams with a progress bar.

mod tree;

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

/// What `forebay cp --help` says after the options.
pub(super) const HELP: &str = "\
With -r, FROM/x becomes TO/x: TO is the copy of FROM, whether it exists or not. The gateway does the work, so no byte
comes through this command; ^C ends it. Run again, it goes on where it stopped: a file is skipped if it has the size of
its source and either the same MD5 tag or the mark that copies carry (the user metadata `forebay-source`, which names
the source's path and tag); with --checksum if both read the same. A file that was changed in place at the target since
keeps its mark: use --checksum. The exit code is 0 only if everything is there.

Examples:
  forebay cp file:./model.bin /models/model.bin
  forebay cp /models/model.bin - | sha256sum
  forebay cp -r /warehouse/2024 /azure/2024
  forebay cp -r file:./dataset /local/dataset
";

#[derive(Debug, clap::Args)]
pub(super) struct CpArguments {
    /// A namespace path, `file:PATH` or `-`.
    from: String,
    /// A namespace path, `file:PATH` or `-`.
    to: String,
    /// Copy a directory with all below it.
    #[arg(long, short)]
    recursive: bool,
    /// With -r: how many files at once.
    #[arg(long, default_value_t = 16)]
    transfers: usize,
    #[command(flatten)]
    proof: tree::Proof,
    /// Show no progress bar.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(super) struct MvArguments {
    /// A namespace path.
    from: String,
    /// Where it will be; not the directory that will hold it.
    to: String,
    /// How many files at once.
    #[arg(long, default_value_t = 16)]
    transfers: usize,
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

pub(super) async fn mv(arguments: MvArguments) -> anyhow::Result<()> {
    let query = [("from", &*arguments.from), ("to", &*arguments.to), ("move", "true")];
    tree::inside(&arguments.connection, &query, arguments.transfers, arguments.quiet).await
}

async fn cp_tree(arguments: &CpArguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    let (transfers, quiet) = (arguments.transfers, arguments.quiet);
    match (place(&arguments.from)?, place(&arguments.to)?) {
        (Place::Namespace(from), Place::Namespace(to)) => {
            let mut query = vec![("from", &*from), ("to", &*to)];
            query.extend(arguments.proof.query());
            tree::inside(connection, &query, transfers, quiet).await
        }
        (Place::File(from), Place::Namespace(to)) => {
            tree::upload(connection, &from, &to, (transfers, quiet)).await
        }
        (Place::Namespace(from), Place::File(to)) => {
            tree::download(connection, &from, &to, (transfers, quiet)).await
        }
        (Place::Standard, _) | (_, Place::Standard) => anyhow::bail!("-r copies no stream: `-` is one file"),
        (Place::File(_), Place::File(_)) => {
            anyhow::bail!("one side must be a namespace path such as /mount/name")
        }
    }
}

pub(super) async fn cp(arguments: CpArguments) -> anyhow::Result<()> {
    if arguments.recursive {
        return cp_tree(&arguments).await;
    }
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
