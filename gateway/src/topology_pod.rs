//! Nodes and shards as a pod knows them: what the log says, what orders make of it.
//!
//! An order is checked by the state machine itself, against the state of its moment. A dry run applies
//! it to a transaction that is never committed, so it refuses what the order would be refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use miroir_actors::rebalancer::plan::{Distance, distance, distance_of};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::engine::Tx;
use miroir_storage::ids::{GroupId, NodeId, ShardId};
use miroir_storage::routing::{
    IndexRouting, NodeRecord, Routing, Topology, from_nanoseconds, to_nanoseconds,
};
use miroir_storage::tables;
use miroir_storage::topology_commands::{ReplicaPlace, TopologyCommand, TopologyRefusal};
use miroir_wire::engine_version::EngineVersion;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::reserved::SHARDS_MAX;

use crate::admin_pod::PodAdmin;
use crate::topology::{
    IndexShards, MovesView, NewNode, NodePart, NodeView, OrderAnswer, OrderFlags, PlaceView,
    ReplicaState, ReplicaView, ShardView, ShardsAnswer, Steering, TopologyAnswer, TopologyOrder,
    TopologySource,
};
use crate::writes::propose;

#[async_trait]
impl TopologySource for PodAdmin {
    async fn topology(&self) -> Result<TopologyAnswer, ApiError> {
        let routing = self.pod.log.routing();
        let down = self.pod.health.down();
        let mut nodes: Vec<NodeView> = routing
            .nodes
            .values()
            .map(|node| node_view(&routing, node, !down.contains(&node.id)))
            .collect();
        nodes.sort_by(|a, b| (a.group, &a.id).cmp(&(b.group, &b.id)));
        Ok(TopologyAnswer {
            replication_factor: routing.topology.replication_factor,
            nodes,
            moves: self.moves(&routing),
        })
    }

    async fn shards(&self, index: Option<&str>) -> Result<ShardsAnswer, ApiError> {
        let routing = self.pod.log.routing();
        if let Some(name) = index.filter(|name| !routing.indexes.contains_key(*name)) {
            return Err(ApiError::index_not_found(name));
        }
        let shown = routing.indexes.iter().filter(|(name, _)| index.is_none_or(|i| i == *name));
        let indexes = shown.map(|(name, index)| IndexShards {
            index: name.clone(),
            uid: index.uid.to_string(),
            shards: (0..index.shards).map(|shard| shard_view(&routing, index, shard)).collect(),
        });
        Ok(ShardsAnswer { indexes: indexes.collect() })
    }

    async fn order(
        &self,
        order: TopologyOrder,
        flags: OrderFlags,
    ) -> Result<OrderAnswer, ApiError> {
        let routing = self.pod.log.routing();
        let commands = self.commands(&routing, order, flags).await?;
        let after = match flags.dry_run {
            true => self.applied(&routing, &commands)?,
            false => {
                for command in commands {
                    let (node, command) =
                        (named_in(&command), Command::Topology(Box::new(command)));
                    check(propose(&self.pod, &command).await?, node.as_ref())?;
                }
                Routing::clone(&self.pod.log.routing())
            }
        };
        Ok(order_answer(&after, flags.dry_run))
    }

    async fn steer(&self, steering: Steering) -> Result<MovesView, ApiError> {
        let Steering { paused, documents_per_second } = steering;
        let steer = TopologyCommand::Steer { paused, documents_per_second };
        propose(&self.pod, &Command::Topology(Box::new(steer))).await?;
        Ok(self.moves(&self.pod.log.routing()))
    }
}

impl PodAdmin {
    /// What the order tells the log.
    async fn commands(
        &self,
        routing: &Routing,
        order: TopologyOrder,
        flags: OrderFlags,
    ) -> Result<Vec<TopologyCommand>, ApiError> {
        let OrderFlags { force: forced, lose_data: loses_data, .. } = flags;
        Ok(match order {
            TopologyOrder::AddNode(node) => {
                vec![TopologyCommand::AddNode(self.fit_node(routing, node, forced).await?)]
            }
            TopologyOrder::RemoveNode(node) => {
                let node = NodeId(node);
                vec![TopologyCommand::RemoveNode { node, forced, loses_data }]
            }
            TopologyOrder::Drain { node, draining } => {
                vec![TopologyCommand::Drain { node: NodeId(node), draining, forced }]
            }
            TopologyOrder::RemoveGroup(group) => {
                let of_group = |node: &&Arc<NodeRecord>| node.group == GroupId(group);
                let nodes = routing.nodes.values().filter(of_group).map(|node| node.id.clone());
                // All of them or none: the group keeps no copies, rather than fewer.
                let drain = |node| TopologyCommand::Drain { node, draining: true, forced: true };
                let commands: Vec<TopologyCommand> = nodes.map(drain).collect();
                if commands.is_empty() {
                    let message = format!("Group `{group}` has no nodes.");
                    return Err(ApiError::new(Code::MiroirNodeNotFound, message));
                }
                self.applied(routing, &commands)?;
                commands
            }
            TopologyOrder::Replication(factor) => {
                vec![TopologyCommand::SetReplication { factor, if_unset: false }]
            }
        })
    }

    /// The node, if it answers and can hold what there is.
    async fn fit_node(
        &self,
        routing: &Routing,
        node: NewNode,
        forced: bool,
    ) -> Result<NodeRecord, ApiError> {
        let NewNode { id, address, replica_group, key } = node;
        let record = NodeRecord { id: NodeId(id), address, group: GroupId(replica_group), key };
        if forced {
            return Ok(record);
        }
        let unfit = |why: String| {
            let message = format!("Node `{}` can't be added: {why}.", record.id);
            ApiError::new(Code::MiroirNodeUnfit, message)
        };
        let version = self.pod.calls.version_of(&record).await;
        let version = version.map_err(|error| unfit(error.to_string()))?;
        let known = EngineVersion::parse(&version);
        let settings = routing.by_uid.values().map(|index| (index.name.as_str(), &index.settings));
        for (name, settings) in settings.chain([("new indexes", &routing.new_index_settings)]) {
            known.check_settings(settings, "rankingRules").map_err(|error| {
                unfit(format!(
                    "it is version {version}, too old for the settings of {name} ({})",
                    error.message.trim_end_matches('.')
                ))
            })?;
        }
        Ok(record)
    }

    /// The view after these commands, of which nothing is kept.
    fn applied(
        &self,
        routing: &Routing,
        commands: &[TopologyCommand],
    ) -> Result<Routing, ApiError> {
        let mut tx = Tx::new(self.pod.log.engine().as_ref());
        let mut after = routing.clone();
        for command in commands {
            let whole = Command::Topology(Box::new(command.clone()));
            let outcome = tables::apply(&mut tx, 0, &whole).map_err(unreadable)?;
            check(outcome, named_in(command).as_ref())?;
            lay_over(&mut after, command);
        }
        Ok(after)
    }

    fn moves(&self, routing: &Routing) -> MovesView {
        let topology = &routing.topology;
        let Distance { missing, surplus, leaving } = distance(routing);
        let moving = routing.by_uid.values().flat_map(|index| index.moves.values());
        let arriving = moving.map(|moves| moves.arriving.len() as u64).sum();
        let noted = topology.moves.as_ref();
        let total = noted.map_or(0, |note| note.total).max(missing as u64);
        let done = total - missing as u64;
        let now = to_nanoseconds(self.pod.seams.clock.now());
        let took = noted.map(|note| now.saturating_sub(note.began_at).max(0) / 1_000_000_000);
        // By clocks of several pods, and so for people only.
        let seconds_left = took
            .filter(|_| !self.pod.moves_rest())
            .and_then(|took| (took as u64 * missing as u64).checked_div(done));
        MovesView {
            paused: topology.paused,
            resting: !topology.paused && self.pod.moves_rest(),
            documents_per_second: topology.documents_per_second,
            total,
            done,
            arriving,
            surplus: surplus as u64,
            leaving: leaving as u64,
            began_at: noted.map(|note| from_nanoseconds(note.began_at)),
            seconds_left,
        }
    }
}

/// What a command changes of what replicas are placed by.
fn lay_over(routing: &mut Routing, command: &TopologyCommand) {
    let mut topology = Topology::clone(&routing.topology);
    match command {
        TopologyCommand::AddNode(node) => {
            routing.nodes.insert(node.id.clone(), Arc::new(node.clone()));
        }
        TopologyCommand::RemoveNode { node, .. } => {
            routing.nodes.remove(node);
        }
        TopologyCommand::Drain { node, draining: true, .. } => {
            topology.draining.insert(node.clone());
        }
        TopologyCommand::Drain { node, draining: false, .. } => {
            topology.draining.remove(node);
        }
        TopologyCommand::SetReplication { factor, .. } => {
            topology.replication_factor = Some(*factor);
        }
        _ => {}
    }
    routing.topology = Arc::new(topology);
}

fn named_in(command: &TopologyCommand) -> Option<NodeId> {
    match command {
        TopologyCommand::AddNode(node) => Some(node.id.clone()),
        TopologyCommand::RemoveNode { node, .. } | TopologyCommand::Drain { node, .. } => {
            Some(node.clone())
        }
        _ => None,
    }
}

/// The only place where a refusal about the topology becomes a status and a code.
pub(crate) fn check(outcome: Outcome, node: Option<&NodeId>) -> Result<(), ApiError> {
    let Outcome::Topology(refusal) = outcome else { return Ok(()) };
    let node = node.map(NodeId::as_str).unwrap_or_default();
    let (code, message) = match refusal {
        TopologyRefusal::UnknownNode => {
            (Code::MiroirNodeNotFound, format!("Node `{node}` not found."))
        }
        TopologyRefusal::NodeExists => (
            Code::MiroirNodeConflict,
            format!("Node `{node}` exists already, with another address, group or key."),
        ),
        TopologyRefusal::NodeRemoved => (
            Code::MiroirNodeConflict,
            format!("A node `{node}` was removed. Ids are never used again: choose another."),
        ),
        TopologyRefusal::LastNode => {
            (Code::MiroirNodeConflict, "No node would be left that holds shards.".to_owned())
        }
        TopologyRefusal::HoldsShards { indexes } => (
            Code::MiroirNodeConflict,
            format!(
                "Node `{node}` holds shards of {indexes} indexes: drain it first. If it is gone for good, use `force=true`: its copies are made elsewhere."
            ),
        ),
        TopologyRefusal::TooFewNodes { group, nodes, factor } => (
            Code::MiroirCopiesLost,
            format!(
                "Group `{group}` would have {nodes} nodes for {factor} copies of each shard. Add a node, or lower the replication factor; `force=true` drains the node all the same."
            ),
        ),
        TopologyRefusal::LastCopies { indexes } => (
            Code::MiroirCopiesLost,
            format!(
                "Node `{node}` has the last copies of shards of {indexes} indexes. `loseData=true` gives their documents up."
            ),
        ),
        TopologyRefusal::UnknownIndex => (Code::IndexNotFound, "The index is gone.".to_owned()),
        TopologyRefusal::ReshardUnderWay { to } => (
            Code::MiroirReshardConflict,
            format!("The index is being divided into {to} shards. Wait for it, or give it up."),
        ),
        TopologyRefusal::NoReshard => {
            (Code::MiroirReshardConflict, "The index is not being resharded.".to_owned())
        }
        TopologyRefusal::TooManyShards { from, to } => (
            Code::MiroirReshardConflict,
            format!(
                "There is no way from {from} to {to} shards. An index has 1 to {SHARDS_MAX} shards, and so has the least common multiple of both numbers, which the way leads through: choose a number that shares more factors with {from}."
            ),
        ),
    };
    Err(ApiError::new(code, message))
}

pub(crate) fn unreadable(error: tables::ApplyError) -> ApiError {
    ApiError::new(Code::Internal, format!("The coordinator state can't be read: {error}."))
}

fn order_answer(routing: &Routing, dry_run: bool) -> OrderAnswer {
    let mut answer = OrderAnswer { dry_run, ..OrderAnswer::default() };
    for index in routing.by_uid.values() {
        let (_, missing, surplus) = distance_of(routing, index);
        let view = |place: ReplicaPlace| PlaceView {
            index: index.name.clone(),
            shard: place.shard.0,
            group: place.group.0,
            node: place.node.0,
        };
        answer.place.extend(missing.into_iter().map(view));
        answer.take_away.extend(surplus.into_iter().map(view));
    }
    answer
}

fn node_view(routing: &Routing, node: &NodeRecord, up: bool) -> NodeView {
    let mut view = NodeView {
        id: node.id.to_string(),
        address: node.address.clone(),
        group: node.group.0,
        part: NodePart::Active,
        up,
        replicas: 0,
        in_sync: 0,
        arriving: 0,
        leaving: 0,
    };
    for index in routing.by_uid.values() {
        for shard in index.groups.iter().flat_map(|group| &group.shards) {
            view.replicas += u64::from(shard.replicas.contains(&node.id));
            view.in_sync += u64::from(shard.in_sync.contains(&node.id));
        }
        if let Some(moves) = index.moves.get(&node.id) {
            view.arriving += moves.arriving.len() as u64;
            view.leaving += moves.leaving.len() as u64;
        }
    }
    let topology = &routing.topology;
    view.part = match topology.draining.contains(&node.id) {
        true if view.replicas == 0 && view.leaving == 0 => NodePart::Drained,
        true => NodePart::Draining,
        false if topology.away.contains(&node.id) => NodePart::Away,
        false => NodePart::Active,
    };
    view
}

fn shard_view(routing: &Routing, index: &IndexRouting, shard: u32) -> ShardView {
    let mut replicas: BTreeMap<(u32, &NodeId), ReplicaState> = BTreeMap::new();
    let moves = |node: &NodeId| index.moves.get(node).cloned().unwrap_or_default();
    for group in &index.groups {
        let Some(placed) = group.shards.get(shard as usize) else { continue };
        for node in &placed.replicas {
            let state = match placed.in_sync.contains(node) {
                true => ReplicaState::InSync,
                false if moves(node).arriving.contains(&ShardId(shard)) => ReplicaState::Arriving,
                false => ReplicaState::OutOfSync,
            };
            replicas.insert((group.group.0, node), state);
        }
    }
    for (node, moves) in &index.moves {
        if let Some(known) =
            routing.nodes.get(node).filter(|_| moves.leaving.contains(&ShardId(shard)))
        {
            replicas.insert((known.group.0, node), ReplicaState::Leaving);
        }
    }
    let view = |((group, node), state): ((u32, &NodeId), ReplicaState)| ReplicaView {
        node: node.to_string(),
        group,
        state,
    };
    ShardView { shard, replicas: replicas.into_iter().map(view).collect() }
}
