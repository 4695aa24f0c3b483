//! Finds a smaller query that still differs: fewer keys, a simpler filter, fewer words, a
//! smaller window. Greedy: the first simplification that keeps the kind of fault is taken.

use serde_json::{Value, json};

use super::compare::Fault;
use super::filters::simpler_filters;
use super::judge::{Answers, Verdict, judge};
use super::variants::Variant;
use super::{Case, Object, Route};
use crate::client::ApiFault;

/// Questions asked at most while shrinking one case.
const QUESTIONS_MAX: usize = 300;

/// The smallest case found that shows the first fault's kind, and its verdict.
///
/// # Errors
/// When a side stops answering.
pub async fn shrink<A: Answers>(
    answers: &A,
    variants: &[Variant],
    case: Case,
    verdict: Verdict,
) -> Result<(Case, Verdict), ApiFault> {
    let (mut case, mut verdict) = (case, verdict);
    let mut questions = 0;
    'smaller: loop {
        for simpler in simpler_cases(&case) {
            if questions == QUESTIONS_MAX {
                break 'smaller;
            }
            questions += 1;
            let tried = judge(answers, variants, &simpler).await?;
            if same_kind(&verdict.faults, &tried.faults) {
                (case, verdict) = (simpler, tried);
                continue 'smaller;
            }
        }
        break;
    }
    for shorter in shorter_answers(&case) {
        let tried = judge(answers, variants, &shorter).await?;
        if same_kind(&verdict.faults, &tried.faults) {
            (case, verdict) = (shorter, tried);
            break;
        }
    }
    Ok((case, verdict))
}

/// The same question with answers that are easier to read, shortest first.
fn shorter_answers(case: &Case) -> Vec<Case> {
    let shown = match case.route {
        Route::Search | Route::Similar => "attributesToRetrieve",
        Route::Documents => "fields",
        Route::MultiSearch | Route::FacetSearch | Route::Federation => return Vec::new(),
    };
    let mut ids = case.body.clone();
    ids.insert(shown.to_owned(), json!(["id"]));
    let mut few = ids.clone();
    few.insert("limit".to_owned(), json!(3));
    let windowed = ["page", "hitsPerPage", "limit", "offset", "vector"];
    let may_cut = !windowed.iter().any(|key| case.body.contains_key(*key));
    let bodies = if may_cut { vec![few, ids] } else { vec![ids] };
    bodies.into_iter().map(|body| Case { body, ..case.clone() }).collect()
}

fn same_kind(before: &[Fault], after: &[Fault]) -> bool {
    before.first().is_some_and(|fault| {
        after.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(fault))
    })
}

/// Cases one step simpler, the boldest steps first.
pub fn simpler_cases(case: &Case) -> Vec<Case> {
    match case.route {
        Route::Search | Route::Documents | Route::FacetSearch | Route::Similar => {
            simpler_bodies(&case.body)
                .into_iter()
                .map(|body| Case { body, ..case.clone() })
                .collect()
        }
        Route::MultiSearch | Route::Federation => simpler_batches(case),
    }
}

fn simpler_batches(case: &Case) -> Vec<Case> {
    let Some(queries) = case.body.get("queries").and_then(Value::as_array) else {
        return Vec::new();
    };
    let with = |queries: Vec<Value>| {
        let mut body = case.body.clone();
        body.insert("queries".to_owned(), Value::Array(queries));
        Case { body, ..case.clone() }
    };
    let mut simpler = Vec::new();
    for (n, query) in queries.iter().enumerate() {
        let Some(body) = query.as_object() else { continue };
        // Alone and without the batch around it.
        let mut alone = body.clone();
        if case.route == Route::MultiSearch
            && let Some(Value::String(index)) = alone.remove("indexUid")
        {
            simpler.push(Case { index, route: Route::Search, body: alone, ..case.clone() });
        }
        if queries.len() > 1 {
            simpler.push(with(vec![query.clone()]));
        }
        for body in simpler_bodies(body) {
            let mut changed = queries.clone();
            changed[n] = Value::Object(body);
            simpler.push(with(changed));
        }
    }
    simpler
}

fn simpler_bodies(body: &Object) -> Vec<Object> {
    let mut simpler = Vec::new();
    for key in body.keys() {
        if may_drop(body, key) {
            let mut rest = body.clone();
            rest.remove(key);
            simpler.push(rest);
        }
    }
    for (key, value) in body {
        let values = match (key.as_str(), value) {
            ("q", Value::String(q)) => fewer_words(q).into_iter().map(Value::String).collect(),
            ("filter", filter) => simpler_filters(filter),
            ("page" | "hitsPerPage" | "limit" | "offset", Value::Number(number))
                if !body.contains_key("vector") =>
            {
                let number = number.as_u64().unwrap_or(0);
                let least = u64::from(key == "page" || key == "hitsPerPage");
                if number > least { vec![json!(least), json!(number / 2)] } else { Vec::new() }
            }
            (_, Value::Array(items)) if items.len() > 1 && key != "vector" => {
                let shown = key == "attributesToRetrieve" || key == "fields";
                // By the id documents are told apart.
                let tells_apart = |items: &Vec<Value>| !shown || items.contains(&json!("id"));
                let lists = without_each(items).into_iter();
                lists.filter(tells_apart).map(Value::Array).collect()
            }
            _ => Vec::new(),
        };
        for value in values {
            let mut changed = body.clone();
            changed.insert(key.clone(), value);
            simpler.push(changed);
        }
    }
    simpler
}

/// Some keys keep a case strict: the whole window of a vector search, the distinct beside
/// facets, the field by which documents are told apart.
fn may_drop(body: &Object, key: &str) -> bool {
    match key {
        "indexUid" => false,
        "distinct" => !body.contains_key("facets"),
        "page" | "hitsPerPage" | "limit" | "offset" => !body.contains_key("vector"),
        "hybrid" => false,
        "vector" => false,
        _ => true,
    }
}

fn fewer_words(q: &str) -> Vec<String> {
    let words: Vec<&str> = q.split_whitespace().collect();
    if words.len() < 2 {
        return Vec::new();
    }
    without_each(&words).into_iter().map(|words| words.join(" ")).collect()
}

fn without_each<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    (0..items.len())
        .map(|n| {
            let mut rest = items.to_vec();
            rest.remove(n);
            rest
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Class;
    use crate::oracle::documents::{enrich, read_documents, shipped_movies};
    use crate::oracle::judge::{Reply, Side};
    use crate::oracle::profile::Profile;
    use crate::oracle::variants::variants;

    /// A subject that gets a negated condition on `flag` wrong, whatever else is asked.
    struct Planted;

    impl Answers for Planted {
        async fn ask(
            &self,
            side: Side,
            _: Route,
            _: &str,
            body: &Object,
        ) -> Result<Reply, ApiFault> {
            let text = Value::Object(body.clone()).to_string();
            let wrong = side == Side::Subject && text.contains("NOT (flag = true)");
            let total = if wrong { 7 } else { 8 };
            let body = json!({ "hits": [], "page": 1, "totalHits": total });
            Ok(Reply { status: 200, body, leaks: false })
        }
    }

    #[tokio::test]
    async fn a_planted_fault_is_shrunk_to_its_cause() {
        let mut movies = read_documents(&shipped_movies(), 500).expect("the shipped file");
        movies.iter_mut().for_each(enrich);
        let variants = variants(&Profile::of(&movies));
        let body = json!({
            "q": "some words here", "page": 3, "hitsPerPage": 20, "sort": ["id:asc", "mixed:desc"],
            "filter": ["id > 4", "(imdb_rating > 3) OR ((NOT (flag = true)) AND (mixed = 2))"],
        });
        let case = Case {
            number: 0,
            index: "plain".into(),
            route: Route::Search,
            body: body.as_object().expect("object").clone(),
            class: Class::Strict,
            labels: Vec::new(),
        };
        let verdict = judge(&Planted, &variants, &case).await.expect("answers");
        assert_eq!(verdict.faults.len(), 1);
        let (small, verdict) = shrink(&Planted, &variants, case, verdict).await.expect("answers");
        assert_eq!(small.body["filter"], "NOT (flag = true)");
        assert!(small.body.get("q").is_none() && small.body.get("sort").is_none());
        assert_eq!(verdict.faults.len(), 1);
    }
}
