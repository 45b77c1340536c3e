//! Which decisions an observer wants to see.

use hauberk_identity::{Name, SpiffeId};
use hauberk_proto::{admin::v1 as admin, agent::v1 as agent};
use thiserror::Error;

/// Which decisions are shown. The default shows all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    mesh: String,
    caller: String,
    target: String,
    verdict: Option<agent::Verdict>,
    action: String,
    path_prefix: String,
}

/// A verdict that there is none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("verdict: {0} is no verdict")]
pub struct UnknownVerdict(i32);

impl Filter {
    /// Reads a request.
    ///
    /// # Errors
    /// The caller's verdict is none of ours.
    pub fn parse(request: admin::ObserveRequest) -> Result<Self, UnknownVerdict> {
        let admin::ObserveRequest { mesh, caller, target, verdict, action, path_prefix } = request;
        let verdict = match agent::Verdict::try_from(verdict).map_err(|_| UnknownVerdict(verdict))? {
            agent::Verdict::Unspecified => None,
            verdict => Some(verdict),
        };
        Ok(Self { mesh, caller, target, verdict, action, path_prefix })
    }

    /// Whether this decision is shown.
    pub fn shows(&self, decision: &agent::Decision) -> bool {
        (self.mesh.is_empty() || mesh_of(&decision.node).is_some_and(|mesh| mesh.as_str() == self.mesh))
            && is_named(&self.caller, &decision.caller, &decision.node)
            && self.is_target(decision)
            && self.verdict.is_none_or(|verdict| verdict == decision.verdict())
            && (self.action.is_empty() || self.action.eq_ignore_ascii_case(&decision.action))
            && decision.path.starts_with(&self.path_prefix)
    }
}

impl Filter {
    /// What leaves the mesh is called by its external service, `external/stripe`, or its host, and not by who decides.
    fn is_target(&self, decision: &agent::Decision) -> bool {
        let stays = decision.external.is_empty() && decision.external_host.is_empty();
        if stays || self.target.is_empty() {
            return is_named(&self.target, &decision.node, &decision.node) || self.target == decision.service;
        }
        self.target == decision.external_host
            || self.target.strip_prefix("external/") == Some(&decision.external)
    }
}

fn mesh_of(id: &str) -> Option<Name> {
    SpiffeId::parse(id).ok()?.mesh_and_node().map(|(mesh, _)| mesh)
}

/// Whether `wanted` is empty, the whole id, or the name of its node, `web`, or gateway, `gateway/edge`. Those of other trust domains than
/// that of `node`, which is ours, have no such names: a partner's `web` is none of ours.
fn is_named(wanted: &str, id: &str, node: &str) -> bool {
    let is_ours =
        |id: &SpiffeId| SpiffeId::parse(node).is_ok_and(|node| id.is_member_of(&node.trust_domain()));
    let names = |id: &SpiffeId| id.mesh_and_node().is_some_and(|(_, node)| node.to_string() == wanted);
    wanted.is_empty() || wanted == id || SpiffeId::parse(id).is_ok_and(|id| is_ours(&id) && names(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_named_apart_from_a_node_of_its_name() {
        let ids = ["node/edge", "gateway/edge"].map(|path| format!("spiffe://shop.local/mesh/shop/{path}"));
        for (wanted, shown) in [("edge", [true, false]), ("gateway/edge", [false, true]), ("", [true, true])]
        {
            assert_eq!([&ids[0], &ids[1]].map(|id| is_named(wanted, id, &ids[0])), shown, "{wanted}");
        }
        for id in &ids {
            assert!(is_named(id, id, id));
        }
        assert!(!is_named("gateway", &ids[1], &ids[1]));
    }

    #[test]
    fn a_node_of_a_partner_is_named_by_its_whole_id_alone() {
        let [ours, theirs] =
            ["shop.local", "partner.example"].map(|of| format!("spiffe://{of}/mesh/shop/node/web"));
        assert!(is_named("web", &ours, &ours) && !is_named("web", &theirs, &ours));
        assert!(is_named(&theirs, &theirs, &ours) && is_named("", &theirs, &ours));
        assert!(!is_named("web", &theirs, "not an id"));
    }
}
