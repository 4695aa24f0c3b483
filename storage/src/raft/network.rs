//! Calls to the Raft of other pods, over the seam between pods.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use miroir_seams::{PeerCall, PeerCallError, PeerTransport};
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, EntryPayload, SnapshotSegmentId};

use super::messages::{APPEND, AppendAnswer, AppendCall, Envelope, SNAPSHOT, SnapshotAnswer, VOTE};
use super::{Applied, Confirmations, Entry, RaftId, TypeConfig};
use crate::tables::records::{Record, decode, encode};

type CallError<E = RaftError<RaftId>> = RPCError<RaftId, BasicNode, E>;

/// Bytes of commands in one append: what a slow network and disk take within a heartbeat. One
/// entry travels whole in any case.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Pause before a pod that could not be reached is tried again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(250);

/// How long a part of a snapshot may take, other than the last: nothing is installed yet.
const PART_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells where a pod is now, by what gossip knows; it wins over the address in the log, which
/// may be from before the pod moved.
#[derive(Clone)]
pub struct PeerAddresses(Arc<dyn Fn(RaftId) -> Option<String> + Send + Sync>);

impl PeerAddresses {
    /// Asks `lookup`, which must not block.
    pub fn new(lookup: impl Fn(RaftId) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }

    fn get(&self, id: RaftId) -> Option<String> {
        (self.0)(id)
    }
}

impl Default for PeerAddresses {
    /// Knows nobody: the addresses in the log count.
    fn default() -> Self {
        Self::new(|_| None)
    }
}

impl Debug for PeerAddresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerAddresses")
    }
}

/// Calls pods in the name of this one. Clones share all.
#[derive(Clone, Debug)]
pub(crate) struct PeerNetwork {
    pub(crate) raft_id: RaftId,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) addresses: PeerAddresses,
    pub(crate) applied: Arc<Applied>,
    pub(crate) confirmations: Arc<Confirmations>,
}

impl PeerNetwork {
    /// Where `target` is; `stored` is its address in the log.
    pub(crate) fn address(&self, target: RaftId, stored: &str) -> String {
        self.addresses.get(target).unwrap_or_else(|| stored.to_owned())
    }

    /// Asks `target`, which the log says is at `stored`.
    pub(crate) async fn call<Q, A>(
        &self,
        target: (RaftId, &str),
        channel: &'static str,
        body: Q,
        timeout: Duration,
    ) -> Result<A, PeerCallError>
    where
        Envelope<Q>: Record,
        A: Record,
    {
        let envelope = Envelope {
            cluster: self.applied.routing().cluster_id.clone(),
            from: self.raft_id,
            target: target.0,
            body,
        };
        let body = encode(&envelope).map_err(|error| PeerCallError::Refused(error.to_string()))?;
        let call = PeerCall {
            address: self.address(target.0, target.1),
            channel,
            body: vec![Bytes::from(body)],
            timeout,
        };
        // A transport that is late is given up, as it should have done itself.
        let answer = tokio::time::timeout(timeout, self.transport.call(call))
            .await
            .map_err(|_| PeerCallError::TimedOut(timeout))??;
        decode(&answer).map_err(|error| PeerCallError::Broken(error.to_string()))
    }
}

/// One peer, as openraft calls it.
#[derive(Debug)]
pub(crate) struct PeerClient {
    network: PeerNetwork,
    target: RaftId,
    stored: String,
}

impl PeerClient {
    async fn call<Q, A, E: std::error::Error>(
        &self,
        channel: &'static str,
        body: Q,
        timeout: Duration,
    ) -> Result<A, CallError<E>>
    where
        Envelope<Q>: Record,
        A: Record,
    {
        let target = (self.target, self.stored.as_str());
        let answer = self.network.call(target, channel, body, timeout).await;
        answer.map_err(|error| {
            if error.is_certain() {
                Unreachable::new(&error).into()
            } else {
                NetworkError::new(&error).into()
            }
        })
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = PeerClient;

    async fn new_client(&mut self, target: RaftId, node: &BasicNode) -> PeerClient {
        PeerClient { network: self.clone(), target, stored: node.addr.clone() }
    }
}

/// Cuts `entries` to what one call carries; says whether any were cut off.
fn cut(entries: &mut Vec<Entry>) -> bool {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        let first = bytes == 0;
        bytes += 64
            + match &entry.payload {
                EntryPayload::Normal(proposal) => proposal.bytes(),
                EntryPayload::Blank | EntryPayload::Membership(_) => 0,
            };
        first || bytes <= APPEND_BYTES_MAX
    });
    let fits = fits.count();
    let cuts = fits < entries.len();
    entries.truncate(fits);
    cuts
}

impl RaftNetwork<TypeConfig> for PeerClient {
    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, CallError> {
        let last_sent = cut(&mut request.entries)
            .then(|| request.entries.last().map(|entry| entry.log_id))
            .flatten();
        let confirmations = self.network.confirmations.clone();
        let (echo, confirmed_ms) = confirmations.before_append(self.target);
        let sent = confirmations.now();
        let call = AppendCall { request, echo, confirmed_ms };
        let answer: AppendAnswer = self.call(APPEND, call, option.hard_ttl()).await?;
        let obeys = !matches!(answer.response, AppendEntriesResponse::HigherVote(_));
        confirmations.after_append(self.target, answer.stamp, obeys.then_some(sent));
        Ok(match (answer.response, last_sent) {
            (AppendEntriesResponse::Success, Some(last)) => {
                AppendEntriesResponse::PartialSuccess(Some(last))
            }
            (response, _) => response,
        })
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, CallError<RaftError<RaftId, InstallSnapshotError>>>
    {
        let id = request.meta.snapshot_id.clone();
        let segment = |offset| SnapshotSegmentId { id: id.clone(), offset };
        let (expect, got) = (segment(0), segment(request.offset));
        let whole = option.hard_ttl();
        let timeout = if request.done { whole } else { whole.min(PART_TIMEOUT) };
        match self.call(SNAPSHOT, request, timeout).await? {
            SnapshotAnswer::Taken(response) => Ok(response),
            SnapshotAnswer::Mismatch => {
                let mismatch = SnapshotMismatch { expect, got };
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RemoteError::new(self.target, error).into())
            }
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, CallError> {
        self.call(VOTE, request, option.hard_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}
