//! One of the shop's services.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::caller::{Caller, Target, outbound};
use super::error::DemoError;
use super::listen;

/// What an agent gives its app of whom a request is for.
const IDENTITY: HeaderName = HeaderName::from_static("hauberk-identity");

/// Which service.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Its name, in its answers
    #[arg(long)]
    name: String,
    /// Where it listens; keep it to the loopback, so that nobody reaches it past its agent
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// What it calls before it answers: http://SERVICE/PATH, after a METHOD where it is not GET; for paths that end so
    /// alone, or nothing for them. The first one that fits; may be repeated
    #[arg(long, value_name = "[/END=]TARGET")]
    calls: Vec<String>,
    /// A service of which the very same is asked that this one is asked, before it answers
    #[arg(long, value_name = "SERVICE", conflicts_with = "calls")]
    relays: Option<String>,
    /// The agent's outbound listener [default: $HAUBERK_OUTBOUND, else 127.0.0.1:15001]
    #[arg(long, value_name = "IP:PORT")]
    outbound: Option<SocketAddr>,
}

struct Service {
    name: String,
    callees: Vec<Callee>,
    caller: Mutex<Caller>,
}

/// What is called for paths that end so.
struct Callee {
    ending: String,
    calls: Calls,
}

enum Calls {
    Nothing,
    Target(Target),
    /// The same of another service.
    Relay(String),
}

/// Serves until it is told to stop.
pub(super) async fn run(arguments: ServeArguments) -> Result<ExitCode, DemoError> {
    let relay =
        arguments.relays.map(|service| Callee { ending: String::new(), calls: Calls::Relay(service) });
    let callees = arguments.calls.iter().map(|calls| Callee::parse(calls)).chain(relay.map(Ok));
    let callees = callees.collect::<Result<_, _>>()?;
    let caller = Mutex::new(Caller::new(outbound(arguments.outbound)?));
    let service = Arc::new(Service { name: arguments.name, callees, caller });
    let listen = arguments.listen;
    let listener =
        TcpListener::bind(listen).await.map_err(DemoError::io(format!("cannot listen on {listen}")))?;
    eprintln!("{} listens on {}", service.name, listener.local_addr()?);
    let answer = move |request| {
        let service = Arc::clone(&service);
        async move { service.answer(request).await }
    };
    listen::serve(listener, |stream| std::future::ready(Some(stream)), answer).await
}

impl Callee {
    /// Reads `[/END=]TARGET`.
    fn parse(text: &str) -> Result<Self, DemoError> {
        let (ending, target) = match text.split_once('=') {
            Some((ending, target)) if ending.starts_with('/') => (ending, target),
            _ => ("", text),
        };
        let calls = if target.is_empty() { Calls::Nothing } else { Calls::Target(Target::parse(target)?) };
        Ok(Self { ending: ending.to_owned(), calls })
    }
}

impl Service {
    /// What is called for such a request, if anything is.
    fn called_for(&self, method: &Method, path: &str) -> Option<Target> {
        let callee = self.callees.iter().find(|callee| path.ends_with(&callee.ending))?;
        match &callee.calls {
            Calls::Nothing => None,
            Calls::Target(target) => Some(target.clone()),
            Calls::Relay(service) => Target::parse(&format!("{method} http://{service}{path}")).ok(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> http::Result<Response<Full<Bytes>>> {
        let caller = request.headers().get("x-forwarded-client-cert").and_then(|value| value.to_str().ok());
        let mut status = StatusCode::OK;
        let mut said = None;
        if let Some(target) = self.called_for(request.method(), request.uri().path()) {
            // Whom the request is for goes on with what is called because of it: all that an app has to do.
            let mut fields = HeaderMap::new();
            fields.extend(request.headers().get(IDENTITY).map(|handle| (IDENTITY, handle.clone())));
            said = Some(match self.caller.lock().await.call_with(&target, &fields).await {
                Ok(called) => {
                    if called.status != 200 {
                        status = StatusCode::BAD_GATEWAY;
                    }
                    let body = serde_json::from_str(&called.body).unwrap_or(Value::String(called.body));
                    json!({"target": target.to_string(), "status": called.status, "decision": called.decision, "said": body})
                }
                Err(error) => {
                    status = StatusCode::BAD_GATEWAY;
                    json!({"target": target.to_string(), "error": error.in_full()})
                }
            });
        }
        let request = format!("{} {}", request.method(), request.uri().path());
        let answer = json!({"service": self.name, "request": request, "caller": caller, "called": said});
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(format!("{answer}\n")))
    }
}
