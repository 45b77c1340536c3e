//! `CONNECT service:port`: a TCP stream for apps that know how to use a proxy.

use std::sync::Arc;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::Outbound;
use super::app_socket::AppSocket;
use super::call::{Call, Wish};
use super::http::{Answer, Failure};
use super::listener::AppConnection;
use super::tcp::{self, NotOpened};
use crate::wire::answer::{self, Form};
use crate::wire::body::ResponseBody;
use crate::wire::headers;
use crate::wire::strict::StrictRequests;

/// What hyper hands back of the connections that `listener.rs` gives it.
type Io = TokioIo<StrictRequests<AppSocket>>;

/// Opens the stream and answers 200, after which the connection carries it.
pub(super) async fn begin(
    outbound: &Arc<Outbound>,
    connection: Arc<AppConnection>,
    mut request: Request<Incoming>,
) -> Answer {
    let mut call = Call::begin(outbound, Wish::Stream);
    if request.version() == Version::HTTP_2 {
        let text = "CONNECT is taken over HTTP/1.1 only";
        return Failure::new(StatusCode::METHOD_NOT_ALLOWED, "connect_refused", text)
            .answer(Form::Http, call);
    }
    let authority = match headers::host(&request) {
        Ok(authority) => authority,
        Err(problem) => {
            return Failure::new(StatusCode::BAD_REQUEST, "bad_request", problem.to_string())
                .answer(Form::Http, call);
        }
    };
    let stream = match tcp::open(outbound, &authority, connection.app, &mut call).await {
        Ok(stream) => stream,
        Err(NotOpened::Failed(failure)) => return failure.answer(Form::Http, call),
        // Where the whole agent may not go on there is no decision.
        Err(NotOpened::Denied(id)) if id.is_empty() => {
            let mut denial = Response::new(ResponseBody::empty());
            *denial.status_mut() = StatusCode::FORBIDDEN;
            return denial;
        }
        Err(NotOpened::Denied(id)) => return answer::denial(Form::Http, &id),
    };
    let from_app = hyper::upgrade::on(&mut request);
    connection.opaque.begin();
    outbound.tasks.spawn(async move {
        let parts = match from_app.await.map(hyper::upgrade::Upgraded::downcast::<Io>) {
            Ok(Ok(parts)) => parts,
            Ok(Err(_)) => return tracing::error!(event = "upgrade_failed", error = "not our own stream"),
            Err(error) => return tracing::debug!(event = "upgrade_failed", %error),
        };
        let (socket, _) = parts.io.into_inner().into_parts();
        if let Some(socket) = socket.into_stream() {
            tcp::carry(socket, parts.read_buf, stream, call).await;
        }
        drop(connection);
    });
    Response::new(ResponseBody::empty())
}
