//! Spec 01, Settings: every in-sync node has the settings that the clients' model expects, and
//! nothing but what Miroir adds for itself.

use miroir_actors::node_settings::{canonical, node_side};
use miroir_actors::writer::lanes::in_sync_nodes;
use miroir_wire::settings::Settings;
use serde_json::Value;

use super::{Violation, World};

const PROPERTY: &str = "settings_are_equal";

/// Looks at the world at rest.
pub fn check(world: &World<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |evidence: String| found.push(Violation { property: PROPERTY, evidence });
    for (name, expected) in &world.expected.indexes {
        let Some(index) = world.routing.indexes.get(name) else { continue };
        let mut expected = expected.settings.clone();
        let agreed = &index.settings.ranking_rules;
        let new = &world.routing.new_index_settings.ranking_rules;
        if !expected.ranking_rules.is_set() && (!agreed.is_set() || agreed == new) {
            // The defaults when it was created or they were reset: before or after the versions
            // of all nodes were known.
            expected.ranking_rules = agreed.clone();
        }
        if index.settings.effective() != expected.effective() {
            let difference = difference(&index.settings.effective(), &expected.effective());
            report(format!("`{name}` is agreed to have (is / expected) {difference}"));
        }
        if index.settings_pending {
            report(format!("`{name}` waits for its settings for ever"));
        }
        let on_nodes = node_side(&expected).to_string();
        let wanted = match Settings::from_json(on_nodes.as_bytes()) {
            Ok(settings) => canonical(settings.effective()),
            Err(_) => continue,
        };
        for node in in_sync_nodes(&index.groups) {
            let Some(model) = world.nodes.get(&node) else { continue };
            let is = canonical(model.settings(index.uid.as_str()).unwrap_or_default());
            if is != wanted {
                let difference = difference(&is, &wanted);
                report(format!("`{name}` on {node} has (is / expected) {difference}"));
            }
        }
    }
    found
}

pub(super) fn difference(is: &Value, wanted: &Value) -> String {
    let (Value::Object(a), Value::Object(b)) = (is, wanted) else {
        return format!("{is} / {wanted}");
    };
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let different: Vec<String> = keys
        .into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| format!("{key}: {:?} / {:?}", a.get(key), b.get(key)))
        .collect();
    different.join("; ")
}
