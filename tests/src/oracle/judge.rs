//! Asks both sides, compares, and asks the reference again where ties decide.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::compare::{
    Fault, Question, compare_errors, compare_hits, compare_search, distinct_twice, hit_ids,
    scores_differ,
};
use super::documents::text_of;
use super::excuse::excuse;
use super::filters::quote;
use super::order::{OrderFault, Standing, check_order, plainly_equal};
use super::routes::{judge_facet_search, judge_federation, judge_similar};
use super::variants::Variant;
use super::{Case, Object, Route};
use crate::client::{Api, ApiFault};

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one node that is right by definition.
    Reference,
    /// The server under test.
    Subject,
}

/// One side's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// Whether the bytes contain `_miroir`.
    pub leaks: bool,
}

/// Answers from both sides: real servers, or canned in tests.
pub trait Answers: Sync {
    /// Sends `body` to `side`.
    fn ask(
        &self,
        side: Side,
        route: Route,
        index: &str,
        body: &Object,
    ) -> impl Future<Output = Result<Reply, ApiFault>> + Send;
}

/// Two real servers.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The reference.
    pub reference: Api,
    /// The subject.
    pub subject: Api,
}

impl Answers for Servers {
    async fn ask(
        &self,
        side: Side,
        route: Route,
        index: &str,
        body: &Object,
    ) -> Result<Reply, ApiFault> {
        let api = match side {
            Side::Reference => &self.reference,
            Side::Subject => &self.subject,
        };
        let path = match route {
            Route::Search => format!("/indexes/{index}/search"),
            Route::MultiSearch | Route::Federation => "/multi-search".to_owned(),
            Route::Documents => format!("/indexes/{index}/documents/fetch"),
            Route::FacetSearch => format!("/indexes/{index}/facet-search"),
            Route::Similar => format!("/indexes/{index}/similar"),
        };
        let bytes = Bytes::from(Value::Object(body.clone()).to_string());
        let answer = api.send(Method::POST, &path, Some("application/json"), bytes).await?;
        let leaks = answer.bytes.windows(7).any(|part| part == b"_miroir");
        Ok(Reply { status: answer.status, body: answer.json(), leaks })
    }
}

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The differences; none when the answers agree.
    pub faults: Vec<Fault>,
    /// Differences that are shown not to be the subject's to avoid; see [`super::excuse`].
    pub excused: Vec<Fault>,
    /// Whether ranking scores differ, which is only counted.
    pub scores_differ: bool,
    /// The reference's answer.
    pub reference: Value,
    /// The subject's answer.
    pub subject: Value,
}

/// Asks both sides `case` and compares.
///
/// # Errors
/// When a side does not answer.
pub async fn judge<A: Answers>(
    answers: &A,
    variants: &[Variant],
    case: &Case,
) -> Result<Verdict, ApiFault> {
    let (reference, subject) = tokio::join!(
        answers.ask(Side::Reference, case.route, &case.index, &case.body),
        answers.ask(Side::Subject, case.route, &case.index, &case.body),
    );
    let (reference, subject) = (reference?, subject?);
    let mut verdict = Verdict {
        faults: Vec::new(),
        excused: Vec::new(),
        scores_differ: false,
        reference: reference.body,
        subject: subject.body,
    };
    if subject.leaks && !reference.leaks {
        verdict.faults.push(Fault::Leak);
    }
    if reference.status != subject.status {
        let (reference, subject) = (reference.status, subject.status);
        verdict.faults.push(Fault::Status { reference, subject });
        return Ok(verdict);
    }
    if reference.status >= 400 {
        verdict.faults.extend(compare_errors(&verdict.reference, &verdict.subject));
        return Ok(verdict);
    }
    match case.route {
        Route::Search => {
            let pair = (verdict.reference.clone(), verdict.subject.clone());
            judge_search(answers, variants, &case.index, &case.body, pair, &mut verdict).await?;
        }
        Route::MultiSearch => {
            let queries = case.body.get("queries").and_then(Value::as_array);
            for (n, query) in queries.into_iter().flatten().enumerate() {
                let Some(body) = query.as_object() else { continue };
                let index = text_of(&query["indexUid"]);
                let pair = (
                    verdict.reference["results"][n].clone(),
                    verdict.subject["results"][n].clone(),
                );
                judge_search(answers, variants, &index, body, pair, &mut verdict).await?;
            }
        }
        Route::Documents => judge_documents(&case.body, &mut verdict),
        Route::FacetSearch => {
            if let Some(variant) = variants.iter().find(|variant| variant.index == case.index) {
                judge_facet_search(case, variant, &mut verdict);
            }
        }
        Route::Similar => judge_similar(answers, case, &mut verdict).await?,
        Route::Federation => judge_federation(answers, variants, case, &mut verdict).await?,
    }
    Ok(verdict)
}

async fn judge_search<A: Answers>(
    answers: &A,
    variants: &[Variant],
    index: &str,
    body: &Object,
    (reference, subject): (Value, Value),
    verdict: &mut Verdict,
) -> Result<(), ApiFault> {
    let Some(variant) = variants.iter().find(|variant| variant.index == index) else {
        return Ok(());
    };
    let question = Question { body, variant };
    let reference = from_the_start(answers, &question, reference).await?;
    let mut faults = Vec::new();
    let (left, right) = (hit_ids(&reference), hit_ids(&subject));
    if !plainly_equal(&left, &right) {
        let standings = ask_standings(answers, variant, body, &left, &right).await?;
        if let Err(fault) = check_order(&left, &right, &standings) {
            faults.push(Fault::Order(fault));
        }
        faults.extend(question.distinct().and_then(|at| distinct_twice(at, &subject)));
    }
    faults.extend(compare_search(&question, &reference, &subject));
    let (faults, excused) = excuse(answers, &question, &reference, &subject, faults).await?;
    verdict.faults.extend(faults);
    verdict.excused.extend(excused);
    verdict.scores_differ |= scores_differ(&reference, &subject);
    Ok(())
}

/// The reference's answer, under a threshold taken from a list that begins at the start.
///
/// One node skips whole buckets that lie before the window without asking whether their documents
/// reach the threshold. So a later page of its is cut from another list than its first, and counts
/// others; asked from the start, it looks at every document.
async fn from_the_start<A: Answers>(
    answers: &A,
    question: &Question<'_>,
    reference: Value,
) -> Result<Value, ApiFault> {
    let (start, length) = question.window();
    if start == 0 || !question.body.contains_key("rankingScoreThreshold") {
        return Ok(reference);
    }
    let mut body = question.body.clone();
    // The name of a query in a multi-search.
    body.remove("indexUid");
    let keys = if question.in_pages() { ["page", "hitsPerPage"] } else { ["offset", "limit"] };
    body.insert(keys[0].into(), json!(u64::from(question.in_pages())));
    body.insert(keys[1].into(), json!(start + length));
    let index = question.variant.index;
    let whole = answers.ask(Side::Reference, Route::Search, index, &body).await?.body;
    let (Some(whole), Value::Object(mut answer)) = (whole.as_object(), reference) else {
        return Ok(whole);
    };
    for key in ["hits", "totalHits", "estimatedTotalHits", "facetDistribution", "facetStats"] {
        if let Some(value) = whole.get(key) {
            answer.insert(key.into(), value.clone());
        }
    }
    if let Some(Value::Array(hits)) = answer.get_mut("hits") {
        hits.drain(..hits.len().min(start as usize));
    }
    if let (Some(total), Some(size)) = (
        answer.get("totalHits").and_then(Value::as_u64),
        answer.get("hitsPerPage").and_then(Value::as_u64).filter(|size| *size > 0),
    ) {
        answer.insert("totalPages".into(), json!(total.div_ceil(size)));
    }
    Ok(Value::Object(answer))
}

/// Documents asked about in one probe; below the smallest `maxTotalHits` of any variant.
const PROBED_MAX: usize = 100;

/// Asks the reference where the documents stand that the two lists have at different places.
/// The query is the same, but for the window, what is shown, and the distinct (which would
/// drop documents that are tied).
async fn ask_standings<A: Answers>(
    answers: &A,
    variant: &Variant,
    body: &Object,
    reference: &[String],
    subject: &[String],
) -> Result<BTreeMap<String, Standing>, ApiFault> {
    let differing = reference.iter().zip(subject).filter(|(a, b)| a != b);
    let mut ids: Vec<&String> = differing.flat_map(|(a, b)| [a, b]).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut standings = BTreeMap::new();
    let twin = variant.twin_index();
    for some in ids.chunks(PROBED_MAX) {
        let probe = standing_probe(body, some);
        let reply = answers.ask(Side::Reference, Route::Search, &twin, &probe).await?;
        let hits = reply.body["hits"].as_array().cloned().unwrap_or_default();
        standings.extend(hits.iter().filter_map(|hit| {
            let details = hit["_rankingScoreDetails"].as_object()?;
            Some((text_of(&hit["id"]), Standing::of(details)))
        }));
    }
    Ok(standings)
}

/// The parts of a query that decide where a document stands, for these documents only.
fn standing_probe(body: &Object, ids: &[&String]) -> Object {
    let kept = [
        "q",
        "filter",
        "sort",
        "matchingStrategy",
        "attributesToSearchOn",
        "vector",
        "hybrid",
        "locales",
    ];
    let mut probe: Object = body
        .iter()
        .filter(|(key, _)| kept.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let listed: Vec<String> = ids.iter().map(|id| filter_literal(id)).collect();
    let only_these = json!(format!("id IN [{}]", listed.join(", ")));
    let filter = match probe.remove("filter") {
        None | Some(Value::Null) => json!([only_these]),
        Some(Value::Array(mut items)) => {
            items.push(only_these);
            Value::Array(items)
        }
        Some(other) => json!([other, only_these]),
    };
    probe.insert("filter".into(), filter);
    // A window that is filled with good hits by words would leave vectors unasked.
    probe.insert("limit".into(), json!(ids.len() + 1));
    probe.insert("showRankingScoreDetails".into(), json!(true));
    probe.insert("attributesToRetrieve".into(), json!(["id"]));
    probe
}

fn filter_literal(id: &str) -> String {
    if id.bytes().all(|byte| byte.is_ascii_digit()) { id.to_owned() } else { quote(id) }
}

/// Documents come in the server's own order: the totals must be equal, no document may come
/// twice, and a window over everything must hold the same documents.
fn judge_documents(body: &Object, verdict: &mut Verdict) {
    let (reference, subject) = (&verdict.reference, &verdict.subject);
    let mut faults = Vec::new();
    for key in ["total", "offset", "limit"] {
        if reference[key] != subject[key] {
            faults.push(Fault::Key {
                key: key.to_owned(),
                reference: reference[key].clone(),
                subject: subject[key].clone(),
            });
        }
    }
    let of = |answer: &Value| answer["results"].as_array().cloned().unwrap_or_default();
    let (left, right) = (of(reference), of(subject));
    let ids = |list: &[Value]| -> Vec<String> {
        let mut ids: Vec<String> = list.iter().map(|doc| text_of(&doc["id"])).collect();
        ids.sort_unstable();
        ids
    };
    let (left_ids, right_ids) = (ids(&left), ids(&right));
    let whole =
        body.get("offset").is_none() && reference["total"].as_u64() == Some(left.len() as u64);
    if left_ids.len() != right_ids.len() {
        let (reference, subject) = (left_ids.len(), right_ids.len());
        faults.push(Fault::Order(OrderFault::Length { reference, subject }));
    } else if let Some(pair) = right_ids.windows(2).find(|pair| pair[0] == pair[1]) {
        faults.push(Fault::Order(OrderFault::Twice { id: pair[0].clone() }));
    } else if whole
        && let Some(id) = right_ids.iter().find(|id| left_ids.binary_search(id).is_err())
    {
        faults.push(Fault::Order(OrderFault::Stranger { id: id.clone() }));
    }
    faults.extend(compare_hits(&left, &right));
    verdict.faults.extend(faults);
}
