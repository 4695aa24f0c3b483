//! Embedders of an index, ready to use.
//!
//! Only vectors that come with documents and queries are supported (`userProvided`): the other
//! sources call services, which a node of this kind never does.

use std::collections::HashMap;
use std::sync::Arc;

use milli_core::Index;
use milli_core::heed::RoTxn;
use milli_core::index::IndexEmbeddingConfig;
use milli_core::prompt::Prompt;
use milli_core::vector::{self, Embedder, EmbedderOptions, EmbeddingConfigs};
use miroir_wire::error::{ApiError, Code};

use super::errors::Refusal;

/// The embedders that an index is configured with.
///
/// # Errors
/// When the configuration can't be read, or names a source that isn't supported.
pub fn runtime(index: &Index, rtxn: &RoTxn<'_>) -> Result<EmbeddingConfigs, Refusal> {
    let mut embedders = HashMap::new();
    for configured in index.embedding_configs(rtxn).map_err(Refusal::Engine)? {
        let IndexEmbeddingConfig { name, config, .. } = configured;
        let EmbedderOptions::UserProvided(_) = &config.embedder_options else {
            return Err(unsupported_source(&name, "other than `userProvided`").into());
        };
        let quantized = config.quantized();
        let prompt =
            Prompt::try_from(config.prompt).map_err(|error| Refusal::Engine(error.into()))?;
        let runtime = Embedder::new(config.embedder_options, 0)
            .map_err(|error| Refusal::Engine(vector::Error::from(error).into()))?;
        embedders.insert(name, (Arc::new(runtime), Arc::new(prompt), quantized));
    }
    Ok(EmbeddingConfigs::new(embedders))
}

/// The refusal of an embedder that would call a service or load a model.
pub fn unsupported_source(embedder: &str, source: &str) -> ApiError {
    ApiError::new(
        Code::MiroirNotSupported,
        format!(
            "`.embedders.{embedder}.source`: Source {source} is not supported by this node: \
             vectors must be given with the documents and queries (`userProvided`)."
        ),
    )
}
