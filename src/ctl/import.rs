//! `miroir ctl import`: a file, cut into chunks of whole lines, uploaded as a job.
//!
//! An upload that was broken off goes on when the same command is run again, on whichever pod: the
//! job is found by its name, index and options, and chunks that are there are not sent again. They
//! are compared by their SHA-256, so another file, or other chunks, are noticed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use flate2::read::MultiGzDecoder;
use http::Method;
use miroir_gateway::jobs::{ChunkView, ChunksAnswer, JobStatus, JobView, JobsAnswer};
use miroir_seams::Clock;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::client::{AdminClient, TryAgain};
use crate::config::ByteSize;
use crate::exit::Refused;

/// How long a pod that does not answer, or has no quorum, is asked again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at the job.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
/// How long an upload of one chunk may take, beside a second for every [`BYTES_PER_SECOND`].
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What any way to a pod is expected to carry.
const BYTES_PER_SECOND: u64 = 1 << 20;

/// Arguments of `miroir ctl import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// An NDJSON file, one document a line; `.gz` is unpacked.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The index; it is created if need be.
    #[arg(long, value_name = "INDEX")]
    pub index: String,
    /// The primary key, for an index that has none yet.
    #[arg(long, value_name = "FIELD")]
    pub primary_key: Option<String>,
    /// Cut the file into chunks of about this size.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = ByteSize::from_text)]
    pub chunk_size: ByteSize,
    /// Update documents in part instead of replacing them.
    #[arg(long)]
    pub partial: bool,
    /// Work on several chunks at the same time. Of lines with the same id, any may win.
    #[arg(long)]
    pub unordered: bool,
    /// What to do with a line that can't be imported.
    #[arg(long, value_enum, default_value_t = OnError::Fail)]
    pub on_error: OnError,
    /// Begin a new job even if one of this file was broken off.
    #[arg(long)]
    pub new: bool,
    /// Wait until everything is imported.
    #[arg(long)]
    pub watch: bool,
}

/// What to do with a line that can't be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// End the job there.
    Fail,
    /// Leave it out and count it.
    Skip,
}

/// Imports the file; the job as the pod's last answer has it, and what it is.
///
/// # Errors
/// A file that can't be read, a pod that refuses or is away for long, a job that failed.
pub async fn import(client: &AdminClient, args: &ImportArgs) -> anyhow::Result<(String, JobView)> {
    let mut lines = open(&args.file)?;
    let upload = Upload {
        name: args.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        index: &args.index,
        primary_key: args.primary_key.as_deref(),
        partial: args.partial,
        unordered: args.unordered,
        on_error: args.on_error,
        new: args.new,
        chunk_bytes: args.chunk_size.0,
    };
    let mut sealed = send(client, &upload, lines.as_mut(), |chunk| chunk)
        .await
        .with_context(|| format!("{} could not be imported", args.file.display()))?;
    if args.watch {
        sealed = watch(client, sealed.1.id).await?;
    }
    if let JobStatus::Failed | JobStatus::Canceled = sealed.1.status {
        bail!("{}", unfinished(&sealed.1));
    }
    Ok(sealed)
}

/// Lines that become one job.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    /// An upload that was broken off is found by its name.
    pub name: String,
    pub index: &'a str,
    pub primary_key: Option<&'a str>,
    pub partial: bool,
    pub unordered: bool,
    pub on_error: OnError,
    pub new: bool,
    pub chunk_bytes: u64,
}

/// Uploads the lines, each chunk as `change` makes it; the job once it has all of them.
pub(super) async fn send(
    client: &AdminClient,
    upload: &Upload<'_>,
    lines: &mut dyn BufRead,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> anyhow::Result<(String, JobView)> {
    // A creation whose answer was lost is found by its name.
    let (job, known) = patiently("import", || begin(client, upload)).await?;
    let called = format!("job {job}");
    let mut number = 0;
    let mut sent_bytes = 0;
    while let Some(chunk) =
        next_chunk(lines, upload.chunk_bytes).context("the file can't be read")?
    {
        let chunk = change(chunk);
        let bytes = chunk.len() as u64;
        match known.get(&number) {
            Some(there) if is_same(there, &chunk) => {}
            Some(_) => {
                return Err(Refused(format!(
                    "job {job} has chunk {number} with other content: go on with the same file and --chunk-size, or begin anew with --new"
                ))
                .into());
            }
            None => {
                let path = format!("/_miroir/jobs/{job}/chunks/{number}");
                let timeout = UPLOAD_TIMEOUT + Duration::from_secs(bytes / BYTES_PER_SECOND);
                let chunk = Bytes::from(chunk);
                patiently(&called, || {
                    client.send::<ChunkView>(Method::PUT, &path, chunk.clone(), timeout)
                })
                .await?;
            }
        }
        number += 1;
        sent_bytes += bytes;
        eprintln!("job {job}: chunk {number} is there, {sent_bytes} bytes");
    }
    let path = format!("/_miroir/jobs/{job}/seal?chunks={number}");
    patiently(&called, || client.ask::<JobView>(Method::POST, &path)).await
}

/// The job to go on with, and the chunks that it has; a new one if there is none.
async fn begin(
    client: &AdminClient,
    upload: &Upload<'_>,
) -> anyhow::Result<(u64, BTreeMap<u32, ChunkView>)> {
    if !upload.new {
        let (_, known) = client.ask::<JobsAnswer>(Method::GET, "/_miroir/jobs").await?;
        let begun = known.jobs.iter().rev().find(|job| is_begun(job, upload));
        if let Some(JobView { id, .. }) = begun {
            let path = format!("/_miroir/jobs/{id}/chunks");
            let (_, there) = client.ask::<ChunksAnswer>(Method::GET, &path).await?;
            eprintln!("job {id}: going on, {} chunks are there", there.chunks.len());
            let there = there.chunks.into_iter().map(|chunk| (chunk.number, chunk));
            return Ok((*id, there.collect()));
        }
    }
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let key = upload.primary_key.iter().map(|key| format!("&primaryKey={}", encode(key)));
    let path = format!(
        "/_miroir/jobs/imports?index={}&name={}&partial={}&ordered={}&onError={}{}",
        encode(upload.index),
        encode(&upload.name),
        upload.partial,
        !upload.unordered,
        on_error(upload),
        key.collect::<String>()
    );
    let (_, job) = client.ask::<JobView>(Method::POST, &path).await?;
    eprintln!("job {}: begun; if this is broken off, the same command goes on", job.id);
    Ok((job.id, BTreeMap::new()))
}

fn on_error(upload: &Upload<'_>) -> &'static str {
    match upload.on_error {
        OnError::Fail => "fail",
        OnError::Skip => "skip",
    }
}

/// Whether an earlier run of the same command began the job and did not finish its upload.
fn is_begun(job: &JobView, upload: &Upload<'_>) -> bool {
    job.status == JobStatus::Running
        && job.chunks.total.is_none()
        && job.name.as_deref() == Some(upload.name.as_str())
        && job.index_uid == upload.index
        && job.primary_key.as_deref() == upload.primary_key
        && job.partial == upload.partial
        && job.ordered != upload.unordered
        && job.on_error == on_error(upload)
}

fn is_same(there: &ChunkView, chunk: &[u8]) -> bool {
    let digest = Sha256::digest(chunk);
    let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    there.bytes == chunk.len() as u64 && there.sha256 == text
}

/// Tries again for a while what may help; as long as it takes when too much waits. What is tried
/// may be done twice.
pub(super) async fn patiently<T, F>(called: &str, attempt: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let clock = Clock::real();
    let mut since = None;
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        match error.downcast_ref::<TryAgain>() {
            Some(again) if again.is_overloaded() => {
                since = None;
                eprintln!("{called}: waiting, too much is to be worked on");
            }
            Some(_) => {
                let now = clock.instant();
                if now.saturating_duration_since(*since.get_or_insert(now)) > PATIENCE {
                    return Err(error.context(format!(
                        "{called} is not finished: run the same command again to go on"
                    )));
                }
                eprintln!("{called}: trying again: {error}");
            }
            None => return Err(error),
        }
        clock.sleep(RETRY_PAUSE).await;
    }
}

/// Looks at the job until it has ended.
pub(super) async fn watch(client: &AdminClient, job: u64) -> anyhow::Result<(String, JobView)> {
    let (path, called) = (format!("/_miroir/jobs/{job}"), format!("job {job}"));
    let mut shown = None;
    loop {
        let (text, view) = patiently(&called, || client.ask::<JobView>(Method::GET, &path)).await?;
        if shown != Some((view.bytes_done, view.documents)) {
            shown = Some((view.bytes_done, view.documents));
            let left = view.seconds_left.map_or(String::new(), |left| format!(", {left} s left"));
            let percent = (view.bytes_done * 100).checked_div(view.bytes).unwrap_or(100);
            eprintln!("job {job}: {percent} %, {} documents{left}", view.documents);
        }
        if view.status != JobStatus::Running {
            return Ok((text, view));
        }
        Clock::real().sleep(WATCH_PAUSE).await;
    }
}

/// What is said of a job that did not come to its end.
pub(super) fn unfinished(job: &JobView) -> String {
    let why = job.failure.as_deref().unwrap_or("it was canceled");
    let place = job.errors.first().and_then(|error| error.line);
    let place = place.map_or(String::new(), |line| format!("line {line}: "));
    format!("job {}: {place}{why} ({} documents were imported before)", job.id, job.documents)
}

fn open(file: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    let opened = File::open(file).with_context(|| format!("can't open {}", file.display()))?;
    let is_packed = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    Ok(match is_packed {
        true => Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(opened)))),
        false => Box::new(BufReader::new(opened)),
    })
}

/// The next `bytes` and the rest of the line; `None` at the end.
fn next_chunk(lines: &mut dyn BufRead, bytes: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut chunk = Vec::new();
    (&mut *lines).take(bytes.max(1)).read_to_end(&mut chunk)?;
    if chunk.last().is_some_and(|last| *last != b'\n') {
        lines.read_until(b'\n', &mut chunk)?;
    }
    Ok((!chunk.is_empty()).then_some(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_lines_and_always_the_same() {
        let text = "{\"a\":1}\n{\"a\":22}\n\n{\"a\":333}";
        for size in 1..40 {
            let mut lines = text.as_bytes();
            let mut chunks = Vec::new();
            while let Some(chunk) = next_chunk(&mut lines, size).expect("in memory") {
                chunks.push(chunk);
            }
            let (last, whole) = chunks.split_last().expect("chunks");
            assert!(whole.iter().all(|chunk| chunk.ends_with(b"\n")), "{size}");
            assert!(!last.is_empty());
            assert_eq!(chunks.concat(), text.as_bytes(), "{size}");
        }
        assert!(next_chunk(&mut "".as_bytes(), 5).is_ok_and(|chunk| chunk.is_none()));
    }
}
