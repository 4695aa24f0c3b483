//! Peers without the secret: garbage on every port, a TLS hello, datagrams passed on and replayed.

use std::net::SocketAddr;
use std::time::Duration;

use miroir_seams::Entropy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

/// Datagrams kept at most.
const RECORDED_MAX: usize = 400;
/// The largest datagram, bytes.
const DATAGRAM_MAX: usize = 65_507;
/// How long a stranger waits for what a server makes of its bytes.
const LOOK: Duration = Duration::from_millis(200);

/// A ClientHello of TLS 1.3 as OpenSSL sends it: well-formed, and of somebody without a key.
const CLIENT_HELLO: &str = "\
16030100dc010000d803030ebf23ef3baca6822b29b31394e6676101714c45496759ca6f6a973aec9fa6a120702ce1f3\
c57010ea2867deabcaf9e29da3f57408a78c9bcd69d110fcc9893a7a000813021303130100ff01000087000b00040300\
0102000a00160014001d0017001e0019001801000101010201030104002300000016000000170000000d001e001c0403\
05030603080708080809080a080b080408050806040105010601002b0003020304002d00020101003300260024001d00\
206430d0e7ed0f8634ad6a412683295c0bb6d33ae9838169d9f265e2789427fa22";

fn client_hello() -> Vec<u8> {
    let digits = CLIENT_HELLO.as_bytes().chunks(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Sends each of several kinds of nonsense to a TCP port, and leaves some connections open until
/// the list is dropped. Returns how many connections were made.
pub async fn talk_nonsense(address: SocketAddr, entropy: &Entropy) -> (usize, Vec<TcpStream>) {
    let mut noise = vec![0u8; 100_000];
    entropy.fill(&mut noise);
    let hello = client_hello();
    let cut = hello.get(..100).unwrap_or_default().to_vec();
    let mut twice = hello.clone();
    twice.extend(noise.iter().take(5_000));
    let kinds: [Vec<u8>; 7] = [
        noise,
        hello,
        cut,
        twice,
        b"POST /log/append HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd".to_vec(),
        b"GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        vec![0u8; 1_000_000],
    ];
    let mut made = 0;
    let mut open = Vec::new();
    for bytes in kinds {
        for keep in [false, true] {
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            made += 1;
            // A server that closes at once is right to do so.
            let talk = async {
                let _closed = stream.write_all(&bytes).await;
                let mut answer = [0u8; 4096];
                let _closed = stream.read(&mut answer).await;
            };
            let _silent = tokio::time::timeout(LOOK, talk).await;
            if keep {
                open.push(stream);
            }
        }
    }
    // Many that say nothing at all.
    for _ in 0..100 {
        if let Ok(stream) = TcpStream::connect(address).await {
            made += 1;
            open.push(stream);
        }
    }
    (made, open)
}

/// A socket that pods take for a peer's, since it is among their seeds.
#[derive(Debug)]
pub struct FalsePeer {
    socket: UdpSocket,
    pods: Vec<SocketAddr>,
    recorded: Vec<Vec<u8>>,
}

impl FalsePeer {
    /// Listens on a free port; `pods` are the peer addresses of those it will stand between.
    ///
    /// # Errors
    /// When the system has no port.
    pub async fn listen(pods: Vec<SocketAddr>) -> std::io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        Ok(Self { socket, pods, recorded: Vec::new() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Passes whatever a pod sends on to all others for a while, and keeps a copy: so pods greet
    /// each other through it, and what it has is of sessions that are known. Returns how many it
    /// has.
    pub async fn pass_on(&mut self, how_long: Duration) -> usize {
        let until = Instant::now() + how_long;
        let mut bytes = vec![0u8; DATAGRAM_MAX];
        while let Ok(Ok((length, from))) =
            tokio::time::timeout_at(until, self.socket.recv_from(&mut bytes)).await
        {
            let datagram = bytes.get(..length).unwrap_or_default();
            for pod in self.pods.iter().filter(|pod| **pod != from) {
                let _lost = self.socket.send_to(datagram, pod).await;
            }
            if self.recorded.len() < RECORDED_MAX {
                self.recorded.push(datagram.to_vec());
            }
        }
        self.recorded.len()
    }

    /// Sends everything that was kept to every pod, `times` times, then each once more with a
    /// byte changed.
    pub async fn replay(&self, times: usize) {
        for round in 0..=times {
            for datagram in &self.recorded {
                let mut datagram = datagram.clone();
                if round == times
                    && let Some(byte) = datagram.last_mut()
                {
                    *byte ^= 1;
                }
                for pod in &self.pods {
                    let _lost = self.socket.send_to(&datagram, pod).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends noise of many lengths to every pod.
    pub async fn make_noise(&self, entropy: &Entropy) {
        let mut noise = vec![0u8; DATAGRAM_MAX];
        entropy.fill(&mut noise);
        for length in (0..200).chain((200..DATAGRAM_MAX).step_by(4_001)) {
            for pod in &self.pods {
                let _lost = self.socket.send_to(&noise[..length], pod).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hello_is_whole() {
        let hello = client_hello();
        assert_eq!(hello.len(), 225);
        assert_eq!(hello.len(), 5 + usize::from(hello[3]) * 256 + usize::from(hello[4]));
    }
}
