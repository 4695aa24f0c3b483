//! One embedder: which fields its source takes, how a change is laid over it, what of it is shown.

use std::collections::BTreeMap;
use std::convert::Infallible;

use deserr::{DeserializeError, Deserr, ErrorKind, ValuePointerRef, take_cf_content};
use serde::Serialize;
use serde_json::Value;

use super::Setting;

/// Where the vectors of an embedder come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
#[allow(missing_docs)] // the names say it
pub enum EmbedderSource {
    #[default]
    OpenAi,
    HuggingFace,
    Ollama,
    UserProvided,
    Rest,
    Composite,
}

/// How a Hugging Face model's token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
#[allow(missing_docs)] // the names say it
pub enum Pooling {
    UseModel,
    ForceCls,
    ForceMean,
}

/// How similarities are spread before they are compared with other scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserr)]
#[deserr(deny_unknown_fields, validate = check_distribution -> __Deserr_E)]
pub struct Distribution {
    /// Where they crowd, 0 to 1.
    #[serde(serialize_with = "as_written")]
    pub mean: f32,
    /// How narrowly, above 0 up to 1.
    #[serde(serialize_with = "as_written")]
    pub sigma: f32,
}

/// Prints `0.998` and not the `f64` nearest to the `f32` nearest to it.
fn as_written<S: serde::Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(number.to_string().parse().unwrap_or(f64::from(*number)))
}

fn check_distribution<E: DeserializeError>(
    shift: Distribution,
    location: ValuePointerRef,
) -> Result<Distribution, E> {
    let msg = if !(0.0..=1.0).contains(&shift.mean) {
        format!("the distribution mean must be in the range [0, 1], got {}", shift.mean)
    } else if shift.sigma <= 0.0 || shift.sigma > 1.0 {
        format!("the distribution sigma must be in the range ]0, 1], got {}", shift.sigma)
    } else {
        return Ok(shift);
    };
    Err(take_cf_content(E::error::<Infallible>(None, ErrorKind::Unexpected { msg }, location)))
}

/// The settings of one embedder.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
#[allow(missing_docs)] // Meilisearch documents each of them; which source takes which is `takes`
pub struct Embedder {
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub source: Setting<EmbedderSource>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub model: Setting<String>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub revision: Setting<String>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub pooling: Setting<Pooling>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub api_key: Setting<String>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub dimensions: Setting<usize>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub binary_quantized: Setting<bool>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub document_template: Setting<String>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub document_template_max_bytes: Setting<usize>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub url: Setting<String>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub request: Setting<Value>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub response: Setting<Value>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub headers: Setting<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub search_embedder: Setting<Value>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub indexing_embedder: Setting<Value>,
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub distribution: Setting<Distribution>,
}

/// Whether a source takes a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    MustHave,
    May,
    No,
}

/// The fields in the order in which messages list them, with what each source makes of them.
const FIELDS: [&str; 16] = [
    "source",
    "model",
    "revision",
    "pooling",
    "apiKey",
    "dimensions",
    "documentTemplate",
    "documentTemplateMaxBytes",
    "url",
    "request",
    "response",
    "headers",
    "searchEmbedder",
    "indexingEmbedder",
    "distribution",
    "binaryQuantized",
];

const SOURCES: [EmbedderSource; 6] = [
    EmbedderSource::OpenAi,
    EmbedderSource::HuggingFace,
    EmbedderSource::Ollama,
    EmbedderSource::UserProvided,
    EmbedderSource::Rest,
    EmbedderSource::Composite,
];

/// OpenAI models Meilisearch knows, with their dimensions and whether fewer can be asked for.
const OPEN_AI_MODELS: [(&str, usize, bool); 3] = [
    ("text-embedding-ada-002", 1536, false),
    ("text-embedding-3-small", 1536, true),
    ("text-embedding-3-large", 3072, true),
];

/// The OpenAI model used when none is named.
pub(super) const OPEN_AI_MODEL_DEFAULT: &str = "text-embedding-3-small";

impl EmbedderSource {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            EmbedderSource::OpenAi => "openAi",
            EmbedderSource::HuggingFace => "huggingFace",
            EmbedderSource::Ollama => "ollama",
            EmbedderSource::UserProvided => "userProvided",
            EmbedderSource::Rest => "rest",
            EmbedderSource::Composite => "composite",
        }
    }

    fn takes(self, field: &str) -> Takes {
        use EmbedderSource::*;
        use Takes::*;
        match (self, field) {
            (_, "source" | "distribution" | "binaryQuantized") => May,
            (
                OpenAi,
                "model"
                | "apiKey"
                | "documentTemplate"
                | "documentTemplateMaxBytes"
                | "dimensions"
                | "url",
            ) => May,
            (
                HuggingFace,
                "model" | "revision" | "pooling" | "documentTemplate" | "documentTemplateMaxBytes",
            ) => May,
            (Ollama, "model") => MustHave,
            (
                Ollama,
                "documentTemplate" | "documentTemplateMaxBytes" | "url" | "apiKey" | "dimensions",
            ) => May,
            (UserProvided, "dimensions") => MustHave,
            (Rest, "url" | "request" | "response") => MustHave,
            (
                Rest,
                "apiKey"
                | "dimensions"
                | "documentTemplate"
                | "documentTemplateMaxBytes"
                | "headers",
            ) => May,
            (Composite, "searchEmbedder" | "indexingEmbedder") => MustHave,
            _ => No,
        }
    }

    /// Whether the source renders documents into texts.
    pub(super) fn has_template(self) -> bool {
        self.takes("documentTemplate") != Takes::No
    }
}

impl Embedder {
    /// The fields a check looks at, in its order, and whether each is set.
    fn given(&self) -> [(&'static str, bool); 15] {
        [
            ("model", self.model.is_set()),
            ("revision", self.revision.is_set()),
            ("pooling", self.pooling.is_set()),
            ("dimensions", self.dimensions.is_set()),
            ("apiKey", self.api_key.is_set()),
            ("url", self.url.is_set()),
            ("request", self.request.is_set()),
            ("response", self.response.is_set()),
            ("documentTemplate", self.document_template.is_set()),
            ("documentTemplateMaxBytes", self.document_template_max_bytes.is_set()),
            ("headers", self.headers.is_set()),
            ("searchEmbedder", self.search_embedder.is_set()),
            ("indexingEmbedder", self.indexing_embedder.is_set()),
            ("binaryQuantized", self.binary_quantized.is_set()),
            ("distribution", self.distribution.is_set()),
        ]
    }

    /// Why a change that concerns the embedder `name` is refused at once. Templates, urls and the shape of REST
    /// requests are left to the node, whose refusal becomes the task's.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        if self.document_template_max_bytes == Setting::Set(0) {
            return Err(format!(
                "`.embedders.{name}.documentTemplateMaxBytes`: `documentTemplateMaxBytes` cannot be zero"
            ));
        }
        if self.dimensions == Setting::Set(0) {
            return Err(format!("`.embedders.{name}.dimensions`: `dimensions` cannot be zero"));
        }
        let Setting::Set(source) = self.source else { return Ok(()) };
        for (field, given) in self.given() {
            match source.takes(field) {
                Takes::No if given => return Err(unavailable(name, source, field)),
                Takes::MustHave if !given => {
                    return Err(format!(
                        "`.embedders.{name}`: Missing field `{field}` (note: this field is mandatory for source `{}`)",
                        source.name()
                    ));
                }
                _ => {}
            }
        }
        match (source, &self.model) {
            (EmbedderSource::OpenAi, Setting::Set(model)) => self.check_open_ai(name, model),
            _ => Ok(()),
        }
    }

    fn check_open_ai(&self, name: &str, model: &str) -> Result<(), String> {
        let Some((model, native, shrinks)) =
            OPEN_AI_MODELS.into_iter().find(|(known, ..)| *known == model)
        else {
            let known = OPEN_AI_MODELS.map(|(known, ..)| known);
            return Err(format!(
                "`.embedders.{name}.model`: Invalid model `{model}` for OpenAI. Supported models: {known:?}"
            ));
        };
        match self.dimensions {
            Setting::Set(dimensions) if !shrinks && dimensions != native => Err(format!(
                "`.embedders.{name}.dimensions`: Model `{model}` does not support overriding its native dimensions of \
                 {native}. Found {dimensions}"
            )),
            Setting::Set(dimensions) if dimensions > native => Err(format!(
                "`.embedders.{name}.dimensions`: Model `{model}` does not support overriding its dimensions to a value \
                 higher than {native}. Found {dimensions}"
            )),
            _ => Ok(()),
        }
    }

    /// Lays a change over this. Another source puts back what belongs to sources; the template stays where the new
    /// source has one.
    pub(super) fn merge(&mut self, change: &Embedder) {
        if !change.source.is_not_set()
            && effective_source(&change.source) != effective_source(&self.source)
        {
            let kept = Embedder {
                api_key: self.api_key.clone(),
                binary_quantized: self.binary_quantized,
                distribution: self.distribution,
                ..Embedder::default()
            };
            let (template, max_bytes) =
                (self.document_template.clone(), self.document_template_max_bytes);
            *self = kept;
            if effective_source(&change.source).has_template() {
                self.document_template = template;
                self.document_template_max_bytes = max_bytes;
            }
        }
        self.source.merge(&change.source);
        self.model.merge(&change.model);
        self.revision.merge(&change.revision);
        self.pooling.merge(&change.pooling);
        self.api_key.merge(&change.api_key);
        self.dimensions.merge(&change.dimensions);
        self.binary_quantized.merge(&change.binary_quantized);
        self.document_template.merge(&change.document_template);
        self.document_template_max_bytes.merge(&change.document_template_max_bytes);
        self.url.merge(&change.url);
        self.request.merge(&change.request);
        self.response.merge(&change.response);
        self.headers.merge(&change.headers);
        self.search_embedder.merge(&change.search_embedder);
        self.indexing_embedder.merge(&change.indexing_embedder);
        self.distribution.merge(&change.distribution);
    }

    /// Replaces the tail of the API key.
    pub(super) fn hide_secrets(&mut self) {
        let Setting::Set(key) = &mut self.api_key else { return };
        *key = hidden(key);
    }
}

/// A secret with its tail replaced, leaving more of longer ones.
pub fn hidden(secret: &str) -> String {
    let (kept, mark) = match secret.len() {
        0..10 => (0, "XXX..."),
        10..20 => (2, "XXXX..."),
        20..30 => (3, "XXXXX..."),
        _ => (5, "XXXXXX..."),
    };
    let kept = secret.get(..secret.floor_char_boundary(kept)).unwrap_or_default();
    format!("{kept}{mark}")
}

/// The source, where none means the default.
pub(super) fn effective_source(source: &Setting<EmbedderSource>) -> EmbedderSource {
    source.set().unwrap_or_default()
}

fn quoted(names: impl Iterator<Item = &'static str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn unavailable(name: &str, source: EmbedderSource, field: &str) -> String {
    let source_name = source.name();
    let mut message =
        format!("`.embedders.{name}`: Field `{field}` unavailable for source `{source_name}`.");
    let sources = quoted(
        SOURCES
            .into_iter()
            .filter(|source| source.takes(field) != Takes::No)
            .map(EmbedderSource::name),
    );
    if !sources.is_empty() {
        message.push_str(&format!("\n  - note: `{field}` is available for sources: {sources}"));
    }
    let fields = quoted(FIELDS.into_iter().filter(|field| source.takes(field) != Takes::No));
    message.push_str(&format!("\n  - note: available fields for source `{source_name}`: {fields}"));
    message
}
