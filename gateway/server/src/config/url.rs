//! Stores as URLs, for commands: `s3://bucket/prefix` is short for an entry of `mounts`.

/// The kind of store and the options that a URL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) store: String,
    pub(crate) options: Vec<(&'static str, String)>,
}

/// What `url` stands for. Whether its kind of store exists, and what it needs besides, the reader of the configuration
/// knows.
///
/// # Errors
/// What to write instead.
pub(crate) fn locate(url: &str) -> Result<Location, String> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(format!("`{url}` is no URL; write s3://BUCKET/PREFIX, file:///DIRECTORY or memory:"));
    };
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let located =
        |store: &str, options: Vec<(&'static str, String)>| Location { store: store.to_owned(), options };
    Ok(match scheme {
        "file" if rest.starts_with('/') => located("fs", vec![("root", rest.to_owned())]),
        "file" => return Err(format!("`{url}` names no absolute directory; write file:///DIRECTORY")),
        "memory" => located("memory", Vec::new()),
        "s3" => located("s3", bucket("bucket", rest)),
        "gs" | "gcs" => located("gcs", bucket("bucket", rest)),
        "az" | "azblob" => located("azblob", bucket("container", rest)),
        "oss" | "cos" => located(scheme, bucket("bucket", rest)),
        "http" | "https" => located("http", vec![("endpoint", url.to_owned())]),
        "hdfs" | "webhdfs" => {
            let (host, root) = rest.split_once('/').unwrap_or((rest, ""));
            located("hdfs", vec![("endpoints", format!("http://{host}")), ("root", format!("/{root}"))])
        }
        _ => {
            let message = "write s3://, gs://, az://, oss://, cos://, hdfs://, https://, file:/// or memory:";
            return Err(format!("`{url}` is of an unknown kind; {message}"));
        }
    })
}

fn bucket(name: &'static str, rest: &str) -> Vec<(&'static str, String)> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let mut options = vec![(name, bucket.to_owned())];
    if !prefix.is_empty() {
        options.push(("prefix", prefix.to_owned()));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_options() {
        let options = |url| locate(url).map(|location| (location.store, location.options));
        let text = |text: &str| text.to_owned();
        assert_eq!(
            options("s3://b/p/q"),
            Ok((text("s3"), vec![("bucket", text("b")), ("prefix", text("p/q"))]))
        );
        assert_eq!(options("az://c"), Ok((text("azblob"), vec![("container", text("c"))])));
        assert_eq!(options("file:///d e"), Ok((text("fs"), vec![("root", text("/d e"))])));
        assert_eq!(options("memory:"), Ok((text("memory"), Vec::new())));
        assert!(options("file://d").is_err() && options("b/p").is_err() && options("ftp://h").is_err());
    }
}
