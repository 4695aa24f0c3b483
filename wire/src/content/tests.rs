use proptest::prelude::*;

use super::*;

const CSV: PayloadKind = PayloadKind::Csv { delimiter: b',' };

fn documents(kind: PayloadKind, body: &str) -> Result<Vec<String>, ApiError> {
    let batch = read_documents(kind, &Bytes::copy_from_slice(body.as_bytes()))?;
    Ok(batch.iter().map(|document| String::from_utf8(document.to_vec()).unwrap()).collect())
}

fn refusal(kind: PayloadKind, body: &str) -> (&'static str, String) {
    let error = documents(kind, body).unwrap_err();
    (error.code.name(), error.message)
}

#[test]
fn content_types_decide_the_format() {
    for (content_type, delimiter, kind) in [
        ("application/json", None, PayloadKind::Json),
        ("Application/JSON; charset=utf-8", None, PayloadKind::Json),
        ("application/x-ndjson", None, PayloadKind::Ndjson),
        ("text/csv", None, CSV),
        ("text/csv", Some(";"), PayloadKind::Csv { delimiter: b';' }),
    ] {
        assert_eq!(payload_kind(Some(content_type), delimiter), Ok(kind), "{content_type}");
    }
}

#[test]
fn wrong_content_types_are_refused_in_meilisearchs_words() {
    let accepted = "Accepted values for the Content-Type header are: `application/json`, `application/x-ndjson`, `text/csv`";
    for (content_type, delimiter, code, message) in [
        (None, None, "missing_content_type", format!("A Content-Type header is missing. {accepted}")),
        (
            Some("text/plain"),
            None,
            "invalid_content_type",
            format!("The Content-Type `text/plain` is invalid. {accepted}"),
        ),
        (Some("doggo"), None, "invalid_content_type", format!("The Content-Type `doggo` is invalid. {accepted}")),
        (
            Some("application/json"),
            Some(","),
            "invalid_content_type",
            "The Content-Type `application/json` does not support the use of a csv delimiter. The csv delimiter can \
             only be used with the Content-Type `text/csv`."
                .to_owned(),
        ),
        (
            Some("text/csv"),
            Some("🍰"),
            "invalid_document_csv_delimiter",
            "csv delimiter must be an ascii character. Found: `🍰`".to_owned(),
        ),
        (
            Some("text/csv"),
            Some("doggo"),
            "invalid_document_csv_delimiter",
            "Invalid value in parameter `csvDelimiter`: expected a string of one character, but found the following \
             string of 5 characters: `doggo`"
                .to_owned(),
        ),
    ] {
        let error = payload_kind(content_type, delimiter).unwrap_err();
        assert_eq!((error.code.name(), error.message), (code, message));
    }
    assert!(check_json_content_type(Some("application/json; charset=utf-8")).is_ok());
    assert_eq!(
        check_json_content_type(Some("text/plain")).unwrap_err().message,
        "The Content-Type `text/plain` is invalid. Accepted values for the Content-Type header are: `application/json`"
    );
}

#[test]
fn documents_are_delimited_where_they_lie() {
    assert_eq!(
        documents(PayloadKind::Json, r#" [ {"id":1} ,{"a":{"b":[]}}] "#).unwrap(),
        [r#"{"id":1}"#, r#"{"a":{"b":[]}}"#]
    );
    assert_eq!(documents(PayloadKind::Json, " {\"id\": 1}\n").unwrap(), [r#"{"id": 1}"#]);
    assert_eq!(documents(PayloadKind::Json, "[]").unwrap(), [""; 0]);
    assert_eq!(
        documents(PayloadKind::Ndjson, "{\"id\":1}\n\n{\"id\":2}{\"id\":3}").unwrap().len(),
        3
    );
    assert_eq!(documents(PayloadKind::Ndjson, " \n ").unwrap(), [""; 0]);
}

#[test]
fn csv_rows_become_typed_objects() {
    assert_eq!(
        documents(CSV, "id:number,name,ok:boolean,odd:thing,n:number\n1, x ,true,,\" 2.5 \"\n-2,\"a\"\"b\",,y,\n").unwrap(),
        [
            r#"{"id":1,"name":" x ","ok":true,"odd:thing":null,"n":2.5}"#,
            r#"{"id":-2,"name":"a\"b","ok":null,"odd:thing":"y","n":null}"#,
        ]
    );
    assert_eq!(
        documents(PayloadKind::Csv { delimiter: b';' }, "a;b:string\n1;2").unwrap(),
        [r#"{"a":"1","b":"2"}"#]
    );
    assert_eq!(documents(CSV, "a,a\n1,2").unwrap(), [r#"{"a":"2"}"#]);
    assert_eq!(documents(CSV, "id,name").unwrap(), [""; 0]);
}

#[test]
fn unreadable_payloads_are_refused_in_meilisearchs_words() {
    let long = "0123456789".repeat(50);
    for (kind, body, code, message) in [
        (PayloadKind::Json, "", "missing_payload", "A json payload is missing."),
        (PayloadKind::Ndjson, "", "missing_payload", "A ndjson payload is missing."),
        (CSV, "", "missing_payload", "A csv payload is missing."),
        (
            PayloadKind::Json,
            r#"[{"id": 1}, {id: 2}]"#,
            "malformed_payload",
            "The `json` payload provided is malformed. `Couldn't serialize document value: key must be a string at line 1 column 14`.",
        ),
        (
            PayloadKind::Ndjson,
            "{\"id\": 1}\n{id: 2}",
            "malformed_payload",
            "The `ndjson` payload provided is malformed. `Couldn't serialize document value: key must be a string at line 2 column 2`.",
        ),
        (
            PayloadKind::Json,
            &format!("\"{long}\""),
            "malformed_payload",
            "The `json` payload provided is malformed. `Couldn't serialize document value: data are neither an object nor a list of objects`.",
        ),
        (
            CSV,
            "id, content\n1234, hello, world\n12, hello world",
            "malformed_payload",
            "The `csv` payload provided is malformed: `CSV error: record 1 (line: 2, byte: 12): found record with 3 fields, but the previous record has 2 fields`.",
        ),
        (
            CSV,
            "id:number,a:boolean\n1,doggo",
            "malformed_payload",
            "The `csv` payload provided is malformed: `Error parsing boolean \"doggo\" at line 1: provided string was not `true` or `false``.",
        ),
        (
            CSV,
            "id:number\ndoggo",
            "malformed_payload",
            "The `csv` payload provided is malformed: `Error parsing number \"doggo\" at line 1: invalid float literal`.",
        ),
        (
            PayloadKind::Json,
            "[1]",
            "internal",
            "invalid type: integer `1`, expected a map at line 1 column 1",
        ),
        (
            PayloadKind::Json,
            r#"[{"\ud800":1}]"#,
            "malformed_payload",
            "The `json` payload provided is malformed. `Couldn't serialize document value: unexpected end of hex escape at line 1 column 9`.",
        ),
    ] {
        assert_eq!(refusal(kind, body), (code, message.to_owned()), "{body}");
    }
}

#[test]
fn long_causes_lose_their_middle_at_a_character() {
    assert_eq!(middle_cut("short".to_owned()), "short");
    assert_eq!(middle_cut("a".repeat(200)), format!("{}...{}", "a".repeat(50), "a".repeat(85)));
    assert!(middle_cut("é".repeat(200)).len() <= 50 + 85 + 3);
}

#[test]
fn size_limits_are_told_in_binary_units() {
    for (bytes, told) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (100 << 20, "100 MiB"), (1536, "1.5 KiB")]
    {
        assert!(payload_too_large(bytes).message.ends_with(&format!("is {told}.")), "{bytes}");
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        ".*".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec((".*", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

fn json_objects() -> impl Strategy<Value = Vec<serde_json::Value>> {
    let object = prop::collection::vec((".*", json_value()), 0..5)
        .prop_map(|members| serde_json::Value::Object(members.into_iter().collect()));
    prop::collection::vec(object, 0..6)
}

proptest! {
    #[test]
    fn reading_arbitrary_bytes_never_panics(bytes: Vec<u8>, which in 0..3u8, delimiter in 0..128u8) {
        let kind = [PayloadKind::Json, PayloadKind::Ndjson, PayloadKind::Csv { delimiter }][which as usize];
        let bytes = Bytes::from(bytes);
        if let Ok(batch) = read_documents(kind, &bytes) {
            for document in batch.iter() {
                prop_assert!(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(document).is_ok());
            }
        }
    }

    #[test]
    fn reading_almost_json_never_panics(text in r#"[\[\]{}:,"\\u0-9a-f \n-]{0,40}"#) {
        let bytes = Bytes::from(text);
        for kind in [PayloadKind::Json, PayloadKind::Ndjson] {
            if let Ok(batch) = read_documents(kind, &bytes) {
                for document in batch.iter() {
                    let _ = crate::document::document_id(document, "a.b");
                    let _ = crate::document::infer_primary_key(document);
                    let _ = crate::reserved::contains_reserved(document);
                }
            }
        }
    }

    #[test]
    fn scanning_arbitrary_bytes_never_panics(bytes: Vec<u8>, path in "[a.]{0,6}") {
        let _ = crate::document::value_at(&bytes, &path);
        let _ = crate::document::document_id(&bytes, &path);
        let _ = crate::reserved::contains_reserved(&bytes);
    }

    #[test]
    fn json_and_ndjson_give_the_same_documents(objects in json_objects()) {
        let texts: Vec<String> = objects.iter().map(ToString::to_string).collect();
        let array = documents(PayloadKind::Json, &format!("[{}]", texts.join(" ,\n"))).unwrap();
        prop_assert_eq!(&array, &texts);
        if !texts.is_empty() {
            prop_assert_eq!(&documents(PayloadKind::Ndjson, &texts.join("\n")).unwrap(), &texts);
        }
        for (object, text) in objects.iter().zip(&texts) {
            for (key, value) in object.as_object().unwrap() {
                if !key.is_empty() {
                    let read = crate::document::value_at(text.as_bytes(), key).map(|raw| raw.get().to_owned());
                    prop_assert_eq!(read, Some(value.to_string()));
                }
            }
        }
    }
}
