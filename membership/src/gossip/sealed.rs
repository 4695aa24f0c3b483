//! chitchat's messages over sealed datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use miroir_seams::{Clock, DatagramSocket, Datagrams, Entropy};

use super::frame::{
    FrameError, Header, Kind, PAYLOAD_BYTES_MAX, Session, open, parse_header, seal,
};
use super::sessions::{Sessions, Verdict};
use crate::rarely::Rarely;
use crate::secrets::ClusterSecrets;

/// After a socket failed to receive: it is asked again, but not in a busy loop.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// Opens sealed sockets.
#[derive(Clone, Debug)]
pub(super) struct SealedTransport {
    pub(super) datagrams: Arc<dyn Datagrams>,
    pub(super) secrets: ClusterSecrets,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
}

#[async_trait]
impl Transport for SealedTransport {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.datagrams.open(listen).await?;
        let sessions = Sessions::new(new_session(&self.entropy));
        let (foreign, failed) = (Rarely::default(), Rarely::default());
        Ok(Box::new(SealedSocket { socket, sessions, transport: self.clone(), foreign, failed }))
    }
}

fn new_session(entropy: &Entropy) -> Session {
    let mut session = [0; 16];
    entropy.fill(&mut session);
    Session(session)
}

struct SealedSocket {
    socket: Box<dyn DatagramSocket>,
    sessions: Sessions,
    transport: SealedTransport,
    /// Datagrams of nobody we know.
    foreign: Rarely,
    /// Errors of the socket.
    failed: Rarely,
}

impl SealedSocket {
    async fn send_sealed(
        &self,
        to: SocketAddr,
        (sender, counter, receiver): (Session, u64, Session),
        kind: Kind,
        payload: &[u8],
    ) {
        let secrets = self.transport.secrets.current();
        let sealed = secrets.first().and_then(|keys| {
            let header = Header { key: keys.id, sender, counter };
            seal(&keys.gossip_key(&sender.0)?, &header, receiver, kind, payload)
        });
        let Some(sealed) = sealed else { return };
        if let Err(error) = self.socket.send_to(&sealed, to).await {
            // As good as lost on the way.
            if let Some(times) = self.failed.count(self.transport.clock.instant()) {
                tracing::warn!(%to, %error, times, "gossip not sent");
            }
        }
    }

    /// The message of a datagram, if it brings one.
    async fn accept(&mut self, datagram: Vec<u8>, from: SocketAddr) -> Option<ChitchatMessage> {
        let (header, inner) = match self.unseal(datagram) {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(times) = self.foreign.count(self.transport.clock.instant()) {
                    tracing::warn!(%from, %error, times, "datagram dropped: not of this cluster");
                }
                return None;
            }
        };
        let now = self.transport.clock.instant();
        let fresh = || new_session(&self.transport.entropy);
        match self.sessions.judge((header.sender, header.counter), inner, from, now, fresh) {
            Verdict::Drop => None,
            Verdict::AnswerHello => {
                let addressed = self.sessions.address_hello(header.sender);
                let counter = header.counter.to_be_bytes();
                self.send_sealed(from, addressed, Kind::Hello, &counter).await;
                None
            }
            Verdict::Deliver(message) => match ChitchatMessage::deserialize(&mut &message[..]) {
                Ok(message) => Some(message),
                Err(error) => {
                    tracing::warn!(%from, %error, "gossip of a peer can't be read");
                    None
                }
            },
        }
    }

    fn unseal(&self, datagram: Vec<u8>) -> Result<(Header, super::frame::Inner), FrameError> {
        let header = parse_header(&datagram)?;
        let secrets = self.transport.secrets.current();
        let key = secrets.by_id(header.key).and_then(|keys| keys.gossip_key(&header.sender.0));
        let inner = open(&key.ok_or(FrameError::NotAuthentic)?, &header, datagram)?;
        Ok((header, inner))
    }
}

#[async_trait]
impl Socket for SealedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let message = message.serialize_to_vec();
        if message.len() <= PAYLOAD_BYTES_MAX {
            let addressed = self.sessions.address(to);
            self.send_sealed(to, addressed, Kind::Whole, &message).await;
            return Ok(());
        }
        // chitchat fills a datagram to the last byte and leaves no room for the seal.
        let (first, second) = message.split_at(message.len() / 2);
        let addressed = self.sessions.address(to);
        self.send_sealed(to, addressed, Kind::FirstHalf, first).await;
        let addressed = self.sessions.address(to);
        self.send_sealed(to, addressed, Kind::SecondHalf, second).await;
        Ok(())
    }

    /// Never fails: an error here would end chitchat's loop. Cancel safe as far as datagrams go:
    /// what is lost when it is dropped after it received one is a hello.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            match self.socket.receive().await {
                Ok((datagram, from)) => {
                    if let Some(message) = self.accept(datagram, from).await {
                        return Ok((from, message));
                    }
                }
                Err(error) => {
                    if let Some(times) = self.failed.count(self.transport.clock.instant()) {
                        tracing::warn!(%error, times, "gossip not received");
                    }
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            }
        }
    }
}
