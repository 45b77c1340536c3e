//! Connections that change from HTTP/1.1 to another protocol, such as WebSocket.

use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
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
/// does not end well, nobody takes the part that came for the whole: a server's side that has been handed over is
/// reset, and `break_off` is called while the caller's is still open. Neither where that side has come to its end
/// already.
pub(crate) async fn carry(
    from_caller: OnUpgrade,
    from_server: OnUpgrade,
    link: Link,
    meter: &Meter,
    break_off: impl FnOnce(),
) {
    let (mut caller, mut server, mut lease) = (None, None, None);
    let opening = async {
        tokio::join!(
            async { caller = Some(from_caller.await) },
            async { server = Some(from_server.await) },
            async { lease = link.run_to_end().await },
        );
    };
    let mut opening = Box::pin(opening.fuse());
    if until_cut(meter, opening.as_mut()).await.is_none() {
        // Before anything of it is dropped.
        break_off();
        // What can be handed over is, so that it can be reset.
        let _ = opening.as_mut().now_or_never();
        drop(opening);
        return reset(server.and_then(Result::ok));
    }
    drop(opening);
    let (mut caller, mut server) = match (caller, server) {
        (Some(Ok(caller)), Some(Ok(server))) => (TokioIo::new(caller), TokioIo::new(server)),
        (caller, server) => {
            break_off();
            for error in [&caller, &server].into_iter().flatten().filter_map(|side| side.as_ref().err()) {
                tracing::debug!(event = "upgrade_failed", %error);
            }
            return reset(server.and_then(Result::ok));
        }
    };
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
    if !pump.app_has_end() {
        reset(Some(server.into_inner()));
    }
}

/// Ends a server's side so that its end does not pass for one of the caller's own.
fn reset(server: Option<Upgraded>) {
    if let Some(Ok(parts)) = server.map(Upgraded::downcast::<TokioIo<Transport>>) {
        parts.io.inner().break_off();
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::body::RequestBody;
    use super::super::budget::Budget;
    use super::*;

    /// How the server's side ends where the connection never came to carry the other protocol, and whether the caller's
    /// was broken off.
    async fn end_of_unbegun(meter: &Meter) -> (std::io::Result<usize>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stream, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut server = accepted.unwrap().0;
        let place = Budget::of(4).take_free().unwrap();
        let mut link = Link::open(Transport::plain(stream.unwrap(), place), None).await.unwrap();
        let mut request = Request::new(RequestBody::empty());
        for (name, value) in [("host", "app"), ("connection", "upgrade"), ("upgrade", "other")] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let answer = async {
            let mut asked = [0; 1024];
            assert!(server.read(&mut asked).await.unwrap() > 0);
            let head = b"HTTP/1.1 101 Other\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
            server.write_all(head).await.unwrap();
        };
        let (response, ()) = tokio::join!(link.send(request), answer);
        let from_server = hyper::upgrade::on(response.unwrap());
        // Its caller has gone meanwhile.
        let from_caller = hyper::upgrade::on(Request::new(()));
        let mut is_broken_off = false;
        carry(from_caller, from_server, link, meter, || is_broken_off = true).await;
        (server.read(&mut [0]).await, is_broken_off)
    }

    #[tokio::test]
    async fn what_never_comes_to_carry_the_other_protocol_does_not_look_complete() {
        let (open, cut) = (Meter::default(), Meter::default());
        cut.cut();
        for meter in [open, cut] {
            let (end, is_broken_off) = end_of_unbegun(&meter).await;
            assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            assert!(is_broken_off);
        }
    }
}
