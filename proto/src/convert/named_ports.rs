//! Ports and routes that policies name, as they travel and in the domain.

use std::collections::BTreeMap;

use hauberk_identity::Name;
use hauberk_policy::{NamedListener, NamedPort, NodeScope};

use super::ConvertError;
use super::decode::{decode_protocol, distinct, each, listener_port, names, spiffe_id};
use super::encode::encode_protocol;
use super::labels::is_own;
use crate::agent::v1 as wire;

pub(super) fn encode(port: &NamedPort) -> wire::NamedPort {
    let NamedPort { node, number, listener } = port;
    let listener = listener.as_ref().map(|NamedListener { protocol: spoken, services, routes }| {
        let routes = routes.iter().map(|(template, classes)| wire::NamedRoute {
            template: template.clone(),
            data_classes: classes.iter().map(Name::to_string).collect(),
        });
        wire::NamedListener {
            protocol: encode_protocol(*spoken).into(),
            services: services.iter().map(Name::to_string).collect(),
            routes: routes.collect(),
        }
    });
    wire::NamedPort { node: node.to_string(), number: u32::from(*number), listener }
}

/// Those of nodes of the scope's own mesh: policies name no others.
pub(super) fn decode(
    field: &str,
    ports: Vec<wire::NamedPort>,
    scope: &NodeScope,
) -> Result<Vec<NamedPort>, ConvertError> {
    let ports = each(field, ports, |field, port| self::port(field, port, scope))?;
    distinct(field, ports.iter().map(|port| format!("{}:{}", port.node, port.number)))?;
    Ok(ports)
}

fn port(field: &str, port: wire::NamedPort, scope: &NodeScope) -> Result<NamedPort, ConvertError> {
    let wire::NamedPort { node, number, listener } = port;
    let node = spiffe_id(&format!("{field}.node"), &node)?;
    if !is_own(&node, scope) {
        let problem = format!("{node} is no node or gateway of mesh {}", scope.mesh);
        return Err(ConvertError::new(format!("{field}.node"), problem));
    }
    let number = listener_port(&format!("{field}.number"), number)?;
    let listener = listener.map(|listener| self::listener(&format!("{field}.listener"), listener));
    Ok(NamedPort { node, number, listener: listener.transpose()? })
}

fn listener(field: &str, listener: wire::NamedListener) -> Result<NamedListener, ConvertError> {
    let wire::NamedListener { protocol, services, routes } = listener;
    let mut by_template = BTreeMap::new();
    for (index, wire::NamedRoute { template, data_classes }) in routes.into_iter().enumerate() {
        let field = format!("{field}.routes[{index}]");
        let classes = names(&format!("{field}.data_classes"), data_classes)?;
        if template.is_empty() || by_template.insert(template, classes).is_some() {
            return Err(ConvertError::new(field, "its template is empty, or stands here twice"));
        }
    }
    Ok(NamedListener {
        protocol: decode_protocol(&format!("{field}.protocol"), protocol)?,
        services: names(&format!("{field}.services"), services)?,
        routes: by_template,
    })
}
