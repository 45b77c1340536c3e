//! Connections that change from HTTP/1.1 to another protocol, such as WebSocket.

use http::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::exchange::Link;
use super::meter::{Meter, until_cut};
use super::pump::pump;

/// Completes the head of a 101 that is passed on.
pub(crate) fn answer(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Carries the other protocol's bytes both ways until it ends or is cut. `link` is where the 101 came from.
pub(crate) async fn carry(from_caller: OnUpgrade, from_server: OnUpgrade, link: Link, meter: &Meter) {
    let ready = async {
        let (caller, server, lease) = tokio::join!(from_caller, from_server, link.run_to_end());
        Ok::<_, hyper::Error>((caller?, server?, lease))
    };
    let (caller, server, lease) = match until_cut(meter, ready).await {
        Some(Ok(ready)) => ready,
        Some(Err(error)) => return tracing::debug!(event = "upgrade_failed", %error),
        None => return,
    };
    let (mut caller, mut server) = (TokioIo::new(caller), TokioIo::new(server));
    let cut = async {
        match &lease {
            Some(lease) => lease.connection().cut_signal().cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = pump(&mut caller, &mut server, meter) => if let Err(error) = outcome {
            tracing::debug!(event = "stream_broken", %error);
        },
        () = cut => {}
    }
}
