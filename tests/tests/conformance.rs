//! The model node of the simulation answers as the embedded node does (`miroir_sim::conformance`).

use std::sync::Arc;

use miroir_seams::HttpTransport;
use miroir_sim::conformance::{RealNode, compare};
use miroir_tests::processes::NodeProcess;

/// Changes for each seed; each is followed by ten questions.
const STEPS: u64 = 150;

#[tokio::test]
async fn the_model_node_answers_as_the_embedded_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(directory.path()).await.expect("a node");
    let transport = Arc::new(HttpTransport::new());
    for seed in 1..=3 {
        let real = RealNode {
            transport: transport.clone(),
            base: node.url.clone(),
            key: Some(node.key.clone()),
        };
        let difference = compare(real, seed, STEPS).await.expect("a comparison");
        assert_eq!(difference, None);
    }
}
