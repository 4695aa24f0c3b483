//! Views and statistics of indexes.

use std::collections::BTreeMap;

use milli_core::Index;
use milli_core::heed::RoTxn;
use miroir_wire::error::ApiError;
use miroir_wire::index::{IndexStats, IndexView, Stats};

use super::Engine;
use super::errors::EngineError;

impl Engine {
    /// One index's name, dates and primary key.
    ///
    /// # Errors
    /// `index_not_found`.
    pub fn index_view(&self, name: &str) -> Result<IndexView, ApiError> {
        let index = self.open_index(name)?;
        let rtxn = index.read_txn().map_err(EngineError::from)?;
        Ok(read_view(&index, &rtxn, name).map_err(|error| EngineError::milli(error, name))?)
    }

    /// One index's counts and sizes.
    ///
    /// # Errors
    /// `index_not_found`.
    pub fn index_stats(&self, name: &str) -> Result<IndexStats, ApiError> {
        let index = self.open_index(name)?;
        let rtxn = index.read_txn().map_err(EngineError::from)?;
        let is_indexing = self.shared.queue.is_processing(name);
        let stats = read_stats(&index, &rtxn, is_indexing)
            .map_err(|error| EngineError::milli(error, name))?;
        Ok(stats)
    }

    /// Counts and sizes of the whole node.
    ///
    /// # Errors
    /// When an index can't be read.
    pub fn stats(&self) -> Result<Stats, ApiError> {
        let (mut database_size, mut used_database_size) = self.shared.queue.store().sizes()?;
        let mut last_update = None;
        let mut indexes = BTreeMap::new();
        for name in self.index_names()? {
            let index = self.open_index(&name)?;
            let rtxn = index.read_txn().map_err(EngineError::from)?;
            let engine_error = |error| EngineError::milli(error, &name);
            database_size += index.on_disk_size().map_err(engine_error)?;
            used_database_size += index.used_size().map_err(engine_error)?;
            last_update = last_update.max(Some(index.updated_at(&rtxn).map_err(engine_error)?));
            let is_indexing = self.shared.queue.is_processing(&name);
            let stats = read_stats(&index, &rtxn, is_indexing).map_err(engine_error)?;
            indexes.insert(name, stats);
        }
        Ok(Stats { database_size, used_database_size, last_update, indexes })
    }
}

fn read_view(index: &Index, rtxn: &RoTxn<'_>, name: &str) -> Result<IndexView, milli_core::Error> {
    Ok(IndexView {
        uid: name.to_owned(),
        created_at: index.created_at(rtxn)?,
        updated_at: index.updated_at(rtxn)?,
        primary_key: index.primary_key(rtxn)?.map(str::to_owned),
    })
}

fn read_stats(
    index: &Index,
    rtxn: &RoTxn<'_>,
    is_indexing: bool,
) -> Result<IndexStats, milli_core::Error> {
    let documents = index.documents_stats(rtxn)?.unwrap_or_default();
    let vectors = index.arroy_stats(rtxn)?;
    Ok(IndexStats {
        number_of_documents: index.number_of_documents(rtxn)?,
        raw_document_db_size: documents.total_size(),
        avg_document_size: documents.average_value_size(),
        is_indexing,
        number_of_embeddings: Some(vectors.number_of_embeddings),
        number_of_embedded_documents: Some(vectors.documents.len()),
        field_distribution: index.field_distribution(rtxn)?,
    })
}
