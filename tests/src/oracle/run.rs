//! Loads both sides, runs the cases of a seed, counts, and prints what differs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::documents::{
    DocumentsFault, EMBEDDER, VECTOR_DOCUMENTS, enrich, id_of, read_documents, vector_of,
};
use super::judge::{Servers, Verdict, judge};
use super::profile::Profile;
use super::queries::Generator;
use super::shrink::shrink;
use super::variants::{Variant, variants};
use super::{Case, Class, Object};
use crate::client::{Api, ApiFault};

/// How long one task may take.
const TASK_PATIENCE: Duration = Duration::from_secs(300);
/// Documents in one request.
const BATCH_DOCUMENTS: usize = 1000;
/// One strict case in so many may be excused.
const EXCUSED_ONE_IN: u64 = 100;
/// Characters printed of one answer.
const PRINTED_CHARS_MAX: usize = 1500;

/// Why a run did not take place.
#[derive(Debug, thiserror::Error)]
pub enum RunFault {
    /// The documents can't be read.
    #[error(transparent)]
    Documents(#[from] DocumentsFault),
    /// A server did not answer, or refused what must work.
    #[error(transparent)]
    Api(#[from] ApiFault),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// All randomness follows from it.
    pub seed: u64,
    /// Cases `0..queries` are run.
    pub queries: u64,
    /// Only this case.
    pub only: Option<u64>,
    /// The documents.
    pub data: PathBuf,
    /// Documents taken from the file.
    pub documents_max: usize,
    /// Whether to load the documents first, or take them as loaded by an earlier run.
    pub load: bool,
    /// Whether the subject gets the documents in reverse: its ties then stand the other way
    /// round, which must make no difference.
    pub reverse_subject: bool,
    /// Failures that are shrunk and printed; more are only counted.
    pub printed_max: usize,
    /// The command that replays, without `--only`.
    pub replay: String,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Strict cases asked.
    pub strict: u64,
    /// Strict cases that differ: must be none.
    pub strict_differing: u64,
    /// Strict cases that differ in nothing but what is excused (see [`super::excuse`]).
    pub excused: u64,
    /// The differences of those cases by kind.
    pub excused_kinds: BTreeMap<&'static str, u64>,
    /// Rate cases asked.
    pub rate: u64,
    /// Rate cases that differ.
    pub rate_differing: u64,
    /// Cases that both sides refuse, alike or not.
    pub refused: u64,
    /// Cases whose ranking scores differ.
    pub scores_differing: u64,
    /// Differences in settings and statistics after loading.
    pub loaded_differing: Vec<String>,
    /// Per label of strict cases: asked, and differing.
    pub strict_labels: BTreeMap<&'static str, (u64, u64)>,
    /// Per label of rate cases: asked, and differing.
    pub rate_labels: BTreeMap<&'static str, (u64, u64)>,
    /// The failures as printed.
    pub printed: Vec<String>,
}

impl Summary {
    /// Whether both sides agree.
    pub fn agrees(&self) -> bool {
        self.strict_differing == 0
            && self.excused <= self.strict / EXCUSED_ONE_IN
            && self.loaded_differing.is_empty()
    }

    /// A few lines for people.
    pub fn report(&self) -> String {
        let mut text = format!(
            "strict: {} of {} differ, {} excused\nrate:   {} of {} differ\nscores: differ in {} cases\nrefused: {}\n",
            self.strict_differing,
            self.strict,
            self.excused,
            self.rate_differing,
            self.rate,
            self.scores_differing,
            self.refused,
        );
        for (kind, count) in &self.excused_kinds {
            let _never_fails = writeln!(text, "  excused, {kind}: {count}");
        }
        for line in &self.loaded_differing {
            let _never_fails = writeln!(text, "after loading: {line}");
        }
        for (class, labels) in [("strict", &self.strict_labels), ("rate", &self.rate_labels)] {
            for (label, (asked, differing)) in labels {
                if *differing > 0 {
                    let _never_fails =
                        writeln!(text, "  {class}, {label}: {differing} of {asked} differ");
                }
            }
        }
        text
    }
}

/// Runs the oracle. Failures are printed as they are found.
///
/// # Errors
/// When the documents can't be read or a server does not answer; a difference is no error.
pub async fn run(servers: &Servers, options: &Options) -> Result<Summary, RunFault> {
    let mut documents = read_documents(&options.data, options.documents_max)?;
    documents.iter_mut().for_each(enrich);
    let profile = Profile::of(&documents);
    let variants = variants(&profile);
    let mut summary = Summary::default();
    if options.load {
        for variant in &variants {
            summary
                .loaded_differing
                .extend(load_variant(servers, variant, &documents, options.reverse_subject).await?);
        }
    }
    let generator = Generator::new(options.seed, profile, variants);
    let numbers = match options.only {
        Some(number) => number..number + 1,
        None => 0..options.queries,
    };
    for number in numbers {
        let case = generator.case(number);
        let verdict = judge(servers, generator.variants(), &case).await?;
        let differs = !verdict.faults.is_empty();
        summary.scores_differing += u64::from(verdict.scores_differ);
        summary.refused += u64::from(verdict.reference["code"].is_string());
        let labels = match case.class {
            Class::Strict => &mut summary.strict_labels,
            Class::Rate => &mut summary.rate_labels,
        };
        for label in &case.labels {
            let count = labels.entry(label).or_default();
            count.0 += 1;
            count.1 += u64::from(differs);
        }
        match case.class {
            Class::Strict => {
                summary.strict += 1;
                summary.strict_differing += u64::from(differs);
                if !differs && !verdict.excused.is_empty() {
                    summary.excused += 1;
                    eprintln!("excused: case {number}, {}", case.labels.join(", "));
                    for fault in &verdict.excused {
                        eprintln!("  {}: {}", fault.kind(), shorten(&fault.to_string()));
                        *summary.excused_kinds.entry(fault.kind()).or_default() += 1;
                    }
                    eprintln!("  {}", Value::Object(case.body.clone()));
                }
            }
            Class::Rate => {
                summary.rate += 1;
                summary.rate_differing += u64::from(differs);
            }
        }
        let asked_for = case.class == Class::Strict || options.only.is_some();
        if differs && asked_for && summary.printed.len() < options.printed_max {
            let (case, verdict) = shrink(servers, generator.variants(), case, verdict).await?;
            let text = describe(&case, &verdict, options);
            eprintln!("{text}");
            summary.printed.push(text);
        }
    }
    Ok(summary)
}

/// A failure for people: the smallest query, both answers, and how to see it again.
fn describe(case: &Case, verdict: &Verdict, options: &Options) -> String {
    let mut text = format!(
        "--- case {} of seed {}, {:?} on {:?}, {:?} [{}]\n",
        case.number,
        options.seed,
        case.route,
        case.index,
        case.class,
        case.labels.join(", ")
    );
    for fault in verdict.faults.iter().take(5) {
        let _never_fails = writeln!(text, "difference: {}", shorten(&fault.to_string()));
    }
    let _never_fails = write!(
        text,
        "smallest body: {}\nreference: {}\nsubject:   {}\nreplay: {} --seed {} --only {} --no-load\n",
        Value::Object(case.body.clone()),
        shorten(&verdict.reference.to_string()),
        shorten(&verdict.subject.to_string()),
        options.replay,
        options.seed,
        case.number,
    );
    text
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(PRINTED_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Loads one variant on both sides (and its twin on the reference), and compares what the
/// servers then say of settings and statistics.
async fn load_variant(
    servers: &Servers,
    variant: &Variant,
    documents: &[Object],
    reverse_subject: bool,
) -> Result<Vec<String>, ApiFault> {
    let documents: Vec<Object> = if variant.vectors {
        documents.iter().take(VECTOR_DOCUMENTS).cloned().map(with_vector).collect()
    } else {
        documents.to_vec()
    };
    let forwards = Load { variant, settings: &variant.settings, reverse: false };
    let subject = Load { reverse: reverse_subject, ..forwards };
    let (reference, subject) = tokio::join!(
        load_index(&servers.reference, variant.index, forwards, &documents),
        load_index(&servers.subject, variant.index, subject, &documents),
    );
    reference?;
    subject?;
    if let Some(settings) = &variant.twin_settings {
        let twin = variant.twin_index();
        let load = Load { settings, ..forwards };
        load_index(&servers.reference, &twin, load, &documents).await?;
    }
    let mut differing = Vec::new();
    for part in ["settings", "stats"] {
        let path = format!("/indexes/{}/{part}", variant.index);
        let (mut left, mut right) =
            (servers.reference.get(&path).await?, servers.subject.get(&path).await?);
        for side in [&mut left, &mut right] {
            // Sizes on disk, and members that newer versions add, are no concern here.
            if let (Some(object), "stats") = (side.as_object_mut(), part) {
                object.retain(|key, _| {
                    ["numberOfDocuments", "fieldDistribution", "isIndexing"].contains(&key.as_str())
                });
            }
        }
        if left != right {
            differing.push(format!("{path}: {right} instead of {left}"));
        }
    }
    Ok(differing)
}

/// How one index is loaded.
#[derive(Clone, Copy)]
struct Load<'a> {
    variant: &'a Variant,
    settings: &'a Value,
    /// Whether the documents are added last to first.
    reverse: bool,
}

/// Brings one index into its state by a mixture of writes: additions in batches, a
/// replacement, partial updates, deletions by ids and by filter, and additions of the deleted.
async fn load_index(
    api: &Api,
    index: &str,
    Load { variant, settings, reverse }: Load<'_>,
    documents: &[Object],
) -> Result<(), ApiFault> {
    let root = format!("/indexes/{index}");
    // Fails when there is none, which is the usual case.
    if let Ok(uid) = api.enqueue(Method::DELETE, &root, None).await {
        api.wait_for_task(uid, TASK_PATIENCE).await?;
    }
    let mut tasks = Vec::new();
    let create = json!({ "uid": index, "primaryKey": "id" });
    tasks.push(api.enqueue(Method::POST, "/indexes", Some(&create)).await?);
    let settings_path = format!("{root}/settings");
    if variant.settings_first {
        tasks.push(api.enqueue(Method::PATCH, &settings_path, Some(settings)).await?);
    }
    let path = format!("{root}/documents");
    let mut added: Vec<&Object> = documents.iter().collect();
    if reverse {
        added.reverse();
    }
    for batch in added.chunks(BATCH_DOCUMENTS) {
        tasks.push(api.enqueue(Method::POST, &path, Some(&json!(batch))).await?);
    }
    if !variant.settings_first {
        tasks.push(api.enqueue(Method::PATCH, &settings_path, Some(settings)).await?);
    }
    let every = |n: usize, rest: usize| documents.iter().skip(rest).step_by(n);
    let flags: Vec<Value> =
        every(17, 3).map(|doc| json!({ "id": doc["id"], "flag": true, "mixed": 4 })).collect();
    tasks.push(api.enqueue(Method::PUT, &path, Some(&json!(flags))).await?);
    let gone: Vec<&Object> = every(23, 5).collect();
    let ids: Vec<String> = gone.iter().map(|doc| id_of(doc)).collect();
    let batch_path = format!("{path}/delete-batch");
    tasks.push(api.enqueue(Method::POST, &batch_path, Some(&json!(ids))).await?);
    let filter = json!({ "filter": "bucket = b07 AND flag = true" });
    tasks.push(api.enqueue(Method::POST, &format!("{path}/delete"), Some(&filter)).await?);
    let back: Vec<&Object> = gone.into_iter().step_by(2).collect();
    tasks.push(api.enqueue(Method::POST, &path, Some(&json!(back))).await?);
    for uid in tasks {
        let task = api.wait_for_task(uid, TASK_PATIENCE).await?;
        if task["status"] != json!("succeeded") {
            return Err(ApiFault::Task { uid, task });
        }
    }
    Ok(())
}

fn with_vector(mut document: Object) -> Object {
    let vector = vector_of(&id_of(&document));
    // An explicit null says that the document has no vector, as a given one must.
    document.insert("_vectors".into(), json!({ EMBEDDER: vector }));
    document
}
