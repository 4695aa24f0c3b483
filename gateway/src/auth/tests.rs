use http::HeaderValue;
use miroir_wire::keys::{IndexPattern, Key};
use serde_json::{Value, json};

use super::*;
use miroir_wire::access::{sign_token as sign, value_of};

const NOW: OffsetDateTime = time::macros::datetime!(2024-05-01 12:00 UTC);
const MASTER: &str = "master";

/// Keys whose uid ends in their place here: their actions, their indexes.
const KEYS: [(&[Action], &[&str]); 7] = [
    (&[Action::All], &["*"]),
    (&[Action::Search], &["*"]),
    (&[Action::All], &["movies", "b*"]),
    // Expired.
    (&[Action::All], &["*"]),
    (&[Action::AllGet, Action::KeysGet], &["*"]),
    (&[Action::DocumentsAdd], &["movies"]),
    (&[Action::All], &[]),
];

fn uid(place: usize) -> String {
    format!("550e8400-e29b-41d4-a716-44665544000{place}")
}

fn keys() -> Arc<ApiKeys> {
    let key = |(place, (actions, indexes)): (usize, &(&[Action], &[&str]))| {
        let key = Key {
            uid: uid(place),
            name: None,
            description: None,
            actions: actions.to_vec(),
            indexes: indexes.iter().filter_map(|text| text.parse::<IndexPattern>().ok()).collect(),
            expires_at: (place == 3).then_some(NOW),
            created_at: NOW,
            updated_at: NOW,
        };
        (key.uid.clone(), key)
    };
    Arc::new(ApiKeys { begun: true, by_uid: KEYS.iter().enumerate().map(key).collect() })
}

fn ask(master_key: Option<&str>, header: Option<&str>, right: Right<'_>) -> Result<Grant, Refusal> {
    let config = GatewayConfig {
        master_key: master_key.map(str::to_owned),
        admin_key: Some("admin".into()),
        ..Default::default()
    };
    let mut headers = HeaderMap::new();
    if let Some(header) = header {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).expect("it is a header"));
    }
    let (keys, rings) = (keys(), KeyRings::default());
    check_right(&Door { config: &config, keys: &keys, rings: &rings, now: NOW }, &headers, right)
}

fn code(header: Option<&str>, right: Right<'_>) -> Option<&'static str> {
    ask(Some(MASTER), header, right).err().map(|refusal| refusal.error.code.name())
}

/// The message for who shows `bearer`; none when it may.
fn refused(bearer: &str, right: Right<'_>) -> Option<String> {
    let refusal = ask(Some(MASTER), Some(&format!("Bearer {bearer}")), right).err()?;
    assert_eq!(refusal.error.code, Code::InvalidApiKey);
    Some(refusal.error.message)
}

fn value(place: usize) -> String {
    value_of(MASTER, &uid(place))
}

fn token(place: usize, rules: &Value) -> String {
    let claims = json!({"searchRules": rules, "apiKeyUid": uid(place), "exp": null});
    sign("HS256", &claims, &value(place))
}

const SEARCH: Right<'_> = Right::Key(Action::Search, Some("movies"));
const INVALID: &str = "The provided API key is invalid.";

#[test]
fn the_master_key_opens_the_public_api() {
    let client = |value| code(Some(value), SEARCH);
    assert_eq!(client("Bearer master"), None);
    assert_eq!(client("Bearer wrong"), Some("invalid_api_key"));
    assert_eq!(client("Bearer "), Some("invalid_api_key"));
    assert_eq!(client("Bearer"), Some("invalid_api_key"));
    assert_eq!(client("Basic master"), Some("missing_authorization_header"));
    assert_eq!(code(None, SEARCH), Some("missing_authorization_header"));
    assert_eq!(code(None, Right::Exempt), None);
    assert_eq!(code(Some("Bearer master"), Right::Key(Action::KeysCreate, None)), None);
}

#[test]
fn without_a_master_key_all_but_keys_is_open() {
    for header in [None, Some("Bearer what ever")] {
        assert!(ask(None, header, SEARCH).is_ok_and(|grant| grant.allows_all_indexes()));
        let keys = ask(None, header, Right::Key(Action::KeysGet, None)).err();
        assert_eq!(keys.map(|refusal| refusal.error.code), Some(Code::MissingMasterKey));
    }
}

#[test]
fn the_admin_key_opens_the_admin_api_and_nothing_else_does() {
    assert_eq!(code(Some("Bearer admin"), Right::Operator), None);
    for header in [None, Some("Bearer master"), Some(&*format!("Bearer {}", value(0)))] {
        assert_eq!(code(header, Right::Operator), Some("miroir_invalid_auth"));
    }
    assert_eq!(refused("admin", SEARCH).as_deref(), Some(INVALID));
    let config = GatewayConfig { admin_key: Some("admin".into()), ..Default::default() };
    let door =
        Door { config: &config, keys: &Arc::default(), rings: &KeyRings::default(), now: NOW };
    let mut headers = HeaderMap::new();
    headers.insert("x-admin-key", HeaderValue::from_static("admin"));
    assert!(check_right(&door, &headers, Right::Operator).is_ok());
    let config = GatewayConfig::default();
    assert!(check_right(&Door { config: &config, ..door }, &headers, Right::Operator).is_err());
}

#[test]
fn a_key_opens_what_its_actions_and_indexes_say() {
    let movies = |action| Right::Key(action, Some("movies"));
    let all = |action| Right::Key(action, None);
    let scoped = |index: &str| {
        format!(
            "The API key cannot acces the index `{index}`, authorized indexes are [\"b*\", \"movies\"]."
        )
    };
    for (place, right, refusal) in [
        (0, all(Action::KeysDelete), None),
        (1, SEARCH, None),
        (1, all(Action::Search), None),
        (1, movies(Action::DocumentsAdd), Some(INVALID.to_owned())),
        (1, all(Action::Version), Some(INVALID.to_owned())),
        (2, movies(Action::DocumentsAdd), None),
        (2, Right::Key(Action::Search, Some("books")), None),
        (2, Right::Key(Action::Search, Some("music")), Some(scoped("music"))),
        // Routes that show only what may be seen.
        (2, all(Action::IndexesGet), None),
        (2, all(Action::TasksGet), None),
        (2, all(Action::StatsGet), None),
        // Routes about everything.
        (2, all(Action::Version), Some(INVALID.to_owned())),
        (2, all(Action::KeysGet), Some(INVALID.to_owned())),
        (3, SEARCH, Some(INVALID.to_owned())),
        (4, movies(Action::SettingsGet), None),
        (4, all(Action::KeysGet), None),
        (4, all(Action::KeysCreate), Some(INVALID.to_owned())),
        (6, all(Action::Search), Some(INVALID.to_owned())),
    ] {
        assert_eq!(refused(&value(place), right), refusal, "{place} {right:?}");
    }
}

#[test]
fn who_may_not_create_indexes_does_not() {
    let grant = |place| {
        let bearer = format!("Bearer {}", value(place));
        ask(Some(MASTER), Some(&bearer), Right::Key(Action::DocumentsAdd, Some("movies")))
            .expect("it may add documents")
    };
    assert!(grant(2).may_create_index("movies") && !grant(2).may_create_index("music"));
    assert!(!grant(5).may_create_index("movies"));
    assert!(Grant::everything().may_create_index("music"));
}

#[test]
fn only_what_could_be_a_key_is_asked_for_elsewhere() {
    let unknown = |bearer: &str, right| {
        let refusal = ask(Some(MASTER), Some(&format!("Bearer {bearer}")), right).err();
        refusal.is_some_and(|refusal| refusal.unknown_key)
    };
    let new = value_of(MASTER, &uid(8));
    assert!(unknown(&new, SEARCH));
    assert!(unknown(&token(8, &json!(["*"])), SEARCH));
    for bearer in ["guess", &new.to_uppercase(), &value(3), &token(3, &json!(["*"]))] {
        assert!(!unknown(bearer, SEARCH), "{bearer}");
    }
    let forged = json!({"searchRules": ["*"], "apiKeyUid": uid(8)});
    assert!(!unknown(&sign("HS256", &forged, "guess"), SEARCH));
}

#[test]
fn tenant_tokens_search_what_they_and_their_key_allow() {
    let any = json!(["*"]);
    for (place, rules, index, refusal) in [
        (1, any.clone(), "movies", None),
        (2, any.clone(), "books", None),
        (
            1,
            json!(["m*", "books"]),
            "albums",
            Some(
                "The provided tenant token cannot acces the index `albums`, allowed indexes are [\"books\", \"m*\"].",
            ),
        ),
        (
            2,
            any.clone(),
            "music",
            Some("The API key used to generate this tenant token cannot acces the index `music`."),
        ),
        (3, any.clone(), "movies", Some(INVALID)),
        (5, any.clone(), "movies", Some(INVALID)),
        (8, any.clone(), "movies", Some(INVALID)),
    ] {
        let right = Right::Key(Action::Search, Some(index));
        let said = refused(&token(place, &rules), right);
        assert_eq!(said.as_deref(), refusal, "{place} {rules} {index}");
    }
    // Nothing but searches.
    let right = Right::Key(Action::DocumentsGet, Some("movies"));
    assert_eq!(refused(&token(0, &any), right).as_deref(), Some(INVALID));
    let forged = json!({"searchRules": ["*"], "apiKeyUid": uid(1)});
    assert_eq!(
        refused(&sign("HS256", &forged, MASTER), SEARCH).as_deref(),
        Some("Could not decode tenant token, InvalidSignature.")
    );
    let old = json!({"searchRules": ["*"], "apiKeyUid": uid(1), "exp": 3});
    assert_eq!(
        refused(&sign("HS512", &old, &value(1)), SEARCH),
        Some(format!(
            "Tenant token expired. Was valid up to `3` and we're now `{}`.",
            NOW.unix_timestamp()
        ))
    );
    let rules = json!({"movies": {"filter": "user = 1"}});
    let bearer = format!("Bearer {}", token(2, &rules));
    let grant = ask(Some(MASTER), Some(&bearer), SEARCH).expect("it may search");
    let mut filter = Some(json!("year > 2000"));
    grant.demand_rules("movies", &mut filter);
    assert_eq!(filter, Some(json!(["year > 2000", "user = 1"])));
    assert!(grant.check_index("movies").is_ok() && grant.check_index("books").is_err());
    assert!(!grant.allows_all_indexes());
}

#[test]
fn a_master_key_with_the_form_of_a_token_is_the_master_key() {
    let master = token(1, &json!(["*"]));
    let grant = ask(Some(&master), Some(&format!("Bearer {master}")), SEARCH);
    assert!(grant.is_ok_and(|grant| grant.allows_all_indexes()));
}
