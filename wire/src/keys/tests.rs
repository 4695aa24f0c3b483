use serde_json::{Value, json};

use super::*;

const NOW: OffsetDateTime = time::macros::datetime!(2024-05-01 12:00 UTC);

fn body(changed: &Value) -> Vec<u8> {
    let mut body = json!({"actions": ["search"], "indexes": ["movies"], "expiresAt": null});
    if let (Some(body), Some(changed)) = (body.as_object_mut(), changed.as_object()) {
        for (name, value) in changed {
            // A text of one minus takes the field away.
            match value.as_str() {
                Some("-") => drop(body.remove(name)),
                _ => drop(body.insert(name.clone(), value.clone())),
            }
        }
    }
    body.to_string().into_bytes()
}

#[test]
fn bad_bodies_of_new_keys_are_refused_as_meilisearch_does() {
    let actions = Action::NAMES.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    let unknown_action =
        format!("Unknown value `doc.add` at `.actions[0]`: expected one of {}", actions.join(", "));
    let date = |text: &str| {
        format!(
            "Invalid value at `.expiresAt`: `{text}` is not a valid date. It should follow the RFC 3339 format to \
             represents a date or datetime in the future or specified as a null value. e.g. 'YYYY-MM-DD' or \
             'YYYY-MM-DD HH:MM:SS'.\n"
        )
    };
    let (no_date, past) = (date("tomorrow"), date("2010-11-13T00:00:00Z"));
    let (now, today) = (date("2024-05-01T12:00:00Z"), date("2024-05-01"));
    for (changed, code, message) in [
        (json!({"actions": "-"}), "missing_api_key_actions", "Missing field `actions`"),
        (json!({"indexes": "-"}), "missing_api_key_indexes", "Missing field `indexes`"),
        (json!({"expiresAt": "-"}), "missing_api_key_expires_at", "Missing field `expiresAt`"),
        (
            json!({"actions": 8}),
            "invalid_api_key_actions",
            "Invalid value type at `.actions`: expected an array, but found a positive integer: `8`",
        ),
        (
            json!({"actions": null}),
            "invalid_api_key_actions",
            "Invalid value type at `.actions`: expected an array, but found null",
        ),
        (
            json!({"actions": [1]}),
            "invalid_api_key_actions",
            "Invalid value type at `.actions[0]`: expected a string, but found a positive integer: `1`",
        ),
        (json!({"actions": ["doc.add"]}), "invalid_api_key_actions", &unknown_action),
        (
            json!({"indexes": "movies"}),
            "invalid_api_key_indexes",
            "Invalid value type at `.indexes`: expected an array, but found a string: `\"movies\"`",
        ),
        (
            json!({"indexes": ["invalid index # / \\name with spaces"]}),
            "invalid_api_key_indexes",
            "Invalid value at `.indexes[0]`: `invalid index # / \\name with spaces` is not a valid index uid pattern. \
             Index uid patterns can be an integer or a string containing only alphanumeric characters, hyphens (-), \
             underscores (_), and optionally end with a star (*).",
        ),
        (
            json!({"name": 13}),
            "invalid_api_key_name",
            "Invalid value type at `.name`: expected a string, but found a positive integer: `13`",
        ),
        (
            json!({"description": {"a": 1}}),
            "invalid_api_key_description",
            "Invalid value type at `.description`: expected a string, but found an object: `{\"a\":1}`",
        ),
        (
            json!({"uid": "aaaaabbbbbccc"}),
            "invalid_api_key_uid",
            // After the colon, the words of the library that reads UUIDs.
            "Invalid value at `.uid`: invalid length: found 13",
        ),
        (
            json!({"uid": null}),
            "invalid_api_key_uid",
            "Invalid value type at `.uid`: expected a string, but found null",
        ),
        (json!({"expiresAt": "tomorrow"}), "invalid_api_key_expires_at", &no_date),
        (json!({"expiresAt": "2010-11-13T00:00:00Z"}), "invalid_api_key_expires_at", &past),
        (json!({"expiresAt": "2024-05-01T12:00:00Z"}), "invalid_api_key_expires_at", &now),
        (json!({"expiresAt": "2024-05-01"}), "invalid_api_key_expires_at", &today),
        (
            json!({"expiresAt": {"name": "doggo"}}),
            "invalid_api_key_expires_at",
            "Invalid value type at `.expiresAt`: expected a string, but found an object: `{\"name\":\"doggo\"}`",
        ),
        (
            json!({"doggo": "bernese"}),
            "bad_request",
            "Unknown field `doggo`: expected one of `description`, `name`, `uid`, `actions`, `indexes`, `expiresAt`",
        ),
        (
            json!({"actions": ["documents.add", "keys.get"]}),
            "index_scoped_api_key_with_global_action",
            "cannot create index-scoped API key with global action `\"keys.get\"`\n  - Hint: remove action \
             `\"keys.get\"` from the action list, or remove `indexes` to make the key global",
        ),
    ] {
        let error = CreateKey::from_json(&body(&changed), NOW).expect_err(&changed.to_string());
        assert_eq!((error.code.name(), error.message.as_str()), (code, message), "{changed}");
    }
    for (text, code) in [("", "missing_payload"), ("{", "malformed_payload"), ("[]", "bad_request")]
    {
        let error = CreateKey::from_json(text.as_bytes(), NOW).expect_err(text);
        assert_eq!(error.code.name(), code, "{text}");
    }
}

#[test]
fn good_bodies_are_read() {
    let uid = "4BC0887A-0E41-4F3B-935D-0C451DCEE9C8";
    let key = CreateKey::from_json(
        &body(
            &json!({"name": "n", "uid": uid, "indexes": ["*", "mov*"], "actions": ["*", "keys.get"]}),
        ),
        NOW,
    );
    let key = key.expect("it is a key");
    assert_eq!(key.uid, Some(uid.to_lowercase()));
    assert_eq!((key.name.as_deref(), key.description, key.expires_at), (Some("n"), None, None));
    assert_eq!(key.actions, [Action::All, Action::KeysGet]);
    for (text, at) in [
        ("2050-11-13T02:00:00+02:00", time::macros::datetime!(2050-11-13 00:00 UTC)),
        ("2050-11-13T00:00:00", time::macros::datetime!(2050-11-13 00:00 UTC)),
        ("2050-11-13 01:02:03", time::macros::datetime!(2050-11-13 01:02:03 UTC)),
        ("2050-11-13", time::macros::datetime!(2050-11-13 00:00 UTC)),
    ] {
        let key = CreateKey::from_json(&body(&json!({"expiresAt": text})), NOW).expect(text);
        assert_eq!(key.expires_at, Some(at), "{text}");
    }
}

#[test]
fn only_names_and_descriptions_change() {
    let patch =
        PatchKey::from_json(br#"{"name": null, "description": "d"}"#).expect("it is a patch");
    assert_eq!((patch.name, patch.description), (Setting::Reset, Setting::Set("d".to_owned())));
    assert_eq!(PatchKey::from_json(b"{}"), Ok(PatchKey::default()));
    for (field, code) in [
        ("uid", "immutable_api_key_uid"),
        ("actions", "immutable_api_key_actions"),
        ("indexes", "immutable_api_key_indexes"),
        ("expiresAt", "immutable_api_key_expires_at"),
        ("createdAt", "immutable_api_key_created_at"),
        ("updatedAt", "immutable_api_key_updated_at"),
    ] {
        let error =
            PatchKey::from_json(json!({field: "x"}).to_string().as_bytes()).expect_err(field);
        let message = format!("Immutable field `{field}`: expected one of `description`, `name`");
        assert_eq!((error.code.name(), error.message), (code, message));
    }
    for (text, code) in [
        (r#"{"name": 13}"#, "invalid_api_key_name"),
        (r#"{"description": []}"#, "invalid_api_key_description"),
        (r#"{"doggo": 1}"#, "bad_request"),
    ] {
        let error = PatchKey::from_json(text.as_bytes()).expect_err(text);
        assert_eq!(error.code.name(), code, "{text}");
    }
}

#[test]
fn listings_have_a_window() {
    assert_eq!(page_from_query_string(""), Ok(Page { offset: 0, limit: 20 }));
    assert_eq!(page_from_query_string("limit=0&offset=3"), Ok(Page { offset: 3, limit: 0 }));
    for (query, code, message) in [
        (
            "offset=doggo",
            "invalid_api_key_offset",
            "Invalid value in parameter `offset`: could not parse `doggo` as a positive integer",
        ),
        (
            "limit=doggo",
            "invalid_api_key_limit",
            "Invalid value in parameter `limit`: could not parse `doggo` as a positive integer",
        ),
        ("doggo=1", "bad_request", "Unknown parameter `doggo`: expected one of `offset`, `limit`"),
    ] {
        let error = page_from_query_string(query).expect_err(query);
        assert_eq!((error.code.name(), error.message.as_str()), (code, message));
    }
}

#[test]
fn wildcards_stand_for_their_families() {
    let holds = |said: &[&str], name: &str| {
        let said: Vec<Action> = said.iter().filter_map(|name| Action::from_name(name)).collect();
        Action::from_name(name).is_some_and(|action| ActionSet::of(&said).holds(action))
    };
    for (said, held, missing) in [
        ("*", "keys.delete", "*.get"),
        ("*", "documents.*", "*.get"),
        ("search", "search", "documents.get"),
        ("documents.*", "documents.delete", "indexes.get"),
        ("indexes.*", "indexes.swap", "documents.add"),
        ("tasks.*", "tasks.cancel", "stats.get"),
        ("chats.*", "chats.delete", "chatsSettings.get"),
        ("*.get", "search", "keys.get"),
        ("*.get", "version", "documents.add"),
        ("*.get", "tasks.get", "chatCompletions"),
    ] {
        assert!(holds(&[said], held), "{said} {held}");
        assert!(!holds(&[said], missing), "{said} {missing}");
    }
    assert!(holds(&["*.get", "keys.get"], "keys.get"));
    assert!(!holds(&[], "search"));
    for (place, action) in Action::EVERY.iter().enumerate() {
        assert_eq!(Action::from_name(action.name()), Some(*action));
        assert_eq!(Action::NAMES.get(place), Some(&action.name()));
    }
}

#[test]
fn patterns_match_beginnings() {
    let pattern = |text: &str| text.parse::<IndexPattern>().expect(text);
    assert!(pattern("*").matches("anything") && pattern("*").is_all());
    assert!(pattern("mov*").matches("movies") && !pattern("mov*").matches("mo"));
    assert!(pattern("movies").matches("movies") && !pattern("movies").matches("movies2"));
    for text in ["", "a b", "**", "*a", "a*b"] {
        assert!(text.parse::<IndexPattern>().is_err(), "{text}");
    }
}

#[test]
fn a_key_is_shown_as_meilisearch_shows_it() {
    let key = Key {
        uid: "6062abda-a5aa-4414-ac91-ecd7944c0f8d".to_owned(),
        name: Some("n".to_owned()),
        description: None,
        actions: vec![Action::Search, Action::DocumentsAll],
        indexes: vec![IndexPattern::all()],
        expires_at: None,
        created_at: NOW,
        updated_at: NOW,
    };
    let shown = serde_json::to_string(&KeyView::new(&key, "abc")).unwrap_or_default();
    assert_eq!(
        shown,
        r#"{"name":"n","description":null,"key":"abc","uid":"6062abda-a5aa-4414-ac91-ecd7944c0f8d","actions":["search","documents.*"],"indexes":["*"],"expiresAt":null,"createdAt":"2024-05-01T12:00:00Z","updatedAt":"2024-05-01T12:00:00Z"}"#
    );
    let mut number = 0;
    let defaults = Key::defaults(NOW, || {
        number += 1;
        number.to_string()
    });
    let names: Vec<&str> = defaults.iter().filter_map(|key| key.name.as_deref()).collect();
    assert_eq!(
        names,
        [
            "Default Chat API Key",
            "Default Read-Only Admin API Key",
            "Default Admin API Key",
            "Default Search API Key"
        ]
    );
    assert!(!key.is_expired(NOW) && Key { expires_at: Some(NOW), ..key }.is_expired(NOW));
}
