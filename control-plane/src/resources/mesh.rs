//! A mesh, as it is accepted.

use std::time::Duration;

use hauberk_policy::Authorization;
use hauberk_proto::mesh::v1 as wire;

use super::choice;
use super::problem::Problems;

/// Views younger than this may just be on their way.
const LEAST_VIEW_AGE: Duration = Duration::from_secs(1);

/// A mesh that is well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    authorization: Authorization,
    max_view_age: Option<Duration>,
}

impl Mesh {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::MeshSpec, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::MeshSpec { egress_filter, authorization, max_view_age } = spec;
        if let Some(wire::EgressFilter { r#type }) = egress_filter {
            let field = "spec.egressFilter.type";
            let is_allow_all =
                choice::choose(problems, field, r#type, &[("DROP_ALL", false), ("ALLOW_ALL", true)]);
            if is_allow_all == Some(true) {
                problems.invalid_but(
                    field,
                    "ALLOW_ALL would let out what no policy permits: agents let out only what an ExternalService names",
                    "write DROP_ALL, name the hosts that apps call in an ExternalService, and permit calls of it",
                );
            }
        }
        let authorization = choice::authorization(problems, "spec.authorization", authorization.as_deref());
        let max_view_age = max_view_age.as_ref().and_then(|age| {
            let field = "spec.maxViewAge";
            let age = choice::duration(problems, field, age)?;
            if age < LEAST_VIEW_AGE {
                problems.invalid(field, "at least 1 s is needed: no view arrives faster than it grows old");
            }
            Some(age)
        });
        let mesh = Self { authorization: authorization.unwrap_or_default(), max_view_age };
        (problems.count() == before).then_some(mesh)
    }

    /// What its listeners do with default denials, unless they or their nodes say otherwise.
    pub fn authorization(&self) -> Authorization {
        self.authorization
    }

    /// Older views deny everything.
    pub fn max_view_age(&self) -> Option<Duration> {
        self.max_view_age
    }
}
