//! What may be written to the coordinator log, and what the state machine answers.
//!
//! Commands are applied by [`crate::tables::apply`], deterministically and in log order.
//! Times in commands are the proposer's wall clock in Unix nanoseconds: shown to people, never
//! compared. Variants may be added at the end, never changed: old logs hold old commands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, IndexUid, JournalSequence, NodeId, PodId, ShardId, TaskUid};
use crate::job_commands::{JobCommand, JobOutcome};
use crate::tables::api_keys::{ApiKeyPatch, ApiKeyRecord};
use crate::tables::disks::{Content, ReplicaRecord};
use crate::tables::indexes::GroupPlacement;
use crate::tables::lane_marks::LaneMark;
use crate::tables::nodes::NodeRecord;
use crate::tables::webhooks::WebhookRecord;
use crate::topology_commands::{TopologyCommand, TopologyRefusal};

/// The newest format of commands that this program reads. It grows with every kind of command that
/// pods of the version before could not read; pods tell each other theirs, and propose what all
/// of them read. So pods are replaced one by one, and new kinds begin with the last one.
pub const FORMAT: u32 = 9;

/// One entry of the coordinator log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Names the cluster, once. A second one changes nothing.
    InitCluster {
        /// A random UUID.
        cluster_id: String,
    },
    /// Adds a node, or changes its address or key. Its group never changes.
    PutNode(NodeRecord),
    /// A pod takes a role; the answer is the new epoch.
    TakeEpoch {
        /// For instance `writer/3-movies`.
        role: String,
        /// The new holder.
        pod: PodId,
    },
    /// Accepts a task and gives it its `taskUid` and its place.
    EnqueueTask(Box<EnqueueTask>),
    /// Marks tasks as processing, before anything of them is sent.
    StartTasks {
        /// The writer's fence; `None` for tasks that no index owns.
        fence: Option<Fence>,
        /// The tasks.
        uids: Vec<TaskUid>,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Ends tasks, in order, each with all that follows from it.
    FinishTasks(Vec<FinishTask>),
    /// Agrees on an index's inferred primary key before any document is sent.
    AgreePrimaryKey {
        /// The writer's fence.
        fence: Fence,
        /// The attribute.
        primary_key: String,
    },
    /// Says whether a settings broadcast is in flight.
    MarkSettingsPending {
        /// The writer's fence.
        fence: Fence,
        /// In flight or not.
        pending: bool,
    },
    /// Replicas leave or join in-sync sets.
    ChangeInSync {
        /// The writer's fence.
        fence: Fence,
        /// What changes; applied in order.
        changes: Vec<InSyncChange>,
    },
    /// Cancels those of the tasks that are still enqueued; ends the cancelling task.
    CancelTasks {
        /// The cancelling task.
        by: TaskUid,
        /// The tasks that its filter matched.
        uids: Vec<TaskUid>,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Removes ended tasks from the history; ends the deleting task.
    DeleteTasks {
        /// The deleting task; `None` when old tasks are pruned.
        by: Option<TaskUid>,
        /// The tasks that its filter matched; those not ended stay.
        uids: Vec<TaskUid>,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Says which settings new indexes begin with: the defaults of the nodes' version.
    SetNewIndexSettings {
        /// Settings as JSON; only what differs from [`miroir_wire::settings`]' own defaults.
        settings: String,
    },
    /// Names the holder of a role. The epoch grows at once, so that the holder before is fenced
    /// from here on; the new one takes an epoch of its own when it begins.
    AssignRole {
        /// The membership role's fence.
        fence: RoleFence,
        /// The role to give.
        role: String,
        /// Its new holder.
        pod: PodId,
    },
    /// Says what a lane is about to send, or has brought to its end. A run that the log does not
    /// know is never sent, so a fenced writer can begin none, and its successor knows the one
    /// that may be under way.
    SetLaneMark {
        /// The writer's fence.
        fence: Fence,
        /// The lane's node.
        node: NodeId,
        /// The mark.
        mark: Box<LaneMark>,
    },
    /// As [`Command::EnqueueTask`], with what must be agreed beside the task.
    AcceptTask {
        /// The task.
        task: Box<EnqueueTask>,
        /// The request's `Idempotency-Key`.
        key: Option<IdempotencyKey>,
        /// The request's `X-Miroir-Session`.
        session: Option<String>,
    },
    /// Forgets old idempotency keys and sessions, oldest first, a bounded number at a time.
    PruneKeys {
        /// Keys older than this, Unix nanoseconds.
        keys_before: i64,
        /// Sessions whose last write is older than this, Unix nanoseconds.
        sessions_before: i64,
    },
    /// About jobs.
    Job(Box<JobCommand>),
    /// Adds an API key, unless its uid has one.
    PutApiKey(Box<ApiKeyRecord>),
    /// Changes an API key's name or description.
    PatchApiKey(ApiKeyPatch),
    /// Removes an API key.
    DeleteApiKey {
        /// Its uid.
        uid: String,
    },
    /// Makes the API keys that a cluster begins with, once in its life.
    InitApiKeys {
        /// The keys.
        keys: Vec<ApiKeyRecord>,
    },
    /// As [`Command::AcceptTask`], of a client that may not create indexes: when the name is
    /// unbound the task is accepted all the same, creates nothing, and will fail.
    AcceptBoundTask {
        /// The task, without a plan of an index.
        task: Box<EnqueueTask>,
        /// The request's `Idempotency-Key`.
        key: Option<IdempotencyKey>,
        /// The request's `X-Miroir-Session`.
        session: Option<String>,
    },
    /// Takes notice of a life of a node's disk, or of what tells it from others.
    NoteDisk {
        /// The node.
        node: NodeId,
        /// The life; above the one in force when a loss was found.
        life: u64,
        /// What tells the disk from others, if it could be read.
        identity: Option<String>,
    },
    /// Says on which disk a replica is and what of it is there: before a copy to it begins, when
    /// that has ended, when its content is found gone, and when it is in doubt but all there is.
    SetReplica {
        /// The writer's fence.
        fence: Fence,
        /// The replica's node.
        node: NodeId,
        /// The replica.
        replica: ReplicaRecord,
    },
    /// Adds a webhook, or changes its address and headers.
    PutWebhook(Box<WebhookRecord>),
    /// Removes a webhook.
    DeleteWebhook {
        /// Its uuid.
        uuid: String,
    },
    /// A webhook has got its letters. Said by whoever sent them, under no epoch: the mark only
    /// rises, and what is below it was sent.
    WebhookSent {
        /// The webhook's uuid.
        uuid: String,
        /// The letter after the last that it got.
        through: u64,
    },
    /// About nodes, and where replicas go.
    Topology(Box<TopologyCommand>),
    /// Switches experimental features of nodes; those that are not named stay as they are.
    SwitchFeatures {
        /// By Meilisearch's name.
        features: BTreeMap<String, bool>,
    },
    /// Says what an edition by a function makes of the documents, before anything of it is sent: from
    /// here on every writer carries just this. Once said it stays.
    NoteEdited {
        /// The writer's fence.
        fence: Fence,
        /// The edition's task.
        uid: TaskUid,
        /// What came of it.
        edited: Edited,
    },
}

impl Command {
    /// The oldest [`FORMAT`] whose pods read it.
    pub fn format(&self) -> u32 {
        match self {
            Self::Job(_)
            | Self::PutApiKey(_)
            | Self::PatchApiKey(_)
            | Self::DeleteApiKey { .. }
            | Self::InitApiKeys { .. } => 2,
            Self::AcceptBoundTask { task, .. } => task.work.format().max(2),
            Self::SetReplica { replica, .. } if replica.content == Content::Doubtful => 9,
            Self::NoteDisk { .. }
            | Self::SetReplica { .. }
            | Self::PutWebhook(_)
            | Self::DeleteWebhook { .. }
            | Self::WebhookSent { .. } => 3,
            Self::Topology(command) => command.format(),
            Self::SwitchFeatures { .. } => 6,
            Self::NoteEdited { .. } => 8,
            Self::EnqueueTask(task) | Self::AcceptTask { task, .. } => task.work.format(),
            _ => 1,
        }
    }
}

/// Who issues a command for a role other than a writer's: refused when a newer epoch exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFence {
    /// The role.
    pub role: String,
    /// The epoch under which its holder works.
    pub epoch: Epoch,
}

/// What makes a retry recognizable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The client's key.
    pub key: String,
    /// SHA-256 over what the request asks for.
    pub request: [u8; 32],
}

/// Who issues a command for an index: refused when a newer epoch exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The index.
    pub index: IndexUid,
    /// The epoch under which its writer works.
    pub epoch: Epoch,
}

/// A task to accept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnqueueTask {
    /// The index as the client named it; `None` for tasks of no single index.
    pub index: Option<String>,
    /// What is to be done.
    pub work: Work,
    /// How to create the index when its name is unbound; `None` when the work creates none.
    pub create: Option<NewIndex>,
    /// Shown as `customMetadata`.
    pub custom_metadata: Option<String>,
    /// Unix nanoseconds.
    pub at: i64,
}

/// The plan of an index that may have to be created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewIndex {
    /// Number of shards.
    pub shards: u32,
    /// Where each shard goes, by group.
    pub groups: Vec<GroupPlacement>,
    /// The pod that writes it.
    pub writer: PodId,
}

/// A payload in the journals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadRef {
    /// The pods whose journals hold it, with their sequences.
    pub holders: Vec<(PodId, JournalSequence)>,
    /// Length in bytes.
    pub bytes: u64,
    /// Documents, or ids, in it.
    pub count: u64,
}

/// What a function made of the documents that it was to edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edited {
    /// The documents that it changed and the ids of those that it deleted.
    pub payload: PayloadRef,
    /// Documents that it was run on.
    pub matched: u64,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Adds or replaces documents (`POST`), or updates them in part (`PUT`).
    Documents {
        /// Partial update instead of replacement.
        partial: bool,
        /// The request's `primaryKey`.
        primary_key: Option<String>,
        /// The documents.
        payload: PayloadRef,
    },
    /// Deletes documents by id.
    DeleteIds {
        /// The ids, a JSON array of strings.
        payload: PayloadRef,
        /// Whether the request named one document in its path.
        single: bool,
    },
    /// Deletes what a filter matches.
    DeleteByFilter {
        /// The filter as JSON.
        filter: String,
    },
    /// Deletes every document.
    Clear,
    /// Changes settings.
    Settings {
        /// The patch as JSON.
        patch: String,
        /// Whether it came as a `DELETE`.
        is_deletion: bool,
    },
    /// Creates an index.
    CreateIndex {
        /// Its primary key, if given.
        primary_key: Option<String>,
    },
    /// Changes an index's primary key.
    UpdateIndex {
        /// The new primary key.
        primary_key: Option<String>,
    },
    /// Deletes an index.
    DeleteIndex,
    /// Swaps names pairwise.
    SwapIndexes {
        /// The pairs.
        pairs: Vec<(String, String)>,
    },
    /// Cancels tasks.
    CancelTasks {
        /// The request's query string, as `details.originalFilter`.
        original_filter: String,
        /// The tasks it matched when it was accepted.
        uids: Vec<TaskUid>,
    },
    /// Deletes tasks.
    DeleteTasks {
        /// The request's query string, as `details.originalFilter`.
        original_filter: String,
        /// The tasks it matched when it was accepted.
        uids: Vec<TaskUid>,
    },
    /// Gives an index another name.
    RenameIndex {
        /// Its name.
        from: String,
        /// Its new name.
        to: String,
        /// Its new primary key, if that changes too.
        primary_key: Option<String>,
        /// See [`Self::ChangeNames`].
        took: bool,
    },
    /// Swaps names pairwise, or moves an index from the first to the second, all or none.
    ChangeNames {
        /// The pairs.
        changes: Vec<NameChange>,
        /// Whether the names fit when it was accepted, so that they have changed for writers. Said by
        /// the log.
        took: bool,
    },
    /// Edits documents by a function.
    EditDocuments {
        /// Its text.
        function: String,
        /// What it may read beside the document, a JSON object.
        context: Option<String>,
        /// Which documents, a filter as JSON; all without it.
        filter: Option<String>,
        /// What came of it, once it was run. Said by the log.
        edited: Option<Edited>,
    },
}

/// A pair of names that change what they mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameChange {
    /// The first name.
    pub a: String,
    /// The second name.
    pub b: String,
    /// The index of the first takes the second, which means none; else they swap.
    pub renames: bool,
}

impl Work {
    /// The names that it changes: none but for swaps and renames.
    pub fn name_changes(&self) -> Vec<NameChange> {
        match self {
            Self::SwapIndexes { pairs } => {
                let change = |(a, b): &(String, String)| NameChange {
                    a: a.clone(),
                    b: b.clone(),
                    renames: false,
                };
                pairs.iter().map(change).collect()
            }
            Self::ChangeNames { changes, .. } => changes.clone(),
            Self::RenameIndex { from, to, .. } if from != to => {
                vec![NameChange { a: from.clone(), b: to.clone(), renames: true }]
            }
            _ => Vec::new(),
        }
    }

    /// The client's names that it is about, beside that of its index.
    pub fn other_names(&self) -> Vec<&str> {
        match self {
            Self::SwapIndexes { pairs } => {
                pairs.iter().flat_map(|(a, b)| [a.as_str(), b.as_str()]).collect()
            }
            Self::ChangeNames { changes, .. } => {
                changes.iter().flat_map(|change| [change.a.as_str(), change.b.as_str()]).collect()
            }
            Self::RenameIndex { from, to, .. } if from != to => vec![to],
            _ => Vec::new(),
        }
    }

    /// The oldest [`FORMAT`] whose pods read it.
    fn format(&self) -> u32 {
        match self {
            Self::RenameIndex { .. } | Self::ChangeNames { .. } => 7,
            Self::EditDocuments { .. } => 8,
            _ => 1,
        }
    }

    /// Whether it creates the index that it names when there is none.
    pub fn creates_index(&self) -> bool {
        matches!(self, Self::Documents { .. } | Self::Settings { .. } | Self::CreateIndex { .. })
    }

    /// The journalled payload, if the work has one.
    pub fn payload(&self) -> Option<&PayloadRef> {
        match self {
            Self::Documents { payload, .. } | Self::DeleteIds { payload, .. } => Some(payload),
            Self::EditDocuments { edited, .. } => edited.as_ref().map(|edited| &edited.payload),
            _ => None,
        }
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Applied on every replica that is read.
    Succeeded,
    /// Refused by the data, the settings or every in-sync replica.
    Failed,
    /// Cancelled before it began.
    Canceled,
}

/// The end of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishTask {
    /// The writer's fence; `None` for tasks that no index owns.
    pub fence: Option<Fence>,
    /// The task.
    pub uid: TaskUid,
    /// How it ended.
    pub ending: Ending,
    /// `details` as JSON (Meilisearch's names).
    pub details: Option<String>,
    /// `error` as JSON in Meilisearch's shape.
    pub error: Option<String>,
    /// What else changes, in the same entry.
    pub effects: Vec<Effect>,
    /// Whether this task created its index, so that its end shows the index to readers.
    pub shows_index: bool,
    /// Unix nanoseconds.
    pub at: i64,
}

/// What the end of a task changes beside the task itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// The index has this primary key from now on.
    SetPrimaryKey(String),
    /// The index has these settings from now on; its settings version grows by one.
    CommitSettings {
        /// The client's settings, whole, as JSON.
        settings: String,
    },
    /// The index is gone; its name shows what the log has bound to it since, if anything.
    RemoveIndex,
    /// Readers see the swapped names from now on.
    SwapNames {
        /// The pairs.
        pairs: Vec<(String, String)>,
    },
    /// Readers see the changed names from now on.
    ChangeNames {
        /// The pairs.
        changes: Vec<NameChange>,
    },
    /// Readers see the index of the task by this name from now on.
    RenameIndex {
        /// The name.
        to: String,
    },
}

/// One replica of one shard leaves or joins the in-sync set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSyncChange {
    /// The shard.
    pub shard: ShardId,
    /// The replica's node.
    pub node: NodeId,
    /// Joins (`true`) or leaves.
    pub joins: bool,
}

/// What the state machine answers. A refusal is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied; nothing more to say.
    Done,
    /// Nothing to change: applied before, or about something that is gone.
    Unchanged,
    /// The role's new epoch.
    Epoch(Epoch),
    /// The task was accepted.
    Enqueued {
        /// Its number.
        uid: TaskUid,
        /// The index it will work on, when the name was bound.
        index: Option<IndexUid>,
    },
    /// The tasks that were cancelled or deleted.
    Matched(Vec<TaskUid>),
    /// Refused: a newer epoch exists.
    Fenced {
        /// The epoch in force.
        current: Epoch,
    },
    /// Refused: the work creates its index, whose name is unbound by now, and the command brings
    /// no plan for it.
    Unplaced,
    /// Accepted before, under the same idempotency key.
    Repeated {
        /// The task that the key belongs to.
        uid: TaskUid,
    },
    /// Refused: the idempotency key belongs to another request.
    KeyReused,
    /// What became of a [`JobCommand`].
    Job(JobOutcome),
    /// Refused: there are as many as there may be.
    TooMany,
    /// An order about the topology is refused.
    Topology(TopologyRefusal),
}
