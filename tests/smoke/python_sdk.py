"""Drives a server through the official `meilisearch` package: what every tutorial does.

Environment: MEILI_URL, MEILI_KEY, and MOVIES (a file of documents, one a line).
Exits non-zero on the first expectation that does not hold.
"""

import json
import os
import sys

import meilisearch
from meilisearch.errors import MeilisearchApiError

PATIENCE_MS = 60_000
MOVIES = os.environ.get("MOVIES", os.path.join(os.path.dirname(__file__), "../../ops/demo/movies.ndjson"))


def expect(condition, what):
    if not condition:
        sys.exit(f"smoke: not so: {what}")
    print(f"ok: {what}")


def done(client, task):
    ended = client.wait_for_task(task.task_uid, timeout_in_ms=PATIENCE_MS)
    if ended.status != "succeeded":
        sys.exit(f"smoke: task {task.task_uid} is {ended.status}: {ended.error}")
    return ended


def refused(call, code):
    try:
        call()
    except MeilisearchApiError as error:
        return error.code == code
    return False


def main():
    client = meilisearch.Client(os.environ["MEILI_URL"], os.environ.get("MEILI_KEY"))
    expect(client.is_healthy(), "the server is healthy")
    expect(client.get_version()["pkgVersion"][0] == "1", "it tells a version")

    for uid in ("smoke", "smoke-next"):
        client.wait_for_task(client.delete_index(uid).task_uid, timeout_in_ms=PATIENCE_MS)
    done(client, client.create_index("smoke", {"primaryKey": "id"}))
    index = client.get_index("smoke")
    expect(index.primary_key == "id", "a created index has its primary key")
    expect("smoke" in [each.uid for each in client.get_indexes()["results"]], "the index is listed")

    with open(MOVIES, encoding="utf-8") as lines:
        movies = [json.loads(line) for line in lines][:2_000]
    tasks = index.add_documents_in_batches(movies, batch_size=500)
    ended = [done(client, task) for task in tasks]
    expect(sum(task.details["indexedDocuments"] for task in ended) == 2_000, "all documents are indexed")
    expect(index.get_stats().number_of_documents == 2_000, "statistics count each document once")

    done(client, index.update_settings({
        "searchableAttributes": ["title", "director"],
        "filterableAttributes": ["major_genre", "imdb_rating"],
        "sortableAttributes": ["imdb_rating"],
    }))
    expect(index.get_settings()["sortableAttributes"] == ["imdb_rating"], "settings are read back")
    done(client, index.update_ranking_rules(["words", "sort", "typo", "proximity", "attribute", "exactness"]))
    expect(index.get_ranking_rules()[1] == "sort", "ranking rules are read back")
    done(client, index.update_synonyms({"movie": ["film"]}))
    expect(index.get_synonyms() == {"movie": ["film"]}, "synonyms are read back")
    done(client, index.reset_synonyms())
    expect(index.get_synonyms() == {}, "synonyms are reset")

    found = index.search("land girls")
    expect(found["hits"][0]["title"] == "The Land Girls", "a title is found")
    expect(index.search("lnad girsl")["estimatedTotalHits"] >= 0, "a slip of the finger is no error")
    found = index.search("", {
        "filter": "major_genre = Drama AND imdb_rating > 8", "sort": ["imdb_rating:desc"], "limit": 50,
    })
    ratings = [hit["imdb_rating"] for hit in found["hits"]]
    expect(ratings and ratings == sorted(ratings, reverse=True) and min(ratings) > 8, "filtered and sorted")
    found = index.search("", {"facets": ["major_genre"], "hitsPerPage": 10, "page": 2})
    counted = sum(1 for movie in movies if movie["major_genre"] == "Drama")
    expect(found["facetDistribution"]["major_genre"]["Drama"] == counted, "facets are counted")
    # Since Meilisearch 1.47 totals are not capped at `maxTotalHits`.
    expect(found["totalHits"] in (1_000, 2_000) and found["page"] == 2, "pages are counted")
    found = index.search("girls", {"attributesToHighlight": ["title"], "showRankingScore": True})
    expect("<em>" in found["hits"][0]["_formatted"]["title"], "matches are highlighted")
    expect("_miroir_shard" not in json.dumps(found), "nothing internal shows")
    batch = client.multi_search([{"indexUid": "smoke", "q": "girls"}, {"indexUid": "smoke", "q": "love"}])
    expect(len(batch["results"]) == 2, "several searches go in one request")

    expect(index.get_document(1).title == "The Land Girls", "one document is read")
    listed = index.get_documents({"limit": 7, "filter": "major_genre = Drama", "fields": ["id", "major_genre"]})
    expect(listed.total == counted and len(listed.results) == 7, "documents are listed by filter")
    done(client, index.update_documents([{"id": 1, "director": "David Leland"}]))
    document = index.get_document(1)
    expect(document.director == "David Leland" and document.title == "The Land Girls", "a document is updated")
    done(client, index.delete_document(1))
    expect(refused(lambda: index.get_document(1), "document_not_found"), "a deleted document is gone")
    done(client, index.delete_documents(ids=["2", "3"]))
    done(client, index.delete_documents(filter="major_genre = Drama"))
    expect(index.get_documents({"limit": 1, "filter": "major_genre = Drama"}).total == 0, "deleted by filter")

    done(client, client.create_index("smoke-next", {"primaryKey": "id"}))
    done(client, client.index("smoke-next").add_documents([{"id": 1, "title": "Next"}]))
    done(client, client.swap_indexes([{"indexes": ["smoke", "smoke-next"]}]))
    expect(index.get_document(1).title == "Next", "indexes are swapped")
    expect(client.get_task(ended[0].uid).status == "succeeded", "an old task is still there")
    uids = [task.uid for task in client.get_tasks({"limit": 50}).results]
    expect(uids == sorted(set(uids), reverse=True), "tasks are listed newest first, each once")

    expect(refused(lambda: index.search("", {"filter": "title = x"}), "invalid_search_filter"), "a bad filter is refused")
    expect(refused(lambda: client.get_index("nope"), "index_not_found"), "an unknown index is refused")
    wrong = meilisearch.Client(os.environ["MEILI_URL"], "wrong")
    expect(refused(wrong.get_indexes, "invalid_api_key"), "a wrong key is refused")

    for uid in ("smoke", "smoke-next"):
        done(client, client.delete_index(uid))
    expect(refused(lambda: client.get_index("smoke"), "index_not_found"), "the index is deleted")


if __name__ == "__main__":
    main()
