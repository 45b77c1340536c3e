//! A peer with a valid certificate and no agent: it says to another agent's mesh port whatever it likes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hauberk_identity::SpiffeId;
use hauberk_integration_tests::{MeshBox, dial};
use hauberk_tls::{KeyPair, LiveIdentity, ServerExpectation, Svid, TlsStream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(15);

/// A node's identity in the hands of a test.
pub(crate) struct Peer {
    live: LiveIdentity,
}

impl Peer {
    /// Attests as a node.
    pub(crate) async fn join(mesh: &MeshBox, node: &str) -> Self {
        let (svid, key) = dial::join(mesh, node).await;
        Self::with(mesh, &svid, &key)
    }

    /// Whoever holds this certificate.
    pub(crate) fn with(mesh: &MeshBox, svid: &Svid, key: &KeyPair) -> Self {
        let live = LiveIdentity::new(dial::bundle(mesh));
        live.publish(svid.clone(), key).unwrap();
        Self { live }
    }

    /// Connects to the mesh port of an agent of `node`.
    pub(crate) async fn connect(
        &self,
        node: &str,
        address: SocketAddr,
        alpn: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let expected: Arc<[SpiffeId]> = Arc::new([id(node)]);
        let connector =
            self.live.connector(ServerExpectation::AnyOf(expected), alpn, true, PATIENCE).unwrap();
        let stream = TcpStream::connect(address).await?;
        let connection = connector.connect(stream).await.map_err(io::Error::other)?;
        Ok(connection.into_parts().0)
    }

    /// Sends bytes over a connection of its own that speaks HTTP/1.1, and reads until the other side has nothing more
    /// to say: the end, or as many answers as asked for.
    pub(crate) async fn exchange(&self, node: &str, address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = self.connect(node, address, &[b"http/1.1"]).await.unwrap();
        converse(&mut stream, bytes).await
    }
}

/// The SPIFFE id of a node of the shop.
pub(crate) fn id(node: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://box.test/mesh/shop/node/{node}")).unwrap()
}

/// Sends bytes, reads the first answer's head, says that nothing more comes, and reads to the end. An abrupt end is
/// one too.
pub(crate) async fn converse<S>(stream: &mut S, bytes: &[u8]) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The other side may refuse before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let had_head = has_head(&answer);
            answer.extend_from_slice(&buffer[..read]);
            if has_head(&answer) && !had_head {
                let _ = stream.shutdown().await;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the other side ends");
    String::from_utf8_lossy(&answer).into_owned()
}

fn has_head(answer: &[u8]) -> bool {
    answer.windows(4).any(|bytes| bytes == b"\r\n\r\n")
}
