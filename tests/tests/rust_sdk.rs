//! The official Rust SDK, with its own HTTP client, against three nodes with two replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use meilisearch_sdk::client::{Client, SwapIndexes};
use meilisearch_sdk::documents::{
    DocumentDeletionQuery, DocumentQuery, DocumentsQuery, IndexConfig,
};
use meilisearch_sdk::errors::{Error, ErrorCode, MeilisearchError};
use meilisearch_sdk::indexes::Index;
use meilisearch_sdk::key::{Action, KeyBuilder, KeyUpdater, KeysQuery};
use meilisearch_sdk::search::{FederationOptions, MergeFacets, SearchQuery, Selectors};
use meilisearch_sdk::settings::{FacetSortValue, FacetingSettings};
use meilisearch_sdk::task_info::TaskInfo;
use meilisearch_sdk::tasks::{
    SucceededTask, Task, TaskType, TasksCancelQuery, TasksDeleteQuery, TasksSearchQuery,
};
use miroir_tests::processes::Cluster;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(25);
const FILMS: u32 = 300;
const GENRES: [&str; 4] = ["Comedy", "Drama", "Horror", "Western"];

/// A document; the SDK derives the index's name (`film`) and settings from it.
#[derive(Clone, Debug, Deserialize, IndexConfig, PartialEq, Serialize)]
struct Film {
    #[index_config(primary_key)]
    id: u32,
    #[index_config(searchable, displayed, sortable)]
    title: String,
    #[index_config(filterable, displayed)]
    genre: String,
    #[index_config(filterable, sortable, displayed)]
    rating: f64,
}

/// Film number `id`: every seventh is about girls, ratings go from 0.0 to 9.9.
fn film(id: u32) -> Film {
    let word = if id.is_multiple_of(7) { "girls" } else { "boys" };
    Film {
        id,
        title: format!("The {word} of number{id}"),
        genre: GENRES[id as usize % GENRES.len()].to_owned(),
        rating: f64::from(id * 37 % 100) / 10.0,
    }
}

fn films() -> Vec<Film> {
    (0..FILMS).map(film).collect()
}

/// The ids of the films that hold a condition.
fn those(holds: impl Fn(&Film) -> bool) -> BTreeSet<u32> {
    films().iter().filter(|film| holds(film)).map(|film| film.id).collect()
}

/// Waits, as the SDK does it, for the end of what a write became.
async fn ended(client: &Client, write: Result<TaskInfo, Error>) -> Task {
    let task = write.expect("a task");
    task.wait_for_completion(client, Some(INTERVAL), Some(PATIENCE)).await.expect("its end")
}

async fn done(client: &Client, write: Result<TaskInfo, Error>) -> SucceededTask {
    match ended(client, write).await {
        Task::Succeeded { content } => content,
        other => panic!("{other:?}"),
    }
}

async fn failed(client: &Client, write: Result<TaskInfo, Error>) -> MeilisearchError {
    ended(client, write).await.unwrap_failure()
}

/// The code of a refusal.
fn refusal<T>(answer: Result<T, Error>) -> ErrorCode {
    match answer {
        Err(Error::Meilisearch(error)) => error.error_code,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_rust_sdk_finds_what_it_expects() {
    let directory = tempfile::tempdir().expect("a directory");
    let shape = ["--nodes", "3", "--groups", "1", "--rf", "2"];
    let cluster = Cluster::start(directory.path(), &shape).await.expect("a cluster");
    let master = &cluster.ready.master_key;
    let client = Client::new(&cluster.ready.url, Some(master)).expect("a client");

    assert!(client.is_healthy().await);
    assert!(client.get_version().await.expect("a version").pkg_version.starts_with("1."));

    let index = fill(&client).await;
    settings(&client, &index).await;
    searches(&index).await;
    pages(&index).await;
    facets(&index).await;
    several_searches(&client, &index).await;
    documents(&client, &index).await;
    changes(&client, &index).await;
    tasks(&client, &index).await;
    keys(&client, &index).await;
    refusals(&client, &index).await;
    swap(&client, &index).await;

    let uid = index.uid.clone();
    done(&client, index.delete_all_documents().await).await;
    assert_eq!(index.get_stats().await.expect("statistics").number_of_documents, 0);
    done(&client, index.delete().await).await;
    assert_eq!(refusal(client.get_index(&uid).await), ErrorCode::IndexNotFound);
    let error = failed(&client, client.delete_index(&uid).await).await;
    assert_eq!(error.error_code, ErrorCode::IndexNotFound);
    cluster.stop().await.expect("stopped");
}

/// An index as derived of its documents' type, with all films.
async fn fill(client: &Client) -> Index {
    let task = ended(client, client.create_index(Film::INDEX_STR, Some("id")).await).await;
    let mut index = task.try_make_index(client).expect("an index");
    assert_eq!(index.get_primary_key().await.expect("a primary key"), Some("id"));
    let again = client.create_index(Film::INDEX_STR, None).await;
    assert_eq!(failed(client, again).await.error_code, ErrorCode::IndexAlreadyExists);
    let listed = client.list_all_indexes().await.expect("indexes");
    assert!(listed.results.iter().any(|index| index.uid == Film::INDEX_STR));

    let writes = index.add_documents_in_batches(&films(), Some(100), None).await.expect("tasks");
    let mut indexed = 0;
    for write in writes {
        match done(client, Ok(write)).await.update_type {
            TaskType::DocumentAdditionOrUpdate { details: Some(details) } => {
                indexed += details.indexed_documents.unwrap_or_default();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(indexed, FILMS as usize);
    let stats = index.get_stats().await.expect("statistics");
    assert_eq!(stats.number_of_documents, FILMS as usize);
    assert_eq!(stats.field_distribution["title"], FILMS as usize);
    let all = client.get_stats().await.expect("statistics");
    assert_eq!(all.indexes[Film::INDEX_STR].number_of_documents, FILMS as usize);
    index
}

async fn settings(client: &Client, index: &Index) {
    let wanted = Film::generate_settings()
        .with_displayed_attributes(["*"])
        .with_ranking_rules(["words", "sort", "typo", "proximity", "attribute", "exactness"])
        .with_stop_words(["of", "the"])
        .with_synonyms(HashMap::from([("ladies", vec!["girls"])]));
    done(client, index.set_settings(&wanted).await).await;
    let read = index.get_settings().await.expect("settings");
    assert_eq!(read.searchable_attributes, Some(vec!["title".to_owned()]));
    assert_eq!(read.ranking_rules, wanted.ranking_rules);
    assert_eq!(read.stop_words, wanted.stop_words);
    assert_eq!(read.synonyms, wanted.synonyms);
    let filterable = index.get_filterable_attributes().await.expect("attributes");
    assert_eq!(BTreeSet::from_iter(filterable), ["genre", "rating"].map(str::to_owned).into());

    let by_count = BTreeMap::from([("*".to_owned(), FacetSortValue::Count)]);
    let faceting =
        FacetingSettings { max_values_per_facet: 50, sort_facet_values_by: Some(by_count) };
    done(client, index.set_faceting(&faceting).await).await;
    assert_eq!(index.get_faceting().await.expect("faceting"), faceting);
    done(client, index.reset_stop_words().await).await;
    assert!(index.get_stop_words().await.expect("stop words").is_empty());
}

async fn searches(index: &Index) {
    let girls = those(|film| film.title.contains("girls"));
    for query in ["girls", "ladies", "gilrs"] {
        let found = SearchQuery::new(index)
            .with_query(query)
            .with_limit(FILMS as usize)
            .execute::<Film>()
            .await
            .expect("hits");
        let ids: BTreeSet<u32> = found.hits.iter().map(|hit| hit.result.id).collect();
        assert_eq!(ids, girls, "{query}");
        assert!(found.hits.iter().all(|hit| hit.result == film(hit.result.id)));
        assert_eq!(found.estimated_total_hits, Some(girls.len()));
    }

    let found = index
        .search()
        .with_array_filter(vec!["genre = Drama", "rating >= 5"])
        .with_sort(&["rating:desc", "title:asc"])
        .with_limit(FILMS as usize)
        .execute::<Film>()
        .await
        .expect("hits");
    let hits: Vec<Film> = found.hits.into_iter().map(|hit| hit.result).collect();
    let mut wanted = films();
    wanted.retain(|film| film.genre == "Drama" && film.rating >= 5.0);
    wanted.sort_by(|a, b| b.rating.total_cmp(&a.rating).then_with(|| a.title.cmp(&b.title)));
    assert_eq!(hits, wanted);

    let found = index
        .search()
        .with_query("\"girls of number7\"")
        .with_attributes_to_highlight(Selectors::Some(&["title"]))
        .with_highlight_pre_tag("[")
        .with_highlight_post_tag("]")
        .with_attributes_to_crop(Selectors::Some(&[("title", Some(2))]))
        .with_show_matches_position(true)
        .with_show_ranking_score(true)
        .execute::<Film>()
        .await
        .expect("hits");
    let [hit] = &found.hits[..] else { panic!("{:?}", found.hits) };
    assert_eq!((hit.result.id, hit.ranking_score.is_some()), (7, true));
    let formatted = hit.formatted_result.as_ref().expect("a formatted title");
    assert_eq!(formatted["title"], "The [girls of]…");
    assert_eq!(hit.matches_position.as_ref().expect("positions")["title"][0].start, 4);
}

async fn pages(index: &Index) {
    let wanted = those(|film| film.genre == "Horror");
    let mut seen = Vec::new();
    for page in 1..=3 {
        let found = index
            .search()
            .with_filter("genre = Horror")
            .with_page(page)
            .with_hits_per_page(30)
            .execute::<Film>()
            .await
            .expect("hits");
        assert_eq!((found.page, found.total_pages), (Some(page), Some(3)));
        assert_eq!(found.total_hits, Some(wanted.len()));
        seen.extend(found.hits.iter().map(|hit| hit.result.id));
    }
    assert_eq!(seen.len(), wanted.len(), "none twice");
    assert_eq!(BTreeSet::from_iter(seen), wanted);
}

async fn facets(index: &Index) {
    let found = index
        .search()
        .with_query("girls")
        .with_facets(Selectors::Some(&["genre", "rating"]))
        .execute::<Film>()
        .await
        .expect("hits");
    let girls: Vec<Film> =
        films().into_iter().filter(|film| film.title.contains("girls")).collect();
    let count = |genre: &str| girls.iter().filter(|film| film.genre == genre).count();
    let wanted = GENRES.map(|genre| (genre.to_owned(), count(genre)));
    assert_eq!(found.facet_distribution.expect("facets")["genre"], HashMap::from(wanted));
    let ratings = || girls.iter().map(|film| film.rating);
    let stats = &found.facet_stats.expect("statistics")["rating"];
    assert_eq!(
        (stats.min, stats.max),
        (ratings().fold(10.0, f64::min), ratings().fold(0.0, f64::max))
    );

    let found =
        index.facet_search("genre").with_facet_query("dr").execute().await.expect("facet values");
    let [drama] = &found.facet_hits[..] else { panic!("{found:?}") };
    assert_eq!((drama.value.as_str(), drama.count), ("Drama", FILMS as usize / GENRES.len()));
}

async fn several_searches(client: &Client, index: &Index) {
    let girls = index.search().with_query("girls").with_limit(5).build();
    let boys = index.search().with_query("boys").with_filter("genre = Comedy").build();
    let answer = client
        .multi_search()
        .with_search_query(girls.clone())
        .with_search_query(boys.clone())
        .execute::<Film>()
        .await
        .expect("answers");
    let [first, second] = &answer.results[..] else { panic!("{answer:?}") };
    assert_eq!((first.query.as_str(), first.hits.len()), ("girls", 5));
    assert_eq!(second.index_uid.as_deref(), Some(Film::INDEX_STR));
    assert!(second.hits.iter().all(|hit| hit.result.genre == "Comedy"));

    let girls = index.search().with_query("girls").build();
    let mut queries = client.multi_search();
    queries.with_search_query(boys).with_search_query_and_weight(girls, 2.0);
    let federation = FederationOptions {
        limit: Some(FILMS as usize),
        facets_by_index: Some(HashMap::from([(index.uid.clone(), vec!["genre".to_owned()])])),
        merge_facets: Some(MergeFacets::default()),
        ..FederationOptions::default()
    };
    let found = queries.with_federation(federation).execute::<Film>().await.expect("hits");
    let ids: BTreeSet<u32> = found.hits.iter().map(|hit| hit.result.id).collect();
    assert_eq!(ids, those(|film| film.title.contains("girls") || film.genre == "Comedy"));
    assert_eq!(ids.len(), found.hits.len(), "none twice");
    let details: Vec<_> = found.hits.iter().filter_map(|hit| hit.federation.as_ref()).collect();
    assert_eq!((details.len(), details[0].queries_position), (found.hits.len(), 1));
    assert!(details.is_sorted_by(|a, b| a.weighted_ranking_score >= b.weighted_ranking_score));
    let comedies = found.facet_distribution.expect("facets")["genre"]["Comedy"];
    assert_eq!(comedies, FILMS as usize / GENRES.len());
}

async fn documents(client: &Client, index: &Index) {
    assert_eq!(index.get_document::<Film>("7").await.expect("a document"), film(7));
    let part = DocumentQuery::new(index).with_fields(["title"]).execute::<Value>("7").await;
    assert_eq!(part.expect("a document"), json!({ "title": film(7).title }));

    let listed = DocumentsQuery::new(index)
        .with_filter("genre = Western AND rating > 5")
        .with_fields(["id"])
        .with_limit(FILMS as usize)
        .execute::<HashMap<String, u32>>()
        .await
        .expect("documents");
    let ids: BTreeSet<u32> = listed.results.iter().map(|document| document["id"]).collect();
    assert_eq!(ids, those(|film| film.genre == "Western" && film.rating > 5.0));
    assert_eq!((listed.total as usize, listed.results.len()), (ids.len(), ids.len()));
    let some = DocumentsQuery::new(index)
        .with_ids(["5", "250", "none"])
        .execute::<Film>()
        .await
        .expect("documents");
    assert_eq!(some.results.iter().map(|film| film.id).collect::<BTreeSet<_>>(), [5, 250].into());

    let mut seen = BTreeSet::new();
    for offset in (0..FILMS as usize).step_by(120) {
        let page = index
            .get_documents_with::<Film>(
                DocumentsQuery::new(index).with_offset(offset).with_limit(120),
            )
            .await
            .expect("a page");
        assert_eq!(page.total, FILMS);
        seen.extend(page.results.into_iter().map(|film| film.id));
    }
    assert_eq!(seen, those(|_| true));
    assert!(client.get_index(&index.uid).await.expect("the index").updated_at.is_some());
}

async fn changes(client: &Client, index: &Index) {
    let part = json!([{ "id": 1, "genre": "Western" }]);
    let part = part.as_array().expect("documents");
    done(client, index.add_or_update(part, None).await).await;
    let changed = Film { genre: "Western".to_owned(), ..film(1) };
    assert_eq!(index.get_document::<Film>("1").await.expect("a document"), changed);
    done(client, index.add_or_replace(&[film(1)], None).await).await;
    assert_eq!(index.get_document::<Film>("1").await.expect("a document"), film(1));

    // These bodies are streams.
    let lines: &[u8] = b"{\"id\":9001,\"title\":\"a\"}\n{\"id\":9002,\"title\":\"b\"}\n";
    done(client, index.add_documents_ndjson(lines, None).await).await;
    let table: &[u8] = b"id:number,title\n9003,c\n";
    done(client, index.add_documents_csv(table, None).await).await;
    let read = index.get_document::<Value>("9003").await.expect("a document");
    assert_eq!(read, json!({ "id": 9003, "title": "c" }));

    done(client, index.delete_document(9001).await).await;
    assert_eq!(refusal(index.get_document::<Value>("9001").await), ErrorCode::DocumentNotFound);
    let deletion = done(client, index.delete_documents(&[9002, 9003, 9004]).await).await;
    let TaskType::DocumentDeletion { details: Some(details) } = deletion.update_type else {
        panic!("{deletion:?}")
    };
    assert_eq!((details.provided_ids, details.deleted_documents), (Some(3), Some(2)));
    let deletion =
        DocumentDeletionQuery::new(index).with_filter("genre = Western").execute::<()>().await;
    done(client, deletion).await;
    let left = index.get_documents::<Film>().await.expect("documents");
    assert_eq!(left.total as usize, those(|film| film.genre != "Western").len());
}

async fn tasks(client: &Client, index: &Index) {
    let nameless = [json!({ "title": "no id" })];
    let error = failed(client, index.add_documents(&nameless, None).await).await;
    assert_eq!(error.error_code, ErrorCode::MissingDocumentId);

    let listed = TasksSearchQuery::new(client)
        .with_index_uids([index.uid.as_str()])
        .with_types(["documentAdditionOrUpdate"])
        .with_statuses(["succeeded"])
        .with_limit(4)
        .execute()
        .await
        .expect("tasks");
    let uids: Vec<u32> = listed.results.iter().map(Task::get_uid).collect();
    assert_eq!((uids.len(), listed.total), (4, 7));
    assert!(uids.is_sorted_by(|a, b| a > b), "newest first: {uids:?}");
    assert!(listed.results.iter().all(Task::is_success));
    assert!(listed.next.is_some_and(|next| next < uids[3]));
    let failures = TasksSearchQuery::new(client).with_statuses(["failed"]).execute().await;
    let failures = failures.expect("tasks");
    assert!(failures.results[0].is_failure());

    let cancellation = TasksCancelQuery::new(client).with_uids([&uids[0]]).execute().await;
    let TaskType::TaskCancelation { details: Some(details) } =
        done(client, cancellation).await.update_type
    else {
        panic!("no details")
    };
    assert_eq!((details.matched_tasks, details.canceled_tasks), (1, Some(0)), "it had ended");
    let deletion = TasksDeleteQuery::new(client).with_uids([&uids[0]]).execute().await;
    let TaskType::TaskDeletion { details: Some(details) } =
        done(client, deletion).await.update_type
    else {
        panic!("no details")
    };
    assert_eq!((details.matched_tasks, details.deleted_tasks), (1, Some(1)));
    assert_eq!(refusal(client.get_task(&listed.results[0]).await), ErrorCode::TaskNotFound);
    assert_eq!(client.get_batch(uids[1]).await.expect("a batch").uid, uids[1]);
}

async fn keys(client: &Client, index: &Index) {
    let key = KeyBuilder::new()
        .with_name("searcher")
        .with_action(Action::Search)
        .with_index(&index.uid)
        .execute(client)
        .await
        .expect("a key");
    assert_eq!((&key.actions, &key.indexes), (&vec![Action::Search], &vec![index.uid.clone()]));
    let updated = KeyUpdater::new(&key).with_description("for films").execute(client).await;
    assert_eq!(updated.expect("a key").description.as_deref(), Some("for films"));
    assert_eq!(client.get_key(&key.uid).await.expect("a key").key, key.key);
    let keys = KeysQuery::new().with_limit(100).execute(client).await.expect("keys");
    assert!(keys.results.iter().any(|each| each.uid == key.uid));

    let searcher = Client::new(client.get_host(), Some(&key.key)).expect("a client");
    let films = searcher.index(&index.uid);
    let found = films.search().with_query("girls").execute::<Film>().await.expect("hits");
    assert!(!found.hits.is_empty());
    assert_eq!(refusal(films.add_documents(&[film(1)], None).await), ErrorCode::InvalidApiKey);
    let other = searcher.index("other");
    assert_eq!(refusal(other.search().execute::<Film>().await), ErrorCode::InvalidApiKey);
    assert_eq!(refusal(searcher.get_keys().await), ErrorCode::InvalidApiKey);

    client.delete_key(&key).await.expect("deleted");
    assert_eq!(refusal(client.get_key(&key.uid).await), ErrorCode::ApiKeyNotFound);
}

async fn refusals(client: &Client, index: &Index) {
    let search = async |filter| index.search().with_filter(filter).execute::<Film>().await;
    assert_eq!(refusal(search("title = x").await), ErrorCode::InvalidSearchFilter);
    assert_eq!(refusal(client.get_index("none").await), ErrorCode::IndexNotFound);
    assert_eq!(refusal(client.create_index("no name", None).await), ErrorCode::InvalidIndexUid);
    let stranger = Client::new(client.get_host(), Some("wrong")).expect("a client");
    assert_eq!(refusal(stranger.list_all_indexes().await), ErrorCode::InvalidApiKey);
    let nobody = Client::new(client.get_host(), None::<String>).expect("a client");
    assert_eq!(refusal(nobody.list_all_indexes().await), ErrorCode::MissingAuthorizationHeader);
}

async fn swap(client: &Client, index: &Index) {
    let next = client.index("next");
    done(client, client.create_index(&next.uid, Some("id")).await).await;
    done(client, next.add_documents(&[film(1_000)], None).await).await;
    let pair = SwapIndexes { indexes: (index.uid.clone(), next.uid.clone()), rename: None };
    let task = done(client, client.swap_indexes([&pair]).await).await;
    let TaskType::IndexSwap { details: Some(details) } = task.update_type else {
        panic!("{task:?}")
    };
    assert_eq!(details.swaps[0].indexes, pair.indexes);
    let documents = index.get_documents::<Film>().await.expect("documents");
    assert_eq!(documents.results, [film(1_000)]);
    let found = next.search().with_query("girls").execute::<Film>().await.expect("hits");
    assert!(!found.hits.is_empty(), "settings and documents went along");
    done(client, next.delete().await).await;
}
