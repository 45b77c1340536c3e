//! What a person does in the shop: signs in with its issuer, and comes in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hauberk_tls::{EndpointConnector, WebRoots};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::caller::{Answer, Caller, Target};
use super::error::DemoError;
use super::issuer::{ADDRESS_FILE, ROOTS_FILE};
use super::up::{DOOR, FOLDER, LOGIN, addresses, text};
use crate::output::printable;

/// Who calls what.
#[derive(Debug, Args)]
pub(crate) struct CallArguments {
    /// http://SERVICE/PATH, after a METHOD where it is not GET
    target: String,
    /// The person who signs in first: alice, bob or mona; without it the call is made for nobody
    #[arg(long = "as", value_name = "PERSON")]
    person: Option<String>,
    /// Where the demo works [default: the one that runs on this machine]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

const PATIENCE: Duration = Duration::from_secs(5);
/// No answer of the issuer is larger.
const ANSWER_BYTES: usize = 64 * 1024;

/// Calls once, and tells what was answered all the way.
pub(super) async fn run(arguments: CallArguments) -> Result<ExitCode, DemoError> {
    let CallArguments { target, person, folder } = arguments;
    let target = Target::parse(&target)?;
    let folder = folder.map_or_else(working_folder, Ok)?;
    let mut fields = HeaderMap::new();
    if let Some(person) = person {
        let token = tokio::time::timeout(PATIENCE, sign_in(&folder.join(LOGIN), &person)).await;
        let token = token.unwrap_or(Err(DemoError::Late(PATIENCE)))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(http::Error::from)?;
        bearer.set_sensitive(true);
        fields.insert(header::AUTHORIZATION, bearer);
    }
    let outbound = text(&addresses(&folder.join(DOOR))?, "outbound")?;
    let answer = Caller::new(outbound.parse()?).call_with(&target, &fields).await?;
    let succeeded = answer.status == 200;
    print!("{}", describe(&answer));
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the only demo works that runs here.
fn working_folder() -> Result<PathBuf, DemoError> {
    let temporary = std::env::temp_dir();
    let is_demo = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(FOLDER) && path.join(LOGIN).join(ADDRESS_FILE).is_file()
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(&temporary)
        .map_err(DemoError::io(format!("cannot read {}", temporary.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_demo)
        .collect();
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(DemoError::NoShop(temporary)),
        (Some(_), _) => Err(DemoError::ManyShops(temporary)),
    }
}

/// The token of a person.
async fn sign_in(issuer: &Path, person: &str) -> Result<String, DemoError> {
    let read = |file: &str| {
        let path = issuer.join(file);
        std::fs::read_to_string(&path).map_err(DemoError::io(format!("cannot read {}", path.display())))
    };
    let told: Value = serde_json::from_str(&read(ADDRESS_FILE)?)?;
    let url = text(&told, "issuer")?;
    let uri: Uri = url.parse().map_err(|source| DemoError::Url { url: url.clone(), source })?;
    let authority = uri.authority().ok_or_else(|| DemoError::NoAddress("the issuer".to_owned()))?.clone();
    let address: SocketAddr = authority.as_str().parse()?;
    let fault = |error: &dyn std::error::Error| DemoError::Issuer(error.to_string().into());
    let roots = WebRoots::from_pem(&read(ROOTS_FILE)?).map_err(|error| fault(&error))?;
    let connector = EndpointConnector::web(roots, PATIENCE).map_err(|error| fault(&error))?;
    let stream =
        TcpStream::connect(address).await.map_err(DemoError::io(format!("nothing answers at {url}")))?;
    let stream = connector.connect(authority.host(), stream).await.map_err(|error| fault(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post("/sign-in")
        .header(header::HOST, authority.as_str())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::<Bytes>::from(format!("user={person}")))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| DemoError::BrokeOff(error.to_string()))?.to_bytes();
        let answered: Value = serde_json::from_slice(&body)?;
        let said = |name: &str| answered.get(name).and_then(Value::as_str);
        match said("access_token") {
            Some(token) => Ok(token.to_owned()),
            None => Err(DemoError::NotSignedIn {
                person: person.to_owned(),
                said: said("error_description").unwrap_or("no reason is given").to_owned(),
            }),
        }
    };
    // Its end is told to the exchange, which has what came before it.
    let driven = async {
        drop(connection.await);
        std::future::pending().await
    };
    tokio::select! {
        answered = exchange => answered,
        never = driven => never,
    }
}

/// A line for each service that was called on the way, the first one first.
fn describe(answer: &Answer) -> String {
    let said = serde_json::from_str(&answer.body).unwrap_or_default();
    let mut out = String::new();
    tell(&mut out, 0, answer.status, answer.decision.as_deref(), &said);
    out
}

fn tell(out: &mut String, depth: usize, status: u16, decision: Option<&str>, said: &Value) {
    let word = |name: &str| said.get(name).and_then(Value::as_str).map(printable);
    let margin = "  ".repeat(depth);
    match (decision, word("service"), word("request")) {
        (Some(id), ..) => {
            out.push_str(&format!("{margin}{status} denied: hauberk explain {}\n", printable(id)))
        }
        (None, Some(service), Some(request)) => {
            out.push_str(&format!("{margin}{status} {service}: {request}\n"))
        }
        (None, ..) => out.push_str(&format!("{margin}{status}\n")),
    }
    let Some(called) = said.get("called").filter(|called| called.is_object()) else { return };
    let status = called.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
    let decision = called.get("decision").and_then(Value::as_str);
    tell(out, depth + 1, status.unwrap_or_default(), decision, called.get("said").unwrap_or(&Value::Null));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_on_the_way_has_a_line() {
        let answer = |status, decision: Option<&str>, body: &str| {
            describe(&Answer { status, decision: decision.map(str::to_owned), body: body.to_owned() })
        };
        assert_eq!(answer(403, Some("a-b"), "denied"), "403 denied: hauberk explain a-b\n");
        let refunded = r#"{"service": "orders", "request": "POST /orders/1/refund", "called":
            {"status": 200, "decision": null, "said": {"service": "payments", "request": "POST /refund", "called": null}}}"#;
        assert_eq!(
            answer(200, None, refunded),
            "200 orders: POST /orders/1/refund\n  200 payments: POST /refund\n"
        );
        let denied = r#"{"service": "orders", "request": "GET /orders/1", "called": {"status": 403, "decision": "c-d", "said": ""}}"#;
        assert_eq!(
            answer(502, None, denied),
            "502 orders: GET /orders/1\n  403 denied: hauberk explain c-d\n"
        );
        assert_eq!(answer(503, None, "no app"), "503\n");
    }
}
