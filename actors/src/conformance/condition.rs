//! Conditional writes: decided by the store at the moment of publication, or refused. Never ignored.

use forebay_core::{ETag, Error, ErrorKind, Key, Precondition, Result};
use futures::future::join_all;

use super::Outcome;
use super::site::{CHUNKED_BYTES, Site, content, ensure, ensure_refused, lacks};

const SMALL_BYTES: usize = 1_000;
/// Who race for one name.
const RACERS: u64 = 16;
/// How a writer whose condition does not hold is refused.
const REFUSED: &[ErrorKind] = &[ErrorKind::PreconditionFailed, ErrorKind::AlreadyExists];
const INSTEAD: &str = "If-None-Match and If-Match on writes are refused (501), and a rename that may not replace \
                       looks before it copies; `quirks: {conditional_write: true}` if the store does check them";

fn missing() -> Outcome {
    lacks(INSTEAD)
}

async fn create(site: &Site, name: &str, len: usize) -> Result<Outcome> {
    let key = site.key(name)?;
    let first = content(1, len);
    match site.put_if(&key, &first, Precondition::Absent).await {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(missing()),
        answer => answer?,
    };
    let second = site.put_if(&key, &content(2, len), Precondition::Absent).await;
    ensure_refused(second, REFUSED, "a second write with If-None-Match: *")?;
    site.ensure_content(&key, &first).await?;
    Ok(Outcome::Holds)
}

pub(super) async fn create_small(site: &Site) -> Result<Outcome> {
    create(site, "condition/create", SMALL_BYTES).await
}

pub(super) async fn create_chunked(site: &Site) -> Result<Outcome> {
    create(site, "condition/create-chunked", CHUNKED_BYTES).await
}

async fn replace(site: &Site, name: &str, len: usize) -> Result<Outcome> {
    let key = site.key(name)?;
    let first = site.put(&key, &content(1, len)).await?;
    let wrong = Precondition::Matches(ETag::new("0123456789abcdef0123456789abcdef"));
    match site.put_if(&key, &content(2, len), wrong).await {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(missing()),
        answer => ensure_refused(answer, REFUSED, "a write with another If-Match")?,
    }
    site.ensure_content(&key, &content(1, len)).await?;
    site.put_if(&key, &content(3, len), Precondition::Matches(first.etag)).await?;
    site.ensure_content(&key, &content(3, len)).await?;
    Ok(Outcome::Holds)
}

pub(super) async fn replace_small(site: &Site) -> Result<Outcome> {
    replace(site, "condition/replace", SMALL_BYTES).await
}

pub(super) async fn replace_chunked(site: &Site) -> Result<Outcome> {
    replace(site, "condition/replace-chunked", CHUNKED_BYTES).await
}

/// Writers with one condition at the same moment: one wins, and its content is there.
async fn race(site: &Site, key: &Key, condition: &Precondition) -> Result<Outcome> {
    let racers = (0..RACERS).map(|racer| {
        let content = content(racer, SMALL_BYTES);
        async move { site.put_if(key, &content, condition.clone()).await }
    });
    let mut winners = Vec::new();
    for (racer, answer) in (0..).zip(join_all(racers).await) {
        match answer {
            Ok(_) => winners.push(racer),
            Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(missing()),
            // A store may tell the losers to come again.
            Err(e) if REFUSED.contains(&e.kind()) || e.kind() == ErrorKind::Busy => {}
            Err(e) => return Err(e),
        }
    }
    let [winner] = winners[..] else {
        let message = format!("{} of {RACERS} writers were told that they won", winners.len());
        return Err(Error::new(ErrorKind::Internal, message));
    };
    site.ensure_content(key, &content(winner, SMALL_BYTES)).await?;
    Ok(Outcome::Holds)
}

pub(super) async fn race_create(site: &Site) -> Result<Outcome> {
    race(site, &site.key("condition/race-create")?, &Precondition::Absent).await
}

pub(super) async fn race_replace(site: &Site) -> Result<Outcome> {
    let key = site.key("condition/race-replace")?;
    let before = site.put(&key, &content(99, SMALL_BYTES)).await?;
    ensure(!before.etag.as_str().is_empty(), || "the file has no ETag".to_owned())?;
    race(site, &key, &Precondition::Matches(before.etag)).await
}
