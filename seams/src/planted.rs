//! Bugs that are put in on purpose, one at a time, so that the simulation can show that its checks
//! would find them (spec 04).
//!
//! A rule that may be broken asks [`has`] for the bug that breaks it. In a build without debug
//! assertions, as every release is, the answer is a constant and the bug's code is gone. In other
//! builds nothing has a bug before [`plant`] was called, which `scripts/tidy` allows to the
//! simulation alone, and to it only in a process that runs one world and ends. It is a state of the
//! process rather than a part of [`crate::Seams`] because rules are pure: none of them should take
//! another argument for the sake of a test.

use std::str::FromStr;

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes the enum, its names and the list of all.
macro_rules! bugs {
    ($($(#[doc = $says:literal])+ $bug:ident = $name:literal,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $says])+ $bug,)+
        }

        impl Bug {
            /// Every one of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$bug,)+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)+
                }
            }

            /// What it does, in a sentence.
            pub fn says(self) -> String {
                match self {
                    $(Bug::$bug => concat!($($says,)+).trim().to_owned(),)+
                }
            }
        }
    };
}

bugs! {
    /// The log takes commands of every epoch: a replaced writer's too.
    SkipFence = "skip-fence",
    /// A write is acknowledged when only one journal holds it.
    OneJournal = "one-journal",
    /// The journal says that a payload is durable before it is synced.
    JournalUnsynced = "journal-unsynced",
    /// Entries of the coordinator log count before they are synced.
    LogUnsynced = "log-unsynced",
    /// The log takes a second write under a key that has a task.
    ForgetKey = "forget-key",
    /// Reads ask replicas that are not in sync.
    ReadOutOfSync = "read-out-of-sync",
    /// A lane passes over every seventh task without sending it.
    ForgetLaneEntry = "forget-lane-entry",
    /// Documents are joined to those behind a deletion, and the deletion goes with them.
    JoinAcrossDeletion = "join-across-deletion",
    /// Lanes go on past settings that are not agreed yet.
    PassBarrier = "pass-barrier",
    /// A request is sent again without knowing that no newer writer exists.
    SendUnconfirmed = "send-unconfirmed",
    /// A request without an answer is sent again without asking the node for it.
    SendUnasked = "send-unasked",
    /// Lanes in doubt are not audited.
    SkipAudit = "skip-audit",
    /// Nobody reads settings back.
    NoDriftCheck = "no-drift-check",
    /// A read of a session does not wait for the session's writes.
    SessionDoesNotWait = "session-does-not-wait",
    /// A task ends when one replica has reported.
    JudgeByOne = "judge-by-one",
    /// The merge leaves out a hit that equals the one before it in another list.
    MergeDropsTies = "merge-drops-ties",
    /// A pod does not stop a role's actor when the role is given to another pod.
    HolderGoesOn = "holder-goes-on",
    /// Payloads are given back when they were read, not when their task has ended.
    ReleaseEarly = "release-early",
    /// A replica whose node lost its disk plays what waits, and is not copied.
    KeepEmptyReplica = "keep-empty-replica",
    /// A pod that is cut off does not say that its answers are old.
    StaleUnsaid = "stale-unsaid",
    /// An answer that misses shards does not say so.
    MissingUnsaid = "missing-unsaid",
    /// The reserved field stays in what clients read.
    LeakReserved = "leak-reserved",
    /// Settings that a node refused stay on the others.
    NoSettingsUndo = "no-settings-undo",
    /// A swap changes what one of its two names means to readers.
    HalfSwap = "half-swap",
    /// A copy leaves out the last document of each page.
    CopyShort = "copy-short",
    /// A replica that moves is taken away before its successor is filled, though it is the last.
    TakeAwayEarly = "take-away-early",
    /// Reads don't filter out what is left of shards that have moved away.
    LeavingUnfiltered = "leaving-unfiltered",
    /// What is left of a shard that has moved away counts as deleted, and is not.
    LeaveBehind = "leave-behind",
    /// Shards are switched before the documents are marked for them.
    SwitchUnmarked = "switch-unmarked",
    /// Each writer runs the function of an edition anew, whatever the log says came of it.
    EditAnew = "edit-anew",
}

/// A name that no bug has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no planted bug `{0}`")]
pub struct UnknownBug(String);

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        let found = Self::ALL.iter().find(|bug| bug.name() == name);
        found.copied().ok_or_else(|| UnknownBug(name.to_owned()))
    }
}

/// The place of the planted bug in [`Bug::ALL`], counted from 1; 0 for none.
#[cfg(debug_assertions)]
static PLANTED: AtomicUsize = AtomicUsize::new(0);

/// Whether this build can have bugs at all.
pub const POSSIBLE: bool = cfg!(debug_assertions);

/// Whether this process has the bug. Always false without debug assertions.
#[inline]
pub fn has(bug: Bug) -> bool {
    #[cfg(debug_assertions)]
    return PLANTED.load(Ordering::Relaxed) == bug as usize + 1;
    #[cfg(not(debug_assertions))]
    {
        let _ = bug;
        false
    }
}

/// Plants a bug in this process, for good; false in a build that can have none.
pub fn plant(bug: Bug) -> bool {
    #[cfg(debug_assertions)]
    PLANTED.store(bug as usize + 1, Ordering::Relaxed);
    has(bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planted_and_every_name_is_one_bug() {
        for bug in Bug::ALL {
            assert!(!has(*bug));
            assert_eq!(bug.name().parse(), Ok(*bug));
            assert!(bug.says().ends_with('.'), "{bug:?}");
        }
    }
}
