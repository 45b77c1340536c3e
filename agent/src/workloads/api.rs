//! The SPIFFE Workload API, as one connection is served it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hauberk_identity::Name;
use hauberk_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use hauberk_proto::workload::{
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use hauberk_tls::{LiveIdentity, LiveState, TrustBundle};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::attest::Caller;
use super::entry::Entries;
use super::keeper::{Kept, WorkloadSvid};
use super::matching::Matching;

/// What every caller must say, so that no request that a browser or proxy was tricked into is answered (SPIFFE Workload
/// Endpoint §4.1).
const METADATA: &str = "workload.spiffe.io";

/// How long a caller waits for what is on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    kept: watch::Receiver<Kept>,
    live: LiveIdentity,
    matching: Matching,
    stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(kept: watch::Receiver<Kept>, live: LiveIdentity, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { kept, live, matching: Matching::new(), stop })
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

/// The API for one caller.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
}

/// What a caller is given at one moment.
#[derive(Debug)]
pub(super) struct Given {
    /// Its identities, the default first, each with its hint.
    pub(super) svids: Vec<(Arc<WorkloadSvid>, String)>,
    /// What to verify others by.
    pub(super) bundle: Arc<TrustBundle>,
}

/// One caller's view of what changes.
pub(super) struct Following {
    api: Api,
    kept: watch::Receiver<Kept>,
    live: watch::Receiver<LiveState>,
}

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    pub(crate) fn new(shared: Arc<Shared>, caller: Caller) -> Self {
        Self { shared, caller: Arc::new(caller) }
    }

    pub(super) fn follow(&self) -> Following {
        Following { api: self.clone(), kept: self.shared.kept.clone(), live: self.shared.live.subscribe() }
    }

    /// An answer at once, and one at each change of it, until the caller is given nothing any longer.
    pub(super) fn answers<T>(&self, make: fn(&Given) -> T) -> Answers<T>
    where
        T: Clone + PartialEq + Send + 'static,
    {
        let first = (self.follow(), None::<T>);
        Box::pin(futures_util::stream::unfold(Some(first), move |state| async move {
            let (mut following, mut last) = state?;
            loop {
                let given = match following.next(last.is_some()).await {
                    Ok(given) => given,
                    Err(status) => return Some((Err(status), None)),
                };
                let answer = make(&given);
                if last.as_ref() != Some(&answer) {
                    last = Some(answer.clone());
                    return Some((Ok(answer), Some((following, last))));
                }
            }
        }))
    }
}

impl Following {
    /// What the caller is given: now, or, where it `has_been_told`, once something has changed. Who it is is looked at each
    /// time.
    ///
    /// # Errors
    /// The status that ends its stream.
    pub(super) async fn next(&mut self, has_been_told: bool) -> Result<Given, Status> {
        if has_been_told {
            self.changed().await?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let kept = self.kept.borrow_and_update().clone();
            let bundle = Arc::clone(self.live.borrow_and_update().bundle());
            let reason = match &kept.entries {
                None => "the control plane has not told yet who is who here",
                Some(entries) => {
                    let names = self.api.shared.matching.of(&self.api.caller, entries).await;
                    if names.is_empty() {
                        return Err(Status::permission_denied("no identity issued"));
                    }
                    let svids = with_hints(&names, entries, &kept.svids);
                    if !svids.is_empty() {
                        return Ok(Given { svids, bundle });
                    }
                    "the control plane has not issued the certificate yet"
                }
            };
            tokio::select! {
                changed = self.changed() => changed?,
                () = sleep_until(deadline) => return Err(Status::unavailable(reason)),
            }
        }
    }

    async fn changed(&mut self) -> Result<(), Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        tokio::select! {
            () = self.api.shared.stop.cancelled() => Err(stopping()),
            changed = self.kept.changed() => changed.map_err(|_| stopping()),
            changed = self.live.changed() => changed.map_err(|_| stopping()),
        }
    }
}

/// Hints are unique in an answer: the first of a kind stays (SPIFFE Workload API §5.2.1).
fn with_hints(
    names: &[Name],
    entries: &Entries,
    svids: &BTreeMap<Name, Arc<WorkloadSvid>>,
) -> Vec<(Arc<WorkloadSvid>, String)> {
    let mut given: Vec<(Arc<WorkloadSvid>, String)> = Vec::new();
    for name in names {
        let (Some(entry), Some(svid)) = (entries.get(name), svids.get(name)) else { continue };
        let is_taken = given.iter().any(|(_, hint)| *hint == entry.hint);
        given.push((Arc::clone(svid), if is_taken { String::new() } else { entry.hint.clone() }));
    }
    given
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Answers<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check_metadata(&request)?;
        Ok(Response::new(self.answers(x509_svids)))
    }

    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check_metadata(&request)?;
        Ok(Response::new(self.answers(x509_bundles)))
    }
}

fn check_metadata<T>(request: &Request<T>) -> Result<(), Status> {
    let said: Vec<_> = request.metadata().get_all(METADATA).iter().collect();
    if matches!(said[..], [value] if value == "true") {
        Ok(())
    } else {
        Err(Status::invalid_argument(
            "the metadata `workload.spiffe.io: true` is missing: is this a client of the SPIFFE Workload API?",
        ))
    }
}

fn x509_svids(given: &Given) -> X509svidResponse {
    let bundle = concatenated(&given.bundle);
    let svids = given.svids.iter().map(|(workload, hint)| X509svid {
        spiffe_id: workload.svid.id().to_string(),
        x509_svid: workload.svid.chain().iter().flat_map(|der| der.iter().copied()).collect(),
        x509_svid_key: workload.key.to_pkcs8_der().to_vec(),
        bundle: bundle.clone(),
        hint: hint.clone(),
    });
    X509svidResponse { svids: svids.collect(), crl: Vec::new(), federated_bundles: HashMap::new() }
}

fn x509_bundles(given: &Given) -> X509BundlesResponse {
    let own = (given.bundle.trust_domain().id_string(), concatenated(&given.bundle));
    X509BundlesResponse { crl: Vec::new(), bundles: HashMap::from([own]) }
}

fn concatenated(bundle: &TrustBundle) -> Vec<u8> {
    bundle.roots().iter().flat_map(|root| root.der().iter().copied()).collect()
}
