//! Calls to the Raft of other pods.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use super::{RaftId, TypeConfig};

type CallError<E = RaftError<RaftId>> = RPCError<RaftId, BasicNode, E>;

/// Carries Raft's calls to other pods. An implementation gives up by itself after
/// `option.hard_ttl()`.
#[async_trait]
pub trait PeerTransport: Debug + Send + Sync + 'static {
    /// Offers log entries, or a heartbeat, to a follower or learner.
    async fn append_entries(
        &self,
        target: RaftId,
        address: &str,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, CallError>;

    /// Sends a part of a snapshot.
    async fn install_snapshot(
        &self,
        target: RaftId,
        address: &str,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, CallError<RaftError<RaftId, InstallSnapshotError>>>;

    /// Asks for a vote.
    async fn vote(
        &self,
        target: RaftId,
        address: &str,
        request: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, CallError>;
}

/// The transport of a pod that is alone: nobody can be reached. The transport between pods
/// comes with clusters of several pods.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this pod has no transport to other pods")]
struct NoTransport;

fn unreachable() -> Unreachable {
    Unreachable::new(&NoTransport)
}

#[async_trait]
impl PeerTransport for NoPeers {
    async fn append_entries(
        &self,
        _target: RaftId,
        _address: &str,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, CallError> {
        Err(unreachable().into())
    }

    async fn install_snapshot(
        &self,
        _target: RaftId,
        _address: &str,
        _request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, CallError<RaftError<RaftId, InstallSnapshotError>>>
    {
        Err(unreachable().into())
    }

    async fn vote(
        &self,
        _target: RaftId,
        _address: &str,
        _request: VoteRequest<RaftId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, CallError> {
        Err(unreachable().into())
    }
}

/// Makes openraft's per-peer clients over one transport.
#[derive(Clone, Debug)]
pub(crate) struct PeerNetwork {
    transport: Arc<dyn PeerTransport>,
}

impl PeerNetwork {
    pub(crate) fn new(transport: Arc<dyn PeerTransport>) -> Self {
        Self { transport }
    }
}

/// One peer, as openraft calls it.
#[derive(Debug)]
pub(crate) struct PeerClient {
    transport: Arc<dyn PeerTransport>,
    target: RaftId,
    address: String,
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = PeerClient;

    async fn new_client(&mut self, target: RaftId, node: &BasicNode) -> PeerClient {
        PeerClient { transport: self.transport.clone(), target, address: node.addr.clone() }
    }
}

impl RaftNetwork<TypeConfig> for PeerClient {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, CallError> {
        self.transport.append_entries(self.target, &self.address, request, option).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, CallError<RaftError<RaftId, InstallSnapshotError>>>
    {
        self.transport.install_snapshot(self.target, &self.address, request, option).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, CallError> {
        self.transport.vote(self.target, &self.address, request, option).await
    }
}
