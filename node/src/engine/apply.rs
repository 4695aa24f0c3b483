//! Carrying out writes on one index, inside one write transaction of that index.
//!
//! Nothing here knows tasks: the worker hands in what a batch does and gets back, per operation,
//! what came of it. An `Err` of a whole function means that nothing was written.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::priority::yield_to_searches;
use bumpalo::Bump;
use memmap2::Mmap;
use milli_core as milli;
use milli_core::documents::PrimaryKey;
use milli_core::heed::RwTxn;
use milli_core::progress::Progress;
use milli_core::update::new::indexer::document_changes::DocumentChanges;
use milli_core::update::new::indexer::{
    self, DocumentDeletion, DocumentOperation, UpdateByFunction,
};
use milli_core::update::{ClearDocuments, IndexerConfig, Settings as SettingsBuilder};
use milli_core::{FieldsIdsMap, Filter, Index, ThreadPoolNoAbort, ThreadPoolNoAbortBuilder};
use miroir_wire::error::{ApiError, Code, ResponseError};
use roaring::RoaringBitmap;

use super::EngineConfig;
use super::embedders;
use super::errors::{EngineError, Refusal, payload_error};
use super::settings::{apply_patch, check_sources_named};

/// The share of the machine's memory that indexing takes when nothing else is configured.
const MEMORY_SHARE: usize = 3;
/// What indexing takes when the machine's memory is not known, and the most it takes unasked:
/// many nodes may share a machine.
const MEMORY_BYTES_DEFAULT_MAX: usize = 2 << 30;

/// The threads and limits that all indexing of a node shares.
pub struct Indexer {
    /// Its thread pool is always set.
    config: IndexerConfig,
    must_stop: AtomicBool,
    /// Runs before documents are applied or edited: lets a test panic there, or hold the worker.
    #[cfg(test)]
    pub before_documents: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// One operation of a document batch.
pub enum Operation<'a> {
    /// Documents of a content file take the place of known ones, or are merged into them.
    Write {
        /// The file, newline-delimited JSON.
        content: &'a Path,
        /// Whether to merge.
        merge: bool,
    },
    /// Documents with these ids vanish.
    Delete(&'a [String]),
}

/// What came of one operation: how many documents it touched, or why it was left out.
pub type Outcome = Result<u64, ResponseError>;

/// One deletion of a deletion batch.
pub enum Deletion<'a> {
    /// By ids.
    Ids(&'a [String]),
    /// By filter.
    Filter(&'a serde_json::Value),
}

/// A function to run over documents.
#[derive(Clone, Copy)]
pub struct Edition<'a> {
    /// Which documents; all without it.
    pub filter: Option<&'a serde_json::Value>,
    /// What the function may read.
    pub context: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// The function.
    pub function: &'a str,
}

impl Indexer {
    /// Starts the indexing threads.
    ///
    /// # Errors
    /// When the threads can't be started.
    pub fn new(config: &EngineConfig) -> Result<Self, std::io::Error> {
        // 0 lets rayon take one thread per core.
        let threads = config.indexing_threads.unwrap_or(0);
        let build = || {
            yield_to_searches();
            ThreadPoolNoAbortBuilder::new()
                .thread_name(|index| format!("indexing-{index}"))
                .num_threads(threads)
                .build()
                .map_err(std::io::Error::other)
        };
        // The pool's threads are as nice as the one that starts them.
        let pool = std::thread::scope(|scope| scope.spawn(build).join())
            .map_err(|_| std::io::Error::other("the indexing threads can't be started"))??;
        let max_memory = config.indexing_memory_bytes_max.unwrap_or_else(default_memory_bytes);
        let config = IndexerConfig {
            max_memory: Some(max_memory),
            thread_pool: Some(pool),
            ..IndexerConfig::default()
        };
        Ok(Self {
            config,
            must_stop: AtomicBool::new(false),
            #[cfg(test)]
            before_documents: std::sync::Mutex::default(),
        })
    }

    fn pool(&self) -> Result<&ThreadPoolNoAbort, EngineError> {
        self.config.thread_pool.as_ref().ok_or(EngineError::Corrupted)
    }

    /// Asks the batch under way to give up at its next safe point.
    pub fn stop(&self) {
        self.must_stop.store(true, Ordering::Relaxed);
    }

    /// Forgets an earlier [`Indexer::stop`].
    pub fn resume(&self) {
        self.must_stop.store(false, Ordering::Relaxed);
    }

    fn must_stop(&self) -> bool {
        self.must_stop.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    fn run_hook(&self) {
        let hook = self.before_documents.lock().ok().and_then(|mut hook| hook.take());
        if let Some(hook) = hook {
            hook();
        }
    }

    /// Additions, updates and deletions by id, merged in order. An operation with a document
    /// that has no valid id is left out and says so; the others are carried out.
    ///
    /// # Errors
    /// Whatever fails later (a bad `_geo`, say) fails all operations, as in Meilisearch 1.15.
    pub fn apply_documents<'i>(
        &self,
        wtxn: &mut RwTxn<'i>,
        index: &'i Index,
        name: &str,
        operations: &[Operation<'_>],
        primary_key: Option<&str>,
    ) -> Result<Vec<Outcome>, EngineError> {
        let milli_error = |error| EngineError::milli(error, name);
        let refusal = |refusal: Refusal| refusal.in_write_to(name);
        #[cfg(test)]
        self.run_hook();
        let mut contents = Vec::new();
        for operation in operations {
            if let Operation::Write { content, .. } = operation {
                contents.push(map_file(content)?);
            }
        }
        let arena = Bump::new();
        let mut changes = DocumentOperation::new();
        let mut next_content = contents.iter();
        for operation in operations {
            match operation {
                Operation::Write { merge, .. } => {
                    let Some(content) = next_content.next() else {
                        return Err(EngineError::Corrupted);
                    };
                    let added = if *merge {
                        changes.update_documents(content)
                    } else {
                        changes.replace_documents(content)
                    };
                    added.map_err(milli_error)?;
                }
                Operation::Delete(ids) => {
                    let ids = ids.iter().map(|id| &*arena.alloc_str(id)).collect::<Vec<&str>>();
                    changes.delete_documents(arena.alloc_slice_copy(&ids));
                }
            }
        }

        let rtxn = index.read_txn()?;
        let known_fields = index.fields_ids_map(&rtxn)?;
        let mut fields = known_fields.clone();
        let embedders = embedders::runtime(index, wtxn).map_err(refusal)?;
        let progress = Progress::default();
        let (changes, stats, primary_key) = changes
            .into_changes(
                &arena,
                index,
                &rtxn,
                primary_key,
                &mut fields,
                &|| self.must_stop(),
                progress.clone(),
            )
            .map_err(milli_error)?;
        let outcomes: Vec<Outcome> = stats
            .into_iter()
            .map(|stats| match stats.error {
                None => Ok(stats.document_count),
                Some(error) => Err(payload_error(error)),
            })
            .collect();
        if outcomes.iter().any(Result::is_ok) {
            indexer::index(
                wtxn,
                index,
                self.pool()?,
                self.config.grenad_parameters(),
                &known_fields,
                fields,
                primary_key,
                &changes,
                embedders,
                &|| self.must_stop(),
                &progress,
            )
            .map_err(milli_error)?;
        }
        Ok(outcomes)
    }

    /// Deletions by ids and by filters. A filter that can't be evaluated is left out; each
    /// deletion counts the documents that no earlier one took.
    ///
    /// # Errors
    /// When the index can't be written.
    pub fn apply_deletions<'i>(
        &self,
        wtxn: &mut RwTxn<'i>,
        index: &'i Index,
        name: &str,
        deletions: &[Deletion<'_>],
    ) -> Result<Vec<Outcome>, EngineError> {
        let milli_error = |error| EngineError::milli(error, name);
        let mut doomed = RoaringBitmap::new();
        let mut outcomes = Vec::with_capacity(deletions.len());
        for deletion in deletions {
            let before = doomed.len();
            let refused = match deletion {
                Deletion::Ids(ids) => {
                    let known = index.external_documents_ids();
                    for id in *ids {
                        doomed.extend(known.get(wtxn, id)?);
                    }
                    None
                }
                Deletion::Filter(filter) => match matching(wtxn, index, filter) {
                    Ok(matched) => {
                        doomed |= matched;
                        None
                    }
                    Err(error) => Some(milli_error(error)),
                },
            };
            outcomes.push(match refused {
                None => Ok(doomed.len() - before),
                Some(error) => Err(error.to_response()),
            });
        }
        if doomed.is_empty() || outcomes.iter().all(Result::is_err) {
            return Ok(outcomes);
        }

        let rtxn = index.read_txn()?;
        let known_fields = index.fields_ids_map(&rtxn)?;
        let mut fields = known_fields.clone();
        // There are documents, so there is a primary key.
        let primary_key = index.primary_key(&rtxn)?.ok_or(EngineError::Corrupted)?;
        let primary_key = PrimaryKey::new_or_insert(primary_key, &mut fields)
            .map_err(|error| milli_error(error.into()))?;
        let arena = Bump::new();
        let mut deletion = DocumentDeletion::new();
        deletion.delete_documents_by_docids(doomed);
        let changes = deletion.into_changes(&arena, primary_key);
        self.write_changes(wtxn, index, name, (&known_fields, fields), &changes)?;
        Ok(outcomes)
    }

    /// Runs a function over documents. Returns how many it was run on: which of them it changed or
    /// deleted, nobody counts.
    ///
    /// # Errors
    /// Those of the filter and of the function, on whichever document.
    pub fn apply_edition<'i>(
        &self,
        wtxn: &mut RwTxn<'i>,
        index: &'i Index,
        name: &str,
        edition: Edition<'_>,
    ) -> Result<u64, EngineError> {
        let milli_error = |error| EngineError::milli(error, name);
        let Edition { filter, context, function } = edition;
        #[cfg(test)]
        self.run_hook();
        let candidates = match filter {
            Some(filter) => matching(wtxn, index, filter).map_err(milli_error)?,
            None => index.documents_ids(wtxn)?,
        };
        let count = candidates.len();
        if count == 0 {
            return Ok(0);
        }
        let rtxn = index.read_txn()?;
        let known_fields = index.fields_ids_map(&rtxn)?;
        let mut fields = known_fields.clone();
        // There are documents, so there is a primary key.
        let primary_key = index.primary_key(&rtxn)?.ok_or(EngineError::Corrupted)?;
        let primary_key = PrimaryKey::new_or_insert(primary_key, &mut fields)
            .map_err(|error| milli_error(error.into()))?;
        let update = UpdateByFunction::new(candidates, context.cloned(), function.to_owned());
        let changes = update.into_changes(&primary_key).map_err(milli_error)?;
        self.write_changes(wtxn, index, name, (&known_fields, fields), &changes)?;
        Ok(count)
    }

    /// Writes changes of documents that keep their primary key; `fields` are those known before and
    /// after.
    fn write_changes<'c>(
        &self,
        wtxn: &mut RwTxn<'_>,
        index: &Index,
        name: &str,
        fields: (&FieldsIdsMap, FieldsIdsMap),
        changes: &impl DocumentChanges<'c>,
    ) -> Result<(), EngineError> {
        let embedders =
            embedders::runtime(index, wtxn).map_err(|refusal| refusal.in_write_to(name))?;
        let (known_fields, fields) = fields;
        let congestion = indexer::index(
            wtxn,
            index,
            self.pool()?,
            self.config.grenad_parameters(),
            known_fields,
            fields,
            None,
            changes,
            embedders,
            &|| self.must_stop(),
            &Progress::default(),
        );
        congestion.map(drop).map_err(|error| EngineError::milli(error, name))
    }

    /// Deletes all documents; the count of them.
    ///
    /// # Errors
    /// When the index can't be written.
    pub fn apply_clear<'i>(
        &self,
        wtxn: &mut RwTxn<'i>,
        index: &'i Index,
        name: &str,
    ) -> Result<u64, EngineError> {
        ClearDocuments::new(wtxn, index).execute().map_err(|error| EngineError::milli(error, name))
    }

    /// Applies settings one over the other, then reindexes once if they ask for it.
    ///
    /// # Errors
    /// The settings', or those of documents that don't fit them.
    pub fn apply_settings<'i>(
        &self,
        wtxn: &mut RwTxn<'i>,
        index: &'i Index,
        name: &str,
        patches: &[&serde_json::Value],
    ) -> Result<(), EngineError> {
        self.check_new_embedders(wtxn, index, name, patches)?;
        let mut builder = SettingsBuilder::new(wtxn, index, &self.config);
        for patch in patches {
            apply_patch(patch, &mut builder).map_err(|refusal| refusal.in_write_to(name))?;
        }
        builder
            .execute(|_step| (), || self.must_stop())
            .map_err(|error| EngineError::milli(error, name))
    }

    /// A new embedder that names no source would get the default one, which is a service.
    fn check_new_embedders(
        &self,
        wtxn: &RwTxn<'_>,
        index: &Index,
        name: &str,
        patches: &[&serde_json::Value],
    ) -> Result<(), EngineError> {
        let configured =
            index.embedding_configs(wtxn).map_err(|error| EngineError::milli(error, name))?;
        let mut known: BTreeSet<String> =
            configured.into_iter().map(|embedder| embedder.name).collect();
        for patch in patches {
            check_sources_named(patch, &mut known)?;
        }
        Ok(())
    }

    /// Names the primary key of an index without documents.
    ///
    /// # Errors
    /// `index_primary_key_already_exists` when it has documents under another key.
    pub fn apply_primary_key<'i>(
        &self,
        wtxn: &mut RwTxn<'i>,
        index: &'i Index,
        name: &str,
        primary_key: &str,
    ) -> Result<(), EngineError> {
        let mut builder = SettingsBuilder::new(wtxn, index, &self.config);
        builder.set_primary_key(primary_key.to_owned());
        builder
            .execute(|_step| (), || self.must_stop())
            .map_err(|error| EngineError::milli(error, name))
    }
}

/// Refuses a function that can't be read.
///
/// # Errors
/// `bad_request`, with the place.
pub fn check_function(function: &str) -> Result<(), ApiError> {
    match milli::rhai::Engine::new().compile(function) {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::new(Code::BadRequest, error.to_string())),
    }
}

fn matching(
    wtxn: &RwTxn<'_>,
    index: &Index,
    filter: &serde_json::Value,
) -> Result<RoaringBitmap, milli::Error> {
    match Filter::from_json(filter)? {
        Some(filter) => filter.evaluate(wtxn, index),
        // An empty filter matches nothing here: a deletion never means more than it says.
        None => Ok(RoaringBitmap::new()),
    }
}

fn map_file(path: &Path) -> Result<Mmap, EngineError> {
    let file = File::open(path)?;
    // SAFETY: content files are written once, synced, and only removed after their task has
    // ended; nothing else writes in the data directory.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file)? };
    Ok(map)
}

fn default_memory_bytes() -> usize {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: usize = line.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    });
    total
        .map_or(MEMORY_BYTES_DEFAULT_MAX, |bytes| bytes / MEMORY_SHARE)
        .min(MEMORY_BYTES_DEFAULT_MAX)
}
