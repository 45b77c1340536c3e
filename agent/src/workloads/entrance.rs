//! The SPIFFE Workload API, as one connection is served it, from before the agent is somebody: what can be said at once
//! is, and whoever asks for more waits until it is.

use std::sync::Arc;

use hauberk_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use hauberk_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

use super::answers::{Elsewhere, carrying};
use super::api::Api;
use super::attest::Caller;
use super::given::{has_certificate, has_identity};
use super::jwt;
use super::unjoined::Front;
use crate::metrics::WorkloadService::WorkloadApi;

/// What every caller must say, so that no request that a browser or proxy was tricked into is answered (SPIFFE Workload
/// Endpoint §4.1).
const METADATA: &str = "workload.spiffe.io";

/// How many tokens one connection may have minted or verified at once, or wait for. Each holds a request in memory.
pub(super) const TOKENS_AT_ONCE: usize = 32;

/// The way in for one caller. Clones share what there is behind it.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    front: Arc<Front>,
    caller: Arc<Caller>,
    tokens_at_once: Arc<Semaphore>,
}

impl Entrance {
    pub(super) fn new(front: Arc<Front>, caller: Caller) -> Self {
        let tokens_at_once = Arc::new(Semaphore::new(TOKENS_AT_ONCE));
        Self { front, caller: Arc::new(caller), tokens_at_once }
    }

    /// What the caller is served, once the agent is somebody.
    ///
    /// # Errors
    /// It is nobody for a while.
    pub(super) async fn api(&self) -> Result<Api, Status> {
        Ok(Api::new(self.front.shared().await?, Arc::clone(&self.caller)))
    }

    /// # Errors
    /// The request does not say that it is meant.
    fn check_metadata<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let said: Vec<_> = request.metadata().get_all(METADATA).iter().collect();
        if matches!(said[..], [value] if value == "true") {
            return Ok(());
        }
        Err(self.front.metrics().refusing(Status::invalid_argument(
            "the metadata `workload.spiffe.io: true` is missing: is this a client of the SPIFFE Workload API?",
        )))
    }

    /// A turn to have a token minted or verified.
    ///
    /// # Errors
    /// Too many have one.
    fn turn(&self) -> Result<SemaphorePermit<'_>, Status> {
        let too_many = |_| {
            self.front.metrics().refusing(Status::resource_exhausted(format!(
                "{TOKENS_AT_ONCE} such calls are under way on this connection"
            )))
        };
        self.tokens_at_once.try_acquire().map_err(too_many)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Entrance {
    type FetchX509SVIDStream = Elsewhere<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.check_metadata(&request)?;
        let api = self.api().await?;
        Ok(carrying(api.answers::<X509svidResponse>(has_certificate), tokio_stream::empty()))
    }

    type FetchX509BundlesStream = Elsewhere<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.check_metadata(&request)?;
        let api = self.api().await?;
        Ok(carrying(api.answers::<X509BundlesResponse>(has_identity), tokio_stream::empty()))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.check_metadata(&request)?;
        let _turn = self.turn()?;
        let api = self.api().await?;
        let fetched = jwt::fetch(&api, request.into_inner()).await;
        self.front.metrics().told(WorkloadApi, &fetched);
        fetched.map(Response::new)
    }

    type FetchJWTBundlesStream = Elsewhere<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.check_metadata(&request)?;
        let api = self.api().await?;
        Ok(carrying(api.answers::<JwtBundlesResponse>(jwt::has_keys), tokio_stream::empty()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.check_metadata(&request)?;
        let _turn = self.turn()?;
        let api = self.api().await?;
        let verified = jwt::validate(&api, request.into_inner()).await;
        self.front.metrics().told(WorkloadApi, &verified);
        verified.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use hauberk_proto::agent::v1 as pb;
    use hauberk_proto::refusal;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};
    use tonic::Code;

    use super::super::api::PATIENCE;
    use super::super::client::{Client, connect, marked};
    use super::super::places::Places;
    use super::super::serve::serve;
    use super::super::socket::ApiSocket;
    use super::super::testing::{Served, worker};
    use super::*;

    /// Every call that there is, begun by a program that means it or not; of streams the beginning.
    fn calls(client: &Client, is_meant: bool) -> Vec<(&'static str, BoxFuture<'static, Result<(), Status>>)> {
        fn of<T>(message: T, is_meant: bool) -> Request<T> {
            if is_meant { marked(message) } else { Request::new(message) }
        }
        let clients: [_; 5] = std::array::from_fn(|_| client.clone());
        let [mut svids, mut bundles, mut key_sets, mut tokens, mut verified] = clients;
        let token = JwtsvidRequest { audience: vec!["db".to_owned()], spiffe_id: String::new() };
        let validate = ValidateJwtsvidRequest { audience: "db".to_owned(), svid: "a.b.c".to_owned() };
        vec![
            ("svids", async move { svids.fetch_x509svid(of(X509svidRequest {}, is_meant)).await.map(drop) }.boxed()),
            (
                "bundles",
                async move { bundles.fetch_x509_bundles(of(X509BundlesRequest {}, is_meant)).await.map(drop) }.boxed(),
            ),
            (
                "key sets",
                async move { key_sets.fetch_jwt_bundles(of(JwtBundlesRequest {}, is_meant)).await.map(drop) }.boxed(),
            ),
            ("a token", async move { tokens.fetch_jwtsvid(of(token, is_meant)).await.map(drop) }.boxed()),
            ("is it good", async move { verified.validate_jwtsvid(of(validate, is_meant)).await.map(drop) }.boxed()),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_waits_until_the_agent_is_somebody_and_none_that_is_not_meant() {
        let served = Served::new();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        served.front.close();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(ApiSocket::bind(&path).unwrap(), Places::new(64), Arc::clone(&served.front)));
        let client = connect(path.to_str().unwrap()).await.unwrap();
        let is_nobody = |status: &Status| refusal::reason(status).as_deref() == Some(refusal::NOT_JOINED);

        for (what, call) in calls(&client, false) {
            let since = Instant::now();
            assert_eq!(call.await.unwrap_err().code(), Code::InvalidArgument, "{what}");
            assert!(since.elapsed() < PATIENCE, "{what} is refused at once");
        }
        for (what, call) in calls(&client, true) {
            let since = Instant::now();
            let refused = call.await.unwrap_err();
            assert!(is_nobody(&refused) && since.elapsed() >= PATIENCE, "{what}: {refused}");
        }
        for (what, call) in calls(&client, true) {
            served.front.close();
            // Once it waits, and nothing else is left to do.
            let joining = async {
                sleep(PATIENCE / 2).await;
                served.front.open(Arc::clone(&served.shared));
            };
            let (answered, ()) = tokio::join!(call, joining);
            assert!(!answered.is_err_and(|status| is_nobody(&status)), "{what}");
        }
    }
}
