//! Messages between pods: calls with one answer, and datagrams for gossip.
//!
//! Both carry bytes only. Who may call, and that nobody reads along, is the business of the
//! implementation (`membership::link`, `membership::gossip`); the simulation's network is
//! trusted and unreliable.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// One call to another pod.
#[derive(Clone, Debug)]
pub struct PeerCall {
    /// Where the pod's peers reach it, `host:port`.
    pub address: String,
    /// Which of the pod's services is meant, for instance `log/append`: lower-case letters and
    /// slashes.
    pub channel: &'static str,
    /// The request, in parts that follow one another: large ones need not be copied together.
    pub body: Vec<Bytes>,
    /// The call is given up after this time.
    pub timeout: Duration,
}

/// Why a call to a pod brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCallError {
    /// The pod can't be reached: the request was certainly not carried out.
    #[error("pod can't be reached: {0}")]
    Unreachable(String),
    /// The connection broke after the request may have been read: it may be carried out.
    #[error("connection to pod broke: {0}")]
    Broken(String),
    /// No answer in time: the request may be carried out.
    #[error("pod did not answer within {0:?}")]
    TimedOut(Duration),
    /// The pod answered that it did not carry out the request.
    #[error("pod refused: {0}")]
    Refused(String),
}

impl PeerCallError {
    /// Whether the request was certainly not carried out.
    pub fn is_certain(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refused(_))
    }
}

/// Calls other pods.
#[async_trait]
pub trait PeerTransport: Debug + Send + Sync + 'static {
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// See [`PeerCallError`].
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError>;
}

/// Why a pod does not carry out a request of another pod. Whoever answers so must not have begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PeerRefusal(pub String);

/// Answers the calls of other pods.
#[async_trait]
pub trait PeerService: Debug + Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// [`PeerRefusal`] when nothing was done.
    async fn serve(&self, channel: &str, body: Bytes) -> Result<Bytes, PeerRefusal>;
}

/// The transport of a pod that is alone: nobody can be reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

#[async_trait]
impl PeerTransport for NoPeers {
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
        Err(PeerCallError::Unreachable(format!("this pod has no way to reach {}", call.address)))
    }
}

/// Opens sockets for datagrams.
#[async_trait]
pub trait Datagrams: Debug + Send + Sync + 'static {
    /// Opens a socket at `listen`.
    ///
    /// # Errors
    /// When the address can't be had.
    async fn open(&self, listen: SocketAddr) -> io::Result<Box<dyn DatagramSocket>>;
}

/// Sends and receives datagrams: each arrives whole, or twice, or late, or not at all.
#[async_trait]
pub trait DatagramSocket: Debug + Send + Sync + 'static {
    /// Sends one.
    ///
    /// # Errors
    /// When it certainly went nowhere.
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()>;

    /// Waits for the next. Cancel safe: a dropped call loses no datagram.
    ///
    /// # Errors
    /// When the socket can't be read; the next call may succeed.
    async fn receive(&self) -> io::Result<(Vec<u8>, SocketAddr)>;
}

/// Largest UDP payload over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// UDP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Udp;

#[async_trait]
impl Datagrams for Udp {
    async fn open(&self, listen: SocketAddr) -> io::Result<Box<dyn DatagramSocket>> {
        Ok(Box::new(UdpSocket(tokio::net::UdpSocket::bind(listen).await?)))
    }
}

#[derive(Debug)]
struct UdpSocket(tokio::net::UdpSocket);

#[async_trait]
impl DatagramSocket for UdpSocket {
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(datagram, to).await.map(drop)
    }

    async fn receive(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        let (length, from) = self.0.recv_from(&mut datagram).await?;
        datagram.truncate(length);
        Ok((datagram, from))
    }
}
