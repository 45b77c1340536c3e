//! The admin API's `Flows` service: decisions as they happen.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use hauberk_proto::admin::v1::flows_server::{Flows, FlowsServer};
use hauberk_proto::admin::v1::{ObserveRequest, ObserveResponse};
use tonic::{Code, Request, Response, Status};

use super::status;
use crate::flows::Filter;
use crate::push::Push;

/// The service, ready to be mounted.
pub(super) fn service(push: &Arc<Push>) -> FlowsServer<FlowsService> {
    let service = FlowsService { push: Arc::clone(push) };
    FlowsServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct FlowsService {
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Flows for FlowsService {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<ObserveResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let filter =
            Filter::parse(request.into_inner()).map_err(|error| status::bad_field("verdict", error))?;
        let observation = self.push.flows().observe(filter).map_err(|error| {
            status::refusal(Code::ResourceExhausted, "TOO_MANY_OBSERVERS", error.to_string())
        })?;
        let stop = self.push.stopping().clone();
        let decisions = stream::unfold(Some((observation, stop)), |state| async move {
            let (mut observation, stop) = state?;
            tokio::select! {
                () = stop.cancelled() => Some((Err(status::stopping()), None)),
                next = observation.next() => next.map(|batch| (Ok(batch), Some((observation, stop)))),
            }
        });
        Ok(Response::new(Box::pin(decisions)))
    }
}
