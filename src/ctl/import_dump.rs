//! `miroir ctl import-dump`: a dump of a Meilisearch server, or of a cluster, brought into this one.
//!
//! Keys, indexes and their settings come first, then the documents of each index as an import job
//! ([`super::import`]), as the file is read: at most a chunk of it is in memory. What was broken off goes on with
//! `--resume`. Tasks and batches of a dump are left.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http::Method;
use miroir_gateway::jobs::{JobStatus, JobView, JobsAnswer};
use miroir_seams::Clock;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::client::AdminClient;
use super::dump::{self, Dump, Part};
use super::import::{OnError, Upload, patiently, send, unfinished, watch};
use crate::config::ByteSize;
use crate::exit::Refused;

/// Between two looks at a task.
const TASK_PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `miroir ctl import-dump`.
#[derive(Clone, Debug, Args)]
pub struct ImportDumpArgs {
    /// A dump of Meilisearch 1.0 or later, or of `export-dump`.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Go on with an import of this file that was broken off.
    #[arg(long)]
    pub resume: bool,
    /// Leave the dump's API keys out.
    #[arg(long)]
    pub without_keys: bool,
    /// Leave the dump's webhooks out: they would be told of this cluster's tasks from now on.
    #[arg(long)]
    pub without_webhooks: bool,
    /// Cut the documents into chunks of about this size.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = ByteSize::from_text)]
    pub chunk_size: ByteSize,
    /// Wait until everything is imported.
    #[arg(long)]
    pub watch: bool,
}

/// Imports the dump; the jobs as the pod's last answers have them.
///
/// # Errors
/// A file that is no dump, an index that exists already, a pod that refuses or is away for long, a
/// job that failed.
pub async fn import_dump(
    client: &AdminClient,
    master: &AdminClient,
    args: &ImportDumpArgs,
) -> anyhow::Result<Vec<JobView>> {
    let dump = dump::read(&args.file)?;
    eprintln!(
        "{}: {} indexes, {} keys, written by Meilisearch {} on {}",
        args.file.display(),
        dump.indexes.len(),
        dump.keys.len(),
        dump.metadata.db_version,
        dump.metadata.dump_date
    );
    if !args.resume {
        refuse_existing(master, &dump).await?;
    }
    if !args.without_keys {
        for key in &dump.keys {
            make_key(master, key).await?;
        }
    }
    for feature in &dump.features {
        switch_on(master, feature).await?;
    }
    if !args.without_webhooks {
        make_webhooks(master, &dump.webhooks).await?;
    }
    for (directory, index) in &dump.indexes {
        let metadata = index.metadata.as_ref();
        let uid = metadata.map_or(directory.as_str(), |metadata| metadata.uid.as_str());
        let primary_key = metadata.and_then(|metadata| metadata.primary_key.as_deref());
        make_index(master, uid, primary_key).await?;
        set_settings(master, uid, dump::settings_to_send(&index.settings)).await?;
    }
    let mut jobs = upload_documents(client, &dump, args).await?;
    for job in &mut jobs {
        if args.watch {
            *job = watch(client, job.id).await?.1;
        }
        if let JobStatus::Failed | JobStatus::Canceled = job.status {
            bail!("{}", unfinished(job));
        }
    }
    Ok(jobs)
}

/// A dump is not laid over what is there.
async fn refuse_existing(master: &AdminClient, dump: &Dump) -> anyhow::Result<()> {
    let mut known = BTreeSet::new();
    loop {
        let path = format!("/indexes?limit=1000&offset={}", known.len());
        let (_, page) = patiently("import", || master.ask::<Value>(Method::GET, &path)).await?;
        let results = page["results"].as_array().cloned().unwrap_or_default();
        if results.is_empty() {
            break;
        }
        known.extend(results.iter().filter_map(|index| index["uid"].as_str().map(str::to_owned)));
    }
    let uid_of = |(directory, index): (&String, &dump::DumpedIndex)| {
        index.metadata.as_ref().map_or_else(|| directory.clone(), |metadata| metadata.uid.clone())
    };
    let there: Vec<String> =
        dump.indexes.iter().map(uid_of).filter(|uid| known.contains(uid)).collect();
    match there.is_empty() {
        true => Ok(()),
        false => Err(Refused(format!(
            "there are indexes of these names already: {}. Delete them, or use --resume if an import of this dump was broken off",
            there.join(", ")
        ))
        .into()),
    }
}

/// A key that is there already is left as it is; one that can't be made is named.
async fn make_key(master: &AdminClient, key: &Value) -> anyhow::Result<()> {
    let body = dump::key_to_send(key);
    let made = patiently("keys", || master.send_json::<Value>(Method::POST, "/keys", &body)).await;
    match made {
        Ok(_) => Ok(()),
        Err(error) if is_refusal(&error, "api_key_already_exists") => Ok(()),
        Err(error) if error.is::<Refused>() => {
            eprintln!("key {} is left out: {error}", body["uid"]);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// What has no meaning here is named and left off.
async fn switch_on(master: &AdminClient, feature: &str) -> anyhow::Result<()> {
    let body = json!({ feature: true });
    let path = "/experimental-features";
    let switched =
        patiently("features", || master.send_json::<Value>(Method::PATCH, path, &body)).await;
    match switched {
        Err(error) if error.is::<Refused>() => {
            eprintln!("experimental feature {feature} stays off: {error}");
            Ok(())
        }
        switched => switched.map(|_| ()),
    }
}

/// One whose address is there already is left as it is; one that can't be made is named.
async fn make_webhooks(master: &AdminClient, webhooks: &[Value]) -> anyhow::Result<()> {
    if webhooks.is_empty() {
        return Ok(());
    }
    let listed = || master.ask::<Value>(Method::GET, "/webhooks");
    let (_, known) = patiently("webhooks", listed).await?;
    let known: BTreeSet<&str> = known["results"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|webhook| webhook["url"].as_str())
        .collect();
    for webhook in webhooks {
        let url = webhook["url"].as_str().unwrap_or_default();
        if known.contains(url) {
            continue;
        }
        let headers = webhook["headers"].as_object().cloned().unwrap_or_default();
        if headers.iter().any(|(name, value)| dump::is_masked(name) && is_mask(value)) {
            eprintln!("webhook {url}: set its `authorization` again, which is masked in the dump");
        }
        let body = json!({ "url": url, "headers": headers });
        let made =
            patiently("webhooks", || master.send_json::<Value>(Method::POST, "/webhooks", &body));
        match made.await {
            Err(error) if error.is::<Refused>() => {
                eprintln!("webhook {url} is left out: {error}");
            }
            made => drop(made?),
        }
    }
    Ok(())
}

fn is_mask(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with("XXX..."))
}

fn is_refusal(error: &anyhow::Error, code: &str) -> bool {
    error.is::<Refused>() && error.to_string().contains(&format!("({code})"))
}

async fn make_index(
    master: &AdminClient,
    uid: &str,
    primary_key: Option<&str>,
) -> anyhow::Result<()> {
    let body = json!({ "uid": uid, "primaryKey": primary_key });
    match carry_out(master, Method::POST, "/indexes", &body).await? {
        None => Ok(()),
        Some(error) if error["code"] == "index_already_exists" => Ok(()),
        Some(error) => bail!("index {uid} could not be made: {error}"),
    }
}

/// What this version does not know is named and left out.
async fn set_settings(
    master: &AdminClient,
    uid: &str,
    mut settings: Map<String, Value>,
) -> anyhow::Result<()> {
    let encoded = utf8_percent_encode(uid, NON_ALPHANUMERIC);
    let path = format!("/indexes/{encoded}/settings");
    loop {
        let body = Value::Object(settings.clone());
        match carry_out(master, Method::PATCH, &path, &body).await {
            Ok(None) => return Ok(()),
            Ok(Some(error)) => bail!("settings of {uid} are refused: {error}"),
            Err(error) => {
                match unknown_field(&error).filter(|field| settings.contains_key(field)) {
                    Some(field) => {
                        eprintln!("setting {field} of {uid} is left out: it is not known here");
                        settings.shift_remove(&field);
                    }
                    None => return Err(error.context(format!("settings of {uid}"))),
                }
            }
        }
    }
}

/// The field that a refusal calls unknown.
fn unknown_field(error: &anyhow::Error) -> Option<String> {
    let said = error.is::<Refused>().then(|| error.to_string())?;
    let (_, rest) = said.split_once("Unknown field `")?;
    rest.split_once('`').map(|(field, _)| field.to_owned())
}

/// Sends what makes a task and waits for its end; the task's error.
async fn carry_out(
    master: &AdminClient,
    method: Method,
    path: &str,
    body: &Value,
) -> anyhow::Result<Option<Value>> {
    let sent = || master.send_json::<Value>(method.clone(), path, body);
    let (_, accepted) = patiently("import", sent).await?;
    let task = accepted["taskUid"].as_u64().context("a pod accepts without a task")?;
    let path = format!("/tasks/{task}");
    loop {
        let (_, view) = patiently("import", || master.ask::<Value>(Method::GET, &path)).await?;
        match view["status"].as_str() {
            Some("succeeded") => return Ok(None),
            Some("failed" | "canceled") => return Ok(Some(view["error"].clone())),
            _ => Clock::real().sleep(TASK_PAUSE).await,
        }
    }
}

/// Documents of all indexes, in the order of the file.
async fn upload_documents(
    client: &AdminClient,
    dump: &Dump,
    args: &ImportDumpArgs,
) -> anyhow::Result<Vec<JobView>> {
    let file = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (_, known) =
        patiently("import", || client.ask::<JobsAnswer>(Method::GET, "/_miroir/jobs")).await?;
    let finished: BTreeMap<(Option<String>, String), JobView> = known
        .jobs
        .into_iter()
        .filter(|job| args.resume && job.chunks.total.is_some())
        .map(|job| ((job.name.clone(), job.index_uid.clone()), job))
        .collect();
    let mut jobs = Vec::new();
    let mut archive = dump::open(&args.file)?;
    for entry in archive.entries()? {
        let entry = entry?;
        let Some(Part::Documents(directory)) = Part::of(&entry.path()?) else { continue };
        if entry.size() == 0 {
            continue;
        }
        let metadata = dump.indexes.get(&directory).and_then(|index| index.metadata.as_ref());
        let index = metadata.map_or(directory.as_str(), |metadata| metadata.uid.as_str());
        let upload = Upload {
            name: format!("{file}/{index}"),
            index,
            primary_key: metadata.and_then(|metadata| metadata.primary_key.as_deref()),
            partial: false,
            unordered: false,
            on_error: OnError::Fail,
            new: !args.resume,
            chunk_bytes: args.chunk_size.0,
        };
        if let Some(job) = finished.get(&(Some(upload.name.clone()), index.to_owned())) {
            eprintln!("{index}: all of it is there, as job {}", job.id);
            jobs.push(job.clone());
            continue;
        }
        eprintln!("{index}: {} bytes of documents", entry.size());
        let mut lines = BufReader::new(entry);
        let sent = send(client, &upload, &mut lines, dump::without_reserved).await;
        jobs.push(sent.with_context(|| format!("documents of {index}"))?.1);
    }
    Ok(jobs)
}
