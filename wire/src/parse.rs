//! From request bodies and query strings to typed values, with the texts and codes Meilisearch refuses them with.
//!
//! The texts come from `deserr`, the crate Meilisearch itself reads requests with; what is ours is which code a
//! refusal gets: [`JsonFault`] and [`QueryFault`] carry it in their type, field by field.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::str::FromStr;

use deserr::errors::{JsonError, QueryParamError};
use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, Value, ValueKind,
    ValuePointerRef, take_cf_content,
};
use serde_json::error::Category;

use crate::error::{ApiError, Code, Mark, mark};

/// The request was a JSON body.
#[derive(Debug)]
pub(crate) struct Json;
/// The request was a query string.
#[derive(Debug)]
pub(crate) struct Query;

/// A refusal whose code is `M`'s unless a field says otherwise.
#[derive(Debug)]
pub(crate) struct Fault<F, M> {
    code: Code,
    message: String,
    _marker: PhantomData<(F, M)>,
}

/// A refusal of a JSON body.
pub(crate) type JsonFault<M = mark::BadRequest> = Fault<Json, M>;
/// A refusal of a query string.
pub(crate) type QueryFault<M = mark::BadRequest> = Fault<Query, M>;

impl<F, M> Fault<F, M> {
    /// A refusal with a code of its own.
    pub(crate) fn new(code: Code, message: String) -> Fault<F, M> {
        Fault { code, message, _marker: PhantomData }
    }
}

impl<F, M> From<Fault<F, M>> for ApiError {
    fn from(fault: Fault<F, M>) -> ApiError {
        ApiError::new(fault.code, fault.message)
    }
}

impl<M: Mark> DeserializeError for Fault<Json, M> {
    fn error<V: IntoValue>(
        _so_far: Option<Self>,
        error: ErrorKind<V>,
        location: ValuePointerRef,
    ) -> ControlFlow<Self, Self> {
        let text = take_cf_content(JsonError::error(None, error, location)).to_string();
        ControlFlow::Break(Fault::new(M::CODE, text))
    }
}

impl<M: Mark> DeserializeError for Fault<Query, M> {
    fn error<V: IntoValue>(
        _so_far: Option<Self>,
        error: ErrorKind<V>,
        location: ValuePointerRef,
    ) -> ControlFlow<Self, Self> {
        let text = take_cf_content(QueryParamError::error(None, error, location)).to_string();
        ControlFlow::Break(Fault::new(M::CODE, text))
    }
}

/// The first refusal wins and keeps its code.
impl<F, M, N> MergeWithError<Fault<F, N>> for Fault<F, M> {
    fn merge(
        _so_far: Option<Self>,
        other: Fault<F, N>,
        _location: ValuePointerRef,
    ) -> ControlFlow<Self, Self> {
        ControlFlow::Break(Fault::new(other.code, other.message))
    }
}

impl<F, M> MergeWithError<Infallible> for Fault<F, M> {
    fn merge(
        _so_far: Option<Self>,
        other: Infallible,
        _location: ValuePointerRef,
    ) -> ControlFlow<Self, Self> {
        match other {}
    }
}

/// Why a value of the right type is still wrong; printed after `Invalid value at ...: `.
#[derive(Debug)]
pub(crate) struct Unfit(pub(crate) String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

impl<F, M> MergeWithError<Unfit> for Fault<F, M>
where
    Fault<F, M>: DeserializeError,
{
    fn merge(
        _so_far: Option<Self>,
        other: Unfit,
        location: ValuePointerRef,
    ) -> ControlFlow<Self, Self> {
        Self::error::<Infallible>(None, ErrorKind::Unexpected { msg: other.0 }, location)
    }
}

/// `Missing field` with a code that differs from that of a wrong value: `missing_field_error = missing::<M, C>`.
pub(crate) fn missing<M: Mark, C: Mark>(field: &str, location: ValuePointerRef) -> JsonFault<M> {
    let fault = take_cf_content(JsonFault::<C>::error::<Infallible>(
        None,
        ErrorKind::MissingField { field },
        location,
    ));
    Fault::new(fault.code, fault.message)
}

/// The refusal of a field that can't be changed.
pub(crate) fn immutable(field: &str, accepted: &[&str], code: Code) -> JsonFault {
    let accepted: Vec<String> = accepted.iter().map(|name| format!("`{name}`")).collect();
    let accepted = accepted.join(", ");
    JsonFault::new(code, format!("Immutable field `{field}`: expected one of {accepted}"))
}

/// Reads a JSON body.
///
/// # Errors
/// `missing_payload` for an empty body, `malformed_payload` for what is not JSON, else what the type refuses.
pub(crate) fn from_json<T, M: Mark>(body: &[u8]) -> Result<T, ApiError>
where
    T: Deserr<JsonFault<M>>,
{
    deserr::deserialize::<T, _, JsonFault<M>>(json_value(body)?).map_err(ApiError::from)
}

/// The JSON value of a body.
///
/// # Errors
/// As [`from_json`].
pub(crate) fn json_value(body: &[u8]) -> Result<serde_json::Value, ApiError> {
    serde_json::from_slice(body).map_err(json_error)
}

/// What a body gets that serde cannot read.
pub(crate) fn json_error(error: serde_json::Error) -> ApiError {
    match error.classify() {
        Category::Eof if error.line() == 1 && error.column() == 0 => {
            ApiError::new(Code::MissingPayload, "A json payload is missing.")
        }
        Category::Data => {
            ApiError::new(Code::BadRequest, format!("Json deserialize error: {error}"))
        }
        _ => ApiError::new(
            Code::MalformedPayload,
            format!("The json payload provided is malformed. `{error}`."),
        ),
    }
}

/// Reads a query string (what follows `?`, still percent-encoded). Of repeated parameters the last one counts.
///
/// # Errors
/// What the type refuses.
pub(crate) fn from_query<T>(query: &str) -> Result<T, ApiError>
where
    T: Deserr<QueryFault>,
{
    let mut object = serde_json::Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        object.insert(name.into_owned(), serde_json::Value::String(value.into_owned()));
    }
    deserr::deserialize::<T, _, QueryFault>(serde_json::Value::Object(object))
        .map_err(ApiError::from)
}

/// A refusal of anything but a string, which is all a query string can hold.
pub(crate) fn not_a_string<V: IntoValue, E: DeserializeError>(
    value: Value<V>,
    location: ValuePointerRef,
) -> E {
    take_cf_content(E::error::<V>(
        None,
        ErrorKind::IncorrectValueKind { actual: value, accepted: &[ValueKind::String] },
        location,
    ))
}

/// What a query parameter's text is read as.
pub(crate) trait FromParam: Sized {
    /// Reads the text.
    fn from_param(text: &str) -> Result<Self, Unfit>;
}

impl FromParam for String {
    fn from_param(text: &str) -> Result<Self, Unfit> {
        Ok(text.to_owned())
    }
}

macro_rules! positive_integer {
    ($($integer:ty),*) => {$(
        impl FromParam for $integer {
            fn from_param(text: &str) -> Result<Self, Unfit> {
                text.parse().map_err(|_| Unfit(format!("could not parse `{text}` as a positive integer")))
            }
        }
    )*};
}
positive_integer!(u32, usize);

impl FromParam for bool {
    fn from_param(text: &str) -> Result<Self, Unfit> {
        text.parse().map_err(|_| {
            Unfit(format!(
                "could not parse `{text}` as a boolean, expected either `true` or `false`"
            ))
        })
    }
}

/// A query parameter of type `T`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Param<T>(pub(crate) T);

impl<T: FromParam, E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for Param<T> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        match value {
            Value::String(text) => T::from_param(&text)
                .map(Param)
                .map_err(|unfit| take_cf_content(E::merge(None, unfit, location))),
            other => Err(not_a_string(other, location)),
        }
    }
}

/// A comma-separated list; empty items are left out.
#[derive(Debug, Default, Clone)]
pub(crate) struct Commas<T>(pub(crate) Vec<T>);

impl<T, E> Deserr<E> for Commas<T>
where
    T: FromStr<Err: fmt::Display>,
    E: DeserializeError,
{
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        match value {
            Value::String(text) => text
                .split(',')
                .filter(|item| !item.is_empty())
                .map(T::from_str)
                .collect::<Result<_, _>>()
                .map(Commas)
                .map_err(|error| {
                    take_cf_content(E::error::<V>(
                        None,
                        ErrorKind::Unexpected { msg: error.to_string() },
                        location,
                    ))
                }),
            other => Err(not_a_string(other, location)),
        }
    }
}

/// `*`, a comma-separated list, or absent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum StarOrList<T> {
    /// The parameter was not given.
    #[default]
    Absent,
    /// `*` was among the items.
    Star,
    /// The items.
    List(Vec<T>),
}

impl<T> StarOrList<T> {
    /// The items, when they narrow anything.
    pub(crate) fn narrowing(self) -> Option<Vec<T>> {
        match self {
            StarOrList::Absent | StarOrList::Star => None,
            StarOrList::List(items) => Some(items),
        }
    }

    /// Whether the parameter was given at all.
    pub(crate) fn is_given(&self) -> bool {
        !matches!(self, StarOrList::Absent)
    }
}

impl<T: FromParam, E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for StarOrList<T> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = match value {
            Value::String(text) => text,
            other => return Err(not_a_string(other, location)),
        };
        let items: Vec<&str> = text.split(',').filter(|item| !item.is_empty()).collect();
        let mut star = false;
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if *item == "*" {
                star = true;
                continue;
            }
            match T::from_param(item) {
                Ok(item) => list.push(item),
                Err(unfit) => {
                    let here = if items.len() > 1 { location.push_index(index) } else { location };
                    return Err(take_cf_content(E::merge(None, unfit, here)));
                }
            }
        }
        Ok(if star { StarOrList::Star } else { StarOrList::List(list) })
    }
}
