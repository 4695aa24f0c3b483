//! Which route a request means. The one place where paths meet handlers; no logic.
//!
//! As in Meilisearch, a known path with a wrong method is 405, an unknown path is 404, both
//! with an empty body and before any key is looked at. Doubled and trailing slashes are
//! ignored.

use std::borrow::Cow;

use http::Method;
use miroir_wire::keys::Action;
use miroir_wire::settings::{Method as SettingMethod, sub_route};
use percent_encoding::percent_decode_str;

/// A route with what its path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET /`
    Running,
    /// `GET /health`
    Health,
    /// `GET /version`
    Version,
    /// `GET /stats`
    Stats,
    /// `GET /experimental-features`
    GetFeatures,
    /// `PATCH /experimental-features`
    SwitchFeatures,
    /// `POST /multi-search`
    MultiSearch,
    /// `POST /swap-indexes`
    SwapIndexes,
    /// `/tasks…`
    Tasks(TaskRoute),
    /// `/batches…`
    Batches(BatchRoute),
    /// `/keys…`
    Keys(KeyRoute),
    /// `GET /indexes`
    ListIndexes,
    /// `POST /indexes`
    CreateIndex,
    /// `/indexes/{uid}…`
    Index(String, IndexRoute),
    /// A route of Meilisearch that this node doesn't have: what it is called, and the action that it
    /// needs.
    NotSupported(&'static str, Action),
}

/// A route below `/tasks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskRoute {
    /// `GET /tasks`
    List,
    /// `DELETE /tasks`
    Delete,
    /// `POST /tasks/cancel`
    Cancel,
    /// `GET /tasks/{uid}`
    Get(String),
}

/// A route below `/batches`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BatchRoute {
    /// `GET /batches`
    List,
    /// `GET /batches/{uid}`
    Get(String),
}

/// A route below `/keys`; a key is named by its uid or its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyRoute {
    /// `GET /keys`
    List,
    /// `POST /keys`
    Create,
    /// `GET /keys/{key}`
    Get(String),
    /// `PATCH /keys/{key}`
    Patch(String),
    /// `DELETE /keys/{key}`
    Delete(String),
}

/// A route below `/indexes/{uid}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IndexRoute {
    /// `GET /indexes/{uid}`
    Get,
    /// `PATCH /indexes/{uid}`
    Update,
    /// `DELETE /indexes/{uid}`
    Delete,
    /// `GET …/stats`
    Stats,
    /// `GET …/search`
    SearchByUrl,
    /// `POST …/search`
    SearchByBody,
    /// `POST …/facet-search`
    FacetSearch,
    /// `GET …/similar`
    SimilarByUrl,
    /// `POST …/similar`
    SimilarByBody,
    /// `…/documents…`
    Documents(DocumentRoute),
    /// `GET …/settings`
    GetSettings,
    /// `PATCH …/settings`
    UpdateSettings,
    /// `DELETE …/settings`
    ResetSettings,
    /// `GET …/settings/{name}`
    GetSetting(&'static str),
    /// `PUT` or `PATCH …/settings/{name}`
    UpdateSetting(&'static str),
    /// `DELETE …/settings/{name}`
    ResetSetting(&'static str),
}

/// A route below `/indexes/{uid}/documents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DocumentRoute {
    /// `GET …/documents`
    List,
    /// `POST …/documents`
    Replace,
    /// `PUT …/documents`
    Update,
    /// `DELETE …/documents`
    Clear,
    /// `POST …/documents/delete-batch`
    DeleteBatch,
    /// `POST …/documents/delete`
    DeleteByFilter,
    /// `POST …/documents/edit`
    Edit,
    /// `POST …/documents/fetch`
    Fetch,
    /// `GET …/documents/{id}`
    Get(String),
    /// `DELETE …/documents/{id}`
    Delete(String),
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// Nothing is at this path.
    UnknownPath,
    /// Something is, but not for this method.
    WrongMethod,
}

/// The route of a request; `path` is still percent-encoded.
pub(crate) fn resolve(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let segments: Vec<Cow<'_, str>> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    use Route as R;
    match segments.as_slice() {
        [] => by_method(method, &[(Method::GET, R::Running)]),
        ["health"] => by_method(method, &[(Method::GET, R::Health)]),
        ["version"] => by_method(method, &[(Method::GET, R::Version)]),
        ["experimental-features"] => {
            let routes = [(Method::GET, R::GetFeatures), (Method::PATCH, R::SwitchFeatures)];
            by_method(method, &routes)
        }
        ["stats"] => by_method(method, &[(Method::GET, R::Stats)]),
        ["multi-search"] => by_method(method, &[(Method::POST, R::MultiSearch)]),
        ["swap-indexes"] => by_method(method, &[(Method::POST, R::SwapIndexes)]),
        ["tasks", rest @ ..] => tasks(method, rest),
        ["batches"] => by_method(method, &[(Method::GET, R::Batches(BatchRoute::List))]),
        ["batches", uid] => {
            by_method(method, &[(Method::GET, R::Batches(BatchRoute::Get((*uid).to_owned())))])
        }
        ["keys", rest @ ..] => keys(method, rest),
        ["indexes"] => {
            by_method(method, &[(Method::GET, R::ListIndexes), (Method::POST, R::CreateIndex)])
        }
        ["indexes", uid, rest @ ..] => index(method, uid, rest),
        rest => not_supported(method, rest),
    }
}

fn by_method(method: &Method, routes: &[(Method, Route)]) -> Result<Route, NoRoute> {
    routes
        .iter()
        .find(|(allowed, _)| allowed == method)
        .map(|(_, route)| route.clone())
        .ok_or(NoRoute::WrongMethod)
}

fn tasks(method: &Method, rest: &[&str]) -> Result<Route, NoRoute> {
    use TaskRoute as T;
    let routes = match rest {
        [] => vec![(Method::GET, T::List), (Method::DELETE, T::Delete)],
        ["cancel"] => vec![(Method::POST, T::Cancel)],
        [uid] => vec![(Method::GET, T::Get((*uid).to_owned()))],
        [_, "documents"] => {
            let route = Route::NotSupported("the documents of a task", Action::TasksGet);
            return by_method(method, &[(Method::GET, route)]);
        }
        _ => return Err(NoRoute::UnknownPath),
    };
    let routes: Vec<_> = routes.into_iter().map(|(m, route)| (m, Route::Tasks(route))).collect();
    by_method(method, &routes)
}

fn keys(method: &Method, rest: &[&str]) -> Result<Route, NoRoute> {
    use KeyRoute as K;
    let routes = match rest {
        [] => vec![(Method::GET, K::List), (Method::POST, K::Create)],
        [key] => vec![
            (Method::GET, K::Get((*key).to_owned())),
            (Method::PATCH, K::Patch((*key).to_owned())),
            (Method::DELETE, K::Delete((*key).to_owned())),
        ],
        _ => return Err(NoRoute::UnknownPath),
    };
    let routes: Vec<_> = routes.into_iter().map(|(m, route)| (m, Route::Keys(route))).collect();
    by_method(method, &routes)
}

fn index(method: &Method, uid: &str, rest: &[&str]) -> Result<Route, NoRoute> {
    use DocumentRoute as D;
    use IndexRoute as I;
    let documents = |route| I::Documents(route);
    let routes = match rest {
        [] => {
            vec![(Method::GET, I::Get), (Method::PATCH, I::Update), (Method::DELETE, I::Delete)]
        }
        ["stats"] => vec![(Method::GET, I::Stats)],
        ["search"] => vec![(Method::GET, I::SearchByUrl), (Method::POST, I::SearchByBody)],
        ["facet-search"] => vec![(Method::POST, I::FacetSearch)],
        ["similar"] => vec![(Method::GET, I::SimilarByUrl), (Method::POST, I::SimilarByBody)],
        ["documents"] => vec![
            (Method::GET, documents(D::List)),
            (Method::POST, documents(D::Replace)),
            (Method::PUT, documents(D::Update)),
            (Method::DELETE, documents(D::Clear)),
        ],
        ["documents", "delete-batch"] => vec![(Method::POST, documents(D::DeleteBatch))],
        ["documents", "delete"] => vec![(Method::POST, documents(D::DeleteByFilter))],
        ["documents", "fetch"] => vec![(Method::POST, documents(D::Fetch))],
        ["documents", "edit"] => vec![(Method::POST, documents(D::Edit))],
        ["documents", id] => vec![
            (Method::GET, documents(D::Get((*id).to_owned()))),
            (Method::DELETE, documents(D::Delete((*id).to_owned()))),
        ],
        ["settings"] => vec![
            (Method::GET, I::GetSettings),
            (Method::PATCH, I::UpdateSettings),
            (Method::DELETE, I::ResetSettings),
        ],
        ["settings", name] => {
            let Some(route) = sub_route(name) else {
                return Err(NoRoute::UnknownPath);
            };
            let update = match route.method {
                SettingMethod::Patch => Method::PATCH,
                SettingMethod::Put => Method::PUT,
            };
            vec![
                (Method::GET, I::GetSetting(route.name)),
                (update, I::UpdateSetting(route.name)),
                (Method::DELETE, I::ResetSetting(route.name)),
            ]
        }
        _ => return Err(NoRoute::UnknownPath),
    };
    let routes: Vec<_> = routes
        .into_iter()
        .map(|(method, route)| (method, Route::Index(uid.to_owned(), route)))
        .collect();
    by_method(method, &routes)
}

fn post_not_supported(
    method: &Method,
    what: &'static str,
    action: Action,
) -> Result<Route, NoRoute> {
    by_method(method, &[(Method::POST, Route::NotSupported(what, action))])
}

/// Meilisearch's other routes, all methods alike.
fn not_supported(method: &Method, segments: &[&str]) -> Result<Route, NoRoute> {
    let is_get = *method == Method::GET;
    let either = |get, other| if is_get { get } else { other };
    let (what, action) = match segments {
        ["dumps"] => return post_not_supported(method, "dumps", Action::DumpsCreate),
        ["snapshots"] => return post_not_supported(method, "snapshots", Action::SnapshotsCreate),
        ["network"] => ("networks of nodes", either(Action::NetworkGet, Action::NetworkUpdate)),
        ["chats", ..] => ("chat", Action::ChatsGet),
        ["logs", "stream" | "stderr"] => ("log routes", Action::MetricsGet),
        ["metrics"] => ("metrics", Action::MetricsGet),
        _ => return Err(NoRoute::UnknownPath),
    };
    Ok(Route::NotSupported(what, action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_paths_lead_to_their_route() {
        let index = |route| Ok(Route::Index("a b".to_owned(), route));
        let cases = [
            ("GET", "/health", Ok(Route::Health)),
            ("GET", "//health/", Ok(Route::Health)),
            ("HEAD", "/health", Err(NoRoute::WrongMethod)),
            ("GET", "/nothing", Err(NoRoute::UnknownPath)),
            ("GET", "/indexes/a%20b/nothing", Err(NoRoute::UnknownPath)),
            ("GET", "/indexes/a%20b", index(IndexRoute::Get)),
            ("POST", "/indexes/a%20b", Err(NoRoute::WrongMethod)),
            ("POST", "/indexes/a%20b/search", index(IndexRoute::SearchByBody)),
            (
                "DELETE",
                "/indexes/a%20b/documents/x%2Fy",
                index(IndexRoute::Documents(DocumentRoute::Delete("x/y".to_owned()))),
            ),
            (
                "POST",
                "/indexes/a%20b/documents/edit",
                index(IndexRoute::Documents(DocumentRoute::Edit)),
            ),
            ("GET", "/indexes/a%20b/documents/fetch", Err(NoRoute::WrongMethod)),
            ("GET", "/indexes/a%20b/settings/nothing", Err(NoRoute::UnknownPath)),
            ("PUT", "/indexes/a%20b/settings/typo-tolerance", Err(NoRoute::WrongMethod)),
            ("GET", "/tasks/cancel", Err(NoRoute::WrongMethod)),
            ("GET", "/tasks/7", Ok(Route::Tasks(TaskRoute::Get("7".to_owned())))),
            ("GET", "/batches/7", Ok(Route::Batches(BatchRoute::Get("7".to_owned())))),
            ("PATCH", "/keys/a", Ok(Route::Keys(KeyRoute::Patch("a".to_owned())))),
            ("PUT", "/keys", Err(NoRoute::WrongMethod)),
            ("POST", "/dumps", Ok(Route::NotSupported("dumps", Action::DumpsCreate))),
            ("GET", "/dumps", Err(NoRoute::WrongMethod)),
        ];
        for (method, path, route) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(resolve(&method, path), route, "{method} {path}");
        }
    }
}
