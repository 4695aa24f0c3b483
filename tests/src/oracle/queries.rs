//! Generated cases: one seed and one number give one case, whatever was generated before.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};
use twox_hash::XxHash64;

use super::documents::{EMBEDDER, VECTOR_DIMENSIONS, VECTOR_DOCUMENTS};
use super::filters::draw_filter;
use super::profile::Profile;
use super::variants::Variant;
use super::words::draw_words;
use super::{Case, Class, Object, Route};

/// A window that holds every document of the index with vectors: the approximate index then
/// looks at all of them.
pub(super) const WHOLE_VECTOR_WINDOW: usize = VECTOR_DOCUMENTS + 60;

/// Draws cases.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    pub(super) profile: Profile,
    pub(super) variants: Vec<Variant>,
}

/// A body under construction.
pub(super) struct Draft {
    pub(super) body: Object,
    pub(super) class: Class,
    pub(super) labels: Vec<&'static str>,
}

impl Draft {
    /// An empty body of a strict case.
    pub(super) fn new(label: &'static str) -> Self {
        Self { body: Object::new(), class: Class::Strict, labels: vec![label] }
    }

    pub(super) fn into_case(self, number: u64, index: &str, route: Route) -> Case {
        let Self { body, class, labels } = self;
        Case { number, index: index.to_owned(), route, body, class, labels }
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.body.insert(key.to_owned(), value);
    }

    pub(super) fn label(&mut self, label: &'static str) {
        self.labels.push(label);
    }
}

impl Generator {
    /// A generator of the cases of `seed`.
    pub fn new(seed: u64, profile: Profile, variants: Vec<Variant>) -> Self {
        Self { seed, profile, variants }
    }

    /// The variants that cases ask.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// Case `number`.
    pub fn case(&self, number: u64) -> Case {
        let mut rng =
            ChaCha12Rng::seed_from_u64(XxHash64::oneshot(self.seed, &number.to_le_bytes()));
        let rng = &mut rng;
        match rng.random_range(0..100) {
            0..5 => self.multi_search(rng, number),
            5..10 => self.documents(rng, number),
            10..16 => self.facet_search(rng, number),
            16..19 => self.similar(rng, number),
            19..24 => self.federation(rng, number),
            _ => {
                let variant = &self.variants[rng.random_range(0..self.variants.len())];
                let Draft { body, class, labels } = self.search(rng, variant);
                let index = variant.index.to_owned();
                Case { number, index, route: Route::Search, body, class, labels }
            }
        }
    }

    fn multi_search(&self, rng: &mut ChaCha12Rng, number: u64) -> Case {
        let mut queries = Vec::new();
        let (mut class, mut labels) = (Class::Strict, vec!["multi-search"]);
        for _ in 0..rng.random_range(1..=4) {
            let variant = &self.variants[rng.random_range(0..self.variants.len())];
            let mut draft = self.search(rng, variant);
            draft.set("indexUid", json!(variant.index));
            if draft.class == Class::Rate {
                class = Class::Rate;
            }
            labels.extend(draft.labels);
            queries.push(Value::Object(draft.body));
        }
        labels.sort_unstable();
        labels.dedup();
        let body = Object::from_iter([("queries".to_owned(), Value::Array(queries))]);
        Case { number, index: String::new(), route: Route::MultiSearch, body, class, labels }
    }

    fn documents(&self, rng: &mut ChaCha12Rng, number: u64) -> Case {
        let variant = &self.variants[rng.random_range(0..self.variants.len())];
        let mut draft =
            Draft { body: Object::new(), class: Class::Strict, labels: vec!["documents"] };
        if rng.random_bool(0.8) {
            draft.set("filter", draw_filter(rng, &self.profile));
        }
        if rng.random_bool(0.5) {
            let fields = self.some_fields(rng).into_iter().filter(|field| field != "*");
            let fields: Vec<String> = fields.collect();
            // Without any, the documents would have nothing to tell them apart by.
            if !fields.is_empty() {
                draft.set("fields", json!(fields));
            }
        }
        match rng.random_range(0..3) {
            0 => draft.set("limit", json!(100_000)),
            1 => draft.set("limit", json!(rng.random_range(1..50))),
            _ => {
                draft.set("offset", json!(rng.random_range(0..300)));
                draft.set("limit", json!(rng.random_range(1..50)));
            }
        }
        if variant.vectors && rng.random_bool(0.5) {
            draft.set("retrieveVectors", json!(true));
        }
        let Draft { body, class, labels } = draft;
        let index = variant.index.to_owned();
        Case { number, index, route: Route::Documents, body, class, labels }
    }

    pub(super) fn search(&self, rng: &mut ChaCha12Rng, variant: &Variant) -> Draft {
        let mut draft = Draft { body: Object::new(), class: Class::Strict, labels: Vec::new() };
        let (q, label) = draw_words(rng, &self.profile);
        draft.label(label);
        if let Some(q) = q {
            draft.set("q", json!(q));
        }
        if rng.random_bool(0.45) {
            draft.set("filter", draw_filter(rng, &self.profile));
            draft.label("filter");
        }
        if rng.random_bool(0.35) {
            self.draw_sort(rng, &mut draft);
        }
        draw_window(rng, &mut draft);
        if variant.vectors {
            self.draw_vector(rng, &mut draft);
        }
        self.draw_distinct_and_facets(rng, variant, &mut draft);
        // The engine joins two lists, each with the documents that stand for their values in it;
        // which those are is arbitrary, so what meets in both is too.
        if draft.labels.contains(&"hybrid") && draft.labels.contains(&"distinct") {
            draft.class = Class::Rate;
        }
        self.draw_matching(rng, variant, &mut draft);
        self.draw_shape(rng, variant, &mut draft);
        draft
    }

    fn draw_sort(&self, rng: &mut ChaCha12Rng, draft: &mut Draft) {
        let mut sort = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            let direction = if rng.random_bool(0.5) { "asc" } else { "desc" };
            let number = self.profile.numbers.choose(rng).map(|field| field.name.clone());
            let category = self.profile.categories.choose(rng).map(|field| field.name.clone());
            let field = match rng.random_range(0..10) {
                0..3 => number,
                3..6 => category,
                6 | 7 => {
                    draft.label("mixed sort");
                    Some("mixed".to_owned())
                }
                8 => Some("id".to_owned()),
                _ => self.profile.points.choose(rng).map(|(lat, lng)| {
                    draft.label("geo sort");
                    format!("_geoPoint({lat:.3}, {lng:.3})")
                }),
            };
            sort.extend(field.map(|field| format!("{field}:{direction}")));
        }
        draft.set("sort", json!(sort));
        draft.label("sort");
    }

    fn draw_vector(&self, rng: &mut ChaCha12Rng, draft: &mut Draft) {
        let vector: Vec<f64> =
            (0..VECTOR_DIMENSIONS).map(|_| rng.random_range(-1000..=1000) as f64 / 1e3).collect();
        let ratio = match rng.random_range(0..10) {
            0 | 1 => None,
            2 | 3 => Some(0.0),
            4..7 => Some(1.0),
            _ => Some(*[0.1, 0.3, 0.5, 0.9].choose(rng).unwrap_or(&0.5)),
        };
        let Some(ratio) = ratio else { return };
        draft.set("hybrid", json!({ "embedder": EMBEDDER, "semanticRatio": ratio }));
        draft.set("vector", json!(vector));
        draft.label("vector");
        if ratio > 0.0 && ratio < 1.0 {
            draft.label("hybrid");
        }
        if ratio > 0.0 {
            if rng.random_bool(0.7) {
                draft.body.remove("offset");
                draft.body.remove("limit");
                draft.set("page", json!(1));
                draft.set("hitsPerPage", json!(WHOLE_VECTOR_WINDOW));
            } else {
                draft.class = Class::Rate;
                draft.label("approximate neighbours");
            }
        }
        if rng.random_bool(0.3) {
            draft.set("retrieveVectors", json!(true));
        }
    }

    fn draw_distinct_and_facets(
        &self,
        rng: &mut ChaCha12Rng,
        variant: &Variant,
        draft: &mut Draft,
    ) {
        let mut distinct = variant.distinct.map(str::to_owned);
        if rng.random_bool(0.1) {
            let categories = self.profile.categories.iter().map(|field| field.name.clone());
            let fields: Vec<String> = categories.filter(|name| name != "tags").collect();
            if let Some(field) = fields.choose(rng) {
                draft.set("distinct", json!(field));
                distinct = Some(field.clone());
            }
        }
        if distinct.is_some() {
            draft.label("distinct");
        }
        if !rng.random_bool(0.3) {
            return;
        }
        draft.label("facets");
        let granular = variant.settings["filterableAttributes"][0].is_object();
        let facets = match distinct {
            // Which document of a group is counted is arbitrary, so only the field of the
            // distinct itself has counts that are the same everywhere.
            Some(field) if rng.random_bool(0.7) && (!granular || field == "bucket") => vec![field],
            other => {
                if other.is_some() {
                    draft.class = Class::Rate;
                    draft.label("facets of distinct");
                }
                self.some_facets(rng, granular, draft)
            }
        };
        draft.set("facets", json!(facets));
    }

    fn some_facets(&self, rng: &mut ChaCha12Rng, granular: bool, draft: &mut Draft) -> Vec<String> {
        if granular {
            let fields = ["bucket", "nested.score", "nested.deep.label"];
            return vec![fields.choose(rng).copied().unwrap_or("bucket").to_owned()];
        }
        let mut facets = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            let number = self.profile.numbers.choose(rng).map(|field| field.name.clone());
            let category = self.profile.categories.choose(rng).map(|field| field.name.clone());
            let field = match rng.random_range(0..20) {
                0..7 => number,
                7..17 => category,
                17 | 18 => Some("flag".to_owned()),
                // One node overwrites counts where `5` and `"5"` are both values.
                _ => {
                    draft.class = Class::Rate;
                    draft.label("mixed facet");
                    Some(if rng.random_bool(0.5) { "mixed" } else { "*" }.to_owned())
                }
            };
            facets.extend(field.filter(|field| !facets.contains(field)));
        }
        facets
    }

    fn draw_matching(&self, rng: &mut ChaCha12Rng, variant: &Variant, draft: &mut Draft) {
        match rng.random_range(0..100) {
            0..15 => draft.set("matchingStrategy", json!("all")),
            15..22 => draft.set("matchingStrategy", json!("last")),
            22..25 => {
                draft.set("matchingStrategy", json!("frequency"));
                draft.class = Class::Rate;
                draft.label("frequency");
            }
            _ => {}
        }
        if rng.random_bool(0.08) {
            let fields = self.searchable(variant);
            if let Some(field) = fields.choose(rng) {
                draft.set("attributesToSearchOn", json!([field]));
                draft.label("attributesToSearchOn");
            }
        }
        if rng.random_bool(0.06) {
            let threshold = f64::from(rng.random_range(1..=9)) / 10.0;
            draft.set("rankingScoreThreshold", json!(threshold));
            draft.label("threshold");
        }
    }

    fn draw_shape(&self, rng: &mut ChaCha12Rng, variant: &Variant, draft: &mut Draft) {
        if rng.random_bool(0.2) {
            draft.set("attributesToRetrieve", json!(self.some_fields(rng)));
        }
        if rng.random_bool(0.2) {
            let fields = self.searchable(variant);
            let field = fields.choose(rng).cloned().unwrap_or_else(|| "*".to_owned());
            let field = if rng.random_bool(0.5) { "*".to_owned() } else { field };
            draft.set("attributesToHighlight", json!([field]));
            draft.label("highlight");
            if rng.random_bool(0.3) {
                draft.set("highlightPreTag", json!("<b>"));
                draft.set("highlightPostTag", json!("</b>"));
            }
        }
        if rng.random_bool(0.12) {
            let fields = self.searchable(variant);
            let field = fields.choose(rng).cloned().unwrap_or_else(|| "*".to_owned());
            let length = rng.random_range(1..8_u32);
            draft.set("attributesToCrop", json!([format!("{field}:{length}")]));
            draft.label("crop");
            if rng.random_bool(0.3) {
                draft.set("cropMarker", json!("[…]"));
                draft.set("cropLength", json!(3));
            }
        }
        if rng.random_bool(0.08) {
            draft.set("showMatchesPosition", json!(true));
            draft.label("matches position");
        }
        if rng.random_bool(0.2) {
            draft.set("showRankingScore", json!(true));
            draft.label("ranking score");
        }
        if rng.random_bool(0.08) {
            draft.set("showRankingScoreDetails", json!(true));
            draft.label("ranking score details");
        }
    }

    fn searchable(&self, variant: &Variant) -> Vec<String> {
        variant.searchable.clone().unwrap_or_else(|| {
            let texts = self.profile.texts.iter().cloned();
            texts.chain(["tags".to_owned(), "nested.deep.label".to_owned()]).collect()
        })
    }

    /// The id, by which documents are told apart, and some other fields.
    pub(super) fn some_fields(&self, rng: &mut ChaCha12Rng) -> Vec<String> {
        if rng.random_bool(0.1) {
            return vec!["*".to_owned()];
        }
        let mut fields = vec!["id".to_owned()];
        for _ in 0..rng.random_range(0..4) {
            let number = self.profile.numbers.choose(rng).map(|field| &field.name);
            let category = self.profile.categories.choose(rng).map(|field| &field.name);
            let field = [number, category, self.profile.texts.first()];
            let field = field.choose(rng).copied().flatten().cloned();
            fields.extend(field.filter(|field| !fields.contains(field)));
        }
        fields
    }
}

fn draw_window(rng: &mut ChaCha12Rng, draft: &mut Draft) {
    if rng.random_bool(0.6) {
        draft.label("pages");
        let size = [1, 2, 5, 10, 20, 50].choose(rng).copied().unwrap_or(20);
        let page = match rng.random_range(0..10) {
            0..6 => 1,
            6..8 => 2,
            8 => rng.random_range(3..8),
            _ => rng.random_range(8..60),
        };
        draft.set("page", json!(page));
        if rng.random_bool(0.9) {
            draft.set("hitsPerPage", json!(size));
        }
    } else if rng.random_bool(0.8) {
        if rng.random_bool(0.5) {
            let offsets = [0, 1, 7, 20, 50, 140, 300, 990, 5000];
            draft.set("offset", json!(offsets.choose(rng).copied().unwrap_or(0)));
        }
        let limits = [0, 1, 3, 10, 20, 40, 100, 2000];
        draft.set("limit", json!(limits.choose(rng).copied().unwrap_or(20)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oracle::documents::{enrich, read_documents, shipped_movies};
    use crate::oracle::variants::variants;

    fn generator(seed: u64) -> Generator {
        let mut movies = read_documents(&shipped_movies(), usize::MAX).expect("the shipped file");
        movies.iter_mut().for_each(enrich);
        let profile = Profile::of(&movies);
        let variants = variants(&profile);
        Generator::new(seed, profile, variants)
    }

    #[test]
    fn a_seed_and_a_number_make_a_case() {
        let (a, b) = (generator(5), generator(5));
        assert_eq!(a.case(17), b.case(17));
        assert_ne!(a.case(17).body, a.case(18).body);
        assert_ne!(a.case(17).body, generator(6).case(17).body);
    }

    #[test]
    fn two_thousand_cases_exercise_everything_and_are_mostly_strict() {
        let generator = generator(1);
        let cases: Vec<Case> = (0..2000).map(|n| generator.case(n)).collect();
        let labels: BTreeSet<&str> = cases.iter().flat_map(|case| case.labels.clone()).collect();
        for label in [
            "one word",
            "two words",
            "prefix",
            "typo",
            "phrase",
            "negative",
            "filter",
            "sort",
            "mixed sort",
            "geo sort",
            "facets",
            "distinct",
            "pages",
            "vector",
            "hybrid",
            "frequency",
            "multi-search",
            "documents",
            "facet search",
            "facet query",
            "similar",
            "federation",
            "attributesToSearchOn",
            "threshold",
            "highlight",
            "crop",
            "matches position",
            "ranking score",
            "ranking score details",
        ] {
            assert!(labels.contains(label), "{label}");
        }
        let strict = cases.iter().filter(|case| case.class == Class::Strict).count();
        assert!(strict > 1500, "{strict}");
        let indexes: BTreeSet<&str> = cases.iter().map(|case| case.index.as_str()).collect();
        assert_eq!(indexes.len(), generator.variants().len() + 1);
    }
}
