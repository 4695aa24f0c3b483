//! Which world to run, as the command line says it; and running one in a process of its own.

use std::process::{Command, Output, Stdio};

use anyhow::Context;
use clap::Args;
use miroir_seams::planted::Bug;
use miroir_sim::plan::Plan;
use miroir_sim::without::Without;

/// A world: its seed, and where it is not as the seed says.
#[derive(Clone, Debug, Args)]
pub struct World {
    /// The seed.
    #[arg(long)]
    pub seed: u64,
    /// The number of pods, instead of the seed's own.
    #[arg(long)]
    pub pods: Option<usize>,
    /// Parts to leave out, as `sim shrink` prints them.
    #[arg(long, default_value = "")]
    pub without: Without,
    /// A bug to plant; `sim planted --list` names them.
    #[arg(long)]
    pub plant: Option<Bug>,
}

impl World {
    /// The world of a seed.
    pub fn of(seed: u64, pods: Option<usize>) -> Self {
        Self { seed, pods, without: Without::default(), plant: None }
    }

    pub fn plan(&self) -> Plan {
        let plan = Plan::new(self.seed);
        let plan = match self.pods {
            Some(pods) => plan.with_pods(pods),
            None => plan,
        };
        self.without.clone().apply(plan)
    }

    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--seed".to_owned(), self.seed.to_string()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        if let Some(pods) = self.pods {
            add("--pods", pods.to_string());
        }
        if !self.without.is_empty() {
            add("--without", self.without.to_string());
        }
        if let Some(bug) = self.plant {
            add("--plant", bug.name().to_owned());
        }
        arguments
    }

    /// A process that will run it.
    pub fn child(&self, trace: bool) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("own path")?);
        command.arg("run").args(self.arguments());
        if trace {
            command.arg("--trace");
        }
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }

    /// Runs it, and says how it ended.
    pub fn outcome(&self) -> anyhow::Result<Outcome> {
        Ok(Outcome::of(&self.child(false)?.output().context("run")?))
    }
}

/// What a run printed.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub held: bool,
    pub text: String,
}

impl Outcome {
    pub fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Self { held: output.status.success(), text }
    }

    /// The properties that did not hold; a run that ended otherwise broke `ends_in_order`.
    pub fn violated(&self) -> Vec<String> {
        if self.held {
            return Vec::new();
        }
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("VIOLATED "));
        let mut found: Vec<String> =
            lines.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
        found.sort();
        found.dedup();
        if found.is_empty() {
            found.push("ends_in_order".to_owned());
        }
        found
    }

    /// A number that the last lines name.
    pub fn count(&self, name: &str) -> u64 {
        let line = self.text.lines().rev().find(|line| line.starts_with("counts "));
        let mut words = line.unwrap_or_default().split_whitespace();
        words.find(|word| *word == name);
        words.next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}
