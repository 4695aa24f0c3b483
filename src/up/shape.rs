//! How large a cluster `miroir up` makes: what was asked, what is kept, and the defaults.

use serde::{Deserialize, Serialize};

use crate::config::{GROUP_NODES_MIN_HINT, SHARDS_MAX};
use crate::exit::Refused;

/// Enough for groups, sharding and copies to be all real.
const NODES_DEFAULT: u32 = 4;
const GROUPS_DEFAULT: u32 = 2;
const SHARDS_DEFAULT: u32 = 64;
/// Members of a Raft cluster beyond five only listen; this is enough to see that.
const PODS_MAX: u32 = 9;
/// Every node is a process with an index of its own; more than this is not a laptop's work.
const NODES_MAX: u32 = 64;

/// The numbers given by flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// `--pods`.
    pub pods: Option<u32>,
    /// `--nodes`.
    pub nodes: Option<u32>,
    /// `--groups`.
    pub groups: Option<u32>,
    /// `--rf`.
    pub rf: Option<u32>,
    /// `--shards`.
    pub shards: Option<u32>,
}

/// The size of a cluster. Always possible: `groups * rf <= nodes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Miroir processes.
    pub pods: u32,
    /// Search nodes.
    pub nodes: u32,
    /// Replica groups; every group holds every shard.
    pub groups: u32,
    /// Replicas of a shard in each group.
    pub rf: u32,
    /// Shards of a new index.
    pub shards: u32,
}

impl Shape {
    /// The shape for a data directory that has none yet. What was not asked for gives way: more
    /// nodes when groups and copies need them, one group when the nodes are too few for two.
    ///
    /// # Errors
    /// When what was asked for can't be.
    pub fn decide(asked: Asked) -> Result<Self, Refused> {
        let rf = asked.rf.unwrap_or(1);
        let groups = match (asked.groups, asked.nodes) {
            (Some(groups), _) => groups,
            (None, Some(nodes)) if nodes < GROUPS_DEFAULT.saturating_mul(rf) => 1,
            (None, _) => GROUPS_DEFAULT,
        };
        let shape = Self {
            pods: asked.pods.unwrap_or(1),
            nodes: asked.nodes.unwrap_or(NODES_DEFAULT.max(groups.saturating_mul(rf))),
            groups,
            rf,
            shards: asked.shards.unwrap_or(SHARDS_DEFAULT),
        };
        shape.check()?;
        Ok(shape)
    }

    /// The kept shape, if nothing else was asked for than more pods: those join the cluster.
    /// Fewer are refused: a pod takes its vote with it, and acknowledged writes that only it and
    /// one other keep, so it must be removed while the cluster runs.
    ///
    /// # Errors
    /// Names each flag that contradicts what `directory` holds.
    pub fn decide_again(self, asked: Asked, directory: &str) -> Result<Self, Refused> {
        let pods = asked.pods.unwrap_or(self.pods);
        if pods < self.pods {
            return Err(Refused(format!(
                "--pods {pods}: the cluster in {directory} has {} pods, and `up` can only add \
                 some. Leave the flag out to start it again",
                self.pods
            )));
        }
        let pairs = [
            ("--nodes", asked.nodes, self.nodes),
            ("--groups", asked.groups, self.groups),
            ("--rf", asked.rf, self.rf),
            ("--shards", asked.shards, self.shards),
        ];
        let conflicts: Vec<String> = pairs
            .iter()
            .filter_map(|(flag, asked, kept)| match asked {
                Some(asked) if asked != kept => Some(format!("{flag} {asked} (it has {kept})")),
                _ => None,
            })
            .collect();
        if conflicts.is_empty() {
            let shape = Self { pods, ..self };
            shape.check()?;
            return Ok(shape);
        }
        Err(Refused(format!(
            "the cluster in {directory} was made differently: {}. Leave these flags out to start \
             it again, or choose another --data directory for a new cluster",
            conflicts.join(", ")
        )))
    }

    /// The group of the node at `at` (from 0). Neighbours share a group, and sizes differ by at
    /// most one, so every group has at least `rf` nodes.
    pub fn group_of(&self, at: u32) -> u32 {
        // In u64, since the product of two u32 may not fit in one.
        let group = u64::from(at) * u64::from(self.groups) / u64::from(self.nodes.max(1));
        u32::try_from(group).unwrap_or(0)
    }

    fn check(&self) -> Result<(), Refused> {
        let refuse = |message: String| Err(Refused(message));
        if self.pods == 0 || self.nodes == 0 || self.groups == 0 || self.rf == 0 {
            return refuse("--pods, --nodes, --groups and --rf must be at least 1".to_owned());
        }
        if self.pods > PODS_MAX {
            return refuse(format!("--pods {}: at most {PODS_MAX} are started", self.pods));
        }
        if self.nodes > NODES_MAX {
            return refuse(format!("--nodes {}: at most {NODES_MAX} are started", self.nodes));
        }
        if self.shards == 0 || self.shards > SHARDS_MAX {
            return refuse(format!("--shards must be between 1 and {SHARDS_MAX}"));
        }
        if u64::from(self.groups) * u64::from(self.rf) > u64::from(self.nodes) {
            return refuse(format!(
                "{} nodes are too few for {} groups with {} copies each: {GROUP_NODES_MIN_HINT}",
                self.nodes, self.groups, self.rf
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(nodes: Option<u32>, groups: Option<u32>, rf: Option<u32>) -> Asked {
        Asked { nodes, groups, rf, ..Asked::default() }
    }

    #[test]
    fn what_was_not_asked_for_gives_way() {
        for (given, nodes, groups, rf) in [
            (asked(None, None, None), 4, 2, 1),
            (asked(Some(1), None, None), 1, 1, 1),
            (asked(Some(3), None, None), 3, 2, 1),
            (asked(Some(3), None, Some(2)), 3, 1, 2),
            (asked(None, Some(3), Some(2)), 6, 3, 2),
            (asked(None, None, Some(3)), 6, 2, 3),
        ] {
            let shape = Shape::decide(given).expect("possible");
            assert_eq!((shape.nodes, shape.groups, shape.rf), (nodes, groups, rf));
        }
    }

    #[test]
    fn the_impossible_is_refused() {
        assert!(Shape::decide(asked(Some(3), Some(2), Some(2))).is_err());
        assert!(Shape::decide(asked(Some(0), None, None)).is_err());
        assert!(Shape::decide(asked(Some(u32::MAX), Some(u32::MAX), Some(u32::MAX))).is_err());
        assert!(Shape::decide(Asked { pods: Some(10), ..Asked::default() }).is_err());
        assert!(Shape::decide(Asked { shards: Some(0), ..Asked::default() }).is_err());
    }

    #[test]
    fn every_group_has_enough_nodes() {
        for (nodes, groups) in [(4, 2), (5, 2), (3, 2), (7, 3), (6, 6)] {
            let shape = Shape::decide(asked(Some(nodes), Some(groups), None)).expect("possible");
            let mut sizes = vec![0; groups as usize];
            (0..nodes).for_each(|at| sizes[shape.group_of(at) as usize] += 1);
            let (least, most) = (sizes.iter().min(), sizes.iter().max());
            assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "{sizes:?}");
        }
    }

    #[test]
    fn contradicting_flags_are_named() {
        let kept = Shape::decide(Asked::default()).expect("possible");
        assert_eq!(kept.decide_again(asked(Some(4), None, None), "d").ok(), Some(kept));
        let error = kept.decide_again(asked(Some(5), None, Some(1)), "d").expect_err("refused");
        assert!(error.0.contains("--nodes 5 (it has 4)"), "{error}");
        assert!(!error.0.contains("--rf"), "{error}");
    }

    #[test]
    fn pods_are_added_and_never_taken_away() {
        let pods = |pods| Asked { pods: Some(pods), ..Asked::default() };
        let one = Shape::decide(Asked::default()).expect("possible");
        let three = one.decide_again(pods(3), "d").expect("possible");
        assert_eq!(three, Shape { pods: 3, ..one });
        assert_eq!(three.decide_again(Asked::default(), "d").ok(), Some(three));
        let error = three.decide_again(pods(1), "d").expect_err("refused");
        assert!(error.0.contains("has 3 pods"), "{error}");
        assert!(one.decide_again(pods(10), "d").is_err());
    }
}
