//! Answers of the admin API as tables.

use std::collections::BTreeMap;

use miroir_gateway::admin::{ActorView, ActorsAnswer, PeerView, PeersAnswer, RoleView};
use miroir_gateway::comparisons::ComparisonsAnswer;
use miroir_gateway::jobs::{JobStatus, JobView};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::table::{Align, render};

/// Stands for what is not known.
const NONE: &str = "-";

/// The pods.
pub fn peers(answer: &PeersAnswer) -> String {
    let cluster = answer.cluster_id.as_deref().unwrap_or("none yet");
    let leader = answer.leader.as_deref().unwrap_or("none");
    let rows: Vec<_> = answer.pods.iter().map(peer_row).collect();
    let columns = [
        ("POD", Align::Left),
        ("STATE", Align::Left),
        ("FOR", Align::Right),
        ("LOG", Align::Left),
        ("PEERS", Align::Left),
        ("CLIENTS", Align::Left),
        ("VERSION", Align::Left),
        ("STARTS", Align::Right),
    ];
    let table = render(columns, &rows);
    format!("cluster {cluster}, leader {leader}, asked {}\n\n{table}", answer.self_pod)
}

fn peer_row(pod: &PeerView) -> [String; 8] {
    let part = match (pod.voter, pod.learner) {
        (true, _) => "voter",
        (false, true) => "learner",
        (false, false) => NONE,
    };
    [
        pod.id.clone(),
        if pod.alive { "alive" } else { "gone" }.to_owned(),
        duration(pod.since),
        part.to_owned(),
        pod.peer_address.clone(),
        pod.http_address.clone(),
        pod.version.clone(),
        pod.generation.to_string(),
    ]
}

/// The roles.
pub fn roles(roles: &[RoleView]) -> String {
    let columns = [
        ("ROLE", Align::Left),
        ("HOLDER", Align::Left),
        ("EPOCH", Align::Right),
        ("STATE", Align::Left),
    ];
    let row = |role: &RoleView| {
        [
            role.role.clone(),
            role.holder.clone().unwrap_or_else(|| NONE.to_owned()),
            role.epoch.to_string(),
            if role.alive { "alive" } else { "gone" }.to_owned(),
        ]
    };
    render(columns, &roles.iter().map(row).collect::<Vec<_>>())
}

/// The actors, a table for each pod.
pub fn actors(answer: &ActorsAnswer) -> String {
    let columns = [
        ("ACTOR", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("MAILBOX", Align::Right),
        ("HANDLED", Align::Right),
        ("MEAN µs", Align::Right),
        ("RESTARTS", Align::Right),
        ("ID", Align::Left),
        ("LAST ERROR", Align::Left),
    ];
    let tables = answer.pods.iter().map(|pod| {
        if !pod.reachable {
            let why = pod.error.as_deref().unwrap_or("no reason given");
            return format!("{}: can't be reached: {why}\n", pod.pod);
        }
        let depths = depths(&pod.actors);
        let rows: Vec<_> = pod.actors.iter().zip(depths).map(actor_row).collect();
        format!("{}\n{}", pod.pod, render(columns, &rows))
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn actor_row((actor, depth): (&ActorView, usize)) -> [String; 9] {
    let at = actor.last_error_at.and_then(|at| at.format(&Rfc3339).ok());
    let error = match (&actor.last_error, at) {
        (None, _) => String::new(),
        (Some(error), None) => error.clone(),
        (Some(error), Some(at)) => format!("{at} {error}"),
    };
    [
        format!("{}{}", "  ".repeat(depth), actor.name),
        actor.kind.clone(),
        actor.state.clone(),
        actor.mailbox.to_string(),
        actor.handled.to_string(),
        actor.mean_micros.to_string(),
        actor.restarts.to_string(),
        actor.id.clone(),
        error,
    ]
}

/// How deep each actor stands in the tree. Parents come before their children; one whose parent
/// is not listed stands at the top.
fn depths(actors: &[ActorView]) -> Vec<usize> {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut depths = Vec::with_capacity(actors.len());
    for actor in actors {
        let parent = actor.parent.as_deref().and_then(|parent| known.get(parent));
        let depth = parent.map_or(0, |depth| depth + 1);
        known.insert(&actor.id, depth);
        depths.push(depth);
    }
    depths
}

/// The jobs.
pub fn jobs(jobs: &[JobView]) -> String {
    let columns = [
        ("JOB", Align::Right),
        ("INDEX", Align::Left),
        ("STATUS", Align::Left),
        ("CHUNKS", Align::Right),
        ("BYTES", Align::Right),
        ("DOCUMENTS", Align::Right),
        ("SKIPPED", Align::Right),
        ("TASKS", Align::Left),
        ("LEFT", Align::Right),
        ("PODS", Align::Left),
        ("FAILURE", Align::Left),
    ];
    render(columns, &jobs.iter().map(job_row).collect::<Vec<_>>())
}

fn job_row(job: &JobView) -> [String; 11] {
    let status = match job.status {
        JobStatus::Running => "running",
        JobStatus::Succeeded => "succeeded",
        JobStatus::Failed => "failed",
        JobStatus::Canceled => "canceled",
    };
    let total = job.chunks.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
    let tasks = match (job.first_task_uid, job.last_task_uid) {
        (Some(first), Some(last)) => format!("{} in {first}-{last}", job.tasks),
        _ => NONE.to_owned(),
    };
    [
        job.id.to_string(),
        job.index_uid.clone(),
        status.to_owned(),
        format!("{}/{}/{total}", job.chunks.done, job.chunks.uploaded),
        format!("{}/{}", job.bytes_done, job.bytes),
        job.documents.to_string(),
        job.skipped.to_string(),
        tasks,
        job.seconds_left.map_or_else(|| NONE.to_owned(), duration),
        job.pods.join(","),
        job.failure.clone().unwrap_or_default(),
    ]
}

/// What comparing replicas has found: what each pod has compared, and what differs.
pub fn comparisons(answer: &ComparisonsAnswer) -> String {
    let columns = [
        ("POD", Align::Left),
        ("SHARDS", Align::Right),
        ("DOCUMENTS", Align::Right),
        ("PUT RIGHT", Align::Right),
        ("LAST ROUND", Align::Left),
    ];
    let at = |at: Option<OffsetDateTime>| {
        at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| NONE.to_owned())
    };
    let rows = answer.pods.iter().filter(|pod| pod.reachable).map(|pod| {
        [
            pod.pod.clone(),
            pod.report.shards.to_string(),
            pod.report.documents.to_string(),
            pod.report.repaired.to_string(),
            at(pod.report.last_round_at),
        ]
    });
    let compared = render(columns, &rows.collect::<Vec<_>>());
    let columns = [
        ("INDEX", Align::Left),
        ("SHARD", Align::Right),
        ("REPLICAS", Align::Left),
        ("WRONG", Align::Left),
        ("DOCUMENTS", Align::Right),
        ("UNDECIDED", Align::Right),
        ("FOUND", Align::Left),
        ("IDS", Align::Left),
    ];
    let differences = answer.pods.iter().flat_map(|pod| &pod.report.differences);
    let rows: Vec<[String; 8]> = differences
        .map(|found| {
            [
                found.index.clone(),
                found.shard.to_string(),
                found.replicas.join(","),
                found.wrong.join(","),
                found.documents.to_string(),
                found.undecided.to_string(),
                at(Some(found.at)),
                found.ids.join(" "),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => format!("{compared}\nno replicas differed when they were compared last\n"),
        false => format!("{compared}\n{}", render(columns, &rows)),
    }
}

/// The pods that could not be asked what they have found, if any.
pub fn uncompared(answer: &ComparisonsAnswer) -> Option<String> {
    silent(answer.pods.iter().map(|pod| (pod.pod.as_str(), pod.reachable)))
}

/// The pods that could not be asked, if any.
pub fn unreachable(answer: &ActorsAnswer) -> Option<String> {
    silent(answer.pods.iter().map(|pod| (pod.pod.as_str(), pod.reachable)))
}

fn silent<'a>(pods: impl Iterator<Item = (&'a str, bool)>) -> Option<String> {
    let pods: Vec<(&str, bool)> = pods.collect();
    let gone: Vec<&str> =
        pods.iter().filter(|(_, answers)| !answers).map(|(pod, _)| *pod).collect();
    let all = pods.len();
    (!gone.is_empty())
        .then(|| format!("{} of {all} pods did not answer: {}", gone.len(), gone.join(", ")))
}

/// The two largest units of a time.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d {}h", hours % 24),
        () if hours > 0 => format!("{hours}h {}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_show_their_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (61, "1m 1s"), (3_720, "1h 2m"), (180_000, "2d 2h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
