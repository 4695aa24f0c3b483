//! Why a request is refused, and the one place where that becomes an answer.

use miroir_storage::ids::ShardId;
use miroir_wire::error::{ApiError, Code, ResponseError};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// One of our own.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What a node said of the client's request, cleaned of everything internal.
    #[error("{}", error.message)]
    Node {
        /// The node's HTTP status, 400 to 499.
        status: u16,
        /// Its error.
        error: ResponseError,
    },
}

impl Failure {
    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Api(error) => error.status(),
            Self::Node { status, .. } => *status,
        }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        match self {
            Self::Api(error) => error.to_json(),
            // Four strings: serialising them can't fail.
            Self::Node { error, .. } => serde_json::to_vec(error).unwrap_or_default(),
        }
    }

    /// Puts `place` before the message, as in `Inside .queries[2]: …`.
    pub fn inside(mut self, place: &str) -> Self {
        let message = match &mut self {
            Self::Api(error) => &mut error.message,
            Self::Node { error, .. } => &mut error.message,
        };
        message.insert_str(0, place);
        self
    }

    /// Puts `note` behind the message.
    pub fn noted(mut self, note: &str) -> Self {
        match &mut self {
            Self::Api(error) => error.message.push_str(note),
            Self::Node { error, .. } => error.message.push_str(note),
        }
        self
    }

    /// Whether an index, a task, a job or a key is not there, as far as this pod knows.
    pub fn says_not_found(&self) -> bool {
        match self {
            Self::Api(error) => matches!(
                error.code,
                Code::IndexNotFound
                    | Code::TaskNotFound
                    | Code::MiroirJobNotFound
                    | Code::ApiKeyNotFound
                    | Code::WebhookNotFound
                    | Code::BatchNotFound
            ),
            Self::Node { error, .. } => error.code == "index_not_found",
        }
    }

    /// What is not found is not what the URL names, but something in the body: 400, not 404.
    pub fn not_of_the_url(self) -> Self {
        match self {
            Self::Api(error) if error.status() == 404 => {
                Self::Node { status: 400, error: error.into() }
            }
            other => other,
        }
    }

    /// No replica of these shards can be read.
    pub fn shards_unavailable(missing: &[ShardId]) -> Self {
        let message = format!(
            "No replica of the shards {} can be read. Retry when their nodes are back.",
            list_shards(missing)
        );
        ApiError::new(Code::MiroirShardUnavailable, message).into()
    }
}

/// `3,7`
pub fn list_shards(shards: &[ShardId]) -> String {
    shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
