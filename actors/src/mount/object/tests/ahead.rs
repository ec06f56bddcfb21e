use std::sync::atomic::Ordering;

use super::*;
use crate::mount::vitals::Load;

const PIECE: usize = 64 << 10;

fn pieces_fixture() -> Fixture {
    let f = fixture(TRUSTED);
    f.store.ahead_bytes.store(PIECE as u64, Ordering::Relaxed);
    f
}

/// Content of which no two pieces are equal.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

/// Writes what is expected in the end, in order, and waits until the first piece of it was sent.
async fn half_sent(f: &Fixture, name: &str, content: &[u8], publish: &Publish) -> Arc<dyn Staged> {
    let staged = f.mount.stage(Target::Replace(key(name))).await.expect("stages");
    staged.expect(publish, Some(content.len() as u64));
    let gate = f.store.hold("part");
    for (number, bytes) in content.chunks(PIECE / 3).enumerate() {
        let offset = (number * (PIECE / 3)) as u64;
        staged.write_at(offset, Bytes::copy_from_slice(bytes)).await.expect("writes");
    }
    gate.arrived().await;
    gate.open();
    staged
}

/// That the content came whole, and what had been sent was taken back.
async fn sent_whole(f: &Fixture, name: &str, content: &[u8]) {
    assert_eq!((f.store.calls("put"), f.store.calls("finish")), (1, 0));
    assert_eq!(f.read(name).await, content);
    until_abandoned(f).await;
}

async fn until_abandoned(f: &Fixture) {
    tokio::time::timeout(Duration::from_secs(5), async {
        while f.store.calls("abandon") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("abandoned");
    assert_eq!(f.mount.core.sending.available_permits(), SENDING_AT_ONCE);
}

#[tokio::test]
async fn write_in_order_is_sent_while_it_arrives() {
    let f = pieces_fixture();
    let content = content(4 * PIECE + 10);
    let headers = Headers { content_type: Some("a/b".to_owned()), ..Headers::default() };
    let publish = Publish { headers: Some(headers.clone()), ..Publish::default() };
    let staged = half_sent(&f, "a", &content, &publish).await;
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound), "half of it is not visible");
    let entry = staged.publish(publish.clone()).await.expect("publishes");
    assert_eq!((f.store.calls("part"), f.store.calls("finish"), f.store.calls("put")), (5, 1, 0));
    assert_eq!((entry.size_bytes, entry.headers.as_deref()), (content.len() as u64, Some(&headers)));
    assert_eq!(staged.publish(publish).await.expect("is there").etag, entry.etag);
    assert_eq!((f.store.calls("finish"), f.store.calls("abandon")), (0, 0), "published once");
    assert_eq!(f.read("a").await, content);
}

#[tokio::test]
async fn small_write_is_one_request() {
    let f = pieces_fixture();
    let staged = f.mount.stage(Target::Replace(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from(content(2 * PIECE))).await.expect("writes");
    staged.publish(Publish::default()).await.expect("publishes");
    assert_eq!((f.store.calls("begin"), f.store.calls("put")), (0, 1));
}

#[tokio::test]
async fn upload_that_breaks_in_the_middle_is_put_whole() {
    for (operation, error) in [
        ("part", ErrorKind::Unavailable),
        ("part", ErrorKind::Unsupported),
        ("finish", ErrorKind::Unavailable),
        ("finish", ErrorKind::Internal),
    ] {
        let f = pieces_fixture();
        let content = content(4 * PIECE);
        let staged = half_sent(&f, "a", &content, &Publish::default()).await;
        f.store.fail(operation, error);
        staged.publish(Publish::default()).await.expect("publishes all the same");
        f.store.calls("finish");
        sent_whole(&f, "a", &content).await;
    }
}

#[tokio::test]
async fn write_out_of_order_a_cut_and_a_loan_end_what_was_sent_ahead() {
    let mut content = content(4 * PIECE);
    content[..3].copy_from_slice(b"new");
    for change in ["write", "cut", "loan"] {
        let f = pieces_fixture();
        let staged = half_sent(&f, "a", &content, &Publish::default()).await;
        match change {
            "write" => staged.write_at(0, Bytes::from_static(b"new")).await.expect("writes"),
            "cut" => staged.truncate(content.len() as u64).await.expect("cuts"),
            _ => drop(staged.file()),
        }
        staged.publish(Publish::default()).await.expect("publishes");
        sent_whole(&f, "a", &content).await;
    }
}

#[tokio::test]
async fn write_that_is_published_otherwise_than_expected_is_put_whole() {
    let f = pieces_fixture();
    let content = content(4 * PIECE);
    let staged = half_sent(&f, "a", &content, &Publish::default()).await;
    let headers = Some(Headers { content_type: Some("a/b".to_owned()), ..Headers::default() });
    staged.publish(Publish { headers, ..Publish::default() }).await.expect("publishes");
    sent_whole(&f, "a", &content).await;
    assert_eq!(f.stat("a").await.expect("there").headers.expect("kept").content_type.as_deref(), Some("a/b"));
}

#[tokio::test]
async fn client_that_goes_away_leaves_nothing() {
    let f = pieces_fixture();
    drop(half_sent(&f, "a", &content(4 * PIECE), &Publish::default()).await);
    until_abandoned(&f).await;
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound));
    assert_eq!((f.store.calls("finish"), f.store.calls("put")), (0, 0));
    let left = std::fs::read_dir(f.directory.path().join("writes")).expect("readable").count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn condition_is_decided_in_the_end() {
    let f = pieces_fixture();
    let absent = Publish { condition: Precondition::Absent, ..Publish::default() };
    let staged = half_sent(&f, "a", &content(4 * PIECE), &absent).await;
    f.store.put_outside("a", b"theirs").await;
    assert_eq!(kind(staged.publish(absent).await), Some(ErrorKind::PreconditionFailed));
    assert_eq!((f.store.calls("finish"), f.store.calls("put")), (1, 0));
    assert_eq!(f.read("a").await, b"theirs");
    until_abandoned(&f).await;
}

#[tokio::test]
async fn lost_answer_to_a_conditional_publication_is_not_guessed() {
    let f = pieces_fixture();
    let content = content(4 * PIECE);
    let absent = Publish { condition: Precondition::Absent, ..Publish::default() };
    let staged = half_sent(&f, "a", &content, &absent).await;
    f.store.lose("finish", ErrorKind::Unavailable);
    assert_eq!(kind(staged.publish(absent).await), Some(ErrorKind::Unavailable));
    assert_eq!((f.store.calls("finish"), f.store.calls("put")), (1, 0));
    staged.publish(Publish::default()).await.expect("recognises its own content");
    assert_eq!(f.read("a").await, content);
}

#[tokio::test]
async fn more_writes_than_places_are_put_whole() {
    let f = pieces_fixture();
    let places = Arc::clone(&f.mount.core.sending).try_acquire_many_owned(4).expect("all of them");
    let staged = f.mount.stage(Target::Replace(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from(content(4 * PIECE))).await.expect("writes");
    staged.publish(Publish::default()).await.expect("publishes");
    assert_eq!((f.store.calls("begin"), f.store.calls("put")), (0, 1));
    drop(places);
}

#[tokio::test]
async fn nothing_is_sent_ahead_to_a_store_that_is_left_alone() {
    let f = pieces_fixture();
    let vitals = &f.mount.core.vitals;
    while !matches!(vitals.state(), MountState::Degraded { .. }) {
        let broken = async { Err::<(), _>(Error::new(ErrorKind::Internal, "told to fail")) };
        vitals.run_once("part", Load::Nothing, broken).await.expect_err("fails");
    }
    let staged = f.mount.stage(Target::Replace(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from(content(4 * PIECE))).await.expect("writes");
    assert_eq!(kind(staged.publish(Publish::default()).await), Some(ErrorKind::Unavailable));
    assert_eq!((f.store.calls("begin"), f.store.calls("put")), (0, 0));
    assert_eq!(f.mount.core.sending.available_permits(), SENDING_AT_ONCE);
}
