//! Rounds of ingestion: from the first request to the end of the last task.

use std::time::Duration;

use miroir_seams::Clock;
use miroir_tests::oracle::Object;

use super::{BenchFault, Target, load};

/// One target's time in one round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The target.
    pub target: String,
    /// From the first request to the last task's end.
    pub took: Duration,
}

/// Loads the documents `rounds` times into each target, in turn.
pub async fn rounds(
    targets: &[Target],
    documents: &[Object],
    batch: usize,
    rounds: usize,
) -> Result<Vec<Round>, BenchFault> {
    let clock = Clock::real();
    let payloads = load::payloads(documents, batch);
    let mut measured = Vec::new();
    for _ in 0..rounds {
        for target in targets {
            load::reset(&target.api).await?;
            let started = clock.instant();
            load::send_all(&target.api, &payloads).await?;
            let took = clock.instant() - started;
            measured.push(Round { target: target.name.clone(), took });
        }
    }
    Ok(measured)
}
