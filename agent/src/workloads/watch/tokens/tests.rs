use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
use crate::config::{ApiCommand, Flags, Subcommand, WatchFlags};
use crate::testing::{Authorities, HOUR, around};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A token of one header, which names the key `k`.
const OF_KEY_K: &str = "eyJraWQiOiJrIn0.e30.AA";

impl Tokens {
    /// One that is good for ten minutes.
    pub(in super::super) fn holding(name: &str) -> Self {
        let later = Clock::system().now().plus(Duration::from_secs(600));
        let token = Token { text: Zeroizing::new(OF_KEY_K.to_owned()), renew_at: later };
        Self { held: [(name.to_owned(), token)].into(), ..Self::default() }
    }
}

/// An API that gives tokens, good for two seconds, or none, or never says.
struct Fake {
    certificates: watch::Sender<X509svidResponse>,
    token: Mutex<Option<&'static str>>,
    refused: AtomicUsize,
    /// Asked for tokens it says nothing.
    hangs: AtomicBool,
    hanging: AtomicUsize,
}

impl Fake {
    fn new(certificates: X509svidResponse) -> Arc<Self> {
        Arc::new(Self {
            certificates: watch::Sender::new(certificates),
            token: Mutex::new(Some("one")),
            refused: AtomicUsize::default(),
            hangs: AtomicBool::default(),
            hanging: AtomicUsize::default(),
        })
    }
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
        if self.hangs.load(Ordering::SeqCst) {
            self.hanging.fetch_add(1, Ordering::SeqCst);
            return std::future::pending().await;
        }
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

/// What watches, and the folder that it writes to.
fn watching(folder: &Path, tokens: &[&str]) -> (WatchFlags, PathBuf) {
    let [socket, files] = ["api.sock", "files"].map(|name| folder.join(name));
    let arguments = ["hauberk-agent", "api", "watch", "--socket"];
    let arguments =
        arguments.into_iter().chain([socket.to_str().unwrap(), "--write", files.to_str().unwrap()]);
    let flags =
        Flags::try_parse_from(arguments.chain(tokens.iter().flat_map(|token| ["--jwt", *token]))).unwrap();
    let Subcommand::Api(ApiCommand::Watch(flags)) = flags.subcommand else { unreachable!() };
    (flags, files)
}

async fn until(what: &str, is_so: &dyn Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "waited in vain until {what}");
}

#[tokio::test]
async fn without_a_token_certificates_go_on_and_the_former_token_stays() {
    let (authorities, folder) = (Authorities::new(), tempfile::tempdir().unwrap());
    let (flags, files) = watching(folder.path(), &["db.token=db"]);
    let (first, mut pem) = certificate(&authorities);
    let fake = Fake::new(first);
    let mut serving = serve(Path::new(&flags.socket), &fake);
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap_or_default();
    let changing = async {
        until("all is there", &|| read("svid.pem") == pem && read("db.token") == "one").await;
        *fake.token.lock().unwrap() = None;
        until("a token is refused", &|| fake.refused.load(Ordering::SeqCst) > 0).await;
        for is_new_connection in [false, true] {
            if is_new_connection {
                serving.shutdown().await;
                serving = serve(Path::new(&flags.socket), &fake);
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

#[tokio::test]
async fn a_token_that_is_never_answered_holds_up_no_certificate() {
    let (authorities, folder) = (Authorities::new(), tempfile::tempdir().unwrap());
    let (flags, files) = watching(folder.path(), &["db.token=db", "web.token=web"]);
    let (first, pem) = certificate(&authorities);
    let fake = Fake::new(first);
    let _serving = serve(Path::new(&flags.socket), &fake);
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap_or_default();
    let changing = async {
        until("all is there", &|| read("svid.pem") == pem).await;
        fake.hangs.store(true, Ordering::SeqCst);
        until("both are asked for", &|| fake.hanging.load(Ordering::SeqCst) == 2).await;
        let (next, pem) = certificate(&authorities);
        fake.certificates.send_replace(next);
        until("the certificate is there", &|| read("svid.pem") == pem).await;
        assert_eq!([read("db.token"), read("web.token")], ["one", "one"]);
    };
    tokio::select! {
        biased;
        ended = super::super::watch(&flags) => panic!("{ended:?}"),
        () = changing => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_asked_again() {
    let mut tokens = Tokens::default();
    let wanted = BTreeMap::from([("db.token".to_owned(), "db".to_owned())]);
    tokens.begin("db.token".to_owned(), std::future::pending());
    assert!(!tokens.is_due("db.token"), "it is asked for");
    let asked = timeout(2 * PATIENCE, tokens.next()).await.unwrap().unwrap();
    assert!(asked.1.as_ref().err().unwrap().to_string().contains("takes too long"));
    tokens.keys_have_changed();
    assert!(tokens.take(asked), "since it was asked for");
    assert!(!tokens.is_due("db.token") && tokens.next_look(&wanted) <= FIRST_PAUSE);
    for number in 0..AT_ONCE {
        tokens.begin(number.to_string(), std::future::pending());
    }
    assert_eq!(tokens.next_look(&wanted), LOOK, "there is no room");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_always_refused_keeps_no_other_waiting() {
    let mut tokens = Tokens::default();
    let wanted = ["never", "other"].map(|name| (name.to_owned(), name.to_owned())).into();
    let token = |renew_at| Token { text: Zeroizing::new(OF_KEY_K.to_owned()), renew_at };
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
