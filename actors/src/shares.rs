//! Shares of background work (spec 02, Shares): which items of an idempotent pass this pod does.
//!
//! An item belongs to the pod that rendezvous over the live pods gives it; a change of who lives
//! moves items, and one that is done twice or late does no harm. One pod does everything.

use std::fmt;
use std::sync::Arc;

use crate::peers::PeersView;

/// Whether this pod does an item of a pass. Clones share the rule.
pub struct Share<T: ?Sized>(Arc<dyn Fn(&T) -> bool + Send + Sync>);

impl<T: ?Sized> Share<T> {
    /// Every item.
    pub fn everything() -> Self {
        Self::new(|_| true)
    }

    /// The items that rendezvous over the living pods gives to this one, each under its name.
    pub fn of_pod(peers: PeersView, name: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        Self::new(move |item| peers.now().owner_of(&name(item)) == Some(peers.own()))
    }

    /// The items for which `includes` holds; asked anew for every item of every pass.
    pub fn new(includes: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(includes))
    }

    /// Whether this pod does `item`.
    pub fn includes(&self, item: &T) -> bool {
        (self.0)(item)
    }
}

impl<T: ?Sized> Clone for Share<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> fmt::Debug for Share<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}
