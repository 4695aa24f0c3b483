//! Documents edited by functions over real nodes: as by one node alone, and each once and only once
//! whatever happens meanwhile.

use std::time::Duration;

use http::Method;
use miroir_tests::alongside::Both;
use miroir_tests::processes::Cluster;
use miroir_tests::replicas;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const EDIT: &str = "/indexes/films/documents/edit";

fn films(count: u64) -> Value {
    let film = |id: u64| {
        json!({
            "id": id, "title": format!("Film {id}"), "year": 1950 + id % 60, "rating": id as f64 / 8.0,
            "genres": ["drama", if id.is_multiple_of(3) { "noir" } else { "comedy" }],
            "of": { "studio": format!("s{}", id % 4) }, "note": null,
        })
    };
    (0..count).map(film).collect()
}

async fn all(both: &Both) -> Value {
    let query = json!({ "sort": ["id:asc"], "limit": 1000, "retrieveVectors": true });
    both.answer("/indexes/films/documents/fetch", Some(query)).await["results"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_do_in_a_cluster_what_they_do_on_one_node() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--nodes", "3", "--groups", "1", "--rf", "2", "--shards", "8"];
    let both = Both::start(directory.path(), &arguments).await;

    let edit = |function: &str| json!({ "function": function });
    let refusal = both.answer(EDIT, Some(edit("doc.year += 1"))).await;
    assert_eq!(refusal["code"], "feature_not_enabled", "{refusal}");
    for api in [&both.alone, &both.cluster] {
        let on = json!({ "editDocumentsByFunction": true });
        api.call(Method::PATCH, "/experimental-features", Some(&on)).await.expect("switched");
    }
    for (wrong, code) in [
        (json!({}), "missing_document_edition_function"),
        (json!({ "function": 3 }), "invalid_document_edition_function"),
        (edit("doc.year +="), "bad_request"),
        (json!({ "function": "1", "context": [1] }), "invalid_document_edition_context"),
        (json!({ "function": "1", "filter": "" }), "invalid_document_filter"),
    ] {
        let refusal = both.answer(EDIT, Some(wrong.clone())).await;
        assert!(
            refusal["code"].as_str().is_some_and(|found| found.starts_with(code)),
            "{wrong}: {refusal}"
        );
    }

    let settings = json!({
        "filterableAttributes": ["id", "year", "genres"], "sortableAttributes": ["id"],
        "embedders": { "given": { "source": "userProvided", "dimensions": 2 } },
    });
    both.fails(Method::POST, EDIT, edit("doc.year += 1")).await;
    both.succeeds(Method::PATCH, "/indexes/films/settings", settings).await;
    let unread = json!({ "function": "doc = ()", "filter": "year >" });
    let refusal = both.answer(EDIT, Some(unread)).await;
    assert_eq!(refusal["code"], "invalid_document_filter", "{refusal}");
    both.succeeds(Method::POST, EDIT, edit("doc.year += 1")).await;
    // Operators that are switched off are refused before there is a task, as in deletions.
    for path in [EDIT, "/indexes/films/documents/delete"] {
        let mut body = json!({ "filter": "genres CONTAINS noi" });
        if path == EDIT {
            body["function"] = json!("doc = ()");
        }
        let refusal = both.answer(path, Some(body)).await;
        assert_eq!(refusal["code"], "feature_not_enabled", "{refusal}");
    }
    let mut sent = films(120);
    for (id, film) in sent.as_array_mut().into_iter().flatten().enumerate() {
        film["_vectors"] = match id % 5 {
            0 => json!({ "given": null }),
            _ => json!({ "given": [id, 1.0] }),
        };
    }
    both.succeeds(Method::POST, "/indexes/films/documents", sent).await;

    let ages = json!({
        "function": "doc.age = context.now - doc.year; doc.remove(\"note\"); doc.of.studio.make_upper()",
        "context": { "now": 2026 }, "filter": ["year < 2000", ["genres = noir", "id > 100"]],
    });
    let end = both.succeeds(Method::POST, EDIT, ages).await;
    assert_eq!(end["details"]["context"], json!({ "now": 2026 }), "{end}");
    let edited = all(&both).await;
    assert_eq!(edited[3]["age"], 73, "{edited}");
    assert_eq!(edited[3]["_vectors"]["given"]["embeddings"], json!([[3.0, 1.0]]), "kept");
    let sift = "if doc.id % 2 == 0 { doc = () } else { doc.title += \"!\"; doc.rating *= 2 }";
    let end = both.succeeds(Method::POST, EDIT, edit(sift)).await;
    assert_eq!(end["details"]["editedDocuments"], 120, "{end}");
    let sifted = all(&both).await;
    assert_eq!(sifted.as_array().map(Vec::len), Some(60));
    let uses = "let drama = `drama`; let marks = doc.genres.filter(|g| g != drama);
        doc.genres = marks.map(|g| g + drama); doc.at = doc.genres.index_of(|g| g != drama);";
    both.succeeds(Method::POST, EDIT, edit(uses)).await;
    let keeps =
        "let twice = |t| t + t; doc.marks = doc.genres.map(twice); doc.n = twice.call(doc.id)";
    both.succeeds(Method::POST, EDIT, edit(keeps)).await;
    let sifted = all(&both).await;
    assert_eq!(sifted[16]["marks"], json!(["noirdramanoirdrama"]), "{}", sifted[16]);
    let vectors = "doc._vectors = #{ given: #{ embeddings: [[7.0, 7.0]], regenerate: false } }";
    both.succeeds(Method::POST, EDIT, json!({ "function": vectors, "filter": "id = 33" })).await;
    let sifted = all(&both).await;
    assert_eq!(
        sifted[16]["_vectors"]["given"]["embeddings"],
        json!([[7.0, 7.0]]),
        "{}",
        sifted[16]
    );

    // One document fails, and none is edited.
    for failing in [
        "if doc.id == 77 { throw \"no\" } doc.title = \"gone\"",
        "if doc.id == 77 { doc = 1 } else { doc = () }",
        "if doc.id == 77 { doc.id = 2000 } else { doc = () }",
        "if doc.id == 77 { doc.remove(\"id\") } else { doc = () }",
        "if doc.id == 77 { doc = #{} } else { doc.title = \"gone\" }",
        "doc.title = context.title",
        "doc.title = nothing",
        "loop { doc.n = 1 }",
    ] {
        both.fails(Method::POST, EDIT, edit(failing)).await;
    }
    both.fails(Method::POST, EDIT, json!({ "function": "doc = ()", "filter": "title = a" })).await;
    assert_eq!(all(&both).await, sifted, "nothing has changed");
    both.succeeds(Method::POST, EDIT, json!({ "function": "doc = ()", "filter": "id = 5000" }))
        .await;
    both.succeeds(Method::POST, EDIT, edit("doc = ()")).await;
    assert_eq!(all(&both).await, json!([]));
    both.stop().await;
}

/// What counts up shows what was done twice, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_edition_counts_once_though_pods_and_nodes_are_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--pods", "3", "--nodes", "3", "--groups", "1", "--rf", "2", "--shards", "8"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let api = cluster.api();
    let on = json!({ "editDocumentsByFunction": true });
    api.call(Method::PATCH, "/experimental-features", Some(&on)).await.expect("switched");
    let path = "/indexes/films/documents";
    api.apply(Method::POST, path, Some(&films(500)), PATIENCE).await.expect("documents");

    let mut sent = Vec::new();
    let mut count = 0;
    for round in 0..12_usize {
        match round {
            3 => cluster.kill(&cluster.ready.nodes[0]).expect("killed"),
            5 => cluster.kill(&cluster.ready.pods[1]).expect("killed"),
            7 => cluster.kill(&cluster.ready.nodes[2]).expect("killed"),
            // The pod that clients talk to, too: what it was sent stays accepted.
            9 => cluster.kill(&cluster.ready.pods[0]).expect("killed"),
            _ => {}
        }
        let function = json!({ "function": "if \"n\" in doc { doc.n += 1 } else { doc.n = 1 }" });
        let api = miroir_tests::client::Api::new(
            &cluster.ready.pods[2].url,
            Some(&cluster.ready.master_key),
        );
        match api.enqueue(Method::POST, EDIT, Some(&function)).await {
            Ok(uid) => {
                sent.push(uid);
                count += 1;
            }
            // Refused while its second copy has no place to go.
            Err(refusal) => assert!(refusal.to_string().contains("503"), "{refusal}"),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(count >= 6, "{count} editions were accepted");
    let api =
        miroir_tests::client::Api::new(&cluster.ready.pods[2].url, Some(&cluster.ready.master_key));
    for uid in sent {
        let task = api.wait_for_task(uid, PATIENCE).await.expect("an end");
        assert_eq!(task["status"], "succeeded", "{task}");
        assert_eq!(task["details"]["editedDocuments"], 500, "{task}");
    }
    let documents = replicas::all_documents(&api, "films").await;
    assert_eq!(documents.len(), 500);
    for (id, document) in &documents {
        assert_eq!(document["n"], count, "document {id}");
    }
    replicas::become_equal(&cluster.ready.nodes, "films", &documents, 2, PATIENCE).await;
    cluster.stop().await.expect("an end");
}
