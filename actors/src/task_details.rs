//! `details` of a task, as Meilisearch names them, before and after its end.

use miroir_storage::commands::{Ending, NameChange, Work};
use miroir_wire::settings::Settings;
use serde_json::{Value, json};

/// What a task shows while it is open.
pub fn open_details(work: &Work) -> Value {
    match work {
        Work::Documents { payload, .. } => {
            json!({ "receivedDocuments": payload.count, "indexedDocuments": null })
        }
        Work::DeleteIds { payload, .. } => json!({
            "providedIds": payload.count, "deletedDocuments": null, "originalFilter": null,
        }),
        Work::DeleteByFilter { filter } => json!({
            "providedIds": 0, "deletedDocuments": null, "originalFilter": filter,
        }),
        Work::Clear => json!({ "deletedDocuments": null }),
        Work::Settings { patch, .. } => match Settings::from_json(patch.as_bytes()) {
            Ok(patch) => Value::Object(patch.to_details()),
            Err(_) => Value::Null,
        },
        Work::CreateIndex { primary_key } | Work::UpdateIndex { primary_key } => {
            json!({ "primaryKey": primary_key })
        }
        Work::RenameIndex { from, to, primary_key, .. } => {
            renaming_details(from, to, primary_key.as_deref())
        }
        Work::DeleteIndex => json!({ "deletedDocuments": null }),
        Work::SwapIndexes { pairs } => json!({
            "swaps": pairs.iter().map(|(a, b)| json!({ "indexes": [a, b] })).collect::<Vec<_>>(),
        }),
        Work::ChangeNames { changes, .. } => {
            let shown = |change: &NameChange| json!({ "indexes": [change.a, change.b], "rename": change.renames });
            json!({ "swaps": changes.iter().map(shown).collect::<Vec<_>>() })
        }
        Work::EditDocuments { function, context, filter, .. } => json!({
            "editedDocuments": null,
            "deletedDocuments": null,
            "context": context.as_deref().and_then(|context| serde_json::from_str::<Value>(context).ok()),
            "function": function,
            "originalFilter": filter,
        }),
        Work::CancelTasks { original_filter, uids } => json!({
            "matchedTasks": uids.len(), "canceledTasks": null, "originalFilter": original_filter,
        }),
        Work::DeleteTasks { original_filter, uids } => json!({
            "matchedTasks": uids.len(), "deletedTasks": null, "originalFilter": original_filter,
        }),
    }
}

/// What a task shows that renames an index.
pub fn renaming_details(from: &str, to: &str, primary_key: Option<&str>) -> Value {
    json!({ "primaryKey": primary_key, "oldIndexUid": from, "newIndexUid": to })
}

/// What an ended task shows; `affected` counts documents or tasks, each once.
pub fn ended_details(work: &Work, ending: Ending, affected: Option<u64>) -> Value {
    let mut details = open_details(work);
    let counted = match ending {
        Ending::Succeeded => affected,
        // Meilisearch shows zero for what failed or was cancelled.
        Ending::Failed | Ending::Canceled => Some(0),
    };
    let counter = match work {
        Work::Documents { payload, .. } => {
            let indexed = if ending == Ending::Succeeded { payload.count } else { 0 };
            Some(("indexedDocuments", Some(indexed)))
        }
        Work::DeleteIds { .. } | Work::DeleteByFilter { .. } | Work::Clear | Work::DeleteIndex => {
            Some(("deletedDocuments", counted))
        }
        Work::CancelTasks { .. } => Some(("canceledTasks", counted)),
        Work::DeleteTasks { .. } => Some(("deletedTasks", counted)),
        _ => None,
    };
    if let (Work::EditDocuments { edited, .. }, Value::Object(details)) = (work, &mut details) {
        // As Meilisearch counts: those that the function was run on, twice.
        let matched = edited.as_ref().map(|edited| edited.matched);
        let matched = matched.filter(|_| ending == Ending::Succeeded);
        details.insert("editedDocuments".to_owned(), json!(matched.unwrap_or(0)));
        details.insert("deletedDocuments".to_owned(), json!(matched));
    }
    if let (Some((name, value)), Value::Object(details)) = (counter, &mut details) {
        details.insert(name.to_owned(), json!(value));
    }
    details
}
