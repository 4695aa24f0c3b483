//! `miroir ctl export-dump`: the whole cluster as one dump that Meilisearch and `import-dump` read.
//!
//! Indexes with their settings and documents, API keys, webhooks and what is switched on; not tasks. Documents are read page by page over the
//! API. A dump is of one moment only if nothing is written meanwhile: that is found out and said.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use miroir_seams::Clock;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tar::{Builder, Header};
use time::format_description::well_known::Rfc3339;

use super::client::{AdminClient, TooLarge};
use super::dump::{self, DumpMetadata, DumpedWebhooks, IndexMetadata};
use super::import::patiently;

/// Documents read at a time.
const PAGE_DOCUMENTS: usize = 1000;
/// Between two looks at whether tasks are open.
const TASK_PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `miroir ctl export-dump`.
#[derive(Clone, Debug, Args)]
pub struct ExportDumpArgs {
    /// The file to write; it must not exist.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Leave API keys out.
    #[arg(long)]
    pub without_keys: bool,
    /// Begin though tasks are open, instead of waiting for them.
    #[arg(long)]
    pub no_wait: bool,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// Where it is.
    pub file: PathBuf,
    /// Indexes.
    pub indexes: usize,
    /// Documents over all of them.
    pub documents: u64,
    /// API keys.
    pub keys: usize,
    /// Webhooks.
    pub webhooks: usize,
    /// Nothing was written meanwhile: the dump is of one moment.
    pub of_one_moment: bool,
}

#[derive(Deserialize)]
struct DocumentsPage {
    results: Vec<Box<RawValue>>,
}

/// Exports the cluster.
///
/// # Errors
/// A file that exists or can't be written, a pod that refuses or is away for long.
pub async fn export_dump(master: &AdminClient, args: &ExportDumpArgs) -> anyhow::Result<Exported> {
    let exists = args.file.try_exists().unwrap_or(false);
    if exists {
        bail!(crate::exit::Refused(format!("{} exists already", args.file.display())));
    }
    if !args.no_wait {
        while open_tasks(master).await? > 0 {
            Clock::real().sleep(TASK_PAUSE).await;
        }
    }
    let before = newest_task(master).await?;
    let directory = args.file.parent().filter(|path| !path.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let cannot_write = || format!("can't write {}", args.file.display());
    // A file of that name is there only when it is whole.
    let unfinished = tempfile::NamedTempFile::new_in(directory).with_context(cannot_write)?;
    let packed = GzEncoder::new(BufWriter::new(unfinished), Compression::default());
    let mut writer = DumpWriter { archive: Builder::new(packed), now: Clock::real().now() };
    let mut exported = Exported { file: args.file.clone(), ..Exported::default() };

    let version = get(master, "/version").await?;
    let metadata = DumpMetadata {
        dump_version: dump::FORMAT.to_owned(),
        db_version: version["pkgVersion"].as_str().unwrap_or("1.15.0").to_owned(),
        dump_date: writer.now.format(&Rfc3339)?,
    };
    writer.text("metadata.json", &serde_json::to_string(&metadata)?)?;
    let keys = if args.without_keys { Vec::new() } else { all(master, "/keys").await? };
    exported.keys = keys.len();
    let lines: Vec<String> =
        keys.iter().map(|key| format!("{}\n", dump::key_to_dump(key))).collect();
    writer.text("keys.jsonl", &lines.concat())?;
    let webhooks = webhooks(master).await?;
    exported.webhooks = webhooks.webhooks.len();
    writer.text("webhooks.json", &serde_json::to_string(&webhooks)?)?;
    let features = get(master, "/experimental-features").await?;
    writer.text("experimental-features.json", &features.to_string())?;
    writer.text("tasks/queue.jsonl", "")?;
    for index in all(master, "/indexes").await? {
        exported.documents += export_index(master, &mut writer, &index, directory).await?;
        exported.indexes += 1;
    }
    let packed = writer.archive.into_inner().with_context(cannot_write)?;
    let file = packed.finish().with_context(cannot_write)?;
    let file = file.into_inner().map_err(|error| error.into_error()).with_context(cannot_write)?;
    file.as_file().sync_all().with_context(cannot_write)?;
    file.persist_noclobber(&args.file).with_context(cannot_write)?;
    exported.of_one_moment = open_tasks(master).await? == 0 && newest_task(master).await? == before;
    if !exported.of_one_moment {
        eprintln!(
            "documents or settings were written meanwhile: the dump may have some of them and not others"
        );
    }
    Ok(exported)
}

/// Webhooks as dumps have them. Pods show what authorizes them masked.
async fn webhooks(master: &AdminClient) -> anyhow::Result<DumpedWebhooks> {
    let shown = get(master, "/webhooks").await?;
    let mut dumped = DumpedWebhooks::default();
    for webhook in shown["results"].as_array().into_iter().flatten() {
        let uuid = webhook["uuid"].as_str().context("a webhook without a uuid")?;
        let (url, headers) = (&webhook["url"], &webhook["headers"]);
        if headers
            .as_object()
            .is_some_and(|headers| headers.keys().any(|name| dump::is_masked(name)))
        {
            eprintln!(
                "webhook {url}: its `authorization` is masked in the dump, set it again after an import"
            );
        }
        dumped.webhooks.insert(uuid.to_owned(), json!({ "url": url, "headers": headers }));
    }
    Ok(dumped)
}

async fn get(master: &AdminClient, path: &str) -> anyhow::Result<Value> {
    Ok(patiently("export", || master.ask::<Value>(Method::GET, path)).await?.1)
}

/// Every page of a listing.
async fn all(master: &AdminClient, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    loop {
        let page = get(master, &format!("{path}?limit=1000&offset={}", found.len())).await?;
        let results = page["results"].as_array().cloned().unwrap_or_default();
        if results.is_empty() {
            return Ok(found);
        }
        found.extend(results);
    }
}

async fn open_tasks(master: &AdminClient) -> anyhow::Result<u64> {
    let open = get(master, "/tasks?statuses=enqueued,processing&limit=1").await?;
    Ok(open["total"].as_u64().unwrap_or_default())
}

async fn newest_task(master: &AdminClient) -> anyhow::Result<Option<u64>> {
    Ok(get(master, "/tasks?limit=1").await?["results"][0]["uid"].as_u64())
}

async fn export_index(
    master: &AdminClient,
    writer: &mut DumpWriter<impl Write>,
    index: &Value,
    directory: &Path,
) -> anyhow::Result<u64> {
    let text = |name: &str| index[name].as_str().unwrap_or_default().to_owned();
    let uid = text("uid");
    let path = format!("/indexes/{}", utf8_percent_encode(&uid, NON_ALPHANUMERIC));
    let metadata = IndexMetadata {
        uid: uid.clone(),
        primary_key: index["primaryKey"].as_str().map(str::to_owned),
        created_at: text("createdAt"),
        updated_at: text("updatedAt"),
    };
    writer.text(&format!("indexes/{uid}/metadata.json"), &serde_json::to_string(&metadata)?)?;
    let settings = get(master, &format!("{path}/settings")).await?;
    writer.text(&format!("indexes/{uid}/settings.json"), &settings.to_string())?;
    let has_vectors = settings["embedders"].as_object().is_some_and(|all| !all.is_empty());
    // The archive wants to know the size before the content.
    let mut spool = BufWriter::new(tempfile::tempfile_in(directory)?);
    let (mut documents, mut limit) = (0, PAGE_DOCUMENTS);
    loop {
        let query = json!({
            "offset": documents, "limit": limit, "retrieveVectors": has_vectors,
        });
        let fetch = format!("{path}/documents/fetch");
        let page = || master.send_json::<DocumentsPage>(Method::POST, &fetch, &query);
        let page = match patiently("export", page).await {
            Ok((_, page)) => page,
            // Documents are large here.
            Err(error) if error.is::<TooLarge>() && limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        for document in &page.results {
            spool.write_all(document.get().as_bytes())?;
            spool.write_all(b"\n")?;
        }
        documents += page.results.len() as u64;
        if page.results.len() < limit {
            break;
        }
        eprintln!("{uid}: {documents} documents");
    }
    let mut spool = spool.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    let bytes = spool.stream_position()?;
    spool.seek(SeekFrom::Start(0))?;
    writer.file(&format!("indexes/{uid}/documents.jsonl"), bytes, spool)?;
    eprintln!("{uid}: {documents} documents, all of them");
    Ok(documents)
}

/// Writes files into the archive.
struct DumpWriter<W: Write> {
    archive: Builder<W>,
    now: time::OffsetDateTime,
}

impl<W: Write> DumpWriter<W> {
    fn text(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.file(path, bytes.len() as u64, bytes.as_ref())
    }

    fn file(&mut self, path: &str, bytes: u64, from: impl std::io::Read) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(u64::try_from(self.now.unix_timestamp()).unwrap_or_default());
        self.archive.append_data(&mut header, path, from).context("the dump can't be written")
    }
}
