// Drives a server through the official `meilisearch` package for JavaScript: what an application does.
//
// Environment: MEILI_URL, MEILI_KEY, and MOVIES (a file of documents, one a line).
// Exits non-zero at the first step that does not hold.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Meilisearch, MeilisearchApiError } from "meilisearch";
import { generateTenantToken } from "meilisearch/token";

const PATIENCE_MS = 60_000;
const host = process.env.MEILI_URL;
const lines = readFileSync(process.env.MOVIES, "utf8").trim().split("\n");
const movies = lines.slice(0, 2_000).map((line) => JSON.parse(line));

/** A client with a key (or none). */
function connect(apiKey) {
  return new Meilisearch({ host, apiKey, defaultWaitOptions: { timeout: PATIENCE_MS, interval: 25 } });
}

const client = connect(process.env.MEILI_KEY);
const index = client.index("smoke-js");
const next = client.index("smoke-js-next");

/** One step of the story: all that it asserts must hold. */
async function step(what, run) {
  try {
    await run();
  } catch (error) {
    const answer = error instanceof MeilisearchApiError ? JSON.stringify(error.cause) : "";
    console.error(`smoke: not so: ${what}\n${error.stack}\n${answer}`);
    process.exit(1);
  }
  console.log(`ok: ${what}`);
}

/** Waits for the task that a write became, and for its success. */
async function done(write) {
  const task = await write.waitTask();
  assert.equal(task.status, "succeeded", JSON.stringify(task));
  return task;
}

/** The call must be refused with this status and code. */
async function refused(call, status, code) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof MeilisearchApiError, String(error));
    assert.deepEqual([error.response.status, error.cause?.code], [status, code]);
    return true;
  });
}

/** The films that hold a condition. */
const those = (holds) => movies.filter(holds);
const genres = [...new Set(movies.map((each) => each.major_genre).filter(Boolean))];
const titles = (found) => found.hits.map((hit) => hit.title);

await step("the server is healthy and tells a version", async () => {
  assert.equal(await client.isHealthy(), true);
  assert.equal((await client.health()).status, "available");
  assert.match((await client.getVersion()).pkgVersion, /^1\./);
});

await step("an index is created with its primary key", async () => {
  for (const { uid } of [index, next]) await client.deleteIndex(uid).waitTask();
  const task = await done(client.createIndex(index.uid, { primaryKey: "id" }));
  assert.deepEqual([task.type, task.indexUid, task.details], ["indexCreation", index.uid, { primaryKey: "id" }]);
  const info = await client.getRawIndex(index.uid);
  assert.equal(info.primaryKey, "id");
  assert.ok(Date.parse(info.createdAt) <= Date.parse(info.updatedAt));
  assert.ok((await client.getRawIndexes({ limit: 1_000 })).results.some(({ uid }) => uid === index.uid));
  const again = await client.createIndex(index.uid).waitTask();
  assert.deepEqual([again.status, again.error.code], ["failed", "index_already_exists"]);
});

await step("documents are added in batches", async () => {
  const tasks = await Promise.all(index.addDocumentsInBatches(movies, 500).map(done));
  assert.deepEqual(tasks.map((task) => task.details.indexedDocuments), [500, 500, 500, 500]);
  const stats = await index.getStats();
  assert.deepEqual([stats.numberOfDocuments, stats.fieldDistribution.title], [2_000, 2_000]);
  assert.equal((await client.getStats()).indexes[index.uid].numberOfDocuments, 2_000);
});

await step("settings are changed and read back", async () => {
  const settings = {
    searchableAttributes: ["title", "director"],
    filterableAttributes: ["major_genre", "imdb_rating", "distributor"],
    sortableAttributes: ["imdb_rating", "title"],
    rankingRules: ["words", "sort", "typo", "proximity", "attribute", "exactness"],
    synonyms: { movie: ["film"] },
    stopWords: ["of", "the"],
  };
  await done(index.updateSettings(settings));
  const read = await index.getSettings();
  for (const [name, value] of Object.entries(settings)) {
    const sorted = name === "filterableAttributes" || name === "sortableAttributes";
    assert.deepEqual(sorted ? read[name].toSorted() : read[name], sorted ? value.toSorted() : value, name);
  }
  await done(index.resetSynonyms());
  await done(index.resetStopWords());
  assert.deepEqual([await index.getSynonyms(), await index.getStopWords()], [{}, []]);
  await done(index.updateFaceting({ maxValuesPerFacet: 50, sortFacetValuesBy: { "*": "count" } }));
  assert.equal((await index.getFaceting()).maxValuesPerFacet, 50);
  await done(index.updateTypoTolerance({ minWordSizeForTypos: { oneTypo: 4, twoTypos: 8 } }));
  assert.deepEqual((await index.getTypoTolerance()).minWordSizeForTypos, { oneTypo: 4, twoTypos: 8 });
});

await step("a title is found, also with a slip of the finger, by POST and by GET", async () => {
  assert.equal(titles(await index.search("land girls"))[0], "The Land Girls");
  assert.equal(titles(await index.search("land gilrs"))[0], "The Land Girls");
  assert.deepEqual(titles(await index.search('"land girls"')), ["The Land Girls"]);
  const options = { limit: 5, attributesToRetrieve: ["id", "title"], filter: "imdb_rating > 5" };
  const [post, get] = [await index.search("girl", options), await index.searchGet("girl", options)];
  assert.deepEqual(get.hits, post.hits);
  assert.deepEqual(Object.keys(post.hits[0]), ["id", "title"]);
  assert.deepEqual([post.query, post.limit, post.offset], ["girl", 5, 0]);
});

await step("hits are filtered and sorted", async () => {
  const filter = [["major_genre = Drama", "major_genre = Western"], "imdb_rating > 8"];
  const found = await index.search("", { filter, sort: ["imdb_rating:desc", "title:asc"], limit: 100 });
  const wanted = those((each) => ["Drama", "Western"].includes(each.major_genre) && each.imdb_rating > 8);
  assert.deepEqual(new Set(found.hits.map(({ id }) => id)), new Set(wanted.map(({ id }) => id)));
  const ratings = found.hits.map((hit) => hit.imdb_rating);
  assert.deepEqual(ratings, ratings.toSorted((a, b) => b - a));
});

await step("facets are counted", async () => {
  const found = await index.search("", { facets: ["major_genre", "imdb_rating"], limit: 0 });
  const count = (genre) => those((each) => each.major_genre === genre).length;
  const wanted = Object.fromEntries(genres.map((genre) => [genre, count(genre)]));
  assert.deepEqual({ ...found.facetDistribution.major_genre }, wanted);
  assert.equal(Object.keys(found.facetDistribution.major_genre)[0], "Drama", "the largest comes first");
  const ratings = those((each) => each.imdb_rating !== null).map((each) => each.imdb_rating);
  assert.deepEqual(found.facetStats.imdb_rating, { min: Math.min(...ratings), max: Math.max(...ratings) });
});

await step("hits are counted in pages, none twice and none left out", async () => {
  const wanted = those((each) => each.major_genre === "Western");
  const seen = [];
  for (let page = 1; page <= 3; page += 1) {
    const found = await index.search("", { filter: "major_genre = Western", hitsPerPage: 10, page });
    assert.deepEqual([found.page, found.totalHits, found.totalPages], [page, wanted.length, 3]);
    seen.push(...found.hits.map(({ id }) => id));
  }
  assert.deepEqual(seen.toSorted((a, b) => a - b), wanted.map(({ id }) => id));
});

await step("matches are highlighted, cropped, placed and scored", async () => {
  const found = await index.search("girls", {
    attributesToHighlight: ["title"], highlightPreTag: "[", highlightPostTag: "]",
    attributesToCrop: ["title"], cropLength: 2, showMatchesPosition: true, showRankingScore: true,
  });
  const hit = found.hits.find(({ id }) => id === 1);
  assert.equal(hit._formatted.title, "…Land [Girls]");
  assert.deepEqual(hit._matchesPosition.title, [{ start: 9, length: 5 }]);
  const scores = found.hits.map((each) => each._rankingScore);
  assert.ok(scores.every((score) => score > 0 && score <= 1));
  assert.ok(!JSON.stringify(found).includes("_miroir"), "nothing internal shows");
});

await step("one of each is kept", async () => {
  const filter = "major_genre EXISTS AND major_genre IS NOT NULL";
  const found = await index.search("", { distinct: "major_genre", filter, limit: 50 });
  assert.deepEqual(found.hits.map((hit) => hit.major_genre).toSorted(), genres.toSorted());
});

await step("values of a facet are searched", async () => {
  const filter = "imdb_rating > 7";
  const found = await index.searchForFacetValues({ facetName: "major_genre", facetQuery: "com", filter });
  const count = those((each) => each.major_genre === "Comedy" && each.imdb_rating > 7).length;
  assert.deepEqual([found.facetHits, found.facetQuery], [[{ value: "Comedy", count }], "com"]);
});

await step("several searches go in one request", async () => {
  const queries = [
    { indexUid: index.uid, q: "girls", limit: 3 },
    { indexUid: index.uid, q: "love", filter: "major_genre = Drama" },
  ];
  const { results } = await client.multiSearch({ queries });
  assert.deepEqual(results.map(({ query }) => query), ["girls", "love"]);
  assert.ok(results.every(({ indexUid }) => indexUid === index.uid));
  assert.deepEqual(results[0].hits, (await index.search("girls", { limit: 3 })).hits);
  assert.ok(results[1].hits.every((hit) => hit.major_genre === "Drama"));
});

await step("several searches are merged into one answer", async () => {
  await done(client.createIndex(next.uid, { primaryKey: "id" }));
  const faceting = { sortFacetValuesBy: { "*": "count" } };
  await done(next.updateSettings({ filterableAttributes: ["major_genre"], faceting }));
  await done(next.addDocuments([{ id: 1, title: "Next Girls", major_genre: "Drama" }]));
  const facetsByIndex = { [index.uid]: ["major_genre"], [next.uid]: ["major_genre"] };
  const found = await client.multiSearch({
    federation: { limit: 50, facetsByIndex, mergeFacets: {} },
    queries: [
      { indexUid: index.uid, q: "girls" },
      { indexUid: next.uid, q: "girls", federationOptions: { weight: 2 } },
    ],
  });
  assert.deepEqual([found.hits[0].title, found.hits[0]._federation.indexUid], ["Next Girls", next.uid]);
  const scores = found.hits.map((hit) => hit._federation.weightedRankingScore);
  assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
  const [one, other] = [await index.search("girls", { facets: ["major_genre"] }), await next.search("girls")];
  assert.equal(found.estimatedTotalHits, one.estimatedTotalHits + other.estimatedTotalHits);
  assert.equal(found.facetDistribution.major_genre.Drama, one.facetDistribution.major_genre.Drama + 1);
});

await step("documents are read and listed", async () => {
  assert.deepEqual(await index.getDocument(1), movies[0]);
  assert.deepEqual(await index.getDocument(1, { fields: ["title"] }), { title: "The Land Girls" });
  const wanted = those((each) => each.major_genre === "Drama" && each.imdb_rating > 8);
  const filter = "major_genre = Drama AND imdb_rating > 8";
  const listed = await index.getDocuments({ filter, limit: 7, fields: ["id", "major_genre"] });
  assert.deepEqual([listed.total, listed.limit, listed.results.length], [wanted.length, 7, 7]);
  assert.ok(listed.results.every((each) => Object.keys(each).length === 2 && each.major_genre === "Drama"));
  const seen = new Set();
  for (let offset = 0; offset < 2_000; offset += 800) {
    const page = await index.getDocuments({ offset, limit: 800, fields: ["id"] });
    assert.equal(page.total, 2_000);
    for (const { id } of page.results) seen.add(id);
  }
  assert.equal(seen.size, 2_000, "pages hold each document once");
});

await step("documents are updated, replaced and deleted", async () => {
  await done(index.updateDocuments([{ id: 1, director: "David Leland" }]));
  assert.deepEqual(await index.getDocument(1), { ...movies[0], director: "David Leland" });
  await done(index.addDocuments([{ id: 1, title: "Other Girls" }]));
  assert.deepEqual(await index.getDocument(1), { id: 1, title: "Other Girls" });
  const text = '{"id":9001,"title":"a"}\n{"id":9002,"title":"b"}\n';
  const added = await done(index.addDocumentsFromString(text, "application/x-ndjson"));
  assert.equal(added.details.indexedDocuments, 2);
  await done(index.deleteDocument(1));
  await refused(() => index.getDocument(1), 404, "document_not_found");
  const some = await done(index.deleteDocuments(["9001", 9002, "none"]));
  assert.deepEqual([some.details.providedIds, some.details.deletedDocuments], [3, 2]);
  const left = those((each) => each.id !== 1);
  const westerns = left.filter((each) => each.major_genre === "Western").length;
  const filtered = await done(index.deleteDocuments({ filter: "major_genre = Western" }));
  assert.equal(filtered.details.deletedDocuments, westerns);
  assert.equal((await index.search("", { filter: "major_genre = Western" })).estimatedTotalHits, 0);
  assert.equal((await index.getStats()).numberOfDocuments, left.length - westerns);
  const nameless = await index.addDocuments([{ title: "no id" }]).waitTask();
  assert.deepEqual([nameless.status, nameless.error.code], ["failed", "missing_document_id"]);
});

await step("a key opens what it names, a tenant token less", async () => {
  const rights = { actions: ["search"], indexes: ["smoke-js*"], expiresAt: null };
  const made = await client.createKey({ name: "smoke", ...rights });
  assert.deepEqual(await client.getKey(made.uid), made);
  assert.ok((await client.getKeys({ limit: 1_000 })).results.some(({ uid }) => uid === made.uid));
  assert.equal((await client.updateKey(made.uid, { description: "a key" })).description, "a key");
  const searcher = connect(made.key).index(index.uid);
  assert.ok((await searcher.search("love")).hits.length > 0);
  await refused(() => searcher.addDocuments([{ id: 1 }]), 403, "invalid_api_key");
  await refused(() => connect(made.key).index("other").search(""), 403, "invalid_api_key");

  const signer = { apiKey: made.key, apiKeyUid: made.uid };
  const searchRules = { [index.uid]: { filter: "major_genre = Horror" } };
  const inAnHour = new Date(Date.now() + 3_600_000);
  const token = await generateTenantToken({ ...signer, searchRules, expiresAt: inAnHour });
  const found = await connect(token).index(index.uid).search("", { limit: 500, filter: "imdb_rating > 6" });
  const wanted = those((each) => each.major_genre === "Horror" && each.imdb_rating > 6);
  assert.deepEqual(new Set(found.hits.map(({ id }) => id)), new Set(wanted.map(({ id }) => id)));
  await refused(() => connect(token).index(next.uid).search(""), 403, "invalid_api_key");
  const old = await generateTenantToken({ ...signer, expiresAt: new Date(Date.now() - 60_000) });
  await refused(() => connect(old).index(index.uid).search(""), 403, "invalid_api_key");

  await client.deleteKey(made.uid);
  await refused(() => client.getKey(made.uid), 404, "api_key_not_found");
});

await step("tasks are listed, filtered, cancelled and deleted", async () => {
  const ours = { indexUids: [index.uid], statuses: ["succeeded"], limit: 5 };
  const { results, next: from } = await client.tasks.getTasks(ours);
  const uids = results.map(({ uid }) => uid);
  assert.deepEqual(uids, [...new Set(uids)].toSorted((a, b) => b - a), "newest first, each once");
  assert.ok(results.every((task) => task.status === "succeeded" && task.indexUid === index.uid));
  assert.equal((await client.tasks.getTasks({ ...ours, from })).results[0].uid, from);
  assert.ok(from < uids.at(-1));
  const types = ["documentAdditionOrUpdate"];
  const failed = await client.tasks.getTasks({ ...ours, statuses: ["failed"], types });
  assert.equal(failed.results[0].error.code, "missing_document_id");
  const before = await client.tasks.getTasks({ ...ours, beforeEnqueuedAt: results[2].enqueuedAt });
  assert.ok(before.results.length > 0 && before.results.every((task) => task.uid < uids[2]));
  assert.deepEqual(await client.tasks.getTask(uids[0]), results[0]);
  assert.deepEqual(await client.tasks.waitForTasks(uids), results);

  const cancelled = await done(client.tasks.cancelTasks({ uids: [uids[0]] }));
  assert.deepEqual([cancelled.details.matchedTasks, cancelled.details.canceledTasks], [1, 0], "it had ended");
  const deleted = await done(client.tasks.deleteTasks({ uids: [uids[0]] }));
  assert.deepEqual([deleted.details.matchedTasks, deleted.details.deletedTasks], [1, 1]);
  await refused(() => client.tasks.getTask(uids[0]), 404, "task_not_found");
});

await step("indexes are swapped", async () => {
  const task = await done(client.swapIndexes([{ indexes: [index.uid, next.uid], rename: false }]));
  assert.deepEqual([task.type, task.details.swaps[0].indexes], ["indexSwap", [index.uid, next.uid]]);
  assert.deepEqual(titles(await index.search("girls")), ["Next Girls"]);
  assert.equal((await next.getSettings()).searchableAttributes[0], "title", "settings go with their documents");
});

await step("an index is renamed", async () => {
  const name = `${index.uid}-renamed`;
  const renamed = await done(client.updateIndex(index.uid, { uid: name }));
  assert.deepEqual([renamed.details.oldIndexUid, renamed.details.newIndexUid], [index.uid, name]);
  assert.deepEqual(titles(await client.index(name).search("girls")), ["Next Girls"]);
  await refused(() => client.getRawIndex(index.uid), 404, "index_not_found");
  const taken = await client.updateIndex(name, { uid: next.uid }).waitTask();
  assert.deepEqual([taken.status, taken.error.code], ["failed", "index_already_exists"]);
  const back = await done(client.swapIndexes([{ indexes: [name, index.uid], rename: true }]));
  assert.equal(back.type, "indexSwap");
});

await step("documents are listed in a wanted order", async () => {
  const { results } = await next.getDocuments({ sort: ["imdb_rating:desc", "title:asc"], limit: 5, fields: ["imdb_rating"] });
  const ratings = results.map((movie) => movie.imdb_rating);
  assert.deepEqual(ratings, [...ratings].sort((a, b) => b - a));
});

await step("what is wrong is refused", async () => {
  await refused(() => next.search("", { filter: "title = x" }), 400, "invalid_search_filter");
  await refused(() => next.search("", { sort: ["imdb_votes:asc"] }), 400, "invalid_search_sort");
  await refused(() => next.search("", { limit: -1 }), 400, "invalid_search_limit");
  await refused(() => client.getRawIndex("nope"), 404, "index_not_found");
  await refused(() => client.createIndex("not a name"), 400, "invalid_index_uid");
  await refused(() => connect("wrong").getIndexes(), 403, "invalid_api_key");
  await refused(() => connect().getIndexes(), 401, "missing_authorization_header");
});

await step("indexes are emptied and deleted", async () => {
  await done(next.deleteAllDocuments());
  assert.equal((await next.getStats()).numberOfDocuments, 0);
  for (const each of [index, next]) await done(each.delete());
  await refused(() => client.getRawIndex(index.uid), 404, "index_not_found");
  const again = await client.deleteIndex(index.uid).waitTask();
  assert.deepEqual([again.status, again.error.code], ["failed", "index_not_found"]);
});
