//! What is served where, as far as `hauberk allow` and `hauberk deny` have to know: a rule about a port that is not there, or
//! about requests that it does not speak of, would stop or permit nothing.

use hauberk_policy::{Access, Grant, GrantTarget};
use hauberk_proto::mesh::v1::{Kind, Resource, resource::Spec, virtual_service_provider::Provider};

use crate::error::CommandError;
use crate::session::Session;

/// A port of what is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) port: u32,
    /// As resources write it.
    protocol: String,
}

impl Served {
    fn takes(&self, access: &Access) -> bool {
        match access {
            Access::All => true,
            Access::Http { .. } => matches!(self.protocol.as_str(), "http" | "http2"),
            Access::Rpc { .. } => self.protocol == "grpc",
        }
    }
}

/// The ports of what is called, in the order in which they are declared.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn ports(
    session: &Session,
    mesh: &str,
    target: &GrantTarget,
) -> Result<Vec<Served>, CommandError> {
    let found = match target {
        GrantTarget::External(name) => session.find(Kind::ExternalService, mesh, name.as_str()).await?,
        // Nobody in the mesh calls one.
        GrantTarget::Gateway(_) => None,
        GrantTarget::Node(name) => session.find(Kind::VirtualNode, mesh, name.as_str()).await?,
        GrantTarget::Service(name) => {
            let service = session.find(Kind::VirtualService, mesh, name.as_str()).await?;
            let Some((node, own)) = service.as_ref().and_then(provider) else { return Ok(Vec::new()) };
            let found = session.find(Kind::VirtualNode, mesh, node).await?;
            return Ok(found.map(|found| of_service(&found, own)).unwrap_or_default());
        }
    };
    Ok(found.as_ref().map(declared).unwrap_or_default())
}

/// Whether a rule is about something that is served. Of what serves nothing yet there is no telling.
///
/// # Errors
/// It is not: names what is.
pub(super) fn check(grant: &Grant, target: &str, served: &[Served]) -> Result<(), CommandError> {
    if served.is_empty() {
        return Ok(());
    }
    let all = || {
        let named: Vec<String> =
            served.iter().map(|one| format!("{} ({})", one.port, one.protocol)).collect();
        named.join(", ")
    };
    let mut meant =
        served.iter().filter(|one| grant.port.is_none_or(|port| u32::from(port) == one.port)).peekable();
    if let (Some(port), None) = (grant.port, meant.peek()) {
        return Err(CommandError::Usage(format!("{target} has no port {port}: it has {}", all())));
    }
    if meant.any(|one| one.takes(&grant.access)) {
        return Ok(());
    }
    let (options, wanted) = match grant.access {
        Access::Rpc { .. } => ("--rpc is", "a grpc port"),
        Access::Http { .. } | Access::All => ("--methods and --path are", "an http or http2 port"),
    };
    let which =
        grant.port.map_or_else(|| "none of its ports is".to_owned(), |port| format!("{port} is none"));
    Err(CommandError::Usage(format!("{options} about {wanted} of {target}, and {which}: it has {}", all())))
}

/// The node that serves a virtual service, and the port where it does so on one alone.
fn provider(service: &Resource) -> Option<(&str, Option<u32>)> {
    let Some(Spec::VirtualService(spec)) = &service.spec else { return None };
    let Provider::VirtualNode(node) = spec.provider.as_ref()?.provider.as_ref()?;
    Some((&node.virtual_node_name, node.port))
}

/// The ports of a node at which a service is, which names one of them or is at all.
fn of_service(node: &Resource, own: Option<u32>) -> Vec<Served> {
    let mut served = declared(node);
    served.retain(|one| own.is_none_or(|own| own == one.port));
    served
}

fn declared(resource: &Resource) -> Vec<Served> {
    let served =
        |port: Option<u32>, protocol: &str| Some(Served { port: port?, protocol: protocol.to_owned() });
    match &resource.spec {
        Some(Spec::VirtualNode(spec)) => {
            let mapped = spec.listeners.iter().filter_map(|listener| listener.port_mapping.as_ref());
            mapped.filter_map(|mapping| served(mapping.port, &mapping.protocol)).collect()
        }
        Some(Spec::ExternalService(spec)) => {
            spec.ports.iter().filter_map(|port| served(port.port, &port.protocol)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;
    use hauberk_policy::{GrantCaller, PathPattern};
    use hauberk_proto::mesh::v1::{Listener, PortMapping, VirtualNodeSpec};

    use super::*;

    #[test]
    fn a_rule_is_about_what_is_served() {
        let served: Vec<Served> = [(8080, "http"), (50051, "grpc"), (6379, "tcp")]
            .map(|(port, protocol)| Served { port, protocol: protocol.to_owned() })
            .to_vec();
        let told = |port: Option<u16>, access: &Access, served: &[Served]| {
            let name = |name| Name::parse(name).unwrap();
            let (callers, target) = (vec![GrantCaller::Node(name("web"))], GrantTarget::Node(name("orders")));
            let grant = Grant { callers, target, port, access: access.clone() };
            check(&grant, "orders", served).err().map(|error| error.to_string())
        };
        let http =
            Access::Http { methods: vec!["GET".to_owned()], path: Some(PathPattern::parse("/u/1").unwrap()) };
        let rpc = Access::Rpc { service: "shop.Orders".to_owned(), method: None };
        for (port, access) in [
            (None, &Access::All),
            (Some(6379), &Access::All),
            (None, &http),
            (Some(8080), &http),
            (None, &rpc),
            (Some(50051), &rpc),
        ] {
            assert_eq!(told(port, access, &served), None, "{port:?} {access:?}");
        }
        let all = "it has 8080 (http), 50051 (grpc), 6379 (tcp)";
        for (port, access, expected) in [
            (9999, &Access::All, "orders has no port 9999"),
            (6379, &http, "--methods and --path are about an http or http2 port of orders, and 6379 is none"),
            (
                50051,
                &http,
                "--methods and --path are about an http or http2 port of orders, and 50051 is none",
            ),
            (8080, &rpc, "--rpc is about a grpc port of orders, and 8080 is none"),
        ] {
            assert_eq!(told(Some(port), access, &served), Some(format!("{expected}: {all}")));
        }
        let tcp = &served[2..];
        assert!(
            told(None, &rpc, tcp)
                .is_some_and(|told| told.contains("none of its ports is: it has 6379 (tcp)"))
        );
        assert_eq!(told(Some(9999), &rpc, &[]), None, "nothing is served yet");
    }
    #[test]
    fn the_ports_of_a_node_are_told_in_their_order() {
        let listener = |port: u32| Listener {
            port_mapping: Some(PortMapping { port: Some(port), protocol: "http".to_owned() }),
            ..Listener::default()
        };
        let spec = VirtualNodeSpec { listeners: vec![listener(9090), listener(8080)], ..Default::default() };
        let node = Resource { spec: Some(Spec::VirtualNode(spec)), ..Resource::default() };
        let ports = |served: Vec<Served>| served.iter().map(|one| one.port).collect::<Vec<_>>();
        assert_eq!(ports(declared(&node)), [9090, 8080]);
        assert_eq!(provider(&node), None);
        // A service that is at one of them has no other.
        assert_eq!(ports(of_service(&node, None)), [9090, 8080]);
        assert_eq!(ports(of_service(&node, Some(8080))), [8080]);
    }
}
