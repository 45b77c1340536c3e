//! One TCP stream over one TLS connection, as SPIFFE clients without an agent open it.

use std::sync::Arc;

use hauberk_tls::TlsStream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::admit::Guest;
use super::app;
use super::listener::Port;
use crate::connections::Subject;
use crate::wire::pump::Pump;

pub(super) async fn serve(port: Arc<Port>, guest: Arc<Guest>, mut stream: TlsStream<TcpStream>) {
    let passage =
        guest.connection().admit(&port.connections, |_| Subject::Stream, None, None, Instant::now());
    if passage.is_allowed() {
        match app::dial_for(&guest, &port).await {
            Ok((mut app, _places)) => {
                let mut pump = Pump::default();
                if let Err(error) = pump.run(&mut stream, &mut app, passage.meter()).await {
                    tracing::debug!(event = "stream_broken", port = port.number, %error);
                    // Nobody shall take the part that came for the whole, and whoever has come to the end shall have
                    // all of it: a reset also purges what is still on its way. One that is gone needs none.
                    if !pump.app_has_end() {
                        let _ = app.set_zero_linger();
                    }
                    // Otherwise the missing close_notify tells it, after what was written.
                    if passage.meter().is_cut() && !pump.caller_has_end() {
                        let _ = stream.get_ref().0.set_zero_linger();
                    }
                }
                return;
            }
            Err(failure) => failure.log(&port),
        }
    }
    // Told before the close, which waits for the peer.
    drop(passage);
    // A clean close, unless the peer is gone already.
    let _ = stream.shutdown().await;
}
