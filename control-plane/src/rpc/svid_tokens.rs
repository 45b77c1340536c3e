//! The agent API's `SvidTokens` service.

use std::sync::Arc;

use hauberk_proto::agent::v1::svid_tokens_server::{SvidTokens, SvidTokensServer};
use hauberk_proto::agent::v1::{MintTokenRequest, MintTokenResponse};
use tonic::{Request, Response, Status};

use super::{LARGEST_PUBLIC_REQUEST, message, status};
use crate::access::{CallContext, Caller};
use crate::app::ControlPlane;
use crate::jwt_svid::Minter;

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> SvidTokensServer<SvidTokensService> {
    let service = SvidTokensService { minter: Arc::clone(&control.minter) };
    SvidTokensServer::new(service).max_decoding_message_size(LARGEST_PUBLIC_REQUEST)
}

pub(super) struct SvidTokensService {
    minter: Arc<Minter>,
}

#[tonic::async_trait]
impl SvidTokens for SvidTokensService {
    async fn mint_token(
        &self,
        request: Request<MintTokenRequest>,
    ) -> Result<Response<MintTokenResponse>, Status> {
        let CallContext { caller, source, channel: _ } = CallContext::of(&request)?.clone();
        let Caller::Agent { peer, .. } = &caller else {
            return Err(Status::permission_denied("only agents get tokens here"));
        };
        let MintTokenRequest { audience } = request.into_inner();
        let minted = self.minter.mint(peer, &audience, &source).await;
        let minted = minted.map_err(|error| status::of_mint(&error))?;
        Ok(Response::new(message::token(&minted)))
    }
}
