//! `Content-Encoding` of request bodies.
//!
//! Meilisearch decodes `gzip`, `deflate` (the zlib format) and `br`, names in any case; a list of
//! encodings, or one it does not know, it reads as if nothing was said. We add `zstd`. A decoder
//! may ask for no more memory than its format's ordinary window: what it yields is bounded by the
//! body that takes it.

use std::io::{self, Write};

use brotli_decompressor::{BrotliDecoderParameter, DecompressorWriter};
use bytes::Bytes;
use flate2::write::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder};
use zstd::stream::zio;

use super::{Gathered, IntakeError};

/// Output buffer of a brotli decoder, bytes.
const BROTLI_BUFFER_BYTES: usize = 32 << 10;
/// Largest window of a zstd frame, as a power of two: 8 MiB, all that the `zstd` content encoding
/// allows (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The encodings that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// What the headers say.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let named = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        match named.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => Self::Identity,
        }
    }
}

/// Decodes into a body.
pub(super) enum Decoder {
    Identity(Gathered),
    Gzip(Box<GzDecoder<Gathered>>),
    Deflate(Box<ZlibDecoder<Gathered>>),
    Brotli(Box<DecompressorWriter<Gathered>>),
    Zstd(Box<zio::Writer<Gathered, ZstdDecoder<'static>>>),
}

impl Decoder {
    /// A decoder that writes to `body`.
    ///
    /// # Errors
    /// When the library has no memory.
    pub(super) fn new(encoding: Encoding, body: Gathered) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Identity => Self::Identity(body),
            Encoding::Gzip => Self::Gzip(Box::new(GzDecoder::new(body))),
            Encoding::Deflate => Self::Deflate(Box::new(ZlibDecoder::new(body))),
            Encoding::Brotli => {
                let mut decoder = DecompressorWriter::new(body, BROTLI_BUFFER_BYTES);
                // Windows up to 1 GiB are an extension that no HTTP client speaks.
                decoder.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
                Self::Brotli(Box::new(decoder))
            }
            Encoding::Zstd => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                Self::Zstd(Box::new(zio::Writer::new(body, decoder)))
            }
        })
    }

    /// Decodes some of the body; blocks.
    pub(super) fn push(&mut self, pieces: &[Bytes]) -> Result<(), IntakeError> {
        pieces.iter().try_for_each(|piece| match self {
            Self::Identity(body) => body.take(piece),
            Self::Gzip(decoder) => {
                let written = decoder.write_all(piece);
                settle(written, decoder.get_mut())
            }
            Self::Deflate(decoder) => {
                let written = decoder.write_all(piece);
                settle(written, decoder.get_mut())
            }
            Self::Brotli(decoder) => {
                let written = decoder.write_all(piece);
                settle(written, decoder.get_mut())
            }
            Self::Zstd(decoder) => {
                let written = decoder.write_all(piece);
                settle(written, decoder.writer_mut())
            }
        })
    }

    /// The decoded body; one that was cut short is refused. Blocks.
    pub(super) fn finish(self) -> Result<Gathered, IntakeError> {
        match self {
            Self::Identity(body) => Ok(body),
            Self::Gzip(mut decoder) => {
                let ended = decoder.try_finish();
                settle(ended, decoder.get_mut())?;
                decoder.finish().map_err(IntakeError::Undecodable)
            }
            Self::Deflate(mut decoder) => {
                let ended = decoder.try_finish();
                settle(ended, decoder.get_mut())?;
                decoder.finish().map_err(IntakeError::Undecodable)
            }
            Self::Brotli(mut decoder) => {
                let ended = decoder.close();
                settle(ended, decoder.get_mut())?;
                decoder
                    .into_inner()
                    .map_err(|_| IntakeError::Undecodable(io::ErrorKind::UnexpectedEof.into()))
            }
            Self::Zstd(mut decoder) => {
                let ended = decoder.finish();
                settle(ended, decoder.writer_mut())?;
                Ok(decoder.into_inner().0)
            }
        }
    }
}

/// The body's own refusal comes before what the decoder makes of it.
fn settle(outcome: io::Result<()>, body: &mut Gathered) -> Result<(), IntakeError> {
    match (body.refused.take(), outcome) {
        (Some(refused), _) => Err(refused),
        (None, outcome) => outcome.map_err(IntakeError::Undecodable),
    }
}
