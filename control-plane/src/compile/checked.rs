//! What views were compiled to, so that the others of their mesh take over its statements.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_policy::{CompileError, Engine, NodeScope, PolicySlice, Protocol};

/// What the last view of each sort of nodes was compiled to.
///
/// Statements that name no resource are in the view of every node of which something can be asked that they are about: those about
/// requests in none of a node that takes streams alone, and none at all in that of a node that nobody calls. A view of
/// another sort that is compiled in between must not cost the next one all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Checked(BTreeMap<BTreeSet<Spoken>, Engine>);

/// What can be asked of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spoken {
    Requests,
    Calls,
    Streams,
}

impl Checked {
    /// Compiles what a node enforces, as its agents will.
    pub(super) fn compile(&mut self, scope: NodeScope, policies: &PolicySlice) -> Result<(), CompileError> {
        let spoken = spoken(&scope);
        let engine = Engine::compile(scope, policies, self.nearest(&spoken))?;
        self.0.insert(spoken, engine);
        Ok(())
    }

    /// What has most in common with a node that speaks this.
    fn nearest(&self, spoken: &BTreeSet<Spoken>) -> Option<&Engine> {
        let in_common = |(other, _): &(&BTreeSet<Spoken>, &Engine)| spoken.intersection(other).count();
        let of_others = || self.0.iter().max_by_key(in_common).map(|(_, engine)| engine);
        self.0.get(spoken).or_else(of_others)
    }
}

fn spoken(scope: &NodeScope) -> BTreeSet<Spoken> {
    let spoken = |protocol| match protocol {
        Protocol::Http | Protocol::Http2 => Spoken::Requests,
        Protocol::Grpc => Spoken::Calls,
        Protocol::Tcp => Spoken::Streams,
    };
    scope.ports.iter().map(|port| spoken(port.protocol)).collect()
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{Name, NodeName};

    use super::*;
    use crate::compile::view::MeshViews;
    use crate::resources::testing::*;

    #[test]
    fn nodes_of_another_sort_cost_the_next_one_nothing() {
        let port = |protocol| listener(8080, protocol);
        let catalog = catalog_of(&[
            mesh("shop"),
            node("a", [port("http")]),
            node("b", []),
            node("c", [port("tcp")]),
            node("d", [port("http2")]),
            node("e", [port("grpc"), listener(80, "http")]),
            policy("p", "permit(principal is Node, action in Action::\"read\", resource);"),
        ]);
        let (trust_domain, mesh) = (trust_domain(), Name::parse("shop").unwrap());
        let resources = catalog.mesh("shop").unwrap();
        let views = MeshViews::new(&trust_domain, &mesh, resources);
        let mut checked = Checked::default();
        let mut compile = |name: &str| {
            let name = NodeName::parse(name).unwrap();
            let view = views.node(&name, resources.node_or_gateway(&name).unwrap());
            let spoken = spoken(&view.scope);
            let former = checked.nearest(&spoken).cloned();
            checked.compile(view.scope, &view.policies).unwrap();
            (former, checked.nearest(&spoken).cloned().unwrap())
        };
        let (former, a) = compile("a");
        assert!(former.is_none());
        for between in ["b", "c"] {
            compile(between);
        }
        let (former, d) = compile("d");
        assert!(former.unwrap().is_same(&a), "it has what is about requests");
        let (former, _) = compile("e");
        assert!(former.unwrap().is_same(&d), "it has more of it than the others");
        let (former, _) = compile("a");
        assert!(former.unwrap().is_same(&d));
    }
}
