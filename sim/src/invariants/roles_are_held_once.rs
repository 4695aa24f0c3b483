//! Safety rule 5: once the world is at rest, the actor of each role works on one pod alone, the one
//! that the log names. What another still did would be refused; it must not go on trying.

use std::collections::BTreeMap;

use miroir_actors::inspect::{ActorReport, ActorState};
use miroir_storage::ids::PodId;
use miroir_storage::tables::roles;

use super::Violation;
use crate::cluster::Serving;

const PROPERTY: &str = "roles_are_held_once";

/// Looks at the pods at rest.
pub(crate) fn check(pods: &[Serving]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |evidence| found.push(Violation { property: PROPERTY, evidence });
    let Some(any) = pods.first() else { return Vec::new() };
    let named: BTreeMap<String, PodId> = roles::all(any.context.log.engine().as_ref())
        .unwrap_or_default()
        .into_iter()
        .map(|(role, record)| (role, record.holder))
        .collect();
    let mut working: BTreeMap<String, Vec<PodId>> = BTreeMap::new();
    for pod in pods {
        let works = |actor: &ActorReport| actor.state == ActorState::Running;
        for actor in pod.context.inventory.report().into_iter().filter(works) {
            if actor.name == roles::REGISTRAR || roles::index_of(&actor.name).is_some() {
                working.entry(actor.name).or_default().push(pod.context.id.clone());
            }
        }
    }
    for (role, pods) in &working {
        match named.get(role) {
            Some(holder) if *pods == [holder.clone()] => {}
            holder => report(format!("{role} works on {pods:?}, the log names {holder:?}")),
        }
    }
    let by_uid = &any.context.log.routing().by_uid;
    for uid in by_uid.keys().filter(|uid| !working.contains_key(&roles::writer_role(uid))) {
        report(format!("nobody works as the writer of {uid}"));
    }
    found
}
