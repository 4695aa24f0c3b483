//! `Accept-Encoding`: answers as small as the client can read them.
//!
//! Fast levels only: what is saved on the wire must not be paid for by the search. Small answers
//! go as they are, large ones are compressed on the blocking pool, so that the thread of a
//! connection is not held up.

use std::io::{self, Write};

use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use miroir_seams::Tasks;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::reply::Reply;

/// Smaller answers fit into a packet or two anyway.
const BYTES_MIN: usize = 1024;
/// Larger ones are compressed on the blocking pool: about a millisecond's work.
const IN_PLACE_BYTES_MAX: usize = 128 << 10;
/// Of 0 to 11; beyond, brotli takes several times as long as gzip.
const BROTLI_QUALITY: u32 = 2;
/// Its window, as a power of two; 256 KiB hold nearly all answers.
const BROTLI_WINDOW_BITS: u32 = 18;
/// Buffer of the brotli encoder, bytes.
const BROTLI_BUFFER_BYTES: usize = 32 << 10;

/// How an answer is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Brotli,
    Zstd,
    /// The zlib format (RFC 9110, 8.4.1.2).
    Deflate,
}

impl Coding {
    /// The cheapest for us first: what the client likes equally well is decided by that.
    const ALL: [Self; 4] = [Self::Zstd, Self::Gzip, Self::Brotli, Self::Deflate];

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
        }
    }

    fn encode(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        // JSON of hits shrinks to a third and less.
        let out = Vec::with_capacity(bytes.len() / 3);
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(out, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Self::Brotli => {
                let mut encoder = CompressorWriter::new(
                    out,
                    BROTLI_BUFFER_BYTES,
                    BROTLI_QUALITY,
                    BROTLI_WINDOW_BITS,
                );
                encoder.write_all(bytes)?;
                Ok(encoder.into_inner())
            }
            Self::Zstd => Ok(compress_to_vec(bytes, CompressionLevel::Fastest)),
        }
    }
}

/// What the client likes best of what there is, by its weights (RFC 9110, 12.5.3); none when it
/// prefers the answer as it is.
fn choose(headers: &HeaderMap) -> Option<Coding> {
    let mut accepted = headers.get_all(ACCEPT_ENCODING).iter().peekable();
    accepted.peek()?;
    let mut named: Vec<(&str, u16)> = Vec::new();
    for list in accepted {
        for item in list.to_str().unwrap_or_default().split(',') {
            let (name, weight) = match item.split_once(';') {
                Some((name, parameter)) => (name, weight(parameter)),
                None => (item, 1000),
            };
            named.push((name.trim(), weight));
        }
    }
    let weight_of = |names: &[&str]| {
        let mut named = named.iter();
        named.find(|(name, _)| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)))
    };
    let any = weight_of(&["*"]).map(|(_, weight)| *weight);
    let identity = weight_of(&["identity"]).map_or(1, |(_, weight)| *weight);
    let mut best = None;
    for coding in Coding::ALL {
        let names: &[&str] =
            if coding == Coding::Gzip { &["gzip", "x-gzip"] } else { &[coding.name()] };
        let weight = weight_of(names).map(|(_, weight)| *weight).or(any).unwrap_or(0);
        if weight >= identity.max(1) && best.is_none_or(|(_, best)| weight > best) {
            best = Some((coding, weight));
        }
    }
    best.map(|(coding, _)| coding)
}

/// Thousandths; what can't be read counts as nothing.
fn weight(parameter: &str) -> u16 {
    let weight = parameter.trim().strip_prefix("q=").or(parameter.trim().strip_prefix("Q="));
    let weight = weight.and_then(|weight| weight.trim().parse::<f32>().ok());
    weight
        .filter(|weight| (0.0..=1.0).contains(weight))
        .map_or(0, |weight| (weight * 1000.0) as u16)
}

/// Compresses the answer if its client reads that and it is worth it.
pub(crate) async fn compress(request: &HeaderMap, mut reply: Reply, tasks: &Tasks) -> Reply {
    let bytes = reply.body.len();
    if bytes < BYTES_MIN {
        return reply;
    }
    // Caches between us and the client must know that others get it otherwise.
    reply.headers.push(("vary", "accept-encoding".to_owned()));
    let Some(coding) = choose(request) else { return reply };
    let plain = std::mem::take(&mut reply.body);
    let encode = move || match coding.encode(&plain) {
        Ok(encoded) => (encoded, true),
        Err(error) => {
            tracing::warn!(%error, coding = coding.name(), "answer not compressed");
            (plain, false)
        }
    };
    let (body, is_encoded) = if bytes <= IN_PLACE_BYTES_MAX {
        encode()
    } else {
        match tasks.spawn_blocking(encode).await {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::error!(%error, "answer lost while it was compressed");
                return Reply::empty(500);
            }
        }
    };
    reply.body = body;
    if is_encoded {
        reply.headers.push(("content-encoding", coding.name().to_owned()));
    }
    reply
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use brotli_decompressor::Decompressor;
    use flate2::read::{GzDecoder, ZlibDecoder};
    use ruzstd::decoding::StreamingDecoder;

    use super::*;

    fn accepting(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, value.parse().expect("a header"));
        headers
    }

    #[test]
    fn what_the_client_likes_best_is_chosen() {
        for (accepted, chosen) in [
            ("gzip, deflate, br", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", Some(Coding::Brotli)),
            ("deflate", Some(Coding::Deflate)),
            ("X-GZIP", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *;q=0.5", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0.5, identity", None),
            ("identity;q=0, br;q=0.2", Some(Coding::Brotli)),
            ("gzip;q=7", None),
            ("snappy", None),
            ("", None),
        ] {
            assert_eq!(choose(&accepting(accepted)), chosen, "{accepted}");
        }
        assert_eq!(choose(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn answers_of_all_sizes_are_read_back() {
        for length in [0, BYTES_MIN - 1, BYTES_MIN, IN_PLACE_BYTES_MAX + 1, 3 << 20] {
            let plain: Vec<u8> =
                (0..length).map(|n| b"{\"id\":0123456789}"[(n * n / 7 + n) % 17]).collect();
            for coding in Coding::ALL {
                let reply = Reply { status: 200, body: plain.clone(), headers: Vec::new() };
                let reply = compress(&accepting(coding.name()), reply, &Tasks::new()).await;
                let said = reply.headers.iter().find(|(name, _)| *name == "content-encoding");
                let mut read = Vec::new();
                match said {
                    None => read.clone_from(&reply.body),
                    Some(_) => {
                        let body = reply.body.as_slice();
                        match coding {
                            Coding::Gzip => GzDecoder::new(body).read_to_end(&mut read),
                            Coding::Deflate => ZlibDecoder::new(body).read_to_end(&mut read),
                            Coding::Brotli => Decompressor::new(body, 4096).read_to_end(&mut read),
                            Coding::Zstd => StreamingDecoder::new(body)
                                .expect("it begins as it should")
                                .read_to_end(&mut read),
                        }
                        .expect("it is whole");
                    }
                }
                assert_eq!(said.is_some(), length >= BYTES_MIN, "{coding:?} {length}");
                assert!(read == plain, "{coding:?} {length}");
            }
        }
    }
}
