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
use ruzstd::decoding::StreamingDecoder;

use super::{Gathered, IntakeError};

/// Output buffer of a brotli decoder, bytes.
const BROTLI_BUFFER_BYTES: usize = 32 << 10;
/// Largest window of a zstd frame, bytes: all that the `zstd` content encoding allows (RFC 9659).
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

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
    /// Decoded when it is there as a whole: the library pulls.
    Zstd {
        encoded: Gathered,
        body: Gathered,
    },
}

impl Decoder {
    /// A decoder that writes to `body`.
    pub(super) fn new(encoding: Encoding, body: Gathered) -> Self {
        match encoding {
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
                let encoded = Gathered::new(body.spool.clone(), body.bytes_max);
                Self::Zstd { encoded, body }
            }
        }
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
            Self::Zstd { encoded, .. } => encoded.take(piece),
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
            Self::Zstd { encoded, mut body } => {
                let decoded = decode_zstd(&encoded.into_bytes()?, &mut body);
                settle(decoded, &mut body)?;
                Ok(body)
            }
        }
    }
}

/// Decodes frames one after the other. Their checksums, where there are any, are compared.
fn decode_zstd(mut encoded: &[u8], body: &mut Gathered) -> io::Result<()> {
    while !encoded.is_empty() {
        let mut decoder =
            StreamingDecoder::new_with_max_window_size(&mut encoded, ZSTD_WINDOW_BYTES_MAX)
                .map_err(io::Error::other)?;
        io::copy(&mut decoder, body)?;
        let frame = decoder.into_frame_decoder();
        let said = frame.get_checksum_from_data();
        if said.is_some() && said != frame.get_calculated_checksum() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum mismatch"));
        }
    }
    Ok(())
}

/// The body's own refusal comes before what the decoder makes of it.
fn settle(outcome: io::Result<()>, body: &mut Gathered) -> Result<(), IntakeError> {
    match (body.refused.take(), outcome) {
        (Some(refused), _) => Err(refused),
        (None, outcome) => outcome.map_err(IntakeError::Undecodable),
    }
}
