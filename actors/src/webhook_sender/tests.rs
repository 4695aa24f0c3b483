//! One sender with a real log on virtual time, and webhooks that follow a script.

use std::sync::Mutex;

use bytes::Bytes;
use http::Response;
use miroir_seams::{MemoryFiles, NodeCall, NodeTransport, Seams};
use miroir_storage::commands::{Ending, EnqueueTask, FinishTask, Outcome, Work};
use miroir_storage::engine::MemoryEngine;
use miroir_storage::ids::{PodId, TaskUid};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses, RaftId};

use super::*;
use crate::health_checker::HealthConfig;
use crate::inspect::spawn_root;
use crate::peers::PeersView;
use crate::pod::PodConfig;
use crate::task_pruner::TaskRetention;

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[derive(Debug)]
struct NoNodes;

#[async_trait]
impl NodeTransport for NoNodes {
    async fn send(&self, _call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        Err(TransportError::Unreachable("there is none".into()))
    }
}

/// What one webhook got, request by request, and how many requests it still refuses.
#[derive(Debug, Default)]
struct Hook {
    got: Vec<Vec<u32>>,
    refuses: u32,
}

/// Webhooks by uuid.
#[derive(Debug, Default)]
struct Hooks(Mutex<BTreeMap<String, Hook>>);

impl Hooks {
    fn refuse(&self, uuid: &str, requests: u32) {
        let mut hooks = self.0.lock().expect("nobody panicked");
        hooks.entry(uuid.to_owned()).or_default().refuses = requests;
    }

    fn got(&self, uuid: &str) -> Vec<Vec<u32>> {
        let hooks = self.0.lock().expect("nobody panicked");
        hooks.get(uuid).map(|hook| hook.got.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl WebhookOutlet for Hooks {
    async fn deliver(
        &self,
        webhook: &WebhookRecord,
        tasks: &[TaskRecord],
    ) -> Result<(), DeliveryError> {
        let mut hooks = self.0.lock().expect("nobody panicked");
        let hook = hooks.entry(webhook.uuid.clone()).or_default();
        if let Some(fewer) = hook.refuses.checked_sub(1) {
            hook.refuses = fewer;
            return Err(DeliveryError::Refused(500));
        }
        hook.got.push(tasks.iter().map(|task| task.uid.0).collect());
        Ok(())
    }
}

struct World {
    pod: Arc<PodContext>,
    hooks: Arc<Hooks>,
    sender: Address<WebhookSenderMessage>,
}

async fn world() -> Result<World, Box<dyn std::error::Error>> {
    let seams = Seams::seeded(1);
    let config = LogConfig {
        engine: Arc::new(MemoryEngine::new()),
        raft_id: Some(RaftId(1)),
        start: Start::Alone,
        address: "localhost:1".to_owned(),
        peers: Arc::new(NoPeers),
        addresses: PeerAddresses::default(),
    };
    let log = CoordinatorLog::open(config, seams.clone()).await?;
    let journal = Journal::open(Arc::new(MemoryFiles::new()), JournalConfig::default(), &seams)?;
    let config = PodConfig {
        shards: 1,
        replication_factor: 1,
        health: HealthConfig::default(),
        retention: TaskRetention::default(),
        pod_grace: Duration::from_secs(600),
        node_grace: Duration::from_secs(1800),
        move_hours: None,
        anti_entropy: Default::default(),
        placement_life: Duration::from_secs(15),
    };
    let peers = PeersView::alone(PodId::from("pod-1"), seams.clock.instant());
    let hooks = Arc::new(Hooks::default());
    let nodes = Arc::new(NoNodes);
    let pod = PodContext::new(config, log, journal, nodes, peers, hooks.clone(), seams);
    let arguments = WebhookSenderArguments { pod: pod.clone(), share: Share::everything() };
    let name = "webhook-sender".to_owned();
    let sender = spawn_root(&pod.inventory, name, WebhookSender, arguments).await?;
    Ok(World { pod, hooks, sender })
}

impl World {
    async fn put(&self, uuid: &str) -> TestResult {
        let webhook = WebhookRecord {
            uuid: uuid.to_owned(),
            url: "http://hook".to_owned(),
            headers: Vec::new(),
            next: 0,
        };
        self.pod.log.propose(&Command::PutWebhook(Box::new(webhook))).await?;
        Ok(())
    }

    /// Accepts a task, ends it, and says so as the pod's root does.
    async fn end_one(&self) -> Result<u32, Box<dyn std::error::Error>> {
        let task = EnqueueTask {
            index: Some("films".to_owned()),
            work: Work::DeleteIndex,
            create: None,
            custom_metadata: None,
            at: 1,
        };
        let accepted = self.pod.log.propose(&Command::EnqueueTask(Box::new(task))).await?;
        let Outcome::Enqueued { uid: TaskUid(uid), .. } = accepted else {
            return Err(format!("{accepted:?}").into());
        };
        let end = FinishTask {
            fence: None,
            uid: TaskUid(uid),
            ending: Ending::Failed,
            details: None,
            error: None,
            effects: Vec::new(),
            shows_index: false,
            at: 2,
        };
        self.pod.log.propose(&Command::FinishTasks(vec![end])).await?;
        self.sender.cast(WebhookSenderMessage::TasksEnded)?;
        Ok(uid)
    }

    async fn wait(&self, seconds: u64) {
        self.pod.seams.clock.sleep(Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_webhook_gets_each_task_once_and_one_that_is_away_holds_up_no_other() -> TestResult {
    let world = world().await?;
    world.put("a").await?;
    world.put("b").await?;
    world.hooks.refuse("b", 3);
    let first = world.end_one().await?;
    world.wait(1).await;
    assert_eq!(world.hooks.got("a"), [[first]]);
    assert_eq!(world.hooks.got("b"), Vec::<Vec<u32>>::new());
    let second = world.end_one().await?;
    // After 1, 2 and 4 seconds it is tried again.
    world.wait(8).await;
    assert_eq!(world.hooks.got("a"), [[first], [second]]);
    assert_eq!(world.hooks.got("b"), [[first, second]]);
    // Nothing is said twice.
    world.wait(600).await;
    assert_eq!(world.hooks.got("b").len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_did_not_send_the_next_one_does() -> TestResult {
    let world = world().await?;
    world.put("a").await?;
    world.hooks.refuse("a", u32::MAX);
    let uid = world.end_one().await?;
    world.wait(30).await;
    world.sender.stop(None);
    world.hooks.refuse("a", 0);
    let arguments = WebhookSenderArguments { pod: world.pod.clone(), share: Share::everything() };
    let name = "webhook-sender-2".to_owned();
    spawn_root(&world.pod.inventory, name, WebhookSender, arguments).await?;
    world.wait(1).await;
    assert_eq!(world.hooks.got("a"), [[uid]]);
    Ok(())
}

#[test]
fn pauses_grow_up_to_their_limit() {
    let seconds = |failures| pause(failures).as_secs();
    assert_eq!([1, 2, 3, 6, 7, 100].map(seconds), [1, 2, 4, 32, 60, 60]);
}
