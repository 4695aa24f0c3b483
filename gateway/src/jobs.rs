//! What operators see of jobs: routes, shapes, and who answers.
//!
//! | route | answer | refusals |
//! |---|---|---|
//! | `POST /_miroir/jobs/imports?index=…[&primaryKey=…]` | 201 [`JobView`] | 400; 503 `miroir_overloaded` when too many are open |
//! | the same with `stream=true` and the whole file as body | 202 [`JobView`] | as above, and see `jobs_stream.rs` |
//! | `PUT /_miroir/jobs/{id}/chunks/{n}` | 200 [`ChunkView`] | 400 `missing_payload`, 409 `miroir_job_conflict`, 413, 503 `miroir_overloaded` when too much waits |
//! | `POST /_miroir/jobs/{id}/seal?chunks=N` | 200 [`JobView`] | 409 `miroir_job_conflict` |
//! | `GET /_miroir/jobs` | [`JobsAnswer`] | |
//! | `GET /_miroir/jobs/{id}` | [`JobView`] with its errors | 404 `miroir_job_not_found` |
//! | `GET /_miroir/jobs/{id}/chunks` | [`ChunksAnswer`] | 404 `miroir_job_not_found` |
//! | `DELETE /_miroir/jobs/{id}` | 200 [`JobView`] | 404 `miroir_job_not_found`, 409 `miroir_job_conflict` |
//!
//! All need the admin key. Any pod answers for the whole cluster. Everything but the creation may
//! be repeated; whatever changes something answers 503 `miroir_no_quorum` without a quorum.
//!
//! The shapes are read by `miroir ctl` and the console: fields may be added, never renamed.

use async_trait::async_trait;
use bytes::Bytes;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::index::check_index_uid;
use miroir_wire::reserved::is_reserved;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::admin::AdminError;
use crate::context::RequestParts;
use crate::reply::Reply;

/// Longest name of a job, bytes: as long as names of files may be.
const NAME_BYTES_MAX: usize = 255;

/// Routes under `/_miroir/jobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the table above says what they are
pub enum JobsRoute {
    List,
    Create,
    Get { job: String },
    Cancel { job: String },
    Chunks { job: String },
    PutChunk { job: String, chunk: String },
    Seal { job: String },
}

/// An import that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewImport {
    /// Into which index.
    pub index: String,
    /// Its primary key, as for `POST /indexes/{index}/documents`.
    pub primary_key: Option<String>,
    /// What the client calls the job.
    pub name: Option<String>,
    /// Partial updates, as for `PUT /indexes/{index}/documents`.
    pub partial: bool,
    /// Chunks may be worked on in any order.
    pub unordered: bool,
    /// Lines that can't be imported are left out.
    pub skips_errors: bool,
    /// The body is the whole file.
    pub stream: bool,
}

/// All jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobsAnswer {
    /// In order of id, ended ones included.
    pub jobs: Vec<JobView>,
    /// Chunks that wait or are being worked on, of all jobs.
    pub background_queue_depth: u64,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobStatus {
    /// Takes chunks, works on them, or both.
    Running,
    /// Everything was imported, but for what is counted as skipped.
    Succeeded,
    /// Ended early: `failure` says why.
    Failed,
    /// Ended early, as somebody wished.
    Canceled,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// Its number.
    pub id: u64,
    /// What it does: `ndjsonImport`.
    pub kind: String,
    /// What its client calls it.
    pub name: Option<String>,
    /// The index.
    pub index_uid: String,
    /// The primary key that was given.
    pub primary_key: Option<String>,
    /// Partial updates.
    pub partial: bool,
    /// Chunks are worked on one after the other.
    pub ordered: bool,
    /// `fail` or `skip`.
    pub on_error: String,
    /// How far it is.
    pub status: JobStatus,
    /// Why it failed.
    pub failure: Option<String>,
    /// Its chunks.
    pub chunks: ChunkCounts,
    /// Bytes uploaded.
    pub bytes: u64,
    /// Bytes of these that are in tasks.
    pub bytes_done: u64,
    /// Lines of these.
    pub lines_done: u64,
    /// Documents in tasks that succeeded.
    pub documents: u64,
    /// Lines and documents that could not be imported.
    pub skipped: u64,
    /// Tasks accepted.
    pub tasks: u64,
    /// The first of them.
    pub first_task_uid: Option<u32>,
    /// The last of them; tasks of others may lie between.
    pub last_task_uid: Option<u32>,
    /// The pods that work on it now.
    pub pods: Vec<String>,
    /// Bytes in a second, since its first chunk was begun.
    pub bytes_per_second: Option<u64>,
    /// What is left, once everything is uploaded, at that rate.
    pub seconds_left: Option<u64>,
    /// The first errors; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<JobErrorView>,
    /// When it was asked for.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its first chunk was begun.
    #[serde(default, with = "rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, with = "rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// Chunks of a job by what is done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkCounts {
    /// How many there are, once that is known.
    pub total: Option<u32>,
    /// Those that were uploaded.
    pub uploaded: u32,
    /// Those that a pod works on.
    pub claimed: u32,
    /// Those that are done.
    pub done: u32,
}

/// Why lines were not imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobErrorView {
    /// The chunk's number.
    pub chunk: u32,
    /// The first line in the chunk, counted from 1.
    pub chunk_line: u64,
    /// The first line in the file, counted from 1; none while an earlier chunk is missing.
    pub line: Option<u64>,
    /// How many lines it is about.
    pub lines: u64,
    /// The task that failed, if they got so far.
    pub task_uid: Option<u32>,
    /// In words.
    pub message: String,
}

/// The chunks of a job that were uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunksAnswer {
    /// In order.
    pub chunks: Vec<ChunkView>,
}

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkView {
    /// Its place, from 0 on.
    pub number: u32,
    /// Its bytes.
    pub bytes: u64,
    /// Its lines.
    pub lines: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Bytes that are in tasks.
    pub bytes_done: u64,
    /// The pod that works on it.
    pub pod: Option<String>,
    /// Whether it is done.
    pub done: bool,
}

/// Answers for jobs. Until a pod says otherwise everything is 501.
#[async_trait]
pub trait JobsSource: Send + Sync {
    /// All jobs.
    ///
    /// # Errors
    /// The refusals of the route; so for the others.
    async fn jobs(&self) -> Result<JobsAnswer, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// One job.
    ///
    /// # Errors
    /// 404 `miroir_job_not_found`.
    async fn job(&self, _job: u64) -> Result<JobView, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Begins an import.
    ///
    /// # Errors
    /// 503s.
    async fn create_import(&self, _import: NewImport) -> Result<JobView, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// The chunks of a job that were uploaded.
    ///
    /// # Errors
    /// 404 `miroir_job_not_found`.
    async fn chunks(&self, _job: u64) -> Result<ChunksAnswer, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// See the table above.
    async fn put_chunk(&self, _job: u64, _chunk: u32, _: Bytes) -> Result<ChunkView, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Says how many chunks there are.
    ///
    /// # Errors
    /// 409 `miroir_job_conflict`.
    async fn seal(&self, _job: u64, _chunks: u32) -> Result<JobView, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Ends a job early: cancelled, or failed with that reason.
    ///
    /// # Errors
    /// 409 `miroir_job_conflict` when it has ended.
    async fn end_job(&self, _job: u64, _failure: Option<String>) -> Result<JobView, ApiError> {
        Err(AdminError::NotSupported.into())
    }
}

/// Answers one request whose right was checked.
///
/// # Errors
/// The refusals in the table above.
pub async fn answer(
    source: &(impl JobsSource + ?Sized),
    route: JobsRoute,
    request: &RequestParts,
) -> Result<Reply, ApiError> {
    Ok(match route {
        JobsRoute::List => Reply::json(200, &source.jobs().await?),
        JobsRoute::Get { job } => Reply::json(200, &source.job(number(&job)?).await?),
        JobsRoute::Cancel { job } => Reply::json(200, &source.end_job(number(&job)?, None).await?),
        JobsRoute::Chunks { job } => Reply::json(200, &source.chunks(number(&job)?).await?),
        JobsRoute::Create => {
            let import = NewImport::from_query_string(&request.query)?;
            if !request.body.is_empty() {
                return Err(bad_request("To send the file as the body, add `stream=true`."));
            }
            Reply::json(201, &source.create_import(import).await?)
        }
        JobsRoute::PutChunk { job, chunk } => {
            let chunk: u32 = chunk.parse().map_err(|_| {
                bad_request(&format!("`{chunk}` is no chunk: they are numbered from 0 on."))
            })?;
            Reply::json(200, &source.put_chunk(number(&job)?, chunk, request.body.clone()).await?)
        }
        JobsRoute::Seal { job } => {
            let chunks = sealed_with(&request.query)?;
            Reply::json(200, &source.seal(number(&job)?, chunks).await?)
        }
    })
}

impl NewImport {
    /// Reads the query string.
    ///
    /// # Errors
    /// 400 for what is unknown, wrong or missing.
    pub fn from_query_string(query: &str) -> Result<Self, ApiError> {
        let mut import = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let text = || Some(value.to_string()).filter(|text| !text.is_empty());
            match name.as_ref() {
                "index" => import.index = value.into_owned(),
                "primaryKey" => import.primary_key = text(),
                "name" => import.name = text(),
                "partial" => import.partial = flag(&name, &value)?,
                "ordered" => import.unordered = !flag(&name, &value)?,
                "stream" => import.stream = flag(&name, &value)?,
                "onError" => {
                    import.skips_errors = match value.as_ref() {
                        "skip" => true,
                        "fail" => false,
                        other => {
                            let message =
                                format!("`onError` is `{other}`: expected `fail` or `skip`");
                            return Err(bad_request(&message));
                        }
                    }
                }
                other => {
                    return Err(bad_request(&format!(
                        "Unknown parameter `{other}`: expected one of `index`, `primaryKey`, `name`, `partial`, `ordered`, `onError`, `stream`"
                    )));
                }
            }
        }
        if import.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(bad_request(&format!("`name` is longer than {NAME_BYTES_MAX} bytes")));
        }
        if import.index.is_empty() {
            return Err(bad_request("Missing parameter `index`"));
        }
        check_index_uid(&import.index)?;
        if let Some(key) = import.primary_key.as_deref().filter(|key| is_reserved(key)) {
            return Err(crate::writes::reserved_field(key));
        }
        Ok(import)
    }
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    value
        .parse()
        .map_err(|_| bad_request(&format!("`{name}` is `{value}`: expected `true` or `false`")))
}

fn sealed_with(query: &str) -> Result<u32, ApiError> {
    let mut chunks = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match (name.as_ref(), value.parse()) {
            ("chunks", Ok(number)) => chunks = Some(number),
            _ => return Err(bad_request("Expected `chunks`, the number of chunks, and no more")),
        }
    }
    chunks.ok_or_else(|| bad_request("Missing parameter `chunks`: the number of chunks"))
}

fn number(job: &str) -> Result<u64, ApiError> {
    job.parse().map_err(|_| not_found(job))
}

/// The refusal for a job that is not there.
pub(crate) fn not_found(job: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::MiroirJobNotFound, format!("Job `{job}` not found."))
}

fn bad_request(message: &str) -> ApiError {
    ApiError::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_read_from_its_query_string() {
        let read = NewImport::from_query_string;
        let import = read("index=films&primaryKey=id&ordered=false&onError=skip&name=a%20b");
        let expected = NewImport {
            index: "films".into(),
            primary_key: Some("id".into()),
            name: Some("a b".into()),
            unordered: true,
            skips_errors: true,
            ..NewImport::default()
        };
        assert_eq!(import, Ok(expected));
        for (query, code) in [
            ("", "bad_request"),
            ("index=a&what=1", "bad_request"),
            ("index=a&ordered=1", "bad_request"),
            ("index=a&onError=x", "bad_request"),
            ("index=a%20b", "invalid_index_uid"),
            ("index=a&primaryKey=_miroir_shard", "miroir_reserved_field"),
        ] {
            let refused = read(query).err().map(|error| error.code.name());
            assert_eq!(refused, Some(code), "{query}");
        }
        assert_eq!(sealed_with("chunks=3"), Ok(3));
        assert!(sealed_with("chunks=-3").is_err() && sealed_with("").is_err());
    }
}
