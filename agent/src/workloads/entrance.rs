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
