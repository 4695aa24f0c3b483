//! The coordinator state: tables over the engine, and the one function that changes them.
//!
//! | table | key | value | written by |
//! |---|---|---|---|
//! | `META` | name of the counter or value | counter or value | many |
//! | `NODES` | node id | [`nodes::NodeRecord`] | `PutNode` |
//! | `INDEXES` | index uid | [`indexes::IndexRecord`] | tasks, in-sync changes |
//! | `NAMES` | `r` or `w`, then the client's name | index uid | tasks |
//! | `TASKS` | task uid, big-endian | [`tasks::TaskRecord`] | tasks |
//! | `OPEN_TASKS` | task uid, big-endian | empty | tasks |
//! | `TAILS` | client's name | its last task | `EnqueueTask` |
//! | `ROLES` | role | [`roles::RoleRecord`] | `AssignRole`, `TakeEpoch` |
//! | `TIMES` | index uid | last update, Unix ns | ended tasks |
//! | `LANE_MARKS` | index uid, node id | [`lane_marks::LaneMark`] | `SetLaneMark` |
//! | `KEYS`, `SESSIONS`, `KEY_ORDER` | see [`keys`] | | `AcceptTask`, `PruneKeys` |
//! | `JOBS`, `CHUNKS`, `OPEN_CHUNKS` | see [`jobs`] | | `Job` |
//! | `API_KEYS` | key uid | [`api_keys::ApiKeyRecord`] | `PutApiKey` and its like |
//! | `DISKS` | node id | [`disks::DiskRecord`] | `NoteDisk` |
//! | `REPLICAS` | index uid, node id | [`disks::ReplicaRecord`] | `SetReplica`, tasks |
//! | `MOVES` | index uid, node id | [`topology::NodeMoves`] | `Topology`, in-sync changes |
//! | `PARTITIONS` | index uid | [`partitions::PartitionRecord`] | `Topology` |
//! | `WEBHOOKS`, `WEBHOOK_MAIL` | see [`webhooks`] | | `PutWebhook` and its like, ended tasks |
//!
//! Names are bound twice. *Write names* say what a name means to a request accepted now: they
//! change when a creation, deletion or swap is **enqueued**. *Read names* say what a reader
//! sees: they change when it **ends**. So a write accepted after a swap goes to the swapped
//! index though readers still see the old one, and everything takes effect in task order.

pub mod api_keys;
pub mod disks;
pub mod enqueue;
pub mod features;
pub mod finish;
pub mod indexes;
pub mod jobs;
pub mod keys;
pub mod lane_marks;
pub mod names;
pub mod nodes;
pub mod partitions;
pub mod records;
pub mod roles;
pub mod tasks;
pub mod topology;
pub mod webhooks;

use crate::commands::{Command, Outcome};
use crate::engine::{EngineError, Table, Tx};
use crate::job_commands::JobCommand;

/// Counters: next task, next index; the cluster's id; the settings of new indexes.
pub const META: Table = Table(1);
/// Nodes by id.
pub const NODES: Table = Table(2);
/// Indexes by node-side uid.
pub const INDEXES: Table = Table(3);
/// What clients' names mean to readers and to writers.
pub const NAMES: Table = Table(4);
/// Tasks by number.
pub const TASKS: Table = Table(5);
/// Tasks that have not ended.
pub const OPEN_TASKS: Table = Table(6);
/// The last task of each name.
pub const TAILS: Table = Table(7);
/// Roles, their holders and epochs.
pub const ROLES: Table = Table(8);
/// When each index last changed.
pub const TIMES: Table = Table(9);
/// How far each lane is.
pub const LANE_MARKS: Table = Table(10);
/// Idempotency keys.
pub const KEYS: Table = Table(11);
/// What each session wrote last.
pub const SESSIONS: Table = Table(12);
/// Keys and sessions by age.
pub const KEY_ORDER: Table = Table(13);
/// Jobs by number.
pub const JOBS: Table = Table(14);
/// The chunks of jobs.
pub const CHUNKS: Table = Table(15);
/// Chunks that are still to be worked on.
pub const OPEN_CHUNKS: Table = Table(16);
/// API keys by uid.
pub const API_KEYS: Table = Table(17);
/// The disks of nodes.
pub const DISKS: Table = Table(18);
/// On which disks the replicas of indexes are.
pub const REPLICAS: Table = Table(19);
/// Webhooks by uuid.
pub const WEBHOOKS: Table = Table(20);
/// Ended tasks that webhooks are still to be told of.
pub const WEBHOOK_MAIL: Table = Table(21);
/// Replicas on the move.
pub const MOVES: Table = Table(22);
/// Indexes that were resharded, or are to be.
pub const PARTITIONS: Table = Table(23);

/// In [`META`]: the settings that new indexes begin with, as JSON.
pub(crate) const NEW_INDEX_SETTINGS: &[u8] = b"new-index-settings";

/// Every table of the state machine, in the order a snapshot holds them.
pub const STATE_TABLES: &[Table] = &[
    META,
    NODES,
    INDEXES,
    NAMES,
    TASKS,
    OPEN_TASKS,
    TAILS,
    ROLES,
    TIMES,
    LANE_MARKS,
    KEYS,
    SESSIONS,
    KEY_ORDER,
    JOBS,
    CHUNKS,
    OPEN_CHUNKS,
    API_KEYS,
    DISKS,
    REPLICAS,
    WEBHOOKS,
    WEBHOOK_MAIL,
    MOVES,
    PARTITIONS,
];

/// Why a command could not be applied: the pod stops applying rather than guess.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The local disk failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A stored record can't be read.
    #[error(transparent)]
    Record(#[from] records::RecordError),
}

/// Applies one command. Deterministic: the same commands give the same tables on every pod.
///
/// # Errors
/// When the local store fails or holds what this version can't read. Nothing of the command
/// is applied then.
pub fn apply(tx: &mut Tx<'_>, _log_index: u64, command: &Command) -> Result<Outcome, ApplyError> {
    match command {
        Command::InitCluster { cluster_id } => {
            if tx.get(META, b"cluster")?.is_some() {
                return Ok(Outcome::Unchanged);
            }
            tx.put(META, b"cluster", cluster_id.as_bytes().to_vec());
            Ok(Outcome::Done)
        }
        Command::PutNode(node) => nodes::put(tx, node),
        Command::TakeEpoch { role, pod } => roles::take_epoch(tx, role, pod),
        Command::EnqueueTask(task) => enqueue::enqueue(tx, task),
        Command::AcceptTask { task, key, session } => {
            enqueue::accept(tx, task, key.as_ref(), session.as_deref())
        }
        Command::AcceptBoundTask { task, key, session } => {
            enqueue::accept_bound(tx, task, key.as_ref(), session.as_deref())
        }
        Command::PruneKeys { keys_before, sessions_before } => {
            keys::prune(tx, *keys_before, *sessions_before)
        }
        Command::AssignRole { fence, role, pod } => roles::assign(tx, fence, role, pod),
        Command::SetLaneMark { fence, node, mark } => lane_marks::set(tx, fence, node, mark),
        Command::StartTasks { fence, uids, at } => finish::start(tx, fence.as_ref(), uids, *at),
        Command::FinishTasks(endings) => finish::finish_all(tx, endings),
        Command::AgreePrimaryKey { fence, primary_key } => {
            indexes::agree_primary_key(tx, fence, primary_key)
        }
        Command::MarkSettingsPending { fence, pending } => {
            indexes::mark_settings_pending(tx, fence, *pending)
        }
        Command::ChangeInSync { fence, changes } => indexes::change_in_sync(tx, fence, changes),
        Command::CancelTasks { by, uids, at } => finish::cancel(tx, *by, uids, *at),
        Command::DeleteTasks { by, uids, at } => finish::delete(tx, *by, uids, *at),
        Command::SetNewIndexSettings { settings } => {
            if tx.get(META, NEW_INDEX_SETTINGS)?.as_deref() == Some(settings.as_bytes()) {
                return Ok(Outcome::Unchanged);
            }
            tx.put(META, NEW_INDEX_SETTINGS, settings.as_bytes().to_vec());
            Ok(Outcome::Done)
        }
        Command::Job(command) => jobs::apply(tx, command),
        Command::PutApiKey(key) => api_keys::put(tx, key),
        Command::PatchApiKey(patch) => api_keys::patch(tx, patch),
        Command::DeleteApiKey { uid } => api_keys::delete(tx, uid),
        Command::InitApiKeys { keys } => api_keys::init(tx, keys),
        Command::NoteDisk { node, life, identity } => {
            disks::note(tx, node, *life, identity.as_deref())
        }
        Command::SetReplica { fence, node, replica } => {
            disks::set_replica(tx, fence, node, *replica)
        }
        Command::PutWebhook(webhook) => webhooks::put(tx, webhook),
        Command::DeleteWebhook { uuid } => webhooks::delete(tx, uuid),
        Command::WebhookSent { uuid, through } => webhooks::sent(tx, uuid, *through),
        Command::Topology(command) => topology::apply(tx, command),
        Command::SwitchFeatures { features } => features::switch(tx, features),
        Command::NoteEdited { fence, uid, edited } => tasks::note_edited(tx, fence, *uid, edited),
    }
}

/// Whether the routing view must be loaded again after this command.
pub fn touches_routing(command: &Command, outcome: &Outcome) -> bool {
    if matches!(
        outcome,
        Outcome::Unchanged
            | Outcome::Fenced { .. }
            | Outcome::Unplaced
            | Outcome::Repeated { .. }
            | Outcome::KeyReused
            | Outcome::Job(_)
            | Outcome::TooMany
            | Outcome::Topology(_)
    ) {
        return false;
    }
    match command {
        Command::Job(command) => match command.as_ref() {
            JobCommand::AcceptBatch { task, .. } => task.create.is_some(),
            _ => false,
        },
        Command::InitCluster { .. }
        | Command::PutNode(_)
        | Command::TakeEpoch { .. }
        | Command::AssignRole { .. }
        | Command::AgreePrimaryKey { .. }
        | Command::MarkSettingsPending { .. }
        | Command::ChangeInSync { .. }
        | Command::SetNewIndexSettings { .. }
        | Command::PutApiKey(_)
        | Command::PatchApiKey(_)
        | Command::DeleteApiKey { .. }
        | Command::InitApiKeys { .. }
        | Command::Topology(_)
        | Command::SwitchFeatures { .. }
        | Command::NoteDisk { .. } => true,
        Command::EnqueueTask(task)
        | Command::AcceptTask { task, .. }
        | Command::AcceptBoundTask { task, .. } => {
            task.create.is_some()
                || matches!(task.work, crate::commands::Work::DeleteIndex)
                || !task.work.name_changes().is_empty()
        }
        // The end of the task that created an index shows it to readers.
        Command::FinishTasks(endings) => {
            endings.iter().any(|ending| !ending.effects.is_empty() || ending.shows_index)
        }
        Command::CancelTasks { .. } => true,
        Command::StartTasks { .. }
        | Command::NoteEdited { .. }
        | Command::DeleteTasks { .. }
        | Command::SetLaneMark { .. }
        | Command::SetReplica { .. }
        | Command::PruneKeys { .. }
        | Command::PutWebhook(_)
        | Command::DeleteWebhook { .. }
        | Command::WebhookSent { .. } => false,
    }
}

/// How many indexes were ever created; their sequences are below this.
///
/// # Errors
/// When the store fails or the counter can't be read.
pub fn indexes_created(engine: &dyn crate::engine::Engine) -> Result<u64, ApplyError> {
    match engine.get(META, b"index")? {
        Some(bytes) => Ok(records::u64_from(&bytes)?),
        None => Ok(0),
    }
}

/// Reads a counter and returns it, leaving the next number in its place.
pub(crate) fn take_number(tx: &mut Tx<'_>, name: &[u8]) -> Result<u64, ApplyError> {
    let next = match tx.get(META, name)? {
        Some(bytes) => records::u64_from(&bytes)?,
        None => 0,
    };
    tx.put(META, name, (next + 1).to_be_bytes().to_vec());
    Ok(next)
}
