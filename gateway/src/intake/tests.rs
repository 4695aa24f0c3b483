use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::CONTENT_ENCODING;
use http_body_util::StreamBody;
use hyper::body::Frame;
use miroir_seams::{MemoryFiles, RealFiles};

use super::*;

const BYTES_MAX: usize = 20 << 20;

fn spool(bytes_max: u64) -> Arc<Spool> {
    Spool::open(Arc::new(MemoryFiles::new()), bytes_max).expect("a spool")
}

/// Sends `pieces` one after the other, without saying how many there are.
async fn received(
    spool: &Arc<Spool>,
    encoding: &str,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Result<Bytes, IntakeError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, encoding.parse().expect("a header"));
    let frames = pieces.into_iter().map(|piece| Ok::<_, io::Error>(Frame::data(piece)));
    let body = StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()));
    let gathered = Gathered::new(spool.clone(), BYTES_MAX);
    gather(gathered, &Seams::seeded(1), &headers, body).await
}

fn pieces(bytes: &[u8], size: usize) -> Vec<Bytes> {
    bytes.chunks(size).map(Bytes::copy_from_slice).collect()
}

/// As compressible as JSON is.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|n| b"{\"id\":0123456789}"[(n * n / 7 + n) % 17]).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("in memory")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("in memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// `{"id":1}` as an uncompressed brotli stream (RFC 7932): window bits, one block of 8 bytes, end.
const BROTLI: &[u8] = b"\x8b\x03\x80{\"id\":1}\x03";

#[tokio::test]
async fn large_bodies_are_spooled_and_give_their_room_back() {
    let spool = spool(64 << 20);
    let small = sample(IN_MEMORY_MAX);
    let body = received(&spool, "identity", pieces(&small, 60_000)).await.expect("a body");
    assert!(body == small);
    assert_eq!(spool.bytes_used(), 0);
    for length in [IN_MEMORY_MAX + 1, 17 << 20] {
        let large = sample(length);
        let body = received(&spool, "identity", pieces(&large, 60_000)).await.expect("a body");
        assert!(body == large);
        assert_eq!(spool.bytes_used(), length as u64);
        let part = body.slice(5..9);
        drop(body);
        assert_eq!(spool.bytes_used(), length as u64, "a part is still in use");
        drop(part);
        assert_eq!(spool.bytes_used(), 0);
    }
}

#[tokio::test]
async fn the_spool_takes_no_more_than_it_may_over_all_requests() {
    let spool = spool(25 << 20);
    let large = sample(15 << 20);
    let first = received(&spool, "identity", pieces(&large, 60_000)).await.expect("a body");
    let second = received(&spool, "identity", pieces(&large, 60_000)).await;
    assert!(matches!(second, Err(IntakeError::SpoolFull)), "{second:?}");
    drop(first);
    assert!(received(&spool, "identity", pieces(&large, 60_000)).await.is_ok());
    assert_eq!(spool.bytes_used(), 0);
}

#[tokio::test]
async fn a_request_given_up_leaves_nothing_on_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join(".tmpold"), b"of a run that was killed").expect("a file");
    let files = Arc::new(RealFiles::new(directory.path()).expect("files"));
    let spool = Spool::open(files, 64 << 20).expect("a spool");
    let left = || std::fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(left(), 0, "left-overs go at start");
    let large = Bytes::from(sample(12 << 20));
    let body = received(&spool, "identity", [large.clone()]).await.expect("a body");
    assert!(body == large);
    assert_eq!(left(), 0, "a spool file has no name");
    let too_large = received(&spool, "identity", [large.clone(), large]).await;
    assert!(matches!(too_large, Err(IntakeError::TooLarge)), "{too_large:?}");
    drop(body);
    assert_eq!(spool.bytes_used(), 0);
}

#[tokio::test]
async fn encoded_bodies_are_decoded_whatever_their_size() {
    let spool = spool(64 << 20);
    for length in [1, 3_000, 9 << 20] {
        let plain = sample(length);
        for (name, encoded) in [
            ("gzip", gzip(&plain)),
            ("GZIP ", gzip(&plain)),
            ("deflate", deflate(&plain)),
            ("zstd", zstd(&plain)),
        ] {
            let body = received(&spool, name, pieces(&encoded, 10_000)).await.expect(name);
            assert!(body == plain, "{name} {length}");
        }
    }
    let body = received(&spool, "br", pieces(BROTLI, 3)).await.expect("br");
    assert_eq!(body, "{\"id\":1}");
    // What Meilisearch does not know it takes as it is.
    for name in ["compress", "gzip, br", ""] {
        let body = received(&spool, name, [Bytes::from_static(b"as sent")]).await.expect(name);
        assert_eq!(body, "as sent");
    }
}

#[tokio::test]
async fn a_bomb_is_refused_at_the_limit_of_the_decoded_body() {
    let spool = spool(64 << 20);
    let zeros = vec![0; 64 << 20];
    for (name, encoded) in
        [("gzip", gzip(&zeros)), ("deflate", deflate(&zeros)), ("zstd", zstd(&zeros))]
    {
        let refused = received(&spool, name, pieces(&encoded, 10_000)).await;
        assert!(matches!(refused, Err(IntakeError::TooLarge)), "{name} {refused:?}");
        assert_eq!(spool.bytes_used(), 0);
    }
}

#[tokio::test]
async fn broken_and_cut_streams_are_refused() {
    let spool = spool(64 << 20);
    let plain = sample(5_000);
    for (name, encoded) in [
        ("gzip", gzip(&plain)),
        ("deflate", deflate(&plain)),
        ("zstd", zstd(&plain)),
        ("br", BROTLI.to_vec()),
    ] {
        let cut = Bytes::copy_from_slice(&encoded[..encoded.len() - 1]);
        for (what, bytes) in [("cut", cut), ("broken", Bytes::from_static(b"\xff not at all \xff"))]
        {
            let refused = received(&spool, name, [bytes]).await;
            assert!(
                matches!(refused, Err(IntakeError::Undecodable(_))),
                "{name} {what} {refused:?}"
            );
        }
    }
    let refused = |wording| {
        let error = IntakeError::Undecodable(io::Error::other("corrupt deflate stream"));
        refusal(error, BYTES_MAX, wording)
    };
    let documents = refused(Wording::Documents);
    assert_eq!(documents.code, Code::BadRequest);
    assert_eq!(documents.message, "The provided payload is incomplete and cannot be parsed");
    let json = refused(Wording::Json);
    assert_eq!(json.code, Code::BadRequest);
    assert!(json.message.starts_with("Error that occur during reading payload: "), "{json}");
}

/// A byte every ten seconds, for ever.
fn trickle() -> impl Body<Data = Bytes, Error = io::Error> + Send {
    let drops = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
    });
    StreamBody::new(drops)
}

#[tokio::test(start_paused = true)]
async fn bodies_that_trickle_are_given_up() {
    let seams = Seams::seeded(1);
    let began = seams.clock.instant();
    let gathered = Gathered::new(spool(1), BYTES_MAX);
    let refused = gather(gathered, &seams, &HeaderMap::new(), Box::pin(trickle())).await;
    assert!(matches!(refused, Err(IntakeError::TooSlow)), "{refused:?}");
    assert_eq!(seams.clock.instant() - began, BODY_GRACE);
    assert_eq!(patience(10 * BODY_BYTES_PER_S_MIN), BODY_GRACE + Duration::from_secs(10));
}
