//! Builds a pod from its parts: configuration, log, actors, gateway.

use miroir_seams::Seams;

use crate::config::Config;
use crate::exit::Stop;

/// Runs a pod until `stop` completes, then drains it.
///
/// # Errors
/// Whatever keeps the pod from starting or stops it against its will.
pub async fn run_pod(_config: Config, _seams: Seams, _stop: Stop) -> anyhow::Result<()> {
    anyhow::bail!("this build has no gateway")
}
