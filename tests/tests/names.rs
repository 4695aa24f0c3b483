//! Names of indexes over real nodes: renames and swaps, by both routes, with what is told of earlier
//! tasks; and listings in a wanted order. Each answer is held against that of one node alone.

use http::Method;
use miroir_tests::alongside::Both;
use serde_json::{Value, json};

fn documents(count: u64, kind: &str) -> Value {
    (0..count).map(|id| json!({ "id": id, "kind": kind })).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renames_and_swaps_move_indexes_and_the_tasks_before_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--nodes", "3", "--groups", "1", "--rf", "2", "--shards", "8"];
    let both = Both::start(directory.path(), &arguments).await;

    both.succeeds(Method::POST, "/indexes/films/documents", documents(7, "film")).await;
    both.succeeds(Method::POST, "/indexes/books/documents", documents(5, "book")).await;

    let end = both.succeeds(Method::PATCH, "/indexes/films", json!({ "uid": "movies" })).await;
    let told = json!({ "primaryKey": null, "oldIndexUid": "films", "newIndexUid": "movies" });
    assert_eq!((&end["details"], &end["indexUid"]), (&told, &json!("films")));
    let with_key = json!({ "uid": "movies", "primaryKey": "id" });
    both.succeeds(Method::PATCH, "/indexes/movies", with_key).await;
    let taken = both.fails(Method::PATCH, "/indexes/movies", json!({ "uid": "books" })).await;
    assert_eq!(taken, "Index `books` already exists.");
    both.fails(Method::PATCH, "/indexes/films", json!({ "uid": "other" })).await;
    // A primary key that is refused fails the task, but the name is changed before.
    let wrong_key = json!({ "uid": "any", "primaryKey": "kind" });
    both.fails(Method::PATCH, "/indexes/movies", wrong_key).await;
    both.succeeds(Method::PATCH, "/indexes/any", json!({ "uid": "movies" })).await;

    let swap = |a: &str, b: &str, rename: bool| json!([{ "indexes": [a, b], "rename": rename }]);
    both.succeeds(Method::POST, "/swap-indexes", swap("books", "novels", true)).await;
    both.fails(Method::POST, "/swap-indexes", swap("novels", "movies", true)).await;
    both.fails(Method::POST, "/swap-indexes", swap("none", "other", true)).await;
    both.succeeds(Method::POST, "/swap-indexes", swap("movies", "novels", false)).await;
    let moved = [("movies".to_owned(), 5), ("novels".to_owned(), 7)];
    assert_eq!(both.indexes().await, moved);

    // A name that was left is free again, and what is written goes where the name leads.
    both.succeeds(Method::POST, "/indexes/films/documents", documents(2, "new")).await;
    both.succeeds(Method::POST, "/indexes/novels/documents", documents(9, "film")).await;
    let listed = both.answer("/indexes/novels/documents/fetch", Some(json!({ "limit": 0 }))).await;
    assert_eq!(listed["total"], 9);
    for name in ["films", "movies", "novels", "books"] {
        let mut listed = Vec::new();
        for api in [&both.alone, &both.cluster] {
            let path = format!("/tasks?indexUids={name}&statuses=succeeded");
            let tasks = api.get(&path).await.expect("tasks")["results"].clone();
            let uids: Vec<u64> = tasks
                .as_array()
                .expect("tasks")
                .iter()
                .filter(|task| task["type"] != "indexUpdate")
                .filter_map(|task| task["uid"].as_u64())
                .collect();
            listed.push(uids);
        }
        assert_eq!(listed[0], listed[1], "tasks of {name}: alone, and as a cluster");
    }
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_come_in_the_wanted_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--nodes", "3", "--groups", "1", "--rf", "1", "--shards", "8"];
    let both = Both::start(directory.path(), &arguments).await;
    let sortable = json!({ "sortableAttributes": ["n", "of", "name", "_geo", "id"], "filterableAttributes": ["n"] });
    both.succeeds(Method::PATCH, "/indexes/things/settings", sortable).await;
    let thing = |id: u64| {
        let mut thing = json!({ "id": id, "n": id * 37 % 50, "of": { "rank": id % 7 } });
        thing["name"] = match id % 4 {
            0 => json!(format!("Name {}", id % 11)),
            1 => json!(id % 5),
            2 => json!([format!("É{}", id % 3), "z"]),
            _ => Value::Null,
        };
        if id.is_multiple_of(3) {
            thing["_geo"] = json!({ "lat": (id % 90) as f64 / 2.0, "lng": (id * 7 % 180) as f64 });
        }
        thing
    };
    let things: Value = (0..200).map(thing).collect();
    both.succeeds(Method::POST, "/indexes/things/documents", things).await;

    let path = "/indexes/things/documents/fetch";
    for sort in [
        json!(["n:asc", "id:asc"]),
        json!(["of.rank:desc", "id:desc"]),
        json!(["name:asc", "id:asc"]),
        json!(["name:desc", "n:desc", "id:asc"]),
        json!(["_geoPoint(10, 20):asc", "id:asc"]),
        json!(["_geoPoint(10, 20):desc", "id:desc"]),
    ] {
        for (offset, limit) in [(0, 20), (7, 60), (190, 20), (300, 5), (0, 0), (0, 1000)] {
            let query = json!({ "sort": sort, "offset": offset, "limit": limit });
            let page = both.answer(path, Some(query)).await;
            let wanted = limit.min(200_usize.saturating_sub(offset));
            assert_eq!(page["results"].as_array().map(Vec::len), Some(wanted));
        }
        let query = json!({ "sort": sort, "filter": "n > 20", "fields": ["name"], "limit": 30 });
        both.answer(path, Some(query)).await;
    }
    both.answer("/indexes/things/documents?sort=n:desc,id:asc&limit=9", None).await;
    for refused in [json!(["kind:asc"]), json!(["n"]), json!(["_geoPoint(1):asc"]), json!(3)] {
        let refusal = both.answer(path, Some(json!({ "sort": refused }))).await;
        assert_eq!(refusal["code"], "invalid_document_sort", "{refusal}");
    }
    both.stop().await;
}
