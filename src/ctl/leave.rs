//! `miroir ctl leave`: orders a pod to leave and waits until it may be stopped.

use std::time::Duration;

use anyhow::bail;
use http::Method;
use miroir_gateway::admin::LeaveAnswer;

use super::client::AdminClient;

/// Between looks at how far the pod is.
const LOOK: Duration = Duration::from_millis(500);
/// Questions in a row that may fail: while leadership is handed over, say.
const FAILURES_MAX: u32 = 10;

/// Orders the pod at `path` to leave; waits for it, at most `patience`. Says on standard error what
/// keeps it.
///
/// # Errors
/// When it refuses, can't be asked, or has not left in time.
pub async fn leave(
    client: &AdminClient,
    path: &str,
    patience: Duration,
) -> anyhow::Result<(String, LeaveAnswer)> {
    let (mut body, mut answer) = client.ask::<LeaveAnswer>(Method::POST, path).await?;
    let waiting = async {
        let mut said = String::new();
        let mut failures = 0;
        while !answer.left {
            let now = keeps(&answer);
            if now != said {
                eprintln!("{}: {now}", answer.pod);
                said = now;
            }
            tokio::time::sleep(LOOK).await;
            match client.ask::<LeaveAnswer>(Method::GET, path).await {
                Ok(newer) => {
                    (body, answer) = newer;
                    failures = 0;
                }
                Err(error) if failures >= FAILURES_MAX => return Err(error),
                Err(_) => failures += 1,
            }
        }
        Ok(())
    };
    match tokio::time::timeout(patience, waiting).await {
        Ok(done) => done?,
        Err(_) => bail!("{} has not left after {patience:?}; it goes on leaving", answer.pod),
    }
    Ok((body, answer))
}

/// What keeps the pod, for people.
pub fn keeps(answer: &LeaveAnswer) -> String {
    match answer {
        LeaveAnswer { left: true, .. } => {
            "has left: it may be stopped, and its disk thrown away".to_owned()
        }
        LeaveAnswer { leaving: false, .. } => {
            "was started again and stays: order it once more".to_owned()
        }
        LeaveAnswer { holds_roles: true, .. } => "hands over its roles".to_owned(),
        LeaveAnswer { journalled: 1.., .. } => {
            format!("waits for {} writes in its journal to end", answer.journalled)
        }
        _ => "is being removed from the coordinator log".to_owned(),
    }
}
