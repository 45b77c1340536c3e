//! The kinds of resources: what they must be, and how they change.
//!
//! [`admit`] is where a change is accepted or refused; [`Resources`] makes it one durable transaction; [`Catalogs`]
//! keeps all resources in memory, as of the last commit.

pub mod admit;
mod api;
mod apply;
mod attest;
mod catalog;
mod choice;
mod data_class;
mod discovery;
mod enrollment;
mod external_service;
mod federated_trust_domain;
mod fetched;
mod fetched_keys;
mod follow;
mod gone_round;
mod idle_forbids;
mod jwt_issuer;
mod key;
mod mesh;
mod mesh_catalog;
mod nesting;
mod own_issuer;
mod passed_over;
mod policy;
mod problem;
mod role;
mod stored;
mod svid_terms;
mod template;
mod virtual_gateway;
mod virtual_node;
mod virtual_service;
mod web_endpoint;

#[cfg(test)]
pub(crate) mod testing;

pub use apply::{
    Applied, Author, ChangeError, Draft, DraftTooLarge, MAX_BATCH, MAX_BATCH_BYTES, MissingFeature, Removed,
    Resources, ResourcesParts, check_draft, draft_alone,
};
pub use attest::{
    AttestEnrollment, ClusterSource, EvidenceSource, MOST_LABELS, Makes, NoRule, TokenVerifier,
};
pub use catalog::{Catalog, Entry, Model};
pub use data_class::DataClass;
pub use discovery::{Discovery, FixedEndpoint};
pub use enrollment::{Enrollment, WorkloadEnrollment};
pub use external_service::ExternalService;
pub(crate) use federated_trust_domain::vouching;
pub use federated_trust_domain::{
    BundleEndpoint, EndpointProfile, FederatedTrustDomain, Unvouched, Vouching,
};
pub use fetched::FetchedBundle;
pub use fetched_keys::FetchedKeys;
pub use follow::Catalogs;
pub(crate) use gone_round::{Detours, MEND as GONE_ROUND_MEND};
pub(crate) use idle_forbids::{MEND as IDLE_FORBID_MEND, idle_forbids};
pub use jwt_issuer::{JwtIssuer, KeyEndpoint};
pub use key::{Kind, ResourceKey};
pub use mesh::Mesh;
pub use mesh_catalog::MeshCatalog;
pub use own_issuer::OwnIssuerParts;
pub use problem::{Fault, Problem};
pub use role::Role;
pub use template::LinkedPolicy;
pub use virtual_gateway::VirtualGateway;
pub use virtual_node::{Listener, VirtualNode};
pub use virtual_service::{Provider, VirtualService};
pub use web_endpoint::{EndpointUrl, WebEndpoint};

pub(crate) use choice::did_you_mean;
pub(crate) use data_class::Enclosing;
pub(crate) use passed_over::passed_over;
pub(crate) use problem::Problems;
