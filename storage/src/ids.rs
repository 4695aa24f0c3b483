//! Identifiers and counters, each a type of its own so that two can't be swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $number:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id!(
    /// One Miroir process. Stable over restarts of the same data directory.
    PodId
);
text_id!(
    /// One Meilisearch server. Never reused for another server.
    NodeId
);
text_id!(
    /// An index as nodes know it: `{sequence}-{client name}`, never reused. Clients' names map
    /// to it through the coordinator log.
    IndexUid
);
number_id!(
    /// A replica group: a set of nodes that together hold every shard.
    GroupId,
    u32
);
number_id!(
    /// A slice of an index's key space, `0..shards`.
    ShardId,
    u32
);
number_id!(
    /// The fencing token of a role; grows with each hand-over, older ones are refused.
    Epoch,
    u64
);
number_id!(
    /// A task's client-visible number: unique and increasing over the cluster.
    TaskUid,
    u32
);
number_id!(
    /// A job: unique and increasing over the cluster.
    JobId,
    u64
);
number_id!(
    /// A record in one pod's journal: unique and increasing over that pod's life.
    JournalSequence,
    u64
);

impl TaskUid {
    /// Big-endian bytes: byte order is numeric order.
    pub fn to_key(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}
