//! The admin API's `Resources` service.

mod watching;

use std::collections::HashMap;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{Stream, stream};
use hauberk_identity::Name;
use hauberk_proto::admin::v1::resources_server::{self, ResourcesServer};
use hauberk_proto::admin::v1::{
    Applied, ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, DeleteTarget, GetRequest,
    GetResponse, LeftOut, ListRequest, ListResponse, Outcome, WatchRequest, WatchResponse,
};
use hauberk_proto::mesh::v1::{Resource, ResourceRef};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{page, status};
use crate::access::CallContext;
use crate::admins::Role;
use crate::app::ControlPlane;
use crate::resources::admit::{self, Rights, Target};
use crate::resources::{
    Author, Catalog, Kind, MAX_BATCH_BYTES, Removed, ResourceKey, Resources, did_you_mean,
};
use watching::{Watchers, Watching};

/// Resources on a page.
const PAGE: usize = 500;
const LARGEST_PAGE: usize = 1_000;

/// What an answer may weigh, in bytes: clients take 4 MiB.
const ANSWER_BYTES: usize = 3 * 1024 * 1024 + 512 * 1024;

/// The service, ready to be mounted.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
) -> ResourcesServer<ResourcesService> {
    let (control, resources) = (Arc::clone(control), Arc::clone(resources));
    let service = ResourcesService { control, resources, watchers: Watchers::default() };
    // Some more than a batch may have, so that one that is too large is told so in our words.
    ResourcesServer::new(service).max_decoding_message_size(2 * MAX_BATCH_BYTES)
}

pub(super) struct ResourcesService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    watchers: Watchers,
}

#[tonic::async_trait]
impl resources_server::Resources for ResourcesService {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let author = author(CallContext::of(&request)?);
        let ApplyRequest { resources, validate_only } = request.into_inner();
        let applied = self.resources.apply(&author, &resources, validate_only).await;
        let applied = applied.map_err(|error| status::of_change(&error, "resources"))?;
        let resources = applied.changes.into_iter().map(|change| Applied {
            outcome: outcome(change.outcome).into(),
            resource: Some(change.resource),
            previous: change.previous,
        });
        let (warnings, revision) = (applied.warnings, applied.revision.0);
        let resources = resources.collect();
        Ok(Response::new(fitting(ApplyResponse {
            resources,
            revision,
            warnings,
            ..ApplyResponse::default()
        })))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let GetRequest { r#ref } = request.into_inner();
        let key = resource_key("ref", r#ref.as_ref())?;
        let catalog = self.catalog().await?;
        let entry = catalog.get(&key).ok_or_else(|| not_found(&catalog, &key))?;
        Ok(Response::new(GetResponse { resource: Some(entry.resource().clone()) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let ListRequest { kind, mesh, labels, page_size, page_token } = request.into_inner();
        let filter = Filter { kind: kind_filter(kind)?, mesh, labels };
        let limit = page::size(page_size, PAGE, LARGEST_PAGE)?;
        let after = page_key(&page_token)?;
        let catalog = self.catalog().await?;
        let mut response = ListResponse { revision: catalog.revision().0, ..ListResponse::default() };
        let (mut bytes, mut last) = (0, None);
        for (key, resource) in filter.matching(&catalog, after.as_ref()) {
            bytes += resource.encoded_len();
            let is_full = response.resources.len() >= limit || bytes > ANSWER_BYTES;
            if let Some(last) = last.filter(|_| is_full) {
                response.next_page_token = page_token_of(last);
                break;
            }
            response.resources.push(resource.clone());
            last = Some(key);
        }
        Ok(Response::new(response))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let author = author(CallContext::of(&request)?);
        let DeleteRequest { targets, validate_only } = request.into_inner();
        let targets = targets.into_iter().enumerate().map(|(index, target)| {
            let DeleteTarget { r#ref, resource_version, ignore_missing } = target;
            let key = resource_key(&format!("targets[{index}].ref"), r#ref.as_ref())?;
            Ok(Target { key, resource_version, ignore_missing })
        });
        let targets = targets.collect::<Result<Vec<_>, Status>>()?;
        let removed = self.resources.delete(&author, &targets, validate_only).await;
        let removed = removed.map_err(|error| status::of_change(&error, "targets"))?;
        let Removed { resources, revision, warnings } = removed;
        let mut response = DeleteResponse { revision: revision.0, resources, warnings };
        if response.encoded_len() > ANSWER_BYTES {
            response.resources.iter_mut().for_each(strip);
        }
        Ok(Response::new(response))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let place = self.watchers.join(CallContext::of(&request)?.actor().name)?;
        let WatchRequest { kind, mesh } = request.into_inner();
        let filter = Filter { kind: kind_filter(kind)?, mesh, labels: HashMap::new() };
        let (catalogs, stop) = (self.resources.catalogs(), self.control.stop.clone());
        let begun = Watching::begin(catalogs, &*self.control.store, filter, stop, place).await;
        let watching = begun.map_err(|error| status::of_store(&error))?;
        let events = stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(event) => Some((Ok(event), Some(watching))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(events)))
    }
}

impl ResourcesService {
    async fn catalog(&self) -> Result<Arc<Catalog>, Status> {
        self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))
    }
}

/// Who changes resources, and which.
fn author(context: &CallContext) -> Author {
    let policies = context.has_role(Role::PolicyAdmin);
    // Who decides what may be called may also say what there is to call.
    let resources = policies || context.has_role(Role::Editor);
    let identities = context.has_role(Role::IdentityAdmin);
    let boundaries = context.has_role(Role::BoundaryAdmin);
    Author { actor: context.actor(), rights: Rights { resources, policies, boundaries, identities } }
}

fn outcome(outcome: admit::Outcome) -> Outcome {
    match outcome {
        admit::Outcome::Created => Outcome::Created,
        admit::Outcome::Configured => Outcome::Configured,
        admit::Outcome::Unchanged => Outcome::Unchanged,
    }
}

/// Leaves out of an answer what makes it too large to be received, and says what: first what nobody has changed, then
/// what stood before, then all bodies.
fn fitting(mut response: ApplyResponse) -> ApplyResponse {
    /// What one step leaves out of each resource.
    type Step = fn(&mut Applied);
    let steps: [(LeftOut, Step); 3] = [
        (LeftOut::Unchanged, |applied| {
            if applied.outcome() == Outcome::Unchanged {
                applied.previous = None;
                applied.resource.as_mut().into_iter().for_each(strip);
            }
        }),
        (LeftOut::Previous, |applied| applied.previous = None),
        (LeftOut::Bodies, |applied| applied.resource.as_mut().into_iter().for_each(strip)),
    ];
    for (left_out, leave_out) in steps {
        if response.encoded_len() <= ANSWER_BYTES {
            break;
        }
        response.left_out = left_out.into();
        response.resources.iter_mut().for_each(leave_out);
    }
    response
}

/// Leaves kind, name and metadata.
fn strip(resource: &mut Resource) {
    resource.labels.clear();
    resource.spec = resource.spec.as_ref().map(|spec| Kind::of(spec).empty_spec());
}

fn not_found(catalog: &Catalog, key: &ResourceKey) -> Status {
    let mesh = catalog.mesh(key.mesh.as_str());
    let known = mesh.iter().flat_map(|mesh| mesh.of_kind(key.kind).keys()).map(Name::as_str);
    let hint = did_you_mean(key.name.as_str(), known).map(|hint| format!("; {hint}")).unwrap_or_default();
    status::refusal(Code::NotFound, "NOT_FOUND", format!("{key} does not exist{hint}"))
}

/// The resources that a list of a request names.
pub(super) fn resource_keys(list: &str, named: &[ResourceRef]) -> Result<Vec<ResourceKey>, Status> {
    let keys = named.iter().enumerate();
    keys.map(|(index, named)| resource_key(&format!("{list}[{index}]"), Some(named))).collect()
}

fn resource_key(field: &str, named: Option<&ResourceRef>) -> Result<ResourceKey, Status> {
    let Some(ResourceRef { kind, mesh, name }) = named else {
        return Err(status::bad_field(field, "no resource is named"));
    };
    let wrong =
        |part: &str, error: &dyn std::fmt::Display| status::bad_field(format!("{field}.{part}"), error);
    let kind = Kind::from_wire(*kind).ok_or_else(|| wrong("kind", &"a known kind is needed"))?;
    let name = Name::parse(name).map_err(|error| wrong("name", &error))?;
    let mesh = match kind {
        Kind::Mesh => name.clone(),
        _ => Name::parse(mesh).map_err(|error| wrong("mesh", &error))?,
    };
    Ok(ResourceKey { kind, mesh, name })
}

fn kind_filter(kind: i32) -> Result<Option<Kind>, Status> {
    match (kind, Kind::from_wire(kind)) {
        (0, _) => Ok(None),
        (_, Some(kind)) => Ok(Some(kind)),
        (_, None) => Err(status::bad_field("kind", "it is not a known kind")),
    }
}

/// A page is named by the last resource of the one before, so that changes in between neither repeat nor skip others.
fn page_token_of(last: ResourceKey) -> String {
    URL_SAFE_NO_PAD.encode(last.store_key())
}

fn page_key(token: &str) -> Result<Option<ResourceKey>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let key = key.and_then(|key| ResourceKey::from_store_key(&key));
    key.map(Some).ok_or_else(|| status::bad_field("pageToken", "it is not one that this API gave"))
}

/// What is wanted. Empty fields match everything.
struct Filter {
    kind: Option<Kind>,
    mesh: String,
    labels: HashMap<String, String>,
}

impl Filter {
    fn admits(&self, key: &ResourceKey) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind) && (self.mesh.is_empty() || key.mesh == *self.mesh)
    }

    /// In the order of kind, mesh and name, those after `after`.
    fn matching<'a>(
        &'a self,
        catalog: &'a Catalog,
        after: Option<&'a ResourceKey>,
    ) -> impl Iterator<Item = (ResourceKey, &'a Resource)> {
        let kinds = Kind::ALL.into_iter().filter(|kind| self.kind.is_none_or(|wanted| wanted == *kind));
        let kinds = kinds.filter(move |kind| after.is_none_or(|after| *kind >= after.kind));
        let meshes = move |kind| {
            let meshes =
                catalog.meshes().iter().filter(|(name, _)| self.mesh.is_empty() || **name == *self.mesh);
            meshes.map(move |(name, mesh)| (kind, name, mesh))
        };
        let resources = kinds.flat_map(meshes).flat_map(move |(kind, mesh, resources)| {
            let place = after.map(|after| ((kind, mesh).cmp(&(after.kind, &after.mesh)), &after.name));
            let from = match place {
                Some((std::cmp::Ordering::Equal, name)) => Some(Bound::Excluded(name)),
                Some((std::cmp::Ordering::Less, _)) => None,
                Some((std::cmp::Ordering::Greater, _)) | None => Some(Bound::Unbounded),
            };
            let names = from.map(|from| resources.of_kind(kind).range::<Name, _>((from, Bound::Unbounded)));
            names.into_iter().flatten().map(move |(name, entry)| {
                let key = ResourceKey { kind, mesh: mesh.clone(), name: name.clone() };
                (key, entry.resource())
            })
        });
        resources.filter(|(_, resource)| {
            self.labels.iter().all(|(key, value)| resource.labels.get(key) == Some(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::testing::node;

    #[test]
    fn what_is_left_out_of_an_answer_is_said() {
        let large = |name: &str, bytes: usize| {
            let labels = HashMap::from([("a".to_owned(), "b".repeat(bytes))]);
            Resource { labels, ..node(name, []) }
        };
        let applied = |name: &str, outcome: Outcome, bytes: usize| Applied {
            outcome: outcome.into(),
            resource: Some(large(name, bytes)),
            previous: Some(large(name, bytes)),
        };
        let left_out = |unchanged: usize, configured: usize| {
            let resources = vec![
                applied("a", Outcome::Unchanged, unchanged),
                applied("b", Outcome::Configured, configured),
            ];
            let answer = fitting(ApplyResponse { resources, revision: 7, ..ApplyResponse::default() });
            assert!(answer.encoded_len() <= ANSWER_BYTES);
            let is_whole = |resource: Option<&Resource>| resource.is_some_and(|one| !one.labels.is_empty());
            let [a, b] = &answer.resources[..] else { panic!("{}", answer.resources.len()) };
            let told = [a, b].map(|one| (is_whole(one.resource.as_ref()), is_whole(one.previous.as_ref())));
            assert!([a, b].iter().all(|one| one.resource.as_ref().is_some_and(|one| one.spec.is_some())));
            (answer.left_out(), told)
        };
        let half = ANSWER_BYTES / 2;
        assert_eq!(left_out(10, 10), (LeftOut::Unspecified, [(true, true), (true, true)]));
        assert_eq!(left_out(half, half / 2), (LeftOut::Unchanged, [(false, false), (true, true)]));
        assert_eq!(left_out(10, half), (LeftOut::Previous, [(false, false), (true, false)]));
        assert_eq!(left_out(10, 2 * half), (LeftOut::Bodies, [(false, false), (false, false)]));
    }
}
