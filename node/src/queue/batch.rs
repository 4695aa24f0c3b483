//! Which waiting tasks of an index are carried out together.
//!
//! The rule is Meilisearch 1.15's: a batch is always a prefix of what waits for one index, so
//! joining never changes the order in which tasks take effect.
//!
//! ```text
//!              +documents,ids      +ids,filter        +settings
//! Documents ───────────┐     Deletions ──┐      Settings ──┐
//!     │ +clear         ▼         │       ▼         │       ▼
//!     └──────► Clear ◄───────────┘ (ids only, then │   ClearAndSettings (+clear, deletions,
//!                              +documents ► Documents)  settings)
//! every one of them: +index deletion ► DeleteIndex, which ends the batch
//! ```

/// What the batching rule needs to know of a waiting task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Adds or updates documents.
    Documents {
        /// The primary key named by the request.
        primary_key: Option<String>,
        /// Whether it may create the index.
        allow_index_creation: bool,
    },
    /// Deletes by ids.
    DeleteIds,
    /// Deletes by filter.
    DeleteFilter,
    /// Deletes all documents.
    Clear,
    /// Changes settings.
    Settings {
        /// Whether it may create the index.
        allow_index_creation: bool,
    },
    /// Deletes the index.
    DeleteIndex,
    /// Creates, updates or swaps indexes, or edits documents by a function: always alone.
    Alone,
}

/// How a batch is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// Document additions, updates and deletions by id, merged in order.
    Documents {
        /// The primary key that the batch uses, if one of its tasks names it.
        primary_key: Option<String>,
    },
    /// Deletions by ids and filters.
    Deletions {
        /// Whether one of them has a filter.
        with_filter: bool,
    },
    /// The index ends up empty: earlier writes of the batch need not be done.
    Clear,
    /// Settings, applied one over the other, with a single reindexing.
    Settings,
    /// Documents are cleared first, so that the settings have nothing to reindex.
    ClearAndSettings,
    /// The index ends up deleted: nothing else of the batch needs to be done.
    DeleteIndex,
    /// One task.
    Alone,
}

/// A batch: the first `length` of the waiting tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How it is carried out.
    pub kind: BatchKind,
    /// How many tasks it takes; at least 1.
    pub length: usize,
    /// Whether the first task creates the index if it is unknown.
    pub creates_index: bool,
}

/// Plans the next batch of an index. `waiting` is in uid order; `None` when it is empty.
pub fn plan_batch(
    waiting: &[Shape],
    index_exists: bool,
    index_primary_key: Option<&str>,
) -> Option<Plan> {
    let first = waiting.first()?;
    let creates_index = allows_creation(first) == Some(true);
    let (mut kind, ended) = match first {
        Shape::Documents { primary_key, .. } => {
            // A key that contradicts the index's is bound to fail: alone, to fail nobody else.
            let clash = matches!((index_primary_key, primary_key), (Some(a), Some(b)) if a != b);
            (BatchKind::Documents { primary_key: primary_key.clone() }, clash)
        }
        Shape::DeleteIds => (BatchKind::Deletions { with_filter: false }, false),
        Shape::DeleteFilter => (BatchKind::Deletions { with_filter: true }, false),
        Shape::Clear => (BatchKind::Clear, false),
        Shape::Settings { .. } => (BatchKind::Settings, false),
        Shape::DeleteIndex => (BatchKind::DeleteIndex, true),
        Shape::Alone => (BatchKind::Alone, true),
    };
    let mut length = 1;
    if ended {
        return Some(Plan { kind, length, creates_index });
    }
    let mut rights = allows_creation(first);
    let will_exist = index_exists || creates_index;
    for task in &waiting[1..] {
        // A task that may create the index must not lend that right to one that may not.
        if !will_exist && rights == Some(false) && allows_creation(task) == Some(true) {
            break;
        }
        let Some(next) = join(&kind, task, index_primary_key, will_exist) else { break };
        if let (BatchKind::Deletions { .. }, BatchKind::Documents { .. }) = (&kind, &next) {
            rights = allows_creation(task);
        }
        kind = next;
        length += 1;
        if kind == BatchKind::DeleteIndex {
            break;
        }
    }
    Some(Plan { kind, length, creates_index })
}

fn allows_creation(task: &Shape) -> Option<bool> {
    match task {
        Shape::Documents { allow_index_creation, .. }
        | Shape::Settings { allow_index_creation } => Some(*allow_index_creation),
        _ => None,
    }
}

/// What the batch becomes with one more task; `None` when the task must wait for the next one.
fn join(
    batch: &BatchKind,
    task: &Shape,
    index_primary_key: Option<&str>,
    index_exists: bool,
) -> Option<BatchKind> {
    use BatchKind as B;
    match (batch, task) {
        (B::DeleteIndex | B::Alone, _) | (_, Shape::Alone) => None,
        (_, Shape::DeleteIndex) => Some(B::DeleteIndex),

        (B::Clear, Shape::Clear | Shape::DeleteIds | Shape::DeleteFilter) => Some(B::Clear),
        (B::Documents { .. } | B::Deletions { .. }, Shape::Clear) => Some(B::Clear),

        (B::Documents { primary_key }, Shape::Documents { primary_key: named, .. }) => {
            let agreed = agree(Some(primary_key.as_deref()), named.as_deref(), index_primary_key)?;
            Some(B::Documents { primary_key: agreed })
        }
        (B::Documents { primary_key }, Shape::DeleteIds) => {
            Some(B::Documents { primary_key: primary_key.clone() })
        }
        (
            B::Deletions { with_filter: false },
            Shape::Documents { primary_key, allow_index_creation },
        ) if index_exists || !allow_index_creation => {
            agree(None, primary_key.as_deref(), index_primary_key)?;
            Some(B::Documents { primary_key: primary_key.clone() })
        }
        (B::Deletions { with_filter }, Shape::DeleteIds) => {
            Some(B::Deletions { with_filter: *with_filter })
        }
        (B::Deletions { .. }, Shape::DeleteFilter) => Some(B::Deletions { with_filter: true }),

        (B::Settings, Shape::Settings { .. }) => Some(B::Settings),
        (B::Settings, Shape::Clear) => Some(B::ClearAndSettings),
        (
            B::ClearAndSettings,
            Shape::Clear | Shape::DeleteIds | Shape::DeleteFilter | Shape::Settings { .. },
        ) => Some(B::ClearAndSettings),

        (B::Clear, Shape::Documents { .. } | Shape::Settings { .. })
        | (B::Documents { .. }, Shape::DeleteFilter | Shape::Settings { .. })
        | (B::Deletions { .. }, Shape::Documents { .. } | Shape::Settings { .. })
        | (B::Settings, Shape::Documents { .. } | Shape::DeleteIds | Shape::DeleteFilter)
        | (B::ClearAndSettings, Shape::Documents { .. }) => None,
    }
}

/// The primary key of a batch after a task that names `named`; `None` when they can't go
/// together. `batch` is `None` when the batch has no additions yet.
fn agree(
    batch: Option<Option<&str>>,
    named: Option<&str>,
    index_primary_key: Option<&str>,
) -> Option<Option<String>> {
    let Some(named) = named else { return Some(batch.flatten().map(str::to_owned)) };
    let fits = match (index_primary_key, batch) {
        (Some(known), _) => known == named,
        (None, Some(Some(earlier))) => earlier == named,
        // The batch will guess its key: a named one must not interfere.
        (None, Some(None)) => false,
        (None, None) => true,
    };
    fits.then(|| Some(named.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(primary_key: Option<&str>) -> Shape {
        Shape::Documents { primary_key: primary_key.map(str::to_owned), allow_index_creation: true }
    }

    fn settings() -> Shape {
        Shape::Settings { allow_index_creation: true }
    }

    fn planned(waiting: &[Shape], primary_key: Option<&str>) -> (BatchKind, usize) {
        match plan_batch(waiting, true, primary_key) {
            Some(plan) => (plan.kind, plan.length),
            None => (BatchKind::Alone, 0),
        }
    }

    #[test]
    fn additions_and_deletions_by_id_join() {
        let waiting = [documents(None), Shape::DeleteIds, documents(None), settings()];
        assert_eq!(planned(&waiting, None), (BatchKind::Documents { primary_key: None }, 3));
    }

    #[test]
    fn a_filter_deletion_does_not_join_additions() {
        let waiting = [documents(None), Shape::DeleteFilter];
        assert_eq!(planned(&waiting, None).1, 1);
        let waiting = [Shape::DeleteFilter, Shape::DeleteIds, documents(None)];
        assert_eq!(planned(&waiting, None), (BatchKind::Deletions { with_filter: true }, 2));
    }

    #[test]
    fn a_clear_swallows_what_came_before() {
        let waiting = [documents(None), Shape::DeleteIds, Shape::Clear, documents(None)];
        assert_eq!(planned(&waiting, None), (BatchKind::Clear, 3));
    }

    #[test]
    fn an_index_deletion_joins_everything_and_ends_the_batch() {
        let waiting = [settings(), Shape::Clear, Shape::DeleteIndex, settings()];
        assert_eq!(planned(&waiting, None), (BatchKind::DeleteIndex, 3));
    }

    #[test]
    fn a_named_primary_key_does_not_join_a_guess_or_another_name() {
        assert_eq!(planned(&[documents(None), documents(Some("a"))], None).1, 1);
        assert_eq!(planned(&[documents(Some("a")), documents(Some("b"))], None).1, 1);
        assert_eq!(planned(&[documents(Some("a")), documents(Some("a"))], None).1, 2);
        assert_eq!(planned(&[documents(None), documents(Some("a"))], Some("a")).1, 2);
        assert_eq!(planned(&[documents(Some("b")), documents(Some("b"))], Some("a")).1, 1);
    }

    #[test]
    fn rights_to_create_the_index_are_not_lent() {
        let forbidden = Shape::Documents { primary_key: None, allow_index_creation: false };
        let plan = plan_batch(&[forbidden, documents(None)], false, None);
        assert_eq!(plan.map(|plan| (plan.length, plan.creates_index)), Some((1, false)));
        let plan = plan_batch(&[Shape::DeleteIds, documents(None)], false, None);
        assert_eq!(plan.map(|plan| plan.length), Some(1));
    }

    #[test]
    fn index_creation_update_and_swap_stay_alone() {
        assert_eq!(planned(&[Shape::Alone, documents(None)], None), (BatchKind::Alone, 1));
        assert_eq!(planned(&[documents(None), Shape::Alone], None).1, 1);
    }
}
