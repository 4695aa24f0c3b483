//! `Content-Encoding` of request bodies: `gzip`, `deflate` (the zlib format), `br`, `zstd`.
//!
//! Names count in any case; a list, or a name that is not known, is read as if nothing was said,
//! as in Meilisearch. What comes out is bounded, and no decoder gets more memory than its
//! format's ordinary window.

use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use ruzstd::decoding::StreamingDecoder;

/// Input buffer of a brotli decoder, bytes.
const BROTLI_BUFFER_BYTES: usize = 32 << 10;
/// Largest window of a zstd frame, bytes (RFC 9659).
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// An encoding other than the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Why a body can't be had.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// Larger than the limit.
    TooLarge,
    /// Not what it says it is, or cut short.
    Broken(io::Error),
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Encoding {
    /// What the headers say.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let named = headers.get(CONTENT_ENCODING)?.to_str().ok()?;
        match named.trim().to_ascii_lowercase().as_str() {
            "gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "br" => Some(Self::Brotli),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The decoded body, at most `bytes_max` long.
    pub(super) fn decode(self, encoded: &[u8], bytes_max: usize) -> Result<Bytes, DecodeError> {
        let mut decoded = Vec::new();
        match self {
            Self::Gzip => read(GzDecoder::new(encoded), &mut decoded, bytes_max)?,
            Self::Deflate => read(ZlibDecoder::new(encoded), &mut decoded, bytes_max)?,
            Self::Brotli => {
                read(Decompressor::new(encoded, BROTLI_BUFFER_BYTES), &mut decoded, bytes_max)?;
            }
            Self::Zstd => {
                let mut rest = encoded;
                while !rest.is_empty() {
                    let frame = StreamingDecoder::new_with_max_window_size(
                        &mut rest,
                        ZSTD_WINDOW_BYTES_MAX,
                    );
                    read(frame.map_err(io::Error::other)?, &mut decoded, bytes_max)?;
                }
            }
        }
        Ok(decoded.into())
    }
}

fn read(decoder: impl Read, into: &mut Vec<u8>, bytes_max: usize) -> Result<(), DecodeError> {
    let room = (bytes_max - into.len()) as u64;
    let taken = decoder.take(room + 1).read_to_end(into)? as u64;
    if taken > room { Err(DecodeError::TooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    const DOCUMENTS: &[u8] = br#"[{"id":1}]"#;
    /// `{"id":1}` as an uncompressed brotli stream (RFC 7932).
    const BROTLI: &[u8] = b"\x8b\x03\x80{\"id\":1}\x03";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn every_encoding_is_read_back() {
        for (encoding, encoded) in [
            (Encoding::Gzip, gzip(DOCUMENTS)),
            (Encoding::Deflate, deflate(DOCUMENTS)),
            (Encoding::Zstd, zstd(DOCUMENTS)),
        ] {
            let decoded = encoding.decode(&encoded, 1 << 20).unwrap();
            assert_eq!(decoded, DOCUMENTS, "{encoding:?}");
            let cut = encoding.decode(&encoded[..encoded.len() - 5], 1 << 20);
            assert!(matches!(cut, Err(DecodeError::Broken(_))), "{encoding:?}");
        }
        assert_eq!(Encoding::Brotli.decode(BROTLI, 1 << 20).unwrap(), &br#"{"id":1}"#[..]);
        let frames = [zstd(b"[{}"), zstd(b"]")].concat();
        assert_eq!(Encoding::Zstd.decode(&frames, 1 << 20).unwrap(), &b"[{}]"[..]);
    }

    #[test]
    fn bombs_are_refused() {
        let bomb = vec![b' '; 1 << 20];
        for (encoding, encoded) in [
            (Encoding::Gzip, gzip(&bomb)),
            (Encoding::Deflate, deflate(&bomb)),
            (Encoding::Zstd, zstd(&bomb)),
            (Encoding::Zstd, [zstd(&bomb[..1000]), zstd(&bomb)].concat()),
        ] {
            let refused = encoding.decode(&encoded, (1 << 20) - 1);
            assert!(matches!(refused, Err(DecodeError::TooLarge)), "{encoding:?}");
        }
    }
}
