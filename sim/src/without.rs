//! What is left out of a world, so that a failure can be seen with little around it. Whatever is
//! left out is still chosen, so that all other choices stay as they were.
//!
//! As text: parts with commas between them, `op12` the twelfth operation of a run (counted from 0,
//! in order of clients), `fault3` and `podfault3` the faults in their order, `op3-9` several of
//! them; `readers`, `sessions`, `messages`, `peers`, `strangers`, `operators`; `groups=1`,
//! `nodes=2`, `clients=1`, `shards=1` for fewer of those.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::plan::Plan;

/// Parts that are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A client's operation.
    Op,
    /// A fault of nodes, links or a pod alone.
    Fault,
    /// A fault of one of several pods.
    PodFault,
}

impl Kind {
    /// All of them, longest name first: none is another's beginning then.
    pub const ALL: [Self; 3] = [Self::PodFault, Self::Fault, Self::Op];

    fn name(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Fault => "fault",
            Self::PodFault => "podfault",
        }
    }
}

/// Parts that are there or not.
pub const FEATURES: [&str; 8] =
    ["readers", "sessions", "messages", "peers", "strangers", "operators", "moves", "reshards"];
/// Parts of which there may be fewer.
pub const SIZES: [&str; 4] = ["groups", "nodes", "clients", "shards"];

/// What is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Without {
    numbered: BTreeSet<(Kind, u64)>,
    features: BTreeSet<String>,
    sizes: Vec<(String, u64)>,
}

/// Why a text says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no part of a world")]
pub struct UnknownPart(String);

impl Without {
    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the part of this number is left out.
    pub fn leaves_out(&self, kind: Kind, number: u64) -> bool {
        self.numbered.contains(&(kind, number))
    }

    /// With these left out too.
    #[must_use]
    pub fn and(&self, kind: Kind, numbers: &[u64]) -> Self {
        let mut more = self.clone();
        more.numbered.extend(numbers.iter().map(|number| (kind, *number)));
        more
    }

    /// Without this one of [`FEATURES`] too.
    #[must_use]
    pub fn and_feature(&self, name: &str) -> Self {
        let mut more = self.clone();
        more.features.insert(name.to_owned());
        more
    }

    /// With only so many of one of [`SIZES`].
    #[must_use]
    pub fn and_size(&self, name: &str, size: u64) -> Self {
        let mut more = self.clone();
        more.sizes.retain(|(known, _)| known != name);
        more.sizes.push((name.to_owned(), size));
        more
    }

    /// The world that is left of `plan`.
    pub fn apply(self, mut plan: Plan) -> Plan {
        for feature in &self.features {
            match feature.as_str() {
                "readers" => plan.readers = 0,
                "sessions" => plan.sessions = false,
                "messages" => (plan.rates, plan.late_node) = (Default::default(), None),
                "peers" => plan.peer_rates = Default::default(),
                "strangers" => plan.changes_settings = false,
                "moves" => plan.moves = false,
                "reshards" => plan.reshards = false,
                _ => plan.restarts_actors = false,
            }
        }
        for (name, size) in &self.sizes {
            let size = (*size).max(1);
            match name.as_str() {
                "groups" => plan.groups = plan.groups.min(size as u32),
                "nodes" => {
                    plan.nodes_per_group = plan.nodes_per_group.min(size as usize);
                    plan.replication_factor = plan.replication_factor.min(plan.nodes_per_group);
                }
                "clients" => plan.clients = plan.clients.min(size),
                _ => plan.shards = plan.shards.min(size as u32),
            }
        }
        plan.without = self;
        plan
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.features.iter().cloned().collect();
        parts.extend(self.sizes.iter().map(|(name, size)| format!("{name}={size}")));
        let mut numbers = self.numbered.iter().copied().peekable();
        while let Some((kind, first)) = numbers.next() {
            let mut last = first;
            while numbers.peek() == Some(&(kind, last + 1)) {
                last += 1;
                numbers.next();
            }
            parts.push(match last == first {
                true => format!("{}{first}", kind.name()),
                false => format!("{}{first}-{last}", kind.name()),
            });
        }
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Without {
    type Err = UnknownPart;

    fn from_str(text: &str) -> Result<Self, UnknownPart> {
        let mut without = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let unknown = || UnknownPart(part.to_owned());
            if FEATURES.contains(&part) {
                without = without.and_feature(part);
            } else if let Some((name, size)) = part.split_once('=') {
                if !SIZES.contains(&name) {
                    return Err(unknown());
                }
                without = without.and_size(name, size.parse().map_err(|_| unknown())?);
            } else {
                let named = Kind::ALL.iter().find_map(|kind| {
                    part.strip_prefix(kind.name()).map(|numbers| (*kind, numbers))
                });
                let (kind, numbers) = named.ok_or_else(unknown)?;
                let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
                let number = |text: &str| text.parse::<u64>().map_err(|_| unknown());
                let all: Vec<u64> = (number(first)?..=number(last)?).collect();
                without = without.and(kind, &all);
            }
        }
        Ok(without)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_reads_as_it_is_written() {
        let text = "messages,readers,nodes=2,op0,op3-9,fault2,podfault0-1";
        let read = text.parse::<Without>();
        assert_eq!(read.as_ref().map(ToString::to_string), Ok(text.to_owned()));
        assert!(read.as_ref().is_ok_and(|w| w.leaves_out(Kind::Op, 5)));
        assert!(read.is_ok_and(|w| !w.leaves_out(Kind::Fault, 5)));
        assert!("cats".parse::<Without>().is_err() && "op1-x".parse::<Without>().is_err());
        assert!(Without::default().to_string().is_empty());
    }
}
