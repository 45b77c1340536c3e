//! Envoy's Secret Discovery Service, as one connection is served it: the same identities and bundles as the Workload
//! API's, to the same callers, in the form in which Envoy takes them.

mod secrets;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use hauberk_proto::sds::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use hauberk_proto::sds::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use tonic::{Request, Response, Status, Streaming};

use super::answers::{Answers, Elsewhere, Encoded, carrying};
use super::api::{Api, Following};
use super::given::{CLOCK_AHEAD, Given, Sufficiency};
use crate::metrics::WorkloadService::Sds;
use subscription::Subscription;

/// The largest request, in bytes: Envoy's first one tells of itself, with every extension that it was built with.
pub(super) const LARGEST_REQUEST: usize = 1024 * 1024;

/// The service for one caller.
#[derive(Debug, Clone)]
pub(super) struct Secrets {
    api: Api,
}

/// One stream.
struct Exchange {
    asked: Streaming<DiscoveryRequest>,
    following: Following,
    subscription: Subscription,
}

impl Secrets {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type StreamSecretsStream = Elsewhere<DiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (asked, following) = (request.into_inner(), self.api.follow());
        let first = Exchange { asked, following, subscription: Subscription::default() };
        let answers = stream::unfold(Some(first), async |exchange| {
            let mut exchange = exchange?;
            match exchange.next().await {
                Ok(answer) => Some((Ok(answer?), Some(exchange))),
                Err(status) => Some((Err(status), None)),
            }
        });
        let shared = Arc::clone(&self.api.shared);
        let answers = Answers::new(answers.inspect(move |answer| shared.metrics().told(Sds, answer)));
        Ok(carrying(answers, tokio_stream::empty()))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let answer = self.answer_once(request.into_inner()).await;
        self.api.shared.metrics().told(Sds, &answer);
        let answers = Answers::new(stream::iter([Ok(answer?)]));
        Ok(carrying(answers, DiscoveryResponse::default()))
    }
}

impl Secrets {
    async fn answer_once(&self, request: DiscoveryRequest) -> Result<Encoded, Status> {
        let mut subscription = Subscription::default();
        subscription.take(request)?;
        let given = self.api.follow().until(false, has_certificate_and_lists).await?;
        subscription.whole_answer(&given)
    }
}

/// There is a certificate, and it is known which ones are revoked: who is given roots alone believes those. Secrets
/// have names, and nobody's is the default's before that is there.
fn has_certificate_and_lists(given: &Given) -> Sufficiency {
    if given.svids.is_empty() && given.is_outlived {
        return Sufficiency::Lacks(CLOCK_AHEAD);
    }
    if given.svids.is_empty() {
        return Sufficiency::Lacks("the control plane has not issued the certificate yet");
    }
    match given.revocation_lists.number {
        0 => Sufficiency::Lacks(
            "the control plane has not told the revocation lists yet: `hauberk check` says why it signs none",
        ),
        _ if given.is_partial => Sufficiency::InPart,
        _ => Sufficiency::Whole,
    }
}

impl Exchange {
    /// The next answer: to what is asked, or because something has changed. `None` once nothing more is asked.
    ///
    /// # Errors
    /// The status that ends the stream.
    async fn next(&mut self) -> Result<Option<Encoded>, Status> {
        loop {
            let is_answer_due = tokio::select! {
                request = self.asked.message() => match request? {
                    Some(request) => self.subscription.take(request)?,
                    None => return Ok(None),
                },
                changed = self.following.changed() => {
                    changed?;
                    self.subscription.has_begun()
                }
            };
            if is_answer_due {
                let given = self.following.until(false, has_certificate_and_lists).await?;
                let answer = self.subscription.answer(&given)?;
                if answer.is_some() {
                    return Ok(answer);
                }
            }
        }
    }
}
