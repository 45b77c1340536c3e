//! Connections that change from HTTP/1.1 to another protocol, such as WebSocket.

use http::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::exchange::Link;
use super::meter::{Meter, until_cut};
use super::pump::Pump;
use super::transport::Transport;

/// Completes the head of a 101 that is passed on.
pub(crate) fn answer(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Carries the other protocol's bytes both ways until it ends or is cut. `link` is where the 101 came from. Where it
/// does not end well, the server's side is reset, and `break_off` is called while the caller's is still open, so that
/// nobody takes the part that came for the whole. Neither where that side has come to its end already.
pub(crate) async fn carry(
    from_caller: OnUpgrade,
    from_server: OnUpgrade,
    link: Link,
    meter: &Meter,
    break_off: impl FnOnce(),
) {
    let ready = async {
        let (caller, server, lease) = tokio::join!(from_caller, from_server, link.run_to_end());
        Ok::<_, hyper::Error>((caller?, server?, lease))
    };
    let (caller, server, lease) = match until_cut(meter, ready).await {
        Some(Ok(ready)) => ready,
        Some(Err(error)) => {
            tracing::debug!(event = "upgrade_failed", %error);
            return break_off();
        }
        None => return break_off(),
    };
    let (mut caller, mut server) = (TokioIo::new(caller), TokioIo::new(server));
    let cut = async {
        match &lease {
            Some(lease) => lease.connection().cut_signal().cancelled().await,
            None => std::future::pending().await,
        }
    };
    let mut pump = Pump::default();
    tokio::select! {
        outcome = pump.run(&mut caller, &mut server, meter) => match outcome {
            Ok(()) => return,
            Err(error) => tracing::debug!(event = "stream_broken", %error),
        },
        () = cut => {}
    }
    if !pump.caller_has_end() {
        break_off();
    }
    if !pump.app_has_end()
        && let Ok(parts) = server.into_inner().downcast::<TokioIo<Transport>>()
    {
        parts.io.inner().break_off();
    }
}
