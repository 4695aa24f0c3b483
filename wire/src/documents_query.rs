//! Parameters of the document routes: listing, fetching one, adding, deleting and editing.

use deserr::Deserr;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::document::{IdError, id_from_value};
use crate::error::{ApiError, Code, mark};
use crate::parse::{
    Commas, JsonFault, Param, QueryFault, StarOrList, from_json, from_query, json_error, missing,
};
use crate::search::check_filter_shape;
use crate::search::params::split_sort;

/// How many documents a listing holds when `limit` is not given.
pub const LIMIT_DEFAULT: usize = 20;

/// What `GET documents` and `POST documents/fetch` ask for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BrowseQuery {
    /// How many documents to leave out first.
    pub offset: usize,
    /// How many documents to answer with.
    pub limit: usize,
    /// The attributes to answer with; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Whether `_vectors` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retrieve_vectors: bool,
    /// Only the documents with these ids, in text form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// Only the documents this filter keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// The order wanted, as [`crate::document_order`] reads it; without it, as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<Vec<String>>,
}

impl Default for BrowseQuery {
    fn default() -> Self {
        BrowseQuery {
            offset: 0,
            limit: LIMIT_DEFAULT,
            fields: None,
            retrieve_vectors: false,
            ids: None,
            filter: None,
            sort: None,
        }
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct BrowseBody {
    #[deserr(default, error = JsonFault<mark::InvalidDocumentOffset>)]
    offset: usize,
    #[deserr(default = LIMIT_DEFAULT, error = JsonFault<mark::InvalidDocumentLimit>)]
    limit: usize,
    #[deserr(default, error = JsonFault<mark::InvalidDocumentFields>)]
    fields: Option<Vec<String>>,
    #[deserr(default, error = JsonFault<mark::InvalidDocumentRetrieveVectors>)]
    retrieve_vectors: bool,
    #[deserr(default, error = JsonFault<mark::InvalidDocumentIds>)]
    ids: Option<Vec<Value>>,
    #[deserr(default, error = JsonFault<mark::InvalidDocumentFilter>)]
    filter: Option<Value>,
    #[deserr(default, error = JsonFault<mark::InvalidDocumentSort>)]
    sort: Option<Vec<String>>,
}

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct BrowseParams {
    #[deserr(default, error = QueryFault<mark::InvalidDocumentOffset>)]
    offset: Param<usize>,
    #[deserr(default = Param(LIMIT_DEFAULT), error = QueryFault<mark::InvalidDocumentLimit>)]
    limit: Param<usize>,
    #[deserr(default, error = QueryFault<mark::InvalidDocumentFields>)]
    fields: StarOrList<String>,
    #[deserr(default, error = QueryFault<mark::InvalidDocumentRetrieveVectors>)]
    retrieve_vectors: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidDocumentIds>)]
    ids: Option<Commas<String>>,
    #[deserr(default, error = QueryFault<mark::InvalidDocumentFilter>)]
    filter: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidDocumentSort>)]
    sort: Option<String>,
}

impl BrowseQuery {
    /// The body of `POST documents/fetch`.
    ///
    /// # Errors
    /// `invalid_document_*`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<BrowseQuery, ApiError> {
        let body: BrowseBody = from_json::<_, mark::BadRequest>(body)?;
        Ok(BrowseQuery {
            offset: body.offset,
            limit: body.limit,
            fields: body.fields,
            retrieve_vectors: body.retrieve_vectors,
            ids: body.ids.map(check_ids).transpose()?,
            filter: body.filter,
            sort: body.sort,
        })
    }

    /// The query string of `GET documents`.
    ///
    /// # Errors
    /// `invalid_document_*`.
    pub fn from_query_string(query: &str) -> Result<BrowseQuery, ApiError> {
        let params: BrowseParams = from_query(query)?;
        let ids = params.ids.map(|ids| ids.0.into_iter().map(Value::String).collect());
        Ok(BrowseQuery {
            offset: params.offset.0,
            limit: params.limit.0,
            fields: params.fields.narrowing(),
            retrieve_vectors: params.retrieve_vectors.0,
            ids: ids.map(check_ids).transpose()?,
            filter: params.filter.map(filter_from_text),
            sort: params.sort.as_deref().map(split_sort),
        })
    }
}

/// A filter in a query string is JSON if it reads as such, else a filter expression.
pub(crate) fn filter_from_text(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn check_ids(ids: Vec<Value>) -> Result<Vec<String>, ApiError> {
    let in_order = |(index, id): (usize, &Value)| {
        id_from_value(id).map_err(|error: IdError| {
            ApiError::new(Code::InvalidDocumentIds, format!("In `.ids[{index}]`: {error}"))
        })
    };
    ids.iter().enumerate().map(in_order).collect()
}

/// What `GET documents/{id}` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetDocument {
    /// The attributes to answer with; `None` for all.
    pub fields: Option<Vec<String>>,
    /// Whether `_vectors` is wanted.
    pub retrieve_vectors: bool,
}

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct GetDocumentParams {
    #[deserr(default, error = QueryFault<mark::InvalidDocumentFields>)]
    fields: StarOrList<String>,
    #[deserr(default, error = QueryFault<mark::InvalidDocumentRetrieveVectors>)]
    retrieve_vectors: Param<bool>,
}

impl GetDocument {
    /// Reads the query string.
    ///
    /// # Errors
    /// `invalid_document_fields`, `invalid_document_retrieve_vectors`.
    pub fn from_query_string(query: &str) -> Result<GetDocument, ApiError> {
        let params: GetDocumentParams = from_query(query)?;
        Ok(GetDocument {
            fields: params.fields.narrowing(),
            retrieve_vectors: params.retrieve_vectors.0,
        })
    }
}

/// The query string of `POST` and `PUT documents`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddDocuments {
    /// The primary key the client names.
    pub primary_key: Option<String>,
    /// `csvDelimiter`, one ASCII character; goes to [`crate::content::payload_kind`].
    pub csv_delimiter: Option<String>,
}

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct AddDocumentsParams {
    #[deserr(default, error = QueryFault<mark::InvalidIndexPrimaryKey>)]
    primary_key: Option<String>,
    #[deserr(default, try_from(char) = ascii_delimiter -> QueryFault<mark::InvalidDocumentCsvDelimiter>, error = QueryFault<mark::InvalidDocumentCsvDelimiter>)]
    csv_delimiter: Option<u8>,
}

fn ascii_delimiter(
    letter: char,
) -> Result<Option<u8>, QueryFault<mark::InvalidDocumentCsvDelimiter>> {
    match u8::try_from(letter) {
        Ok(byte) if byte.is_ascii() => Ok(Some(byte)),
        _ => Err(QueryFault::new(
            Code::InvalidDocumentCsvDelimiter,
            format!("csv delimiter must be an ascii character. Found: `{letter}`"),
        )),
    }
}

impl AddDocuments {
    /// Reads the query string.
    ///
    /// # Errors
    /// `invalid_index_primary_key`, `invalid_document_csv_delimiter`.
    pub fn from_query_string(query: &str) -> Result<AddDocuments, ApiError> {
        let params: AddDocumentsParams = from_query(query)?;
        Ok(AddDocuments {
            primary_key: params.primary_key,
            csv_delimiter: params.csv_delimiter.map(|byte| char::from(byte).to_string()),
        })
    }
}

/// The byte a `csvDelimiter` text names.
pub(crate) fn csv_delimiter_from(text: &str) -> Result<u8, ApiError> {
    let query =
        form_urlencoded::Serializer::new(String::new()).append_pair("csvDelimiter", text).finish();
    let params: AddDocumentsParams = from_query(&query)?;
    Ok(params.csv_delimiter.unwrap_or(b','))
}

/// The body of `POST documents/delete`.
#[derive(Debug, Clone, PartialEq, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
pub struct DeleteByFilter {
    /// Which documents to delete. Whether it is a filter is for the engine to say.
    #[deserr(error = JsonFault<mark::InvalidDocumentFilter>, missing_field_error = missing::<mark::InvalidDocumentFilter, mark::MissingDocumentFilter>)]
    pub filter: Value,
}

impl DeleteByFilter {
    /// Reads the body; an empty filter is refused here.
    ///
    /// # Errors
    /// `missing_document_filter`, `invalid_document_filter`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<DeleteByFilter, ApiError> {
        let query: DeleteByFilter = from_json::<_, mark::BadRequest>(body)?;
        if check_filter_shape(&query.filter, Code::InvalidDocumentFilter)? {
            Ok(query)
        } else {
            Err(ApiError::new(Code::InvalidDocumentFilter, "Sending an empty filter is forbidden."))
        }
    }
}

/// The ids in the body of `POST documents/delete-batch`, in text form. Ids that no document can have are kept:
/// they delete nothing.
///
/// # Errors
/// `bad_request` when the body is no array, and those of any JSON body.
pub fn ids_from_json(body: &[u8]) -> Result<Vec<String>, ApiError> {
    let ids: Vec<Value> = serde_json::from_slice(body).map_err(json_error)?;
    Ok(ids
        .into_iter()
        .map(|id| match id {
            Value::String(text) => text,
            other => other.to_string(),
        })
        .collect())
}

/// The body of `POST documents/edit`.
#[derive(Debug, Clone, PartialEq, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
pub struct EditByFunction {
    /// Which documents to edit; all without it.
    #[deserr(default, error = JsonFault<mark::InvalidDocumentFilter>)]
    pub filter: Option<Value>,
    /// What the function may read.
    #[deserr(default, error = JsonFault<mark::InvalidDocumentEditionContext>)]
    pub context: Option<Value>,
    /// The function's text.
    #[deserr(error = JsonFault<mark::InvalidDocumentEditionFunctionFilter>, missing_field_error = missing::<mark::InvalidDocumentEditionFunctionFilter, mark::MissingDocumentEditionFunction>)]
    pub function: String,
}

impl EditByFunction {
    /// Reads the body.
    ///
    /// # Errors
    /// `missing_document_edition_function`, `invalid_document_edition_*`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<EditByFunction, ApiError> {
        from_json::<_, mark::BadRequest>(body)
    }

    /// Whether the filter has the shape of one; what it says is for the engine to read.
    ///
    /// # Errors
    /// `invalid_document_filter`, also for an empty one.
    pub fn check_filter(&self) -> Result<(), ApiError> {
        let Some(filter) = &self.filter else { return Ok(()) };
        match check_filter_shape(filter, Code::InvalidDocumentFilter)? {
            true => Ok(()),
            false => {
                let message = "Sending an empty filter is forbidden.";
                Err(ApiError::new(Code::InvalidDocumentFilter, message))
            }
        }
    }

    /// The context, which has to be an object.
    ///
    /// # Errors
    /// `invalid_document_edition_context`.
    pub fn context_object(&self) -> Result<Option<&Map<String, Value>>, ApiError> {
        match &self.context {
            None => Ok(None),
            Some(Value::Object(context)) => Ok(Some(context)),
            Some(_) => {
                let message = "The context must be an object";
                Err(ApiError::new(Code::InvalidDocumentEditionContext, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn listings_have_defaults_and_read_both_ways() {
        assert_eq!(BrowseQuery::from_json(b"{}").unwrap(), BrowseQuery::default());
        assert_eq!(BrowseQuery::from_query_string("").unwrap(), BrowseQuery::default());
        let query = BrowseQuery {
            offset: 2,
            limit: 3,
            fields: Some(vec!["a".to_owned(), "b".to_owned()]),
            retrieve_vectors: true,
            ids: Some(vec!["1".to_owned(), "x".to_owned()]),
            filter: Some(json!("a = 1")),
            sort: Some(vec!["a:asc".to_owned(), "_geoPoint(1,2):desc".to_owned()]),
        };
        let string = "offset=2&limit=3&fields=a,b&retrieveVectors=true&ids=1,x&filter=a%20=%201\
             &sort=a:asc,_geoPoint(1,2):desc";
        assert_eq!(BrowseQuery::from_query_string(string).unwrap(), query);
        let body = serde_json::to_vec(&query).unwrap();
        assert_eq!(BrowseQuery::from_json(&body).unwrap(), query);
        assert_eq!(BrowseQuery::from_query_string("fields=*").unwrap().fields, None);
        assert_eq!(
            BrowseQuery::from_query_string("filter=[\"a=1\"]").unwrap().filter,
            Some(json!(["a=1"]))
        );
    }

    #[test]
    fn wrong_parameters_are_refused_in_meilisearchs_words() {
        for (query, code, message) in [
            (
                "offset=doggo",
                "invalid_document_offset",
                "Invalid value in parameter `offset`: could not parse `doggo` as a positive integer",
            ),
            (
                "retrieveVectors=yes",
                "invalid_document_retrieve_vectors",
                "Invalid value in parameter `retrieveVectors`: could not parse `yes` as a boolean, expected either `true` or `false`",
            ),
            (
                "doggo=1",
                "bad_request",
                "Unknown parameter `doggo`: expected one of `offset`, `limit`, `fields`, `retrieveVectors`, `ids`, `filter`, `sort`",
            ),
            (
                "ids=1,a%20b",
                "invalid_document_ids",
                "In `.ids[1]`: Document identifier `\"a b\"` is invalid. A document identifier can be of type integer or string, only composed of alphanumeric characters (a-z A-Z 0-9), hyphens (-) and underscores (_), and can not be more than 511 bytes.",
            ),
        ] {
            let error = BrowseQuery::from_query_string(query).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message));
        }
        for (body, code, message) in [
            ("", "missing_payload", "A json payload is missing."),
            (
                "{",
                "malformed_payload",
                "The json payload provided is malformed. `EOF while parsing an object at line 1 column 1`.",
            ),
            (
                r#"{"offset":"doggo"}"#,
                "invalid_document_offset",
                "Invalid value type at `.offset`: expected a positive integer, but found a string: `\"doggo\"`",
            ),
            (
                "[]",
                "bad_request",
                "Invalid value type: expected an object, but found an array: `[]`",
            ),
        ] {
            let error = BrowseQuery::from_json(body.as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message));
        }
    }

    #[test]
    fn deletions_say_what_they_miss() {
        for (body, code, message) in [
            ("{}", "missing_document_filter", "Missing field `filter`"),
            (
                r#"{"filter":[]}"#,
                "invalid_document_filter",
                "Sending an empty filter is forbidden.",
            ),
            (
                r#"{"filter":""}"#,
                "invalid_document_filter",
                "Sending an empty filter is forbidden.",
            ),
            (
                r#"{"filter":true}"#,
                "invalid_document_filter",
                "Invalid syntax for the filter parameter: `expected String, Array, found: true`.",
            ),
            (
                r#"{"filtre":"a = 1"}"#,
                "bad_request",
                "Unknown field `filtre`: did you mean `filter`? expected one of `filter`",
            ),
        ] {
            let error = DeleteByFilter::from_json(body.as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message));
        }
        assert_eq!(ids_from_json(br#"[1,"a",[2]]"#).unwrap(), ["1", "a", "[2]"]);
        let error = ids_from_json(br#""doggo""#).unwrap_err();
        assert_eq!(error.code, Code::BadRequest);
        assert_eq!(
            error.message,
            "Json deserialize error: invalid type: string \"doggo\", expected a sequence at line 1 column 7"
        );
        let error = EditByFunction::from_json(b"{}").unwrap_err();
        assert_eq!(
            (error.code.name(), error.message.as_str()),
            ("missing_document_edition_function", "Missing field `function`")
        );
    }
}
