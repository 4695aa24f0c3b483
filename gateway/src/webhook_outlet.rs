//! How webhooks are told of tasks: one `POST` of NDJSON, compressed by gzip, as Meilisearch does.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use miroir_actors::webhook_sender::{DeliveryError, WebhookOutlet};
use miroir_seams::{WebCall, WebTransport};
use miroir_storage::tables::tasks::TaskRecord;
use miroir_storage::tables::webhooks::WebhookRecord;

use crate::writes::tasks::view;

/// How long a webhook may take for one request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What is said of the body; headers of the webhook by these names are not sent.
const OWN_HEADERS: [(&str, &str); 2] =
    [("content-type", "application/x-ndjson"), ("content-encoding", "gzip")];

/// Brings tasks to webhooks over a web transport.
#[derive(Clone, Debug)]
pub struct WebOutlet {
    web: Arc<dyn WebTransport>,
}

impl WebOutlet {
    /// An outlet over `web`.
    pub fn new(web: Arc<dyn WebTransport>) -> Self {
        Self { web }
    }
}

#[async_trait]
impl WebhookOutlet for WebOutlet {
    async fn deliver(
        &self,
        webhook: &WebhookRecord,
        tasks: &[TaskRecord],
    ) -> Result<(), DeliveryError> {
        let is_own = |name: &str| OWN_HEADERS.iter().any(|(own, _)| name.eq_ignore_ascii_case(own));
        let chosen = webhook.headers.iter().filter(|(name, _)| !is_own(name)).cloned();
        let own = OWN_HEADERS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let call = WebCall {
            url: webhook.url.clone(),
            headers: chosen.chain(own).collect(),
            body: letters(tasks).map_err(DeliveryError::Unwritten)?,
            timeout: TIMEOUT,
        };
        match self.web.post(call).await? {
            200..=299 => Ok(()),
            status => Err(DeliveryError::Refused(status)),
        }
    }
}

/// The tasks as clients see them, one a line.
fn letters(tasks: &[TaskRecord]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for task in tasks {
        serde_json::to_writer(&mut encoder, &view(task))?;
        encoder.write_all(b"\n")?;
    }
    Ok(encoder.finish()?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Mutex;

    use flate2::read::GzDecoder;
    use miroir_seams::TransportError;
    use miroir_storage::commands::{Ending, Work};
    use miroir_storage::ids::TaskUid;
    use miroir_storage::tables::tasks::TaskState;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug)]
    struct Recorder {
        status: u16,
        calls: Mutex<Vec<WebCall>>,
    }

    #[async_trait]
    impl WebTransport for Recorder {
        async fn post(&self, call: WebCall) -> Result<u16, TransportError> {
            self.calls.lock().map(|mut calls| calls.push(call)).expect("nobody panicked");
            Ok(self.status)
        }
    }

    fn task(uid: u32) -> TaskRecord {
        TaskRecord {
            uid: TaskUid(uid),
            name: Some("films".to_owned()),
            index: None,
            work: Work::Clear,
            creates_index: false,
            after: Vec::new(),
            state: TaskState::Ended(Ending::Succeeded),
            details: None,
            error: None,
            canceled_by: None,
            custom_metadata: None,
            enqueued_at: 0,
            started_at: Some(0),
            finished_at: Some(1),
        }
    }

    #[tokio::test]
    async fn tasks_go_out_as_clients_see_them() {
        let headers = [("authorization", "Bearer x"), ("Content-Type", "text/plain")];
        let webhook = WebhookRecord {
            uuid: "u".to_owned(),
            url: "http://hook".to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            next: 0,
        };
        let recorder = Arc::new(Recorder { status: 204, calls: Mutex::default() });
        let outlet = WebOutlet::new(recorder.clone());
        outlet.deliver(&webhook, &[task(3), task(4)]).await.expect("it takes them");
        let call = recorder.calls.lock().expect("nobody panicked").remove(0);
        assert_eq!(call.url, "http://hook");
        let headers: Vec<(&str, &str)> =
            call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("authorization", "Bearer x"), OWN_HEADERS[0], OWN_HEADERS[1]]);
        let mut text = String::new();
        GzDecoder::new(&call.body[..]).read_to_string(&mut text).expect("it is gzip");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        assert_eq!((&lines[0]["uid"], &lines[1]["uid"]), (&json!(3), &json!(4)));
        assert_eq!(lines[0]["status"], "succeeded");

        let refusing = WebOutlet::new(Arc::new(Recorder { status: 500, calls: Mutex::default() }));
        let refused = refusing.deliver(&webhook, &[task(3)]).await;
        assert!(matches!(refused, Err(DeliveryError::Refused(500))), "{refused:?}");
    }
}
