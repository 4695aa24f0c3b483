//! What it takes to find and repair one document that differs on one replica, among many.
//!
//! The cluster is started here, on free ports: one pod before two nodes that hold the same. A document is changed
//! on one of them, behind Miroir's back, and replicas are compared.

use std::time::Duration;

use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::Cluster;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::moves::{document, ingest};
use super::{BenchFault, DifferencesArguments};

const INDEX: &str = "compared";
const ROUTE: &str = "/_miroir/anti-entropy";
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two looks at how far comparing is.
const LOOK: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Documents of the index.
    pub documents: usize,
    /// From the order to compare until the document was right again.
    pub repaired_after: Duration,
    /// From the order to compare to the end of the round.
    pub round: Duration,
    /// Documents read to compare them, of both replicas.
    pub compared: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes read after that, of what seemed to differ.
    pub closer_bytes: u64,
    /// Documents that were put right.
    pub repaired: u64,
}

/// Starts the cluster, changes the document and waits for the end of a round.
///
/// # Errors
/// When the cluster does not start, or refuses something.
pub async fn measure(arguments: &DifferencesArguments) -> Result<Found, BenchFault> {
    let directory = tempfile::tempdir().map_err(BenchFault::Directory)?;
    let shape = ["--nodes", "2", "--groups", "1", "--rf", "2", "--shards", "16"];
    let cluster = Cluster::start(&directory.path().join("cluster"), &shape).await?;
    let (api, node) = (cluster.api(), cluster.node_api(&cluster.ready.nodes[1]));
    let admin = Api::new(&cluster.ready.url, cluster.ready.admin_key.as_deref());
    ingest(&api, INDEX, arguments.documents).await?;

    let id = arguments.documents / 3 * 2;
    let listed = node.call(Method::GET, "/indexes?limit=100", None).await?;
    let uids = listed["results"].as_array().into_iter().flatten();
    let mut uids = uids.filter_map(|index| index["uid"].as_str());
    let uid = uids.find(|uid| uid.ends_with(INDEX)).unwrap_or(INDEX).to_owned();
    let (documents, one) =
        (format!("/indexes/{uid}/documents"), format!("/indexes/{uid}/documents/{id}"));
    let changed = json!([{ "id": id, "title": "changed by somebody" }]);
    node.apply(Method::PUT, &documents, Some(&changed), PATIENCE).await?;

    let began = Instant::now();
    admin.call(Method::POST, ROUTE, None).await?;
    let mut found = Found { documents: arguments.documents, ..Found::default() };
    loop {
        tokio::time::sleep(LOOK).await;
        if found.repaired_after.is_zero() {
            let title = node.call(Method::GET, &one, None).await?["title"].clone();
            if title == document(id)["title"] {
                found.repaired_after = began.elapsed();
            }
        }
        let report = admin.call(Method::GET, ROUTE, None).await?["pods"][0].clone();
        let number = |name: &str| report[name].as_u64().unwrap_or_default();
        if report["lastRoundAt"] != Value::Null || began.elapsed() > PATIENCE {
            found.round = began.elapsed();
            found.compared = number("documents");
            found.bytes = number("bytes");
            found.closer_bytes = number("closerBytes");
            found.repaired = number("repaired");
            return Ok(found);
        }
    }
}

/// What was found, as a table.
pub fn table(found: &Found) -> String {
    let share = 100.0 * found.closer_bytes as f64 / found.bytes.max(1) as f64;
    let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
    let rows = [
        ("documents", found.documents.to_string()),
        ("documents read to compare them, on two replicas", found.compared.to_string()),
        ("bytes of those", found.bytes.to_string()),
        ("bytes read after that", format!("{} ({share:.3} %)", found.closer_bytes)),
        ("documents put right", found.repaired.to_string()),
        ("s until the document was right again", seconds(found.repaired_after)),
        ("s until all was compared", seconds(found.round)),
    ];
    let mut table = "| | |\n|---|---:|\n".to_owned();
    table.extend(rows.iter().map(|(what, figure)| format!("| {what} | {figure} |\n")));
    table
}
