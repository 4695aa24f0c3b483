//! Where a pod looks for others before it knows any, and when it has lost all.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// A look-up that takes longer is given up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses taken of all names together.
const ADDRESSES_MAX: usize = 256;

/// Finds the addresses of a name.
#[async_trait]
pub trait ResolveSeed: Debug + Send + Sync + 'static {
    /// All addresses of `seed`, `name:port`.
    ///
    /// # Errors
    /// When it has none, or nobody could be asked.
    async fn resolve(&self, seed: &str) -> io::Result<Vec<SocketAddr>>;
}

/// Asks the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl ResolveSeed for SystemResolver {
    async fn resolve(&self, seed: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(seed).await?.collect())
    }
}

/// The seeds of a pod, and how their names are looked up.
#[derive(Clone, Debug)]
pub struct SeedSource {
    /// `ip:port`, or `name:port` where the name may have many addresses (all pods of a headless
    /// service, say) and may change them. Its own address does no harm.
    pub seeds: Vec<String>,
    /// Looks up what isn't an address.
    pub resolver: Arc<dyn ResolveSeed>,
}

impl SeedSource {
    /// Seeds whose names the operating system looks up.
    pub fn new(seeds: Vec<String>) -> Self {
        Self { seeds, resolver: Arc::new(SystemResolver) }
    }

    /// The addresses of all seeds, in order, without `own`. A name that can't be looked up keeps
    /// none of its addresses: `before` is what to go on with when nothing is found at all.
    pub(super) async fn resolve(&self, own: SocketAddr, before: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut found = BTreeSet::new();
        for seed in &self.seeds {
            if let Ok(address) = seed.parse() {
                found.insert(address);
                continue;
            }
            match tokio::time::timeout(LOOKUP_TIMEOUT, self.resolver.resolve(seed)).await {
                Ok(Ok(addresses)) => found.extend(addresses),
                Ok(Err(error)) => tracing::debug!(seed, %error, "seed not found"),
                Err(_) => tracing::debug!(seed, "looking up a seed took too long"),
            }
        }
        found.remove(&own);
        if found.is_empty() {
            return before.to_vec();
        }
        found.into_iter().take(ADDRESSES_MAX).collect()
    }
}
