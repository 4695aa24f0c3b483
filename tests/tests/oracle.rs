//! One node and a cluster answer the same queries alike, over the shipped movies.
//!
//! `ORACLE_SEED` and `ORACLE_QUERIES` change what is asked.

use miroir_tests::oracle::documents::shipped_movies;
use miroir_tests::oracle::judge::Servers;
use miroir_tests::oracle::run::{Options, Summary, run};
use miroir_tests::processes::{Cluster, NodeProcess};

/// Asked of each cluster.
const QUERIES: u64 = 2_000;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn compare_with(arguments: &[&str], seed: u64) -> Summary {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(&directory.path().join("reference")).await.expect("a node");
    let cluster = Cluster::start(&directory.path().join("subject"), arguments).await;
    let cluster = cluster.expect("a cluster");
    let servers = Servers { reference: node.api(), subject: cluster.api() };
    let options = Options {
        seed: from_environment("ORACLE_SEED", seed),
        queries: from_environment("ORACLE_QUERIES", QUERIES),
        only: None,
        data: shipped_movies(),
        documents_max: usize::MAX,
        load: true,
        reverse_subject: false,
        printed_max: 10,
        replay: "cargo run -p miroir-tests --bin oracle -- --reference URL --reference-key KEY \
                 --subject URL --subject-key KEY"
            .to_owned(),
    };
    let summary = run(&servers, &options).await.expect("both sides answer");
    println!("{}", summary.report());
    assert!(summary.strict >= options.queries / 2, "hardly any case is strict");
    summary
}

#[tokio::test]
async fn two_groups_with_one_replica_answer_like_one_node() {
    let arguments = ["--nodes", "4", "--groups", "2", "--rf", "1"];
    let summary = compare_with(&arguments, 1).await;
    assert!(summary.agrees(), "{}", summary.report());
}

#[tokio::test]
async fn two_replicas_on_three_nodes_answer_like_one_node() {
    let arguments = ["--nodes", "3", "--groups", "1", "--rf", "2"];
    let summary = compare_with(&arguments, 2).await;
    assert!(summary.agrees(), "{}", summary.report());
}

/// The oracle itself: a node compared with another that has the same documents in another
/// order is free of differences, and with one that lacks a document it is not.
#[tokio::test]
async fn two_nodes_agree_until_one_loses_a_document() {
    let directory = tempfile::tempdir().expect("a directory");
    let reference = NodeProcess::start(&directory.path().join("a")).await.expect("a node");
    let subject = NodeProcess::start(&directory.path().join("b")).await.expect("a node");
    let servers = Servers { reference: reference.api(), subject: subject.api() };
    let mut options = Options {
        seed: 3,
        queries: 300,
        only: None,
        data: shipped_movies(),
        documents_max: 800,
        load: true,
        reverse_subject: true,
        printed_max: 3,
        replay: "oracle".to_owned(),
    };
    let summary = run(&servers, &options).await.expect("both sides answer");
    assert!(summary.agrees(), "{}", summary.report());
    assert_eq!(summary.scores_differing, 0);

    for index in ["plain", "sort-between", "custom-rules", "language"] {
        let path = format!("/indexes/{index}/documents/100");
        let patience = std::time::Duration::from_secs(60);
        servers.subject.apply(http::Method::DELETE, &path, None, patience).await.expect("deleted");
    }
    options.load = false;
    let summary = run(&servers, &options).await.expect("both sides answer");
    assert!(summary.strict_differing > 0, "the lost document was not noticed");
    assert!(summary.printed.iter().all(|text| text.contains("smallest body")));
}
