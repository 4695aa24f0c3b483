//! The engine's errors, and which of Meilisearch's codes each one has.

use std::io;

use milli_core as milli;
use milli_core::heed::{self, MdbError};
use miroir_wire::error::{ApiError, Code, ResponseError};

/// Why a batch, or an access to an index, failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The batch was told to stop; its tasks are still enqueued.
    #[error("aborted")]
    Aborted,
    /// The index outgrew its memory map; it can be enlarged and the batch tried again.
    #[error("index map is full")]
    MapFull,
    /// An error whose code and text are ready.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The indexing engine refused something, in an index with this name.
    #[error("Index `{index}`: {error}")]
    Milli {
        /// The client's name of the index.
        index: String,
        /// The refusal.
        error: Box<milli::Error>,
    },
    /// A database access failed.
    #[error(transparent)]
    Heed(heed::Error),
    /// The disk refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The code that ran the batch panicked.
    #[error("An unexpected crash occurred when processing the task: {0}")]
    Panicked(String),
    /// What is stored contradicts itself.
    #[error("Corrupted task queue.")]
    Corrupted,
}

impl EngineError {
    /// An error of the indexing engine, sorted into those that the worker reacts to and others.
    pub fn milli(error: milli::Error, index: &str) -> Self {
        use milli::{InternalError, UserError};
        match error {
            milli::Error::InternalError(InternalError::AbortedIndexation) => Self::Aborted,
            milli::Error::UserError(UserError::MaxDatabaseSizeReached)
            | milli::Error::InternalError(
                InternalError::Store(MdbError::MapFull)
                | InternalError::StorePut { error: heed::Error::Mdb(MdbError::MapFull), .. }
                | InternalError::StoreDeletion { error: heed::Error::Mdb(MdbError::MapFull), .. },
            ) => Self::MapFull,
            error => Self::Milli { index: index.to_owned(), error: Box::new(error) },
        }
    }

    /// What a client is told.
    pub fn to_api(&self) -> ApiError {
        let code = match self {
            Self::Api(error) => return error.clone(),
            Self::Aborted | Self::Panicked(_) | Self::Corrupted => Code::Internal,
            Self::MapFull => Code::DatabaseSizeLimitReached,
            Self::Milli { error, .. } => write_code(error),
            Self::Heed(error) => heed_code(error),
            Self::Io(error) => io_code(error),
        };
        ApiError::new(code, self.to_string())
    }

    /// What a task stores.
    pub fn to_response(&self) -> ResponseError {
        self.to_api().into()
    }
}

impl From<heed::Error> for EngineError {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Mdb(MdbError::MapFull) => Self::MapFull,
            error => Self::Heed(error),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        error.to_api()
    }
}

/// An error that doesn't know yet in which index, and during what, it happened.
#[derive(Debug)]
pub enum Refusal {
    /// Code and text are ready.
    Ours(ApiError),
    /// The engine's.
    Engine(milli::Error),
}

impl Refusal {
    /// The error of a write to the index with this name.
    pub fn in_write_to(self, index: &str) -> EngineError {
        match self {
            Self::Ours(error) => error.into(),
            Self::Engine(error) => EngineError::milli(error, index),
        }
    }

    /// The error of a search.
    pub fn into_api(self) -> ApiError {
        match self {
            Self::Ours(error) => error,
            Self::Engine(error) => ApiError::new(code(&error), error.to_string()),
        }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Ours(error)
    }
}

/// A refusal of one payload inside a batch; unlike a batch's error it doesn't name the index.
pub fn payload_error(error: milli::UserError) -> ResponseError {
    let error = milli::Error::UserError(error);
    ApiError::new(write_code(&error), error.to_string()).into()
}

/// The code of an engine error met while writing: a filter there selects documents.
fn write_code(error: &milli::Error) -> Code {
    match error {
        milli::Error::UserError(
            milli::UserError::InvalidFilter(_) | milli::UserError::InvalidFilterExpression(..),
        ) => Code::InvalidDocumentFilter,
        error => code(error),
    }
}

/// The code of an engine error met while searching.
pub fn code(error: &milli::Error) -> Code {
    use milli::UserError as U;
    let error = match error {
        milli::Error::InternalError(_) => return Code::Internal,
        milli::Error::IoError(error) => return io_code(error),
        milli::Error::UserError(error) => error,
    };
    match error {
        U::SerdeJson(_)
        | U::EnvAlreadyOpened
        | U::DocumentLimitReached
        | U::UnknownInternalDocumentId { .. } => Code::Internal,
        U::InvalidStoreFile => Code::InvalidStoreFile,
        U::NoSpaceLeftOnDevice => Code::NoSpaceLeftOnDevice,
        U::MaxDatabaseSizeReached => Code::DatabaseSizeLimitReached,
        U::AttributeLimitReached => Code::MaxFieldsLimitExceeded,
        U::InvalidFilter(_)
        | U::InvalidFilterExpression(..)
        | U::FilterOperatorNotAllowed { .. } => Code::InvalidSearchFilter,
        U::MissingDocumentId { .. } => Code::MissingDocumentId,
        U::InvalidDocumentId { .. } | U::TooManyDocumentIds { .. } => Code::InvalidDocumentId,
        U::MissingDocumentField(_) => Code::InvalidDocumentFields,
        U::NoPrimaryKeyCandidateFound => Code::IndexPrimaryKeyNoCandidateFound,
        U::MultiplePrimaryKeyCandidatesFound { .. } => Code::IndexPrimaryKeyMultipleCandidatesFound,
        U::PrimaryKeyCannotBeChanged(_) => Code::IndexPrimaryKeyAlreadyExists,
        U::InvalidDistinctAttribute { .. } => Code::InvalidSearchDistinct,
        U::SortRankingRuleMissing | U::InvalidSortableAttribute { .. } | U::SortError(_) => {
            Code::InvalidSearchSort
        }
        U::InvalidFacetsDistribution { .. } => Code::InvalidSearchFacets,
        U::InvalidSearchableAttribute { .. } => Code::InvalidSearchAttributesToSearchOn,
        U::InvalidFacetSearchFacetName { .. } => Code::InvalidFacetSearchFacetName,
        U::CriterionError(_) => Code::InvalidSettingsRankingRules,
        U::InvalidGeoField(_) => Code::InvalidDocumentGeoField,
        U::InvalidVectorDimensions { .. } | U::InvalidIndexingVectorDimensions { .. } => {
            Code::InvalidVectorDimensions
        }
        U::InvalidVectorsMapType { .. } | U::InvalidVectorsEmbedderConf { .. } => {
            Code::InvalidVectorsType
        }
        U::TooManyVectors(..) => Code::TooManyVectors,
        U::InvalidMinTypoWordLenSetting(..) => Code::InvalidSettingsTypoTolerance,
        U::InvalidSearchEmbedder(_) => Code::InvalidSearchEmbedder,
        U::InvalidSimilarEmbedder(_) => Code::InvalidSimilarEmbedder,
        U::VectorEmbeddingError(_) | U::DocumentEmbeddingError(_) => Code::VectorEmbeddingError,
        U::DocumentEditionCannotModifyPrimaryKey
        | U::DocumentEditionDocumentMustBeObject
        | U::DocumentEditionRuntimeError(_)
        | U::DocumentEditionCompilationError(_) => Code::EditDocumentsByFunctionError,
        // What remains is about embedder settings.
        _ => Code::InvalidSettingsEmbedders,
    }
}

fn heed_code(error: &heed::Error) -> Code {
    match error {
        heed::Error::Mdb(MdbError::MapFull) => Code::DatabaseSizeLimitReached,
        heed::Error::Mdb(MdbError::Invalid) => Code::InvalidStoreFile,
        heed::Error::Io(error) => io_code(error),
        _ => Code::Internal,
    }
}

fn io_code(error: &io::Error) -> Code {
    // EIO, EMFILE, ENOSPC.
    match error.raw_os_error() {
        Some(5) => Code::IoError,
        Some(24) => Code::TooManyOpenFiles,
        Some(28) => Code::NoSpaceLeftOnDevice,
        _ => Code::Internal,
    }
}
