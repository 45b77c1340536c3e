use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use futures_util::{Stream, StreamExt};
use hauberk_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use hauberk_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tower_service::Service;

use super::*;
use crate::config::{ApiCommand, Flags, Subcommand};
use crate::testing::{Authorities, HOUR, around};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An API that gives tokens, good for two seconds, or none.
struct Fake {
    certificates: watch::Sender<X509svidResponse>,
    token: Mutex<Option<&'static str>>,
    refused: AtomicUsize,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Fake {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(Response::new(WatchStream::new(self.certificates.subscribe()).map(Ok).boxed()))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let Some(token) = *self.token.lock().unwrap() else {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::unavailable("no token"));
        };
        let svid = Jwtsvid { svid: token.to_owned(), ..Jwtsvid::default() };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let bundles = BTreeMap::from([("spiffe://shop.local".to_owned(), b"{}".to_vec())]);
        let answer = Ok(JwtBundlesResponse { bundles });
        Ok(Response::new(futures_util::stream::iter([answer]).chain(futures_util::stream::pending()).boxed()))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let end = Clock::system().now().plus(Duration::from_secs(2)).as_secs();
        let end = Value { kind: Some(Kind::NumberValue(end as f64)) };
        let claims = Struct { fields: BTreeMap::from([("exp".to_owned(), end)]) };
        Ok(Response::new(ValidateJwtsvidResponse {
            claims: Some(claims),
            ..ValidateJwtsvidResponse::default()
        }))
    }
}

/// Serves until dropped.
fn serve(path: &Path, fake: &Arc<Fake>) -> JoinSet<()> {
    let _gone = fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    let service = SpiffeWorkloadApiServer::from_arc(Arc::clone(fake));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            let service = service_fn(move |request: http::Request<Incoming>| service.clone().call(request));
            let connection =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            connections.spawn(async move { drop(connection.await) });
        }
    });
    serving
}

/// A new certificate, and how it looks in its file.
fn certificate(authorities: &Authorities) -> (X509svidResponse, String) {
    let identity = authorities.identity("workload/a", around(HOUR));
    let svid = X509svid {
        spiffe_id: identity.svid.id().to_string(),
        x509_svid: identity.svid.chain().iter().flat_map(|der| der.to_vec()).collect(),
        x509_svid_key: identity.key.to_pkcs8_der().to_vec(),
        bundle: authorities.root.certificate().to_vec(),
        hint: String::new(),
    };
    (X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }, identity.svid.to_pem())
}

#[tokio::test]
async fn without_a_token_certificates_go_on_and_the_former_token_stays() {
    let (authorities, folder) = (Authorities::new(), tempfile::tempdir().unwrap());
    let [socket, files] = ["api.sock", "files"].map(|name| folder.path().join(name));
    let arguments = ["hauberk-agent", "api", "watch", "--jwt", "db.token=db", "--socket"];
    let arguments =
        arguments.into_iter().chain([socket.to_str().unwrap(), "--write", files.to_str().unwrap()]);
    let flags = Flags::try_parse_from(arguments).unwrap();
    let Subcommand::Api(ApiCommand::Watch(flags)) = flags.subcommand else { unreachable!() };
    let (first, mut pem) = certificate(&authorities);
    let fake = Arc::new(Fake {
        certificates: watch::Sender::new(first),
        token: Mutex::new(Some("one")),
        refused: AtomicUsize::default(),
    });
    let mut serving = serve(&socket, &fake);
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap_or_default();
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let waiting = async {
            while !is_so() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "waited in vain until {what}");
    };
    let changing = async {
        until("all is there", &|| read("svid.pem") == pem && read("db.token") == "one").await;
        *fake.token.lock().unwrap() = None;
        until("a token is refused", &|| fake.refused.load(Ordering::SeqCst) > 0).await;
        for is_new_connection in [false, true] {
            if is_new_connection {
                serving.shutdown().await;
                serving = serve(&socket, &fake);
            }
            let next = certificate(&authorities);
            pem = next.1;
            fake.certificates.send_replace(next.0);
            until("the certificate is there", &|| read("svid.pem") == pem).await;
            assert_eq!(read("db.token"), "one");
        }
        *fake.token.lock().unwrap() = Some("two");
        until("there is a token again", &|| read("db.token") == "two").await;
        assert_eq!(read("svid.pem"), pem);
    };
    tokio::select! {
        biased;
        ended = super::super::watch(&flags) => panic!("{ended:?}"),
        () = changing => {}
    }
    drop(serving);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_always_refused_keeps_no_other_waiting() {
    let mut tokens = Tokens::default();
    let wanted = ["never", "other"].map(|name| (name.to_owned(), name.to_owned())).into();
    // A token of one header, which names the key `k`.
    let token = |renew_at| Token { text: Zeroizing::new("eyJraWQiOiJrIn0.e30.AA".to_owned()), renew_at };
    let later = Clock::system().now().plus(Duration::from_secs(600));
    for name in ["never", "other"] {
        tokens.held.insert(name.to_owned(), token(later));
    }
    for _ in 0..10 {
        tokens.fails("never", "no");
    }
    assert!(!tokens.is_due("never") && !tokens.is_due("other"));
    assert!(tokens.next_look(&wanted) >= MOST_PAUSE / 2);
    tokens.held.insert("other".to_owned(), token(UnixMillis(0)));
    assert!(tokens.is_due("other"));
    assert_eq!(tokens.next_look(&wanted), Duration::ZERO);
    tokens.held.insert("other".to_owned(), token(later));
    // What nothing verifies any longer does not wait.
    tokens.replace_unverifiable(&JwtKeySet::from_jwks(br#"{"keys":[]}"#).unwrap());
    assert!(tokens.is_due("never") && tokens.is_due("other"));
}
