//! Who may ask what: Meilisearch's rules are in [`miroir_wire::access`], what each route asks for
//! is the table here.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use miroir_wire::access::{Asked, Grant, check};
use miroir_wire::error::ApiError;
use miroir_wire::keys::Action;
use time::OffsetDateTime;

use super::routes::{BatchRoute, DocumentRoute, IndexRoute, KeyRoute, Route, TaskRoute};
use crate::keys::NodeKeys;

/// Says what a request may do. Without `keys` a node is in development mode: all but `/keys` is
/// open.
///
/// # Errors
/// `missing_authorization_header`, `invalid_api_key`, `missing_master_key`.
pub(crate) fn authorise(
    keys: Option<&NodeKeys>,
    headers: &HeaderMap,
    route: &Route,
    now: OffsetDateTime,
) -> Result<Grant, ApiError> {
    let (action, index) = right(route);
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let ring = |_: &str| keys.map(NodeKeys::ring).unwrap_or_default();
    let asked = Asked { authorization, action, index, now };
    check(keys.map(NodeKeys::master_key), ring, asked).map_err(|refusal| refusal.error)
}

/// The action a route needs, and the index that its path names.
fn right(route: &Route) -> (Option<Action>, Option<&str>) {
    let action = match route {
        Route::Running | Route::Health => return (None, None),
        Route::NotSupported(_, action) => *action,
        Route::Version => Action::Version,
        Route::GetFeatures => Action::ExperimentalFeaturesGet,
        Route::SwitchFeatures => Action::ExperimentalFeaturesUpdate,
        Route::Stats => Action::StatsGet,
        Route::MultiSearch => Action::Search,
        Route::SwapIndexes => Action::IndexesSwap,
        Route::Tasks(TaskRoute::List | TaskRoute::Get(_))
        | Route::Batches(BatchRoute::List | BatchRoute::Get(_)) => Action::TasksGet,
        Route::Tasks(TaskRoute::Cancel) => Action::TasksCancel,
        Route::Tasks(TaskRoute::Delete) => Action::TasksDelete,
        Route::Keys(KeyRoute::List | KeyRoute::Get(_)) => Action::KeysGet,
        Route::Keys(KeyRoute::Create) => Action::KeysCreate,
        Route::Keys(KeyRoute::Patch(_)) => Action::KeysUpdate,
        Route::Keys(KeyRoute::Delete(_)) => Action::KeysDelete,
        Route::ListIndexes => Action::IndexesGet,
        Route::CreateIndex => Action::IndexesCreate,
        Route::Index(uid, route) => return (Some(of_index(route)), Some(uid)),
    };
    (Some(action), None)
}

fn of_index(route: &IndexRoute) -> Action {
    match route {
        IndexRoute::Get => Action::IndexesGet,
        IndexRoute::Update => Action::IndexesUpdate,
        IndexRoute::Delete => Action::IndexesDelete,
        IndexRoute::Stats => Action::StatsGet,
        IndexRoute::SearchByUrl
        | IndexRoute::SearchByBody
        | IndexRoute::FacetSearch
        | IndexRoute::SimilarByUrl
        | IndexRoute::SimilarByBody => Action::Search,
        IndexRoute::Documents(route) => match route {
            DocumentRoute::List | DocumentRoute::Fetch | DocumentRoute::Get(_) => {
                Action::DocumentsGet
            }
            DocumentRoute::Replace | DocumentRoute::Update => Action::DocumentsAdd,
            DocumentRoute::Edit => Action::DocumentsAll,
            DocumentRoute::Clear
            | DocumentRoute::DeleteBatch
            | DocumentRoute::DeleteByFilter
            | DocumentRoute::Delete(_) => Action::DocumentsDelete,
        },
        IndexRoute::GetSettings | IndexRoute::GetSetting(_) => Action::SettingsGet,
        IndexRoute::UpdateSettings
        | IndexRoute::ResetSettings
        | IndexRoute::UpdateSetting(_)
        | IndexRoute::ResetSetting(_) => Action::SettingsUpdate,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use miroir_seams::Seams;
    use miroir_wire::error::Code;

    use super::*;

    #[test]
    fn only_a_key_as_bearer_opens() {
        let directory = tempfile::tempdir().unwrap();
        let seams = Seams::real();
        let keys = NodeKeys::open(directory.path(), "right", &seams).unwrap();
        let search = keys.ring().newest_first()[0].value.clone();
        let by_search_key = format!("Bearer {search}");
        let cases = [
            (Some("Bearer right"), Route::Stats, None),
            (Some(by_search_key.as_str()), Route::MultiSearch, None),
            (Some(&by_search_key), Route::Stats, Some(Code::InvalidApiKey)),
            (Some("Bearer wrong"), Route::Stats, Some(Code::InvalidApiKey)),
            (Some("Bearer "), Route::Stats, Some(Code::InvalidApiKey)),
            (Some("Bearer"), Route::Stats, Some(Code::InvalidApiKey)),
            (Some("Basic right"), Route::Stats, Some(Code::MissingAuthorizationHeader)),
            (Some("right"), Route::Stats, Some(Code::MissingAuthorizationHeader)),
            (None, Route::Stats, Some(Code::MissingAuthorizationHeader)),
        ];
        for (header, route, code) in cases {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
            }
            let ask = |keys, route: &Route| {
                authorise(keys, &headers, route, seams.clock.now()).err().map(|error| error.code)
            };
            assert_eq!(ask(Some(&keys), &route), code, "{header:?}");
            if header.is_none() {
                assert_eq!(ask(None, &route), None);
                let about_keys = Route::Keys(KeyRoute::List);
                assert_eq!(ask(None, &about_keys), Some(Code::MissingMasterKey));
            }
        }
    }
}
