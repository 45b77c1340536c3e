//! One TCP stream over one TLS connection, as SPIFFE clients without an agent open it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hauberk_tls::TlsStream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::admit::Guest;
use super::listener::Port;
use crate::connections::Subject;
use crate::wire::pump::pump;
use crate::wire::socket;

/// How long the app may take to accept a connection.
pub(super) const APP_PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn serve(port: Arc<Port>, guest: Arc<Guest>, mut stream: TlsStream<TcpStream>) {
    let passage = guest.connection().admit(&port.connections, Subject::Stream, None, None, Instant::now());
    if passage.is_allowed() {
        let outcome = async {
            let mut app = socket::connect(port.app, APP_PATIENCE).await?;
            let outcome = pump(&mut stream, &mut app, passage.meter()).await;
            if outcome.is_err() {
                // Nobody shall take the part that came for the whole.
                app.set_zero_linger()?;
            }
            outcome
        };
        match outcome.await {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::warn!(event = "app_unreachable", port = port.number, app = %port.app, %error);
            }
            Err(error) => tracing::debug!(event = "stream_broken", port = port.number, %error),
        }
    }
    // Told before the close, which waits for the peer.
    drop(passage);
    // A clean close, unless the peer is gone already.
    let _ = stream.shutdown().await;
}
