//! `sim shrink`: leaves out of a failing world what is not needed for its failure.
//!
//! Features and sizes first, then faults and operations in chunks that get smaller (Zeller and
//! Hildebrandt, "Simplifying and isolating failure-inducing input", 2002, minimising part). A world
//! counts as failing when one of the properties fails that failed at first.

use miroir_sim::without::{FEATURES, Kind};

use crate::world::{Outcome, World};

/// Runs at most.
const RUNS_MAX: usize = 400;

/// Shrinks `world` and prints how to replay what is left. False when it does not fail.
pub fn shrink(world: World) -> anyhow::Result<bool> {
    let first = world.outcome()?;
    if first.held {
        println!("seed {} does not fail", world.seed);
        return Ok(false);
    }
    let mut shrinking =
        Shrinking { properties: first.violated(), smallest: world, last: first, runs: 1 };
    println!("fails: {}", shrinking.properties.join(", "));
    shrinking.sizes()?;
    for feature in FEATURES {
        let without = shrinking.smallest.without.and_feature(feature);
        shrinking.try_world(World { without, ..shrinking.smallest.clone() })?;
    }
    for (kind, name) in [(Kind::PodFault, "podfaults"), (Kind::Fault, "faults"), (Kind::Op, "ops")]
    {
        let count = shrinking.last.count(name);
        shrinking.numbered(kind, (0..count).collect())?;
        println!("after {} runs: {}", shrinking.runs, shrinking.smallest.arguments().join(" "));
    }
    for line in shrinking.last.text.lines().filter(|line| line.starts_with("VIOLATED")) {
        println!("{line}");
    }
    println!("replay: sim run {} --trace", shrinking.smallest.arguments().join(" "));
    Ok(true)
}

struct Shrinking {
    /// What failed at first.
    properties: Vec<String>,
    /// The smallest world that is known to fail.
    smallest: World,
    /// How it ended.
    last: Outcome,
    runs: usize,
}

impl Shrinking {
    /// Keeps `world` if it fails too.
    fn try_world(&mut self, world: World) -> anyhow::Result<bool> {
        if self.runs >= RUNS_MAX {
            return Ok(false);
        }
        self.runs += 1;
        let outcome = world.outcome()?;
        let fails = outcome.violated().iter().any(|property| self.properties.contains(property));
        if fails {
            (self.smallest, self.last) = (world, outcome);
        }
        Ok(fails)
    }

    fn sizes(&mut self) -> anyhow::Result<()> {
        let plan = self.smallest.plan();
        for pods in (1..plan.pods).filter(|pods| *pods != 4) {
            if self.try_world(World { pods: Some(pods), ..self.smallest.clone() })? {
                break;
            }
        }
        for (name, size) in [
            ("groups", u64::from(plan.groups)),
            ("nodes", plan.nodes_per_group as u64),
            ("clients", plan.clients),
            ("shards", u64::from(plan.shards)),
        ] {
            for fewer in 1..size.min(4) {
                let without = self.smallest.without.and_size(name, fewer);
                if self.try_world(World { without, ..self.smallest.clone() })? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Leaves out as many as possible of the parts that these numbers name.
    fn numbered(&mut self, kind: Kind, mut left: Vec<u64>) -> anyhow::Result<()> {
        let mut chunk = left.len();
        while chunk > 0 {
            let mut at = 0;
            while at < left.len() {
                let end = (at + chunk).min(left.len());
                let part = left.get(at..end).unwrap_or_default().to_vec();
                let without = self.smallest.without.and(kind, &part);
                if self.try_world(World { without, ..self.smallest.clone() })? {
                    left.drain(at..end);
                } else {
                    at = end;
                }
            }
            chunk /= 2;
        }
        Ok(())
    }
}
